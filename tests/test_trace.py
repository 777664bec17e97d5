"""The timeline of a run, as a viewer would read it."""

import json
from collections import defaultdict
from itertools import pairwise

import pytest

from pipeline import runner as runs
from pipeline.batch import Segment
from pipeline.contracts import Sink, Watcher
from pipeline.errors import ConfigError
from pipeline.threads import Stop
from pipeline.times import MAIN, Span, Times
from pipeline.trace import CHUNK, Trace
from tests.clips import clip
from tests.test_times import configured


def read(path):
    """The trace: (names by row, complete events by row in the order of time), checked against the format."""
    document = json.loads(path.read_bytes())
    rows, events = {}, defaultdict(list)
    for event in document["traceEvents"]:
        assert {"ph", "name", "pid", "tid", "args"} <= set(event)
        if event["ph"] == "X":
            assert isinstance(event["ts"], int)
            assert event["ts"] >= 0
            assert event["dur"] >= 0
            events[event["tid"]].append(event)
        elif event["name"] == "thread_name":
            assert event["ph"] == "M"
            rows[event["tid"]] = event["args"]["name"]
    assert set(events) == set(rows)
    for row in events.values():
        row.sort(key=lambda event: event["ts"])
        assert all(one["ts"] + one["dur"] <= next["ts"] for one, next in pairwise(row))
    return rows, dict(events)


def test_a_row_for_each_decoder_and_one_for_the_rest_account_for_the_time_of_the_run(tmp_path):
    videos = {"sources": [{"path": str(clip("h264-closed.mp4", 60, source=k)), "name": f"s{k}"} for k in range(3)]}
    outcome = runs.run(configured(tmp_path, **videos), trace=tmp_path / "t.json")
    rows, events = read(tmp_path / "t.json")
    assert sorted(rows.values())[-1] == "main: fold, filter, sinks"
    assert {name for name in rows.values() if not name.startswith("main")} <= {"decode-0", "decode-1"}
    frames, seconds = defaultdict(int), defaultdict(float)
    for event in (event for row in events.values() for event in row):
        frames[event["name"]] += event["args"].get("frames", 0)
        seconds[event["cat"]] += 1e-6 * event["dur"]
    assert {name for name, number in frames.items() if number} == {
        *("decode", "fold", "submit reader", "result reader", "write parts"),
    }
    assert all(number in (0, 180) for number in frames.values())
    stages = outcome.summary["stages"]
    count = sum(map(len, events.values()))
    for stage in ("decode", "compute", "sink"):
        assert seconds[stage] == pytest.approx(stages[stage]["busy_s"], abs=2e-6 * count)


class StopsAtOnce(Watcher):
    """A watcher that stops the run at the first commit."""

    def __init__(self, stop):
        self.stop = stop

    def committed(self, end):
        self.stop.set()


def test_an_interrupted_run_leaves_a_whole_trace(tmp_path):
    stop = Stop()
    config = configured(tmp_path, sources=[{"path": str(clip("h264-closed.mp4", 60))}])
    outcome = runs.run(config, stop=stop, watcher=StopsAtOnce(stop), trace=tmp_path / "t.json")
    assert outcome.state == "interrupted"
    _, events = read(tmp_path / "t.json")
    assert "commit parts" in {event["name"] for row in events.values() for event in row}


def test_a_run_that_breaks_leaves_a_whole_trace_with_the_step_that_broke(tmp_path):
    sinks = [{"type": "tests.models:RaisingSink"}]
    outcome = runs.run(configured(tmp_path, sinks=sinks), trace=tmp_path / "t.json")
    assert outcome.state == "failed"
    _, events = read(tmp_path / "t.json")
    assert "write tests.models:RaisingSink" in {event["name"] for row in events.values() for event in row}


class RefusingSink(Sink):
    """A sink that cannot be made."""

    def __init__(self):
        raise KeyError("no table")

    def write(self, batch):
        """Never called."""


def test_a_run_that_is_not_begun_leaves_no_trace(tmp_path):
    config = configured(tmp_path, sinks=[{"type": "tests.test_trace:RefusingSink"}])
    with pytest.raises(ConfigError, match="no table"):
        runs.run(config, trace=tmp_path / "t.json")
    assert [path.name for path in tmp_path.iterdir() if "json" in path.name] == []


def test_a_trace_that_is_there_is_replaced_only_if_asked_and_never_by_resuming(tmp_path):
    trace = tmp_path / "t.json"
    trace.write_text("mine")
    config = configured(tmp_path)
    with pytest.raises(ConfigError, match=r"t\.json: must not exist yet; --overwrite replaces it"):
        runs.run(config, trace=trace)
    assert not (tmp_path / "r").exists()
    assert runs.run(config).exit_code == 0
    with pytest.raises(ConfigError, match=r"t\.json: must not exist yet, .*; choose another --trace"):
        runs.run(config, mode="resume", trace=trace)
    assert trace.read_text() == "mine"
    runs.run(config, mode="overwrite", trace=trace)
    assert read(trace)
    assert runs.run(config, mode="resume", trace=tmp_path / "second.json").exit_code == 0
    assert read(tmp_path / "second.json")


@pytest.mark.parametrize(("name", "told"), [("t.txt", "must end in .json"), ("gone/t.json", "must be a folder that")])
def test_a_path_that_cannot_be_a_trace_is_refused_before_anything_is_started(tmp_path, name, told):
    with pytest.raises(ConfigError, match=told):
        runs.run(configured(tmp_path), trace=tmp_path / name)
    assert not (tmp_path / "r").exists()


def spans(number):
    return [Span(MAIN, "compute", "fold", k, k + 1, Segment("a", 2), 16) for k in range(number)]


def test_spans_are_written_as_they_come_so_that_a_long_run_keeps_none_of_them(tmp_path):
    with Trace(tmp_path / "t.json") as trace:
        for span in spans(10 * CHUNK):
            trace.add(span)
        (partial,) = tmp_path.iterdir()
        assert partial.name.startswith(".")
        assert partial.read_bytes().count(b'"fold"') == 10 * CHUNK
    document = json.loads((tmp_path / "t.json").read_bytes())
    assert sum(event["ph"] == "X" for event in document["traceEvents"]) == 10 * CHUNK


@pytest.mark.parametrize("most", [10, CHUNK, CHUNK + 10])
def test_a_trace_ends_at_the_most_that_it_may_hold_and_the_log_says_so(tmp_path, caplog, most):
    with Trace(tmp_path / "t.json", most=most) as trace:
        for span in spans(3 * CHUNK):
            trace.add(span)
    document = json.loads((tmp_path / "t.json").read_bytes())
    assert sum(event["ph"] == "X" for event in document["traceEvents"]) == most
    assert [record.getMessage() for record in caplog.records] == [
        f"{tmp_path}/t.json: holds the first {most} spans, and what follows is left out"
    ]


def test_a_disk_that_takes_no_trace_is_a_warning(tmp_path, caplog):
    with Trace(tmp_path / "gone" / "t.json") as trace, Times(trace.add).span("compute", "fold"):
        pass
    assert "there is no trace" in caplog.text
    assert list(tmp_path.iterdir()) == []
