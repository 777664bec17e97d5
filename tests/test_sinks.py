import resource
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.dataset
import pyarrow.parquet as pq
import pytest

from pipeline.batch import Counts, FrameBatch, Lost, Segment, SegmentEnd
from pipeline.errors import SinkError
from pipeline.rows import Labelling, labelling_of, schema
from pipeline.sinks import parts
from pipeline.sinks.parts import PartsSink, committed, part_path, read_end

PERSON = Labelling("person", ("person", "none"))
THINGS = Labelling("things", ("car", "bus"), "any_of", (0.5, 0.5))


def labelled(segment, frames, labelling=PERSON):
    """Pictures whose first score is a thousandth of their frame number."""
    frames = np.asarray(frames, np.int64)
    scores = np.zeros((len(frames), len(labelling.classes)), np.float32)
    scores[:, 0] = frames / 1000
    return FrameBatch(
        segment,
        frames=np.zeros((len(frames), 1, 1, 3), np.uint8),
        index=frames,
        pts_s=frames / 25,
        scores=scores,
        filter=labelling.name,
        fold_slot=(frames % 4).astype(np.int8),
    )


def ended(segment, n, labellings=(PERSON,), **changes):
    counts = Counts(indexed=n, decoded=n, labelled=n, written=n)
    return SegmentEnd(segment, counts, filters={labelling.name: n for labelling in labellings}, **changes)


def commit(folder, segment, n, labellings=(PERSON,)):
    sink = PartsSink(folder, labellings, identity="abc")
    for labelling in labellings:
        sink.write(labelled(segment, np.arange(segment.first_frame, segment.first_frame + n), labelling))
    sink.commit(ended(segment, n, labellings))
    sink.close()


def files(folder):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def frames_of(folder, segment, labelling=PERSON):
    return pq.read_table(part_path(folder, labelling.name, segment))["frame"].to_pylist()


def test_a_segment_appears_at_its_commit_under_its_filter_source_and_first_frame(tmp_path):
    sink = PartsSink(tmp_path, [PERSON], identity="abc")
    sink.write(labelled(Segment("a/b=c.mp4", 1, 300), [300, 301]))
    assert files(tmp_path) == []
    sink.commit(ended(Segment("a/b=c.mp4", 1, 300), 2))
    assert files(tmp_path) == ["frames/person/a%2Fb%3Dc.mp4/000000000300.parquet"]


def test_interleaved_segments_keep_their_rows_apart(tmp_path):
    sink = PartsSink(tmp_path, [PERSON], identity="abc")
    first, second, other = Segment("a", 0, 0), Segment("a", 1, 4), Segment("b", 0, 0)
    for segment, frames in [(second, [4, 5]), (first, [0, 1]), (other, [0]), (second, [6]), (first, [2, 3])]:
        sink.write(labelled(segment, frames))
    for segment, n in [(first, 4), (second, 3), (other, 1)]:
        sink.commit(ended(segment, n))
    assert [frames_of(tmp_path, s) for s in (first, second, other)] == [[0, 1, 2, 3], [4, 5, 6], [0]]


def test_the_footer_gives_back_the_end_and_the_identity(tmp_path):
    end = SegmentEnd(
        Segment("a", 2, 10, 0.4, None, bundle=("b", "a"), slot=1),
        Counts(indexed=4, corrupt=1, decoded=3, damaged=1, labelled=3, written=3),
        (Lost(11, 11, "corrupt"),),
        "a: one packet is broken",
        filters={"person": 3},
    )
    sink = PartsSink(tmp_path, [PERSON], identity="abc")
    sink.write(labelled(end.segment, [10, 12, 13]))
    sink.commit(end)
    path = part_path(tmp_path, "person", end.segment)
    assert read_end(path) == end
    footer = pq.read_metadata(path).metadata
    assert footer[b"vpipe.identity"] == b"abc"
    assert labelling_of(footer) == PERSON


def test_counts_in_numpy_integers_can_be_committed(tmp_path):
    segment = Segment("a", first_frame=np.int64(0))
    sink = PartsSink(tmp_path, [PERSON], identity="abc")
    sink.commit(SegmentEnd(segment, Counts(indexed=np.int64(2), unread=np.int64(2)), (Lost(np.int64(0), 1, "unread"),)))
    assert [end.counts.unread for end in committed(tmp_path)] == [2]


def test_a_segment_without_rows_has_a_part_without_rows(tmp_path):
    segment = Segment("a", 0, 0)
    sink = PartsSink(tmp_path, [THINGS], identity="abc")
    sink.commit(SegmentEnd(segment, Counts(indexed=5, decoded=5, labelled=5, filtered=5)))
    rows = pq.read_table(part_path(tmp_path, "things", segment))
    assert rows.num_rows == 0
    assert rows.schema.equals(schema(THINGS))
    assert read_end(part_path(tmp_path, "things", segment)).filters == {"things": 0}


def test_a_segment_to_be_tried_again_leaves_nothing(tmp_path):
    segment = Segment("a", 0, 0)
    sink = PartsSink(tmp_path, [PERSON], identity="abc")
    sink.write(labelled(segment, [0, 1]))
    sink.commit(ended(segment, 2, retry=True, error="a: disk error"))
    sink.close()
    assert files(tmp_path) == []


def test_rows_of_a_segment_that_was_never_committed_vanish(tmp_path, monkeypatch):
    monkeypatch.setattr(parts, "ROW_GROUP", 2)  # so that some of them are already on disk
    sink = PartsSink(tmp_path, [PERSON], identity="abc")
    sink.write(labelled(Segment("a"), [0, 1, 2]))
    assert [Path(name).name for name in files(tmp_path)] == [".000000000000.parquet.tmp"]
    sink.close()
    assert files(tmp_path) == []


def test_a_long_segment_goes_to_disk_meanwhile_and_reads_back_in_order(tmp_path, monkeypatch):
    monkeypatch.setattr(parts, "ROW_GROUP", 8)
    sink = PartsSink(tmp_path, [PERSON], identity="abc")
    for first in range(0, 50, 5):
        sink.write(labelled(Segment("a"), range(first, first + 5)))
    sink.commit(ended(Segment("a"), 50))
    assert frames_of(tmp_path, Segment("a")) == list(range(50))
    assert pq.ParquetFile(part_path(tmp_path, "person", Segment("a"))).num_row_groups == 5


def test_an_end_that_tells_of_other_rows_than_were_written_is_refused(tmp_path):
    sink = PartsSink(tmp_path, [PERSON], identity="abc")
    sink.write(labelled(Segment("a"), [0, 1]))
    with pytest.raises(ValueError, match=r"'person': 2.*'person': 3"):
        sink.commit(ended(Segment("a"), 3))
    assert list(committed(tmp_path)) == []


def test_committed_are_the_segments_that_every_filter_has_written(tmp_path):
    both = [PERSON, THINGS]
    for segment in [Segment("b", 0, 0), Segment("a", 1, 10), Segment("a", 0, 0)]:
        commit(tmp_path, segment, 3, both)
    part_path(tmp_path, "things", Segment("b", 0, 0)).unlink()
    assert [end.segment for end in committed(tmp_path)] == [Segment("a", 0, 0), Segment("a", 1, 10)]
    assert [end.segment for end in committed(tmp_path, "b")] == []
    assert [end.segment for end in committed(tmp_path, "a")] == [Segment("a", 0, 0), Segment("a", 1, 10)]
    assert list(committed(tmp_path / "none")) == []


@pytest.mark.parametrize("name", ["x" * 300, "ä/" * 120, ".hidden", "_raw", "..", "caf\udce9.mp4", "a=b", "a b%20.mp4"])
def test_any_source_name_can_be_written_and_found_again(tmp_path, name):
    commit(tmp_path, Segment(name), 2)
    assert [end.segment.source for end in committed(tmp_path, name)] == [name]
    dataset = pyarrow.dataset.dataset(tmp_path / "frames", format="parquet")
    assert dataset.count_rows() == 2  # no dataset reader passes it over


def test_long_names_that_begin_alike_do_not_meet(tmp_path):
    commit(tmp_path, Segment("x" * 300 + "1"), 2)
    commit(tmp_path, Segment("x" * 300 + "2"), 3)
    assert [end.counts.written for end in committed(tmp_path, "x" * 300 + "2")] == [3]
    assert len(list(committed(tmp_path))) == 2


def test_a_disk_that_takes_no_more_is_named_and_leaves_no_part(tmp_path):
    sink = PartsSink(tmp_path, [PERSON], identity="abc")
    sink.write(labelled(Segment("a"), np.random.default_rng(0).integers(0, 1000, 60_000)))
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, limits[1]))
    try:
        with pytest.raises(SinkError, match=r"000000000000\.parquet: must be writable, got File too large; .*--resume"):
            sink.commit(ended(Segment("a"), 60_000))
        sink.close()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert files(tmp_path) == []


def test_a_folder_that_cannot_be_made_is_named(tmp_path):
    (tmp_path / "frames").write_text("a file")
    sink = PartsSink(tmp_path, [PERSON], identity="abc")
    with pytest.raises(SinkError, match=r"frames/person/a/000000000000.parquet: must be writable"):
        sink.commit(ended(Segment("a"), 0))


def test_a_damaged_part_is_named_with_what_to_do(tmp_path):
    commit(tmp_path, Segment("a"), 3)
    path = part_path(tmp_path, "person", Segment("a"))
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(SinkError, match=r"000000000000.parquet: must be a readable part.*remove it and --resume"):
        list(committed(tmp_path))


def test_a_parquet_file_of_something_else_is_named(tmp_path):
    pq.write_table(pa.table({"x": [1]}), tmp_path / "x.parquet")
    with pytest.raises(SinkError, match=r"x.parquet: must be a part written by vpipe"):
        read_end(tmp_path / "x.parquet")
