"""Events by scores over time: whatever comes in whatever pieces, they are those of a plain reference."""

import contextlib
import io
import json
import math
import os
import shutil
import sqlite3
from dataclasses import replace
from itertools import count
from pathlib import Path

import av
import numpy as np
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.batch import FrameBatch, Segment, SegmentEnd
from pipeline.config import load_run_config
from pipeline.contracts import Sink
from pipeline.errors import ConfigError
from pipeline.events import BACK_S, SILENT_S, Event, EventRule, Track
from pipeline.files import WholeFile
from pipeline.identity import stamp
from pipeline.rows import Labelling
from pipeline.runner import run
from pipeline.sinks import delivery
from pipeline.sinks.events import EventsSink, _with_thumbnails
from pipeline.sources.camera import Preview
from pipeline.sources.file import FileSource
from pipeline.sources.scaler import PictureFormat, View
from tests.clips import clip
from tests.spooled import free_port

OF = {"source": "gate", "region": None, "filter": "who", "label": "person", "clock": "utc"}


def reference(rule, frames, times, scores):
    """The events that are over, frame by frame."""
    events, open_, up, went, last_s, known_s = [], None, False, False, -math.inf, -math.inf

    def close():
        if open_ and open_[-1][1] - open_[0][1] >= rule.min_s:
            best = max(open_, key=lambda row: row[2])
            events.append((open_[0][0], open_[-1][0], best[0]))

    for frame, time_s, score in zip(frames, times, scores, strict=True):
        if not math.isnan(time_s):
            if time_s - known_s < -BACK_S:
                close()
                open_, up, last_s = None, False, time_s
            known_s = time_s
        before_s, last_s = last_s, max(last_s, known_s)
        if last_s - before_s > max(rule.gap_s, SILENT_S):
            up = False
        up = score >= rule.on or (up and score >= rule.off)
        longest_s = rule.gap_s if went or not up else max(rule.gap_s, SILENT_S)
        went = not up
        if open_ and last_s - open_[-1][1] > longest_s:
            close()
            open_ = None
        if up:
            open_ = [*(open_ or []), (frame, last_s, score)]
    close()
    return events


@given(
    rule=st.builds(
        EventRule,
        on=st.sampled_from([0.5, 0.7]),
        off=st.sampled_from([0.3, 0.5]),
        min_s=st.sampled_from([0.0, 0.3, 1.0]),
        gap_s=st.sampled_from([0.0, 0.25, 1.0]),
    ),
    rows=st.lists(
        st.tuples(
            st.sampled_from([0.1, 0.2, 3.0, 20.0, -0.5, -1.0, -5.0, math.nan]),
            st.sampled_from([0.1, 0.4, 0.6, 0.9]),
            st.booleans(),
        ),
        max_size=40,
    ),
)
def test_events_are_those_of_a_plain_reference_in_whatever_pieces_rows_come(rule, rows):
    frames, times, scores = list(range(len(rows))), [], []
    now_s = 0.0
    for step_s, score, _ in rows:
        now_s += 0.0 if math.isnan(step_s) else step_s
        times.append(math.nan if math.isnan(step_s) else now_s)
        scores.append(np.float32(score))
    track, told, start = Track(rule, **OF), [], 0
    for stop in [*(k + 1 for k, row in enumerate(rows) if row[2]), len(rows)]:
        piece = slice(start, stop)
        told += track.add(
            np.array(frames[piece], np.int64), np.array(times[piece]), np.array(scores[piece], np.float32)
        )
        start = stop
    told += track.close()
    over = [(event.first_frame, event.last_frame, event.best_frame) for event in told if event.is_over]
    assert over == reference(rule, frames, times, [float(score) for score in scores])
    assert len({event.key for event in told}) == len(over)
    began = [event.first_frame for event in told if not event.is_over]
    assert began == [first for first, _, _ in over]  # each is told once when it begins, and before it ends
    assert [event.is_over for event in told] == [False, True] * len(over)
    assert all(event.began_s <= event.ended_s for event in told)


def test_an_event_is_told_as_soon_as_it_was_there_for_long_enough_and_gone_for_long_enough():
    track = Track(EventRule(on=0.6, off=0.4, min_s=0.2, gap_s=0.5), **OF)
    scores = [0.9, 0.5, 0.7, 0.1, 0.1, 0.8, *[0.1] * 7]
    heard = [
        (n, event)
        for n, score in enumerate(scores)
        for event in track.add(np.array([n]), np.array([n / 10]), np.array([score], np.float32))
    ]
    (began_at, began), (over_at, over) = heard
    assert (began_at, began.first_frame, began.is_over) == (2, 0, False)
    assert (over_at, over.last_frame, over.is_over) == (11, 5, True)
    assert over == Event(
        **OF,
        first_frame=0,
        last_frame=5,
        began_s=0.0,
        ended_s=0.5,
        best_frame=0,
        best_score=over.best_score,
        is_over=True,
    )


def added(track, rows, *, apart=False, first=0):
    """What a track tells of rows (time, score), which come together or one by one."""
    times, scores = (np.array(column) for column in zip(*rows, strict=True))
    frames = np.arange(first, first + len(rows))
    pieces = [slice(n, n + 1) for n in range(len(rows))] if apart else [slice(None)]
    return [
        event
        for piece in pieces
        for event in track.add(frames[piece], times[piece].astype(np.float64), scores[piece].astype(np.float32))
    ]


@pytest.mark.parametrize("apart", [False, True])
def test_a_score_below_on_begins_no_event_behind_a_silence(apart):
    rows = [(0.0, 0.9), (0.1, 0.9), (3600.0, 0.45), (3600.1, 0.45), (3600.2, 0.7), (3600.3, 0.45)]
    track = Track(EventRule(on=0.6, off=0.4), **OF)
    told = [*added(track, rows, apart=apart), *track.close()]
    over = [(event.first_frame, event.last_frame, event.best_frame) for event in told if event.is_over]
    assert over == [(0, 1, 0), (4, 5, 4)]


@pytest.mark.parametrize("apart", [False, True])
def test_a_clock_that_goes_back_ends_an_event_and_holds_none_up(apart):
    there, gone = [0.9] * 10, [0.1] * 10
    scores = [*there, *there, *gone, *there, *gone]
    times = [n / 10 if n < 10 else n / 10 - 3600 for n in range(len(scores))]
    track = Track(EventRule(min_s=0.5, gap_s=0.5), **OF)
    told = added(track, list(zip(times, scores, strict=True)), apart=apart)
    assert [(event.first_frame, event.last_frame) for event in told if event.is_over] == [(0, 9), (10, 19), (30, 39)]
    spans = [(event.began_s, event.ended_s) for event in told if event.is_over]
    assert spans == [pytest.approx((0.0, 0.9)), pytest.approx((-3599.0, -3598.1)), pytest.approx((-3597.0, -3596.1))]
    assert [event.is_over for event in told] == [False, True] * 3
    assert len({event.key for event in told}) == 3


@pytest.mark.parametrize("apart", [False, True])
def test_a_score_below_on_begins_no_event_where_the_clock_goes_back(apart):
    rows = [(7200.0, 0.9), (7200.1, 0.9), (3600.0, 0.45), (3600.1, 0.7), (3600.2, 0.1), (3600.3, 0.1)]
    told = added(Track(EventRule(on=0.6, off=0.4), **OF), rows, apart=apart)
    assert [(event.first_frame, event.last_frame) for event in told if event.is_over] == [(0, 1), (3, 3)]


@pytest.mark.parametrize("apart", [False, True])
def test_times_that_go_back_a_little_end_no_event(apart):
    times = [0.0, 0.8, 0.2, 1.0, 0.1, math.nan, 0.9, 1.9, 0.9, 2.0, 3.0]
    track = Track(EventRule(gap_s=0.5), **OF)
    told = [*added(track, [(time_s, 0.9) for time_s in times], apart=apart), *track.close()]
    over = [(event.first_frame, event.last_frame, event.began_s, event.ended_s) for event in told if event.is_over]
    assert over == [(0, 10, 0.0, 3.0)]


@pytest.mark.parametrize(
    "wrong", [{"on": 0.3, "off": 0.5}, {"off": 0.0}, {"on": 1.5}, {"min_s": -1.0}, {"gap_s": math.nan}]
)
def test_a_rule_that_cannot_be_is_refused(wrong):
    with pytest.raises(ValueError, match="must"):
        EventRule(**wrong)


class Heard(Sink):
    """A sink that keeps what it is told."""

    def __init__(self):
        self.events = []

    def write(self, batch):
        pass

    def event(self, event):
        self.events.append(event)


PERSON = Labelling("who", ("person", "none"))
RULES = {"who": {"person": EventRule(on=0.6, off=0.4, min_s=0.1, gap_s=0.3)}}


def batch(source, first, scores, *, regions=()):
    """Rows of successive frames, 10 a second, with these scores of a person; of each region one, in turn."""
    each = max(1, len(regions))
    index = np.repeat(np.arange(first, first + len(scores) // each, dtype=np.int64), each)
    region = np.tile(np.arange(each, dtype=np.int16), len(scores) // each) if regions else None
    person = np.array(scores, np.float32)
    return FrameBatch(
        Segment(source), np.zeros((len(index), 1, 1, 3), np.uint8), index, index / 10, 1e9 + index / 10,
        regions=regions, region=region, scores=np.stack([person, 1 - person], axis=1), filter="who",
    )  # fmt: skip


def test_events_of_cameras_are_told_as_they_come_and_written_when_a_window_is(tmp_path):
    heard = Heard()
    previews = {"a": Preview(0, np.full((20, 32, 3), 90, np.uint8))}
    sink = EventsSink(
        tmp_path, RULES, {"who": PERSON}, sources={"a": None, "b": None}, sinks=[heard], preview=previews.get
    )
    sink.write(batch("a", 0, [0.1, 0.9, 0.7, 0.9, 0.1]))
    assert [(event.first_frame, event.is_over) for event in heard.events] == [(1, False)]
    sink.write(batch("b", 0, [0.9, 0.1, 0.9, 0.1], regions=("left", "right")))
    sink.commit(SegmentEnd(Segment("a")))
    assert not (tmp_path / "events").exists()
    sink.write(batch("a", 5, [0.1, 0.1, 0.1, 0.9, 0.9]))
    sink.commit(SegmentEnd(Segment("a")))
    sink.finish()
    told = [(event.source, event.region, event.first_frame, event.last_frame, event.is_over) for event in heard.events]
    assert told == [
        ("a", None, 1, 3, False),
        ("b", "left", 0, 1, False),
        ("a", None, 1, 3, True),
        ("a", None, 8, 9, False),
        ("a", None, 8, 9, True),
        ("b", "left", 0, 1, True),
    ]
    rows = ds.dataset(tmp_path / "events").to_table().to_pylist()
    assert sorted((row["source"], row["first_frame"], row["last_frame"]) for row in rows) == [
        ("a", 1, 3), ("a", 8, 9), ("b", 0, 1),
    ]  # fmt: skip
    assert {row["clock"] for row in rows} == {"utc"}
    assert [event.thumbnail is not None for event in heard.events] == [e.source == "a" for e in heard.events]
    assert {(row["source"], row["thumbnail"] is None) for row in rows} == {("a", False), ("b", True)}


class Clock:
    """Seconds that pass in steps."""

    def __init__(self):
        self.now_s = 0.0

    def __call__(self):
        return self.now_s

    def pass_in(self, sink, seconds, each=lambda: FrameBatch.tick(Segment("b", -1))):
        """Time in which a run goes on: a batch each 0.5 s."""
        for _ in range(round(2 * seconds)):
            self.now_s += 0.5
            sink.write(each())


@pytest.fixture
def gate(tmp_path):
    """A sink of the camera `a` and others, what it tells, and its clock."""
    heard, clock = Heard(), Clock()
    previews = {"a": Preview(0, np.full((20, 32, 3), 90, np.uint8))}
    sink = EventsSink(
        tmp_path, RULES, {"who": PERSON}, sources={"a": None, "b": None}, sinks=[heard], preview=previews.get,
        clock=clock,
    )  # fmt: skip
    return sink, heard.events, clock


@pytest.mark.parametrize("others_go_on", [False, True])
def test_an_event_of_a_camera_that_is_away_is_over_while_it_is(gate, tmp_path, others_go_on):
    sink, told, clock = gate
    numbers = count()
    each = {"each": lambda: batch("b", next(numbers), [0.1])} if others_go_on else {}
    sink.write(batch("a", 0, [0.1, 0.9, 0.7, 0.8]))
    sink.commit(SegmentEnd(Segment("a")))
    clock.pass_in(sink, SILENT_S, **each)
    assert [event.is_over for event in told] == [False]
    clock.pass_in(sink, 3, **each)
    began, over = told
    assert (over.is_over, over.key, over.first_frame, over.last_frame) == (True, began.key, 1, 3)
    assert (over.began_s, over.ended_s) == (1e9 + 0.1, 1e9 + 0.3)
    assert (over.best_frame, over.best_score) == (1, pytest.approx(0.9))
    assert grey_of(over.thumbnail) == pytest.approx(90, abs=2)
    (row,) = ds.dataset(tmp_path / "events").to_table().to_pylist()  # though no window of it may ever come again
    assert (row["source"], row["first_frame"], row["last_frame"]) == ("a", 1, 3)
    clock.pass_in(sink, 60, **each)
    sink.finish()
    assert len(told) == 2
    assert len(ds.dataset(tmp_path / "events").to_table()) == 1


def test_frames_that_come_again_begin_another_event(gate):
    sink, told, clock = gate
    sink.write(batch("a", 0, [0.9, 0.9]))
    clock.pass_in(sink, SILENT_S + 3)
    sink.write(batch("a", 2, [0.5, 0.5, 0.9, 0.9]))  # by their times at once, as those of a camera may be
    sink.finish()
    events = [(event.first_frame, event.last_frame, event.is_over) for event in told]
    assert events == [(0, 1, False), (0, 1, True), (4, 5, False), (4, 5, True)]
    assert len({event.key for event in told}) == 2


def test_an_event_goes_on_where_its_camera_does(gate):
    sink, told, clock = gate
    for first in range(0, 60, 2):
        sink.write(batch("a", first, [0.9, 0.9]))
        clock.pass_in(sink, 5)
    assert [event.is_over for event in told] == [False]


def test_what_holds_up_the_run_is_no_silence_of_its_cameras(gate):
    sink, told, clock = gate
    sink.write(batch("a", 0, [0.9, 0.9]))
    clock.now_s += 60
    sink.write(batch("b", 0, [0.1]))
    sink.write(batch("a", 2, [0.9, 0.9]))
    clock.pass_in(sink, 5)
    assert [event.is_over for event in told] == [False]


def test_what_was_not_there_for_long_enough_is_no_event_behind_a_silence(gate):
    sink, told, clock = gate
    sink.write(batch("a", 0, [0.9]))
    clock.pass_in(sink, SILENT_S + 3)
    sink.write(batch("a", 1, [0.9]))
    sink.finish()
    assert told == []


def grey_of(thumbnail):
    with av.open(io.BytesIO(thumbnail)) as image:
        return round(next(image.decode(video=0)).to_ndarray(format="gray").mean())


def test_a_thumbnail_of_a_camera_shows_the_best_of_the_frames_that_are_kept(tmp_path):
    heard, shown = Heard(), {}
    sink = EventsSink(
        tmp_path, RULES, {"who": PERSON}, sources={"a": None}, sinks=[heard],
        preview=lambda name: Preview(*shown[name]) if name in shown else None,
    )  # fmt: skip

    def write(first, scores, frame, grey):
        shown["a"] = frame, np.full((20, 32, 3), grey, np.uint8)
        sink.write(batch("a", first, scores, regions=("left", "right")))

    write(0, [0.1, 0.9, 0.1, 0.9], 0, 10)  # the left is empty yet
    write(2, [1.0, 0.1, 1.0, 0.1], 0, 10)  # the best frames on the left, of which no picture is kept
    write(4, [0.7, 0.1, 0.8, 0.1], 5, 50)
    write(6, [0.9, 0.1, 0.7, 0.1], 6, 90)
    write(8, [0.8, 0.1, 0.1, 0.1], 8, 130)
    write(10, [0.1] * 10, 8, 130)
    told = [(event.region, event.is_over, grey_of(event.thumbnail)) for event in heard.events]
    assert told == [
        ("right", False, pytest.approx(10, abs=2)),
        ("left", False, pytest.approx(50, abs=2)),
        ("right", True, pytest.approx(10, abs=2)),
        ("left", True, pytest.approx(90, abs=2)),
    ]


def test_thumbnails_show_the_best_frame_where_labels_come_late(tmp_path):
    heard, shown = Heard(), iter([Preview(n, np.full((20, 32, 3), n, np.uint8)) for n in range(40, 200, 20)])
    sink = EventsSink(
        tmp_path, RULES, {"who": PERSON}, sources={"a": None}, sinks=[heard], preview=lambda name: next(shown)
    )
    scores = {60: 0.7, 80: 0.9, 100: 0.8}  # the previews are 40 frames ahead
    for first in range(0, 160, 20):
        sink.write(batch("a", first, [scores.get(n, 0.65 if 55 < n < 115 else 0.1) for n in range(first, first + 20)]))
    assert [event.is_over for event in heard.events] == [False, True]
    assert [grey_of(event.thumbnail) for event in heard.events] == pytest.approx([60, 80], abs=2)


def test_events_of_files_are_found_without_a_clock(tmp_path):
    def clock():
        raise AssertionError("their times are those of the files")

    heard = Heard()
    sink = EventsSink(tmp_path, RULES, {"who": PERSON}, sources={"a": None}, sinks=[heard], clock=clock)
    sink.write(batch("a", 0, [0.9, 0.9]))
    sink.write(FrameBatch.tick(Segment("a")))
    sink.finish()
    assert heard.events == []


def filmed(tmp_path, *sinks):
    """The configuration of a run over a video that shows two people, with these sinks."""
    bright = [*[False] * 7, *[True] * 20, *[False] * 4, *[True] * 9, *[False] * 30, *[True] * 10]
    with av.open(str(tmp_path / "a.mp4"), "w") as container:
        stream = container.add_stream("libx264", rate=10, options={"g": "5"})
        stream.width, stream.height, stream.pix_fmt = 32, 32, "yuv420p"
        for one in bright:
            picture = np.full((32, 32, 3), 220 if one else 30, np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, "rgb24")))
        container.mux(stream.encode(None))
    return seen(tmp_path, *sinks)


def seen(tmp_path, *sinks):
    """The same of the video that is there."""
    (tmp_path / "run.yaml").write_text(
        f"run: {{dir: {tmp_path}}}\nsources: [{{path: a.mp4}}]\ndecode: {{segment_frames: 10, workers: 2}}\n"
        "filter: {name: who, model: 'tests.models:Bright', input: [4, 4], classes: [person, none], fold: 2,\n"
        "         events: {person: {on: 0.6, off: 0.4, gap_s: 0.5, min_s: 0.5}}}\n"
        f"sinks: {json.dumps(sinks)}\n"
    )
    return load_run_config(tmp_path / "run.yaml")


def test_events_of_files_are_those_of_the_whole_run_though_it_was_interrupted(tmp_path):
    config = filmed(tmp_path)
    outcome = run(config)
    assert outcome.exit_code == 0
    (written,) = outcome.folder.path.glob("events.parquet")
    for part in sorted((outcome.folder.path / "frames").rglob("*.parquet"))[3:]:
        part.unlink()
    written.unlink()
    assert run(config, mode="resume").exit_code == 0
    rows = pq.read_table(written).to_pylist()
    assert [(row["first_frame"], row["last_frame"]) for row in rows] == [(7, 39), (70, 79)]
    for row in rows:
        with av.open(io.BytesIO(row["thumbnail"])) as image:
            picture = next(image.decode(video=0)).to_ndarray(format="rgb24")
        assert picture.shape == (320, 320, 3)
        assert picture.mean() > 200
    assert [(row["began_s"], row["clock"]) for row in rows] == [
        (pytest.approx(0.7), "pts"),
        (pytest.approx(7.0), "pts"),
    ]


def test_events_of_a_file_that_was_replaced_have_no_pictures_of_the_other_one(tmp_path, caplog):
    path = tmp_path / "a.mp4"
    shutil.copy(clip("h264-closed.mp4", 30), path)
    file = FileSource(path, name="a", views=[View(PictureFormat(4, 4))])
    file.stamp = stamp(path)
    plain = Event(**OF, first_frame=3, last_frame=9, began_s=0.1, ended_s=0.3, best_frame=7, best_score=0.9)
    events = [plain, replace(plain, best_frame=20)]
    ((*told,),) = _with_thumbnails(events, file)
    assert all(event.thumbnail for event in told)
    os.utime(path, ns=(0, 1))
    ((*told,),) = _with_thumbnails(events, file)
    assert [event.thumbnail for event in told] == [None] * 2
    (record,) = caplog.records
    assert f"{path}: changed since the run began" in record.message
    assert record.message.endswith("; its events have no thumbnails")


class Notes(Sink):
    """A sink of one's own: a line for each event, and one for when they are to be safe."""

    def __init__(self, folder, name="notes", takes_again=False):
        self.folder, self.path, self.takes_again = folder, folder.parent / f"{name}.txt", takes_again

    def write(self, batch):
        pass

    def note(self, line):
        with self.path.open("a") as file:
            file.write(f"{line}\n")

    def event(self, event):
        self.note(f"{event.first_frame} {'ended' if event.is_over else 'began'}")

    def sync(self):
        self.note("synced again" if (self.folder / "events.parquet").exists() else "synced")


NOTES = {"type": "tests.test_eventtracks:Notes"}
TOLD = ["7 began", "7 ended", "70 began", "70 ended"]


@pytest.fixture
def impatient(monkeypatch):
    """Nobody waits for a receiver that is away."""
    monkeypatch.setattr(delivery, "PATIENCE_S", 0.1)
    monkeypatch.setattr(delivery, "TRIAL_S", 0.1)
    monkeypatch.setattr(delivery, "CLOSE_S", 0.1)


def waiting(path):
    """The events that wait in a spool, as its file holds them."""
    with contextlib.closing(sqlite3.connect(path)) as spool:
        records = [json.loads(record[1:]) for (record,) in spool.execute("select record from records order by number")]
    return [f"{record['first_frame']} {record['event']}" for record in records]


def test_what_was_told_of_files_is_safe_before_the_table_says_that_it_was_told(tmp_path, monkeypatch, impatient):
    commit = WholeFile.commit

    def committed(file):
        if file.path.name == "events.parquet":  # a power cut now takes what is in no file but the log of a spool
            (tmp_path / "cut.sqlite").write_bytes((file.path.parent / "spool/webhook/spool.sqlite").read_bytes())
        commit(file)

    monkeypatch.setattr(WholeFile, "commit", committed)
    path = tmp_path / "events.jsonl"
    hook = {"type": "webhook", "url": f"http://127.0.0.1:{free_port()}"}
    lines = {"type": "jsonl", "path": str(path), "events": True}
    synced = []
    monkeypatch.setattr(os, "fsync", lambda file: synced.append(os.readlink(f"/proc/self/fd/{file}")))
    outcome = run(filmed(tmp_path, hook, lines, {**NOTES}))
    assert outcome.summary["receivers"]["webhook"]["pending"] == 4
    assert waiting(tmp_path / "cut.sqlite") == TOLD
    assert (tmp_path / "notes.txt").read_text().splitlines() == [*TOLD, "synced"]
    (table,) = (n for n, name in enumerate(synced) if name.endswith(".events.parquet.tmp"))
    assert synced.index(str(path)) < table
    assert synced.index(str(path.parent), synced.index(str(path))) < table


def test_a_sink_that_is_added_when_a_run_goes_on_is_told_the_events_before_and_others_are_not_again(
    tmp_path, impatient
):
    hooks = [{"type": "webhook", "name": name, "url": f"http://127.0.0.1:{free_port()}"} for name in ("there", "added")]
    lines = [{"type": "jsonl", "path": str(tmp_path / f"{n}.jsonl"), "events": True} for n in range(2)]
    notes = [{**NOTES, "name": name, "takes_again": name == "asks"} for name in ("there", "asks", "added")]
    outcome = run(filmed(tmp_path, hooks[0], lines[0], *notes[:2]))
    for _ in range(2):
        run(seen(tmp_path, *hooks, *lines, *notes), mode="resume")
    for hook in hooks:
        assert waiting(outcome.folder.spool / hook["name"] / "spool.sqlite") == TOLD
    for line in lines:
        events = [json.loads(text) for text in Path(line["path"]).read_text().splitlines()]
        assert [f"{event['first_frame']} {event['event']}" for event in events] == TOLD
    heard = {note["name"]: (tmp_path / f"{note['name']}.txt").read_text().splitlines() for note in notes}
    assert heard["there"] == [*TOLD, "synced", *["synced again"] * 2]
    assert [line for line in heard["asks"] if "synced again" not in line] == [*TOLD, "synced", *TOLD, *TOLD]
    assert [line for line in heard["added"] if "synced again" not in line] == []  # nobody knows that it was not there


def test_what_cannot_be_of_events_is_named(tmp_path):
    (tmp_path / "run.yaml").write_text(
        "sources: [{path: .}]\n"
        "filter: {name: who, model: 'tests.models:Bright', input: [4, 4], classes: [person, none],\n"
        "         keep: {person: 0.5}, events: {persons: {on: 0.4, off: 0.6}}}\n"
    )
    with pytest.raises(ConfigError) as caught:
        load_run_config(tmp_path / "run.yaml")
    told = str(caught.value)
    assert "filter.events.persons: must be a class of the model; did you mean 'person'" in told
    assert "filter.events.persons.off: must be at most `on`, 0.4, got 0.6" in told
    assert "filter.keep: must be left out where events are found" in told
