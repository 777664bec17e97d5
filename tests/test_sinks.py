import csv
import errno
import json
import resource
import subprocess
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.dataset
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.batch import Counts, FrameBatch, Lost, Segment, SegmentEnd
from pipeline.errors import ConfigError, SinkError
from pipeline.events import Event
from pipeline.files import write_json
from pipeline.rows import Labelling, labelling_of, schema, table
from pipeline.sinks import open_sink, parts, text
from pipeline.sinks.events import _known
from pipeline.sinks.lines import Jsonl
from pipeline.sinks.parts import PartsSink, committed, discard_damaged, disk_errors, newest, part_path, read_end
from pipeline.threads import Stop

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
        fold_slot=(frames % 4).astype(np.int16),
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


def test_a_window_that_not_every_filter_has_is_removed_as_its_numbers_are_given_anew(tmp_path, caplog):
    sink = PartsSink(tmp_path, [PERSON, THINGS], identity="abc")
    windows = [Segment("gate", k, 10 * k, window_utc_s=60.0 * k) for k in range(2)]
    for window in windows:
        sink.commit(SegmentEnd(window, Counts(indexed=10, skipped=10)))
    part_path(tmp_path, THINGS.name, windows[1]).unlink()  # the disk took one of two
    for _ in range(2):
        assert [end.segment for end in newest(tmp_path)] == windows[:1]
        left = [path.name for path in (tmp_path / "frames").rglob("*.parquet")]
        assert left == ["000000-000000000000.parquet"] * 2
    assert caplog.text.count("is not of a whole segment; it is removed") == 1


def test_a_part_in_another_days_folder_is_left_alone_and_numbers_go_on_behind_it(tmp_path, caplog):
    sink = PartsSink(tmp_path, [PERSON], identity="abc")
    sink.commit(SegmentEnd(Segment("gate", 4, 40, window_utc_s=60.0), Counts(indexed=10, skipped=10)))
    day = tmp_path / "frames" / "person" / "gate" / "1970-01-01"
    day.rename(day.with_name("1969-12-24"))
    (end,) = newest(tmp_path)
    assert end.segment.number == 4
    assert len(list(tmp_path.rglob("*.parquet"))) == 1
    assert "must lie in the folder of its day" in caplog.text


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


def test_a_full_disk_is_told_by_the_file_of_the_folder_that_it_does_not_take(tmp_path):
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, limits[1]))
    try:
        with (
            pytest.raises(SinkError, match=r"/ledger\.json: must be writable, got File too large"),
            disk_errors(tmp_path),
        ):
            write_json(tmp_path / "ledger.json", "x" * 5000)
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


def flip(path, column="frame"):
    """Alters the last byte of a column's values: the footer stays whole."""
    names = pq.read_schema(path).names
    column = pq.read_metadata(path).row_group(0).column(names.index(column))
    data = bytearray(path.read_bytes())
    data[column.data_page_offset + column.total_compressed_size - 1] ^= 1
    path.write_bytes(data)


def test_a_part_of_which_a_page_is_damaged_is_named_by_the_sinks_that_read_it_and_removed_on_resuming(tmp_path):
    commit(tmp_path, Segment("a"), 300)
    path = part_path(tmp_path, "person", Segment("a"))
    flip(path)
    assert read_end(path).counts.labelled == 300
    told = r"frames/person/a/000000000000.parquet: must be a readable part of the run, got .*checksum"
    file, out = (texts(tmp_path, "csv", tmp_path / "rows.csv"), texts(tmp_path, "csv"))
    with pytest.raises(SinkError, match=told):
        file.finish()
    file.close()
    with pytest.raises(SinkError, match=told):
        out.commit(ended(Segment("a"), 300))
    discard_damaged(tmp_path)
    assert not path.exists()


@pytest.mark.parametrize(("old", "new"), [(b'"labelled": 3', b'"labelled": 4'), (b'"segment"', b'"sEgment"')])
def test_a_footer_that_is_damaged_is_told_as_a_part_is(tmp_path, old, new):
    commit(tmp_path, Segment("a"), 3)
    path = part_path(tmp_path, "person", Segment("a"))
    data = path.read_bytes()
    assert data.count(old) == 1
    path.write_bytes(data.replace(old, new))
    with pytest.raises(
        SinkError, match=r"000000000000.parquet: must be a readable part of the run, got a damaged footer"
    ):
        list(committed(tmp_path))
    discard_damaged(tmp_path)
    assert list(committed(tmp_path)) == []


def test_what_else_lies_among_the_parts_is_left_alone(tmp_path):
    commit(tmp_path, Segment("a"), 3)
    notes = [tmp_path / "frames" / name for name in ("README", "a/copy.txt", "person/notes", "person/a/notes.txt")]
    for path in notes:
        path.parent.mkdir(exist_ok=True)
        path.write_text("mine")
    copied = part_path(tmp_path, "person", Segment("a"))
    (copied.parent / "backup").mkdir()
    (copied.parent / "backup" / copied.name).write_bytes(copied.read_bytes())
    discard_damaged(tmp_path)
    assert [end.counts.labelled for end in committed(tmp_path)] == [3]
    assert [end.counts.labelled for end in newest(tmp_path)] == [3]
    assert all(path.exists() for path in notes)


def test_a_part_that_the_system_does_not_let_be_read_is_kept(tmp_path, monkeypatch):
    commit(tmp_path, Segment("a"), 3)
    path = part_path(tmp_path, "person", Segment("a"))

    def refused(*args, **options):
        raise OSError(errno.EMFILE, "arrow's words")

    with monkeypatch.context() as patched:
        patched.setattr(pq, "ParquetFile", refused)
        with pytest.raises(SinkError, match=r"000000000000.parquet: must be readable, got Too many open files"):
            discard_damaged(tmp_path)
    assert [end.counts.labelled for end in committed(tmp_path)] == [3]
    assert path.exists()


def test_a_table_of_events_that_is_damaged_is_made_anew(tmp_path, caplog):
    path = tmp_path / "events.parquet"
    path.write_bytes(b"PAR1 and no more")
    assert _known(path) == {}
    assert f"{path}: cannot be read any more" in caplog.text


def test_a_parquet_file_of_something_else_is_named(tmp_path):
    pq.write_table(pa.table({"x": [1]}), tmp_path / "x.parquet")
    with pytest.raises(SinkError, match=r"x.parquet: must be a part written by vpipe"):
        read_end(tmp_path / "x.parquet")


def texts(tmp_path, type, path="-", *, sources=("a", "b"), folder=None, **options):
    return open_sink(type, folder=folder or tmp_path, sources=sources, path=path, **options)


def a_run_of_two_filters(folder):
    """Source b, then a; filter `things` keeps only the even frames."""
    for segment in (Segment("b", 0, 0), Segment("a", 1, 4), Segment("a", 0, 0)):
        sink = PartsSink(folder, [PERSON, THINGS], identity="abc")
        frames = np.arange(segment.first_frame, segment.first_frame + 4)
        sink.write(labelled(segment, frames))
        sink.write(labelled(segment, frames[frames % 2 == 0], THINGS))
        sink.commit(SegmentEnd(segment, Counts(indexed=4, decoded=4, labelled=4, written=4)))


@pytest.mark.parametrize("type", ["csv", "jsonl"])
def test_a_file_holds_sources_as_given_then_frames_then_filters(tmp_path, type):
    a_run_of_two_filters(tmp_path)
    sink = texts(tmp_path, type, tmp_path / "out" / "x.txt")
    sink.commit(SegmentEnd(Segment("a", 0, 0)))
    assert not (tmp_path / "out" / "x.txt").exists()
    sink.finish()
    sink.close()
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["x.txt"]
    text = (tmp_path / "out" / "x.txt").read_text()
    rows = list(csv.DictReader(text.splitlines())) if type == "csv" else list(map(json.loads, text.splitlines()))
    got = [(row["source"], int(row["frame"]), row["filter"]) for row in rows]
    of_four = [
        (frame, name) for frame in range(8) for name in ("person", "things") if name == "person" or frame % 2 == 0
    ]
    assert got == [("a", *row) for row in of_four] + [("b", *row) for row in of_four if row[0] < 4]


def test_csv_of_one_filter_has_a_column_per_class(tmp_path):
    instant = np.asarray([1_700_000_000.25, np.nan])
    rows = replace(labelled(Segment('say "a", b'), [750, 1]), captured_s=instant, pts_s=np.asarray([np.nan, 0.04]))
    sink = PartsSink(tmp_path, [PERSON], identity="abc")
    sink.write(rows)
    sink.commit(ended(rows.segment, 2))
    texts(tmp_path, "csv", tmp_path / "x.csv", sources=[rows.source]).finish()
    header, *lines = csv.reader((tmp_path / "x.csv").read_text().splitlines())
    columns = ["source", "frame", "region", "pts_s", "captured", "filter", "label", "score"]
    assert header == [*columns, "score_person", "score_none"]
    assert lines == [
        ['say "a", b', "750", "", "", "2023-11-14T22:13:20.250000Z", "person", "person", "0.75", "0.75", "0"],
        ['say "a", b', "1", "", "0.04", "", "person", "person", "0.001", "0.001", "0"],
    ]


def test_json_lines_hold_every_score_by_its_class(tmp_path):
    quoted = Labelling('the "best"', ("ä", 'b"', "c"), "any_of", (0.5, 0.5, 0.0))
    segment = Segment("x\\y\n.mp4")
    rows = replace(labelled(segment, [750], quoted), captured_s=np.asarray([0.5]))
    sink = PartsSink(tmp_path, [quoted], identity="abc")
    sink.write(rows)
    sink.write(replace(labelled(segment, [1, 2], quoted), scores=np.asarray([[0, 0, -1], [np.nan, 0, 1]], np.float32)))
    sink.commit(ended(segment, 3, [quoted]))
    texts(tmp_path, "jsonl", tmp_path / "x.jsonl", sources=[segment.source]).finish()
    first, second, third = map(json.loads, (tmp_path / "x.jsonl").read_text().splitlines())
    assert first == {
        "source": "x\\y\n.mp4",
        "frame": 750,
        "region": None,
        "pts_s": 30.0,
        "captured": "1970-01-01T00:00:00.500000Z",
        "filter": 'the "best"',
        "label": "ä",
        "labels": ["ä", "c"],
        "score": 0.75,
        "scores": {"ä": 0.75, 'b"': 0.0, "c": 0.0},
    }
    assert (second["captured"], second["label"], second["labels"]) == (None, None, [])
    assert third["scores"] == {"ä": None, 'b"': 0.0, "c": 1.0}  # JSON knows no NaN


def test_lines_of_a_slice_of_rows_have_their_own_labels(tmp_path):
    things = Labelling("things", ("a", "b", "c"), "any_of", (0.5, 0.5, 0.5))
    scores = np.asarray([[1, 1, 0], [0, 0, 0], [0, 1, 1], [1, 0, 0]], np.float32)
    batch = labelled(Segment("s"), [0, 1, 2, 3], things)
    (rows,) = table(replace(batch, scores=scores), things).combine_chunks().to_batches()
    wanted = [["a", "b"], [], ["b", "c"], ["a"]]
    for first in range(4):
        lines = Jsonl().lines(rows.slice(first, 2), things, alone=True)["line"].to_pylist()
        assert [json.loads(line)["labels"] for line in lines] == wanted[first : first + 2]


def test_standard_output_gets_each_segment_at_its_commit_and_one_header(tmp_path, capfdbinary):
    commit(tmp_path, Segment("a", 0, 0), 2)
    commit(tmp_path, Segment("a", 1, 2), 1)
    sink = texts(tmp_path, "csv")
    sink.commit(ended(Segment("a", 0, 0), 2))
    assert len(capfdbinary.readouterr().out.splitlines()) == 3
    sink.commit(ended(Segment("a", 7, 2), 1, retry=True))
    assert capfdbinary.readouterr().out == b""
    sink.commit(ended(Segment("a", 1, 2), 1))
    sink.finish()
    sink.close()
    assert capfdbinary.readouterr().out.startswith(b'"a",2,,0.08,,"person"')


def test_what_was_committed_is_printed_though_a_stop_was_asked_for(tmp_path, capfdbinary):
    """A run that is resumed prints only what it commits itself."""
    commit(tmp_path, Segment("a", 0, 0), 2)
    stop = Stop()
    stop.set()
    sink = open_sink("csv", folder=tmp_path, sources=["a"], stop=stop, path="-")
    sink.commit(ended(Segment("a", 0, 0), 2))
    assert len(capfdbinary.readouterr().out.splitlines()) == 3


def test_a_reader_that_leaves_is_an_error_in_one_line():
    code = """
import sys
from pathlib import Path
from pipeline.batch import SegmentEnd
from pipeline.errors import SinkError
from pipeline.sinks import open_sink
from pipeline.sinks.parts import committed

folder = Path(sys.argv[1])
sink = open_sink("csv", folder=folder, sources=["a"], path="-")
try:
    for end in committed(folder):
        sink.commit(end)
except SinkError as exc:
    sys.exit(str(exc))
"""
    with tempfile.TemporaryDirectory() as folder:
        commit(Path(folder), Segment("a"), 20_000)
        run = subprocess.Popen([sys.executable, "-c", code, folder], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        run.stdout.close()
        assert run.stderr.read().decode().splitlines() == [
            "standard output: must be read to its end, got a reader that left; read all, or use a path"
        ]
        run.stderr.close()
        assert run.wait() == 1


def test_a_path_that_cannot_be_written_is_known_at_the_first_commit(tmp_path):
    (tmp_path / "file").write_text("")
    sink = texts(tmp_path, "csv", tmp_path / "file" / "x.csv")
    with pytest.raises(SinkError, match=r"file/x\.csv: must be writable"):
        sink.commit(SegmentEnd(Segment("a")))
    with pytest.raises(SinkError, match="must be a file"):
        texts(tmp_path, "csv", "/dev/null").commit(SegmentEnd(Segment("a")))


def test_a_run_that_did_not_finish_leaves_an_earlier_file_as_it_was(tmp_path):
    (tmp_path / "x.csv").write_text("old")
    commit(tmp_path, Segment("a"), 2)
    sink = texts(tmp_path, "csv", tmp_path / "x.csv")
    sink.commit(ended(Segment("a"), 2))
    sink.close()
    assert (tmp_path / "x.csv").read_text() == "old"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["frames", "x.csv"]


@given(
    st.lists(st.lists(st.integers(0, 30), max_size=20).map(sorted), min_size=1, max_size=4),
    st.integers(1, 6),
)
def test_streams_merge_by_frame_and_keep_the_order_of_their_rows(streams, size):
    def tables(which, frames):
        for i in range(0, len(frames), size):
            chunk = frames[i : i + size]
            yield pa.table({"frame": chunk, "stream": [which] * len(chunk), "row": list(range(i, i + len(chunk)))})

    merged = list(text._by_frame([tables(which, frames) for which, frames in enumerate(streams)]))
    got = [(row["frame"], row["stream"], row["row"]) for table in merged for row in table.to_pylist()]
    assert got == sorted((frame, which, i) for which, frames in enumerate(streams) for i, frame in enumerate(frames))


def test_a_callback_gets_the_table_of_each_filter_of_a_committed_segment(tmp_path):
    a_run_of_two_filters(tmp_path)
    got = []
    sink = open_sink("callback", folder=tmp_path, sources=["a"], call=got.append)
    end = SegmentEnd(Segment("a", 0, 0), filters={"person": 4, "things": 2})
    sink.commit(replace(end, retry=True))
    sink.commit(end)
    sink.close()
    assert [labelling_of(table.schema.metadata) for table in got] == [PERSON, THINGS]
    assert [table["frame"].to_pylist() for table in got] == [[0, 1, 2, 3], [0, 2]]


def test_a_callback_that_raises_is_named_with_the_segment(tmp_path):
    commit(tmp_path, Segment("a", 1, 40), 2)
    sink = open_sink("callback", folder=tmp_path, sources=["a"], call="json:loads")
    with pytest.raises(
        SinkError, match=r"callback json:loads: must take .* got TypeError: .* at a from frame 40; mend"
    ):
        sink.commit(ended(Segment("a", 1, 40), 2))


@pytest.mark.parametrize(
    ("type", "options", "message"),
    [
        ("cvs", {}, r"sink 'cvs': must be one of csv, jsonl, .*, postgres, or package\.module:Name"),
        ("csv", {}, r"sink 'csv': must be given its own options, got missing .*'path'"),
        ("csv", {"path": "x", "sep": ";"}, r"sink 'csv': .*'sep'"),
        ("nowhere:Sink", {}, r"module 'nowhere' must be importable, got ModuleNotFoundError"),
        ("json:Sink", {}, r"json must define 'Sink', got none of that name"),
        ("json:__name__", {}, r"'json:__name__' must be a class or function, got str"),
        ("pathlib:PurePath", {}, r"sink 'pathlib:PurePath': must be a pipeline\.contracts\.Sink"),
        ("callback", {"call": "nowhere:f"}, r"module 'nowhere' must be importable"),
    ],
)
def test_a_sink_that_cannot_be_opened_is_named(tmp_path, type, options, message):
    with pytest.raises(ConfigError, match=message):
        open_sink(type, folder=tmp_path, sources=["a"], **options)


def test_parts_with_narrower_slots_are_read_beside_new_ones(tmp_path):
    segments = [Segment("a", 0, 0), Segment("a", 1, 4)]
    for segment in segments:
        commit(tmp_path, segment, 4)
    old = part_path(tmp_path, "person", segments[0])
    rows, end = pq.read_table(old), read_end(old)
    narrow = rows.schema.set(rows.schema.get_field_index("fold_slot"), pa.field("fold_slot", pa.int8()))
    footer = {key: value for key, value in pq.read_metadata(old).metadata.items() if key.startswith(b"vpipe")}
    pq.write_table(rows.cast(narrow.with_metadata({**(narrow.metadata or {}), **footer})), old)
    assert next(iter(committed(tmp_path))) == end
    texts(tmp_path, "csv", tmp_path / "x.csv", sources=["a"]).finish()
    assert len((tmp_path / "x.csv").read_text().splitlines()) == 1 + 8
    slots = pa.dataset.dataset(tmp_path / "frames" / "person").to_table()["fold_slot"]
    assert slots.to_pylist() == [0, 1, 2, 3] * 2


# ------------------------------------------------------------------------------------------------ live


def event(first, *, is_over=False, source="gate"):
    return Event(
        source=source, region=None, filter="who", label="person", clock="utc", first_frame=first, last_frame=first + 5,
        began_s=1e9, ended_s=1e9 + 0.5, best_frame=first + 1, best_score=0.9, is_over=is_over,
    )  # fmt: skip


@pytest.mark.parametrize("kind", ["csv", "jsonl"])
def test_live_rows_are_appended_to_a_file_as_they_come_also_by_the_next_run(tmp_path, kind):
    for first in (0, 4):
        options = {"path": tmp_path / "rows", "live": {"person": PERSON}}
        sink = open_sink(f"live-{kind}", folder=tmp_path, sources=["a"], **options)
        for n in range(first, first + 4, 2):
            sink.write(labelled(Segment("a"), np.arange(n, n + 2)))
            written = (tmp_path / "rows").read_text().splitlines()
            assert len(written) == n + 2 + (kind == "csv")
        sink.finish()
        sink.close()
    lines = (tmp_path / "rows").read_text().splitlines()
    if kind == "csv":
        assert [row["frame"] for row in csv.DictReader(lines)] == [str(n) for n in range(8)]
    else:
        assert [json.loads(line)["frame"] for line in lines] == list(range(8))


def test_a_live_file_is_put_aside_when_it_is_large_and_so_many_are_kept(tmp_path):
    path = tmp_path / "log" / "rows.csv"
    sink = open_sink(
        "live-csv", folder=tmp_path, sources=["a"], live={"person": PERSON}, path=path, rotate_mb=0.0002, keep_files=2
    )
    for n in range(0, 60, 2):
        sink.write(labelled(Segment("a"), np.arange(n, n + 2)))
    names = sorted(file.name for file in path.parent.iterdir())
    assert names == ["rows.csv", "rows.csv.1", "rows.csv.2"]
    frames = []
    for name in reversed(names):
        rows = list(csv.DictReader((path.parent / name).read_text().splitlines()))
        frames += [int(row["frame"]) for row in rows]
        assert path.parent.joinpath(name).stat().st_size < 400
    assert frames == list(range(frames[0], 60))


def test_events_are_lines_of_json_told_when_they_begin_and_when_they_are_over(tmp_path):
    sink = open_sink("live-events", folder=tmp_path, sources=["gate"], path=tmp_path / "events.jsonl")
    sink.write(labelled(Segment("a"), np.arange(2)))
    for told in (event(7), event(7, is_over=True), event(20)):
        sink.event(told)
    lines = [json.loads(line) for line in (tmp_path / "events.jsonl").read_text().splitlines()]
    assert [(line["event"], line["key"], line["first_frame"]) for line in lines] == [
        ("began", "gate//who/person/7/1000000000000", 7),
        ("ended", "gate//who/person/7/1000000000000", 7),
        ("began", "gate//who/person/20/1000000000000", 20),
    ]


def test_a_live_sink_that_fails_does_not_end_the_labelling_and_is_an_error_at_its_end(tmp_path, caplog):
    (tmp_path / "taken").mkdir()
    sink = open_sink("live-events", folder=tmp_path, sources=["gate"], path=tmp_path / "taken")
    for first in range(3):
        sink.event(event(first))
    assert [record.getMessage().endswith("the run goes on without it") for record in caplog.records] == [True]
    with pytest.raises(SinkError, match="taken: must be writable"):
        sink.finish()


def test_rows_that_come_one_by_one_are_all_in_the_part_in_their_order(tmp_path):
    segment = Segment("gate", window_utc_s=0.0)
    sink = PartsSink(tmp_path, [THINGS], identity="abc")
    for n in range(1100):
        sink.write(labelled(segment, [n], THINGS))
    sink.commit(SegmentEnd(segment, Counts(indexed=1100, decoded=1100), filters={"things": 1100}))
    rows = pq.read_table(part_path(tmp_path, "things", segment))
    assert rows["frame"].to_pylist() == list(range(1100))
    assert rows["source"].to_pylist() == ["gate"] * 1100
