import contextlib
import sqlite3
from dataclasses import replace

import numpy as np
import pytest

from pipeline.batch import FrameBatch, Segment
from pipeline.rows import Labelling
from pipeline.sinks import delivery
from pipeline.sinks.database import SqliteSink
from pipeline.testing import check_sink
from tests.spooled import told, until

PERSON = Labelling("person", ("person", "none"))


def opened(tmp_path, **options):
    return contextlib.closing(SqliteSink(tmp_path / "labels.sqlite", **{"folder": tmp_path / "run"} | options))


def query(tmp_path, text):
    with contextlib.closing(sqlite3.connect(tmp_path / "labels.sqlite")) as db:
        return db.execute(text).fetchall()


def batch(frames):
    frames = np.asarray(frames, np.int64)
    scores = np.full((len(frames), 2), [0.75, 0.25], np.float32)
    return FrameBatch(
        Segment("gate"),
        np.zeros((len(frames), 1, 1, 3), np.uint8),
        frames,
        frames / 25,
        captured_s=1_700_000_000.0 + frames,
        scores=scores,
        filter="person",
    )


def test_an_event_is_a_row_that_is_whole_at_its_end(tmp_path):
    events = list(told(2))
    with opened(tmp_path) as sink:
        for event in events[:3]:
            sink.event(event)
        until(lambda: sink.sent == 3)
        rows = query(tmp_path, "select key, last_frame, best_score, is_over from events order by key")
        assert rows == [("gate//person/person/0/500", 5, 0.875, 1), ("gate//person/person/10/1500", 10, 0.75, 0)]
        sink.event(events[3])
        until(lambda: sink.sent == 4)
    assert query(tmp_path, "select count(*), sum(is_over) from events") == [(2, 2)]


def test_events_that_are_told_again_change_nothing(tmp_path):
    with opened(tmp_path, live={}) as sink:  # where the spool leaves none out
        for _ in range(2):
            for event in told(3):
                sink.event(event)
    assert query(tmp_path, "select first_frame, last_frame, is_over from events") == [
        (0, 5, 1),
        (10, 15, 1),
        (20, 25, 1),
    ]


def test_an_event_brings_its_picture_unless_it_is_not_to(tmp_path):
    (event,) = [replace(event, thumbnail=b"\xff\xd8jpeg") for event in told(1) if event.is_over]
    for name, wanted in ((True, b"\xff\xd8jpeg"), (False, None)):
        with opened(tmp_path, thumbnails=name, live={}) as sink:
            sink.event(event)
        assert query(tmp_path, "select thumbnail from events") == [(wanted,)]


def test_an_event_without_a_time_has_none(tmp_path):
    with opened(tmp_path) as sink:
        sink.event(replace(next(told(1)), began_s=-np.inf, clock="pts"))
    assert query(tmp_path, "select began_s, clock from events") == [(None, "pts")]


def test_rows_are_written_once_each(tmp_path):
    with opened(tmp_path, rows=True, live={"person": PERSON}) as sink:
        for frames in ([7, 8], [8, 9]):
            sink.write(batch(frames))
    assert query(tmp_path, "select * from labels order by frame") == [
        ("run", "gate", n, None, f"2023-11-14T22:13:{20 + n}.000000Z", "person", "person", 0.75) for n in (7, 8, 9)
    ]


def test_frames_that_a_killed_run_counted_and_another_runs_stay_apart(tmp_path):
    later = batch([7])
    for rows, run in ((batch([7]), "run"), (replace(later, captured_s=later.captured_s + 60), "run"), (later, "other")):
        with opened(tmp_path, rows=True, live={"person": PERSON}, folder=tmp_path / run) as sink:
            sink.write(rows)
            for event in told(1):
                sink.event(replace(event, began_s=float(rows.captured_s[0])))
    assert query(tmp_path, "select run, frame, captured from labels order by run, captured") == [
        ("other", 7, "2023-11-14T22:13:27.000000Z"),
        ("run", 7, "2023-11-14T22:13:27.000000Z"),
        ("run", 7, "2023-11-14T22:14:27.000000Z"),
    ]
    assert query(tmp_path, "select count(*), sum(is_over) from events") == [(3, 3)]


def test_tables_of_somebody_else_are_left_alone_and_told(tmp_path, caplog):
    with contextlib.closing(sqlite3.connect(tmp_path / "labels.sqlite")) as db:
        db.execute("create table events (id integer)")
    with opened(tmp_path) as sink:
        sink.event(next(told(1)))
        until(lambda: "its tables `events` and `labels` must be vpipe's own" in caplog.text)


def test_a_file_that_another_program_locks_is_written_when_it_is_free(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(delivery, "FIRST_S", 0.02)
    events = list(told(2))
    with opened(tmp_path) as sink:
        sink.event(events[0])
        until(lambda: sink.sent == 1)
        with contextlib.closing(sqlite3.connect(tmp_path / "labels.sqlite")) as other:
            other.execute("begin immediate")
            for event in events[1:]:
                sink.event(event)
            until(lambda: "database is locked" in caplog.text)
            other.rollback()
        until(lambda: sink.pending == 0)
    assert query(tmp_path, "select sum(is_over) from events") == [(2,)]


def test_a_database_keeps_the_contract_of_sinks(tmp_path):
    mean = Labelling("mean", ("red", "green"))
    check_sink(lambda: SqliteSink(tmp_path / "labels.sqlite", folder=tmp_path / "run", rows=True, live={"mean": mean}))
    assert query(tmp_path, "select count(*) from labels") == [(7,)]


@pytest.mark.parametrize("n", [1000])
def test_files_wait_until_their_events_are_written(tmp_path, n):
    with opened(tmp_path) as sink:
        for event in told(n):
            sink.event(event)
        sink.finish()
        assert (sink.pending, sink.sent) == (0, 2 * n)
