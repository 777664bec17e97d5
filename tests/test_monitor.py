"""What is known of a run while it goes: counts, latencies, lags, and when not all is well."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

from pipeline.batch import Counts, FrameBatch, Segment, SegmentEnd
from pipeline.monitor import LATENCIES_S, Monitor


class Clock:
    def __init__(self, now_s=1_000.0):
        self.now_s = now_s

    def __call__(self):
        return self.now_s


def camera(name, state="live"):
    return SimpleNamespace(name=name, state=state, taken=Counts())


def batch(source, *captured_s):
    n = len(captured_s)
    return FrameBatch(
        Segment(source, window_utc_s=0.0),
        np.zeros((n, 2, 3, 3), np.uint8),
        np.arange(n, dtype=np.int64),
        np.zeros(n),
        np.array(captured_s, np.float64),
    )


def end(source, *, retry=False, **counts):
    return SegmentEnd(Segment(source), Counts(**counts), retry=retry)


def test_a_row_is_as_late_as_its_frame_is_old_when_the_sinks_have_it():
    clock = Clock()
    one = camera("c")
    monitor = Monitor(["c"], cameras=lambda: [one], clock=clock)
    assert monitor.latencies("c").rows == (0,) * (len(LATENCIES_S) + 1)
    monitor.written(batch("c", 999.5, 999.995, 900.0, 1_000.5))  # the last by a clock that is ahead
    monitor.written(batch("c"))
    monitor.written(batch("c", 999.5))
    found = monitor.latencies("c")
    assert dict(zip(LATENCIES_S, found.rows, strict=False)) == dict.fromkeys(LATENCIES_S, 0) | {0.01: 2, 0.5: 2}
    assert (sum(found.rows), found.rows[-1]) == (5, 1)
    assert found.sum_s == pytest.approx(0.5 + 0.005 + 100 + 0.5)


def test_a_frame_that_no_filter_keeps_ends_the_lag_and_is_no_row():
    clock = Clock()
    one = camera("c")
    monitor = Monitor(["c"], cameras=lambda: [one], clock=clock)
    assert monitor.lag_s("c") is None
    monitor.scored(batch("c", 998.0, 999.0), 2, 0)
    monitor.scored(batch("c"), 0, 0)
    monitor.written(batch("c"))
    clock.now_s = 1_002.0
    assert monitor.lag_s("c") == 3.0
    assert sum(monitor.latencies("c").rows) == 0
    assert monitor.counts()["c"] == Counts(labelled=2)


def test_frames_of_files_count_when_they_are_committed_and_those_of_cameras_as_they_come():
    gate = camera("gate")
    monitor = Monitor(["file", "gate"], cameras=lambda: [gate])
    gate.taken = Counts(indexed=9, skipped=1, dropped=2, decoded=6)
    monitor.scored(batch("file", 1.0), 1, 1)  # a file with a time of its own
    monitor.scored(batch("gate", 1.0), 1, 1)
    monitor.written(batch("file", 1.0))
    assert monitor.counts() == {
        "file": Counts(),
        "gate": Counts(indexed=9, skipped=1, dropped=2, decoded=6, labelled=1, written=1),
    }
    monitor.committed(end("file", indexed=3, decoded=3, labelled=3, written=3))
    monitor.committed(end("file", indexed=4, corrupt=4, retry=True))  # comes again
    monitor.committed(end("gate", indexed=5, decoded=4, labelled=3, failed=1, filtered=2, written=1))
    monitor.committed(end("own", indexed=1, decoded=1))
    assert monitor.counts()["file"] == Counts(indexed=3, decoded=3, labelled=3, written=3)
    assert monitor.counts()["gate"] == Counts(
        indexed=9, skipped=1, dropped=2, decoded=6, labelled=1, written=1, failed=1, filtered=2
    )
    assert monitor.counts()["own"] == Counts(indexed=1, decoded=1)


def test_all_is_well_while_a_camera_is_live_and_no_label_is_too_old():
    clock = Clock()
    gate, yard = camera("gate", "connecting"), camera("yard", "connecting")
    monitor = Monitor(["gate", "yard"], cameras=lambda: [gate, yard], lag_s=5.0, clock=clock)
    monitor.begin(["gate", "yard"])
    assert monitor.problems() == ["a camera must be live, got none: gate is connecting, yard is connecting"]
    gate.state = "live"
    assert monitor.problems() == []
    clock.now_s += 6
    monitor.scored(batch("gate", clock.now_s), 1, 1)
    assert monitor.problems() == ["yard: must have a label after 5 s, got none in 6.0 s"]
    monitor.scored(batch("yard", clock.now_s - 4), 1, 1)
    assert monitor.problems() == []
    clock.now_s += 2
    assert monitor.problems() == ["yard: its newest label must be 5 s old at most, got 6.0 s"]


def test_a_camera_that_is_added_has_its_own_time_until_its_first_label():
    clock, there = Clock(), [camera("gate", "live")]
    monitor = Monitor(["gate"], cameras=lambda: there, lag_s=5.0, clock=clock)
    monitor.begin(["gate"])
    clock.now_s += 300
    monitor.scored(batch("gate", clock.now_s), 1, 1)
    there.append(camera("yard", "live"))
    assert monitor.problems() == []
    clock.now_s += 4
    assert monitor.problems() == []
    monitor.scored(batch("gate", clock.now_s), 1, 1)
    clock.now_s += 2
    assert monitor.problems() == ["yard: must have a label after 5 s, got none in 6.0 s"]


def test_of_each_region_it_is_known_what_was_said_last():
    gate = camera("gate")
    monitor = Monitor(["gate"], cameras=lambda: [gate])
    assert monitor.newest("gate") == []
    scores = np.arange(6, dtype=np.float32).reshape(3, 2)
    one = replace(batch("gate", 1.0, 2.0, 3.0), index=np.array([4, 5, 5]), scores=scores, filter="who")
    regions = {"region": np.array([1, 0, 1], np.int16), "regions": ("bay", "door")}
    monitor.scored(replace(one, **regions), 1, 1)
    monitor.scored(replace(batch("gate"), filter="who"), 0, 0)
    monitor.scored(batch("yard", 1.0), 0, 0)
    # Of the next frame one region is still to come.
    two = replace(batch("gate", 4.0), index=np.array([6]), scores=scores[:1] + 9, filter="who")
    monitor.scored(replace(two, region=np.array([0], np.int16), regions=("bay", "door")), 0, 0)
    said = [(said.filter, said.region, said.frame, said.scores.tolist()) for said in monitor.newest("gate")]
    assert said == [("who", "bay", 6, [9, 10]), ("who", "door", 5, [4, 5])]
    for _ in range(9):
        monitor.scored(replace(two, region=np.array([0], np.int16), regions=("bay", "door")), 0, 0)
    assert [said.region for said in monitor.newest("gate")] == ["bay"]


def test_of_a_run_without_cameras_nothing_is_told():
    clock = Clock()
    monitor = Monitor(["file"], clock=clock)
    clock.now_s += 1_000
    assert monitor.problems() == []
