import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.batch import FrameBatch, Segment
from pipeline.rows import Labelling, labelling_of, schema, table

PERSON = Labelling("person", ("person", "none"))
THINGS = Labelling("things", ("car", "bus", "dog"), "any_of", (0.5, 0.9, 0.2))


def labelled(scores, *, source="lobby", first=0, pts=None, captured=None, fold_slot=None, name="person"):
    scores = np.asarray(scores, np.float32)
    n = len(scores)
    return FrameBatch(
        Segment(source, first_frame=first),
        frames=np.zeros((n, 1, 1, 3), np.uint8),
        index=np.arange(first, first + n),
        pts_s=np.arange(n) / 25 if pts is None else np.asarray(pts, np.float64),
        captured_s=None if captured is None else np.asarray(captured, np.float64),
        scores=scores,
        filter=name,
        fold_slot=None if fold_slot is None else np.asarray(fold_slot, np.int16),
    )


def test_each_row_holds_its_own_frame_and_the_class_with_the_highest_score():
    rows = table(labelled([[0.75, 0.25], [0.125, 0.875]], first=40, fold_slot=[3, 0]), PERSON).to_pylist()
    assert rows == [
        {
            "source": "lobby",
            "frame": 40,
            "region": None,
            "pts_s": 0.0,
            "captured": None,
            "captured_by": None,
            "label": "person",
            "score": 0.75,
            "scores": [0.75, 0.25],
            "fold_slot": 3,
        },
        {
            "source": "lobby",
            "frame": 41,
            "region": None,
            "pts_s": 0.04,
            "captured": None,
            "captured_by": None,
            "label": "none",
            "score": 0.875,
            "scores": [0.125, 0.875],
            "fold_slot": 0,
        },
    ]


def test_any_of_lists_what_is_over_its_threshold_and_labels_with_the_highest_of_them():
    rows = table(labelled([[0.5, 0.875, 0.25], [0.25, 0.75, 0.125], [0.5, 1.0, 0.0]]), THINGS)
    assert rows["labels"].to_pylist() == [["car", "dog"], [], ["car", "bus"]]
    assert rows["label"].to_pylist() == ["car", None, "bus"]  # the bus of row 0 is higher, but under its threshold
    assert rows["score"].to_pylist() == [0.5, 0.75, 1.0]  # with no label: the highest score there is


def test_unknown_time_is_null_and_capture_is_utc_to_the_microsecond():
    captured = [1_700_000_000.123456, float("nan")]
    rows = table(labelled([[1, 0], [1, 0]], pts=[float("nan"), 1.5], captured=captured), PERSON)
    assert rows["pts_s"].to_pylist() == [None, 1.5]
    assert rows["captured"].cast(pa.int64()).to_pylist() == [1_700_000_000_123_456, None]
    assert rows["captured"].type == pa.timestamp("us", "UTC")


def test_schema_is_the_documented_one():
    name = pa.dictionary(pa.int32(), pa.string())
    columns = {
        "source": name,
        "frame": pa.int64(),
        "region": name,
        "pts_s": pa.float64(),
        "captured": pa.timestamp("us", "UTC"),
        "captured_by": name,
        "label": name,
        "score": pa.float32(),
        "scores": pa.list_(pa.float32(), 2),
        "fold_slot": pa.int16(),
    }
    assert dict(zip(schema(PERSON).names, schema(PERSON).types, strict=True)) == columns
    assert schema(THINGS).names == [*columns, "labels"]
    assert schema(THINGS).field("labels").type == pa.list_(pa.string())


@pytest.mark.parametrize("labelling", [PERSON, THINGS])
def test_the_metadata_tells_the_labelling(labelling):
    assert labelling_of(schema(labelling).metadata) == labelling


@pytest.mark.parametrize("labelling", [PERSON, THINGS])
def test_a_tick_gives_no_rows_of_the_same_schema(labelling):
    rows = table(FrameBatch.tick(Segment("lobby")), labelling)
    assert rows.num_rows == 0
    assert rows.schema.equals(schema(labelling), check_metadata=True)


def test_a_file_name_that_is_not_utf8_keeps_its_odd_bytes_visible():
    assert table(labelled([[1, 0]], source="caf\udce9.mp4"), PERSON)["source"].to_pylist() == ["caf\\udce9.mp4"]


def test_scores_of_another_number_of_classes_are_refused():
    with pytest.raises(ValueError, match=r"person.*\(1, 2\).*\(1, 3\)"):
        table(labelled([[1, 0, 0]]), PERSON)


def test_pictures_without_scores_are_refused():
    batch = FrameBatch(Segment("a"), np.zeros((1, 1, 1, 3), np.uint8), np.zeros(1, np.int64), np.zeros(1))
    with pytest.raises(ValueError, match="got None"):
        table(batch, PERSON)


def test_thresholds_must_match_the_task():
    with pytest.raises(ValueError, match="2 numbers for any_of"):
        Labelling("x", ("a", "b"), "any_of", (0.5,))
    with pytest.raises(ValueError, match="0 numbers for one_of"):
        Labelling("x", ("a", "b"), "one_of", (0.5, 0.5))


@given(st.data())
def test_any_rows_of_a_batch_give_the_rows_of_its_table(data):
    n = data.draw(st.integers(0, 40))
    random = np.random.default_rng(data.draw(st.integers(0, 2**32 - 1)))
    batch = labelled(random.random((n, 3), np.float32), fold_slot=random.integers(0, 4, n), name="things")
    chosen = np.asarray(data.draw(st.lists(st.booleans(), min_size=n, max_size=n)), bool)
    part = table(batch.rows(chosen), THINGS)
    assert part.equals(table(batch, THINGS).filter(pa.array(chosen, pa.bool_())))
    part.validate(full=True)
