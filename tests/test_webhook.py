import contextlib
import hashlib
import hmac
import json
import re
import shutil
import sqlite3
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner

from pipeline.batch import Counts, FrameBatch, Segment, SegmentEnd
from pipeline.cli import main
from pipeline.config import load_run_config
from pipeline.errors import ConfigError
from pipeline.rows import Labelling
from pipeline.runner import run
from pipeline.sinks import delivery
from pipeline.sinks.delivery import Away, SpooledSink
from pipeline.sinks.lines import event_json
from pipeline.sinks.parts import PartsSink, committed
from pipeline.sinks.spool import Spool
from pipeline.sinks.webhook import WebhookSink
from pipeline.testing import check_sink
from pipeline.threads import Stop, stuck_threads
from tests import test_runner
from tests.clips import clip
from tests.models import BITS
from tests.spooled import first_arrivals, free_port, listens, states, told, until, wanted

ROOT = Path(__file__).parents[1]
PERSON = Labelling("person", ("person", "none"))


class Receiver:
    """The process of tests/receiver.py, which can be stopped and started."""

    def __init__(self, path):
        self.path, self.port, self.process = path, free_port(), None
        self.url = f"http://127.0.0.1:{self.port}/hook"

    def start(self, *answers):
        command = [sys.executable, "-m", "tests.receiver", str(self.port), str(self.path), ",".join(answers)]
        self.process = subprocess.Popen(command, cwd=ROOT)
        until(lambda: listens(self.port))

    def stop(self):
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process = None

    @property
    def requests(self):
        return [json.loads(line) for line in self.path.read_text().splitlines()] if self.path.exists() else []

    def arrived(self, answer="204"):
        requests = [request for request in self.requests if request["answer"] == answer]
        return states([event for request in requests for event in request["body"]["events"]])


@pytest.fixture
def receiver(tmp_path, monkeypatch):
    monkeypatch.setattr(delivery, "FIRST_S", 0.02)
    made = Receiver(tmp_path / "requests.jsonl")
    yield made
    made.stop()


def sink(receiver, folder, **options):
    return contextlib.closing(WebhookSink(receiver.url, folder=folder, **options))


def batch(frames):
    frames = np.asarray(frames, np.int64)
    scores = np.full((len(frames), 2), [0.75, 0.25], np.float32)
    return FrameBatch(
        Segment("gate"), np.zeros((len(frames), 1, 1, 3), np.uint8), frames, frames / 25, scores=scores, filter="person"
    )


def test_events_arrive_once_in_order_with_key_and_state(receiver, tmp_path):
    receiver.start()
    with sink(receiver, tmp_path, batch=7) as hook:
        for event in told(20):
            hook.event(event)
        until(lambda: hook.sent == 40)
        assert (hook.pending, hook.lost, hook.refused) == (0, 0, 0)
    assert receiver.arrived() == wanted(20)
    assert {request["body"]["run"] for request in receiver.requests} == {tmp_path.name}
    first = receiver.requests[0]["body"]["events"][0]
    assert first == {
        "event": "began",
        "key": "gate//person/person/0/500",
        "source": "gate",
        "region": None,
        "filter": "person",
        "label": "person",
        "clock": "utc",
        "first_frame": 0,
        "last_frame": 0,
        "began_s": 0.5,
        "ended_s": 0.5,
        "best_frame": 0,
        "best_score": 0.75,
        "thumbnail": None,
    }
    assert all(len(request["body"]["events"]) <= 7 for request in receiver.requests)


@pytest.mark.parametrize(
    "answers",
    [["500", "503"], ["429"], ["408", "425"], ["302"], ["close", "close"], ["401", "404"], ["hang"]],
    ids=",".join,
)
def test_what_was_not_taken_comes_again_in_order(receiver, tmp_path, answers):
    receiver.start(*answers)
    with sink(receiver, tmp_path, timeout_s=0.5) as hook:
        for event in told(10):
            hook.event(event)
        until(lambda: hook.sent == 20)
        assert hook.refused == 0
    assert receiver.arrived() == wanted(10)


def test_a_request_that_is_repeated_is_the_same_with_the_same_key(receiver, tmp_path):
    receiver.start("500")
    events = list(told(10))
    with sink(receiver, tmp_path) as hook:
        hook.event(events[0])
        until(lambda: receiver.requests)
        for event in events[1:]:
            hook.event(event)
        until(lambda: hook.sent == 20)
    refused, again = receiver.requests[:2]
    assert refused["text"] == again["text"]
    assert refused["headers"]["Idempotency-Key"] == again["headers"]["Idempotency-Key"]
    assert len({request["headers"]["Idempotency-Key"] for request in receiver.requests}) > 1


def test_a_receiver_that_is_stopped_for_a_while_gets_all_in_order(receiver, tmp_path):
    receiver.start()
    events = list(told(30))
    with sink(receiver, tmp_path, batch=5) as hook:
        for event in events[:20]:
            hook.event(event)
        until(lambda: hook.sent >= 5)
        receiver.stop()
        for event in events[20:]:
            hook.event(event)
        until(lambda: hook.pending)
        receiver.start()
        until(lambda: hook.pending == 0)
    assert first_arrivals(receiver.arrived()) == wanted(30)
    repeats = len(receiver.arrived()) - 60
    assert 0 <= repeats <= 5  # of the request during which it was stopped


def test_what_is_refused_for_good_is_dropped_alone_and_counted(receiver, tmp_path, caplog):
    with contextlib.closing(Spool(tmp_path / "spool" / "webhook", 10**6)) as spool:  # so that they go as one request
        for event in told(2):
            spool.append(delivery.EVENT + event_json(event))
    receiver.start("400", "204", "400")  # all four together; then one by one, of which the second
    with sink(receiver, tmp_path) as hook:
        hook.write(batch([]))
        until(lambda: hook.pending == 0)
        assert (hook.sent, hook.refused) == (3, 1)
    assert receiver.arrived() == [(0, "began"), (10, "began"), (10, "ended")]
    assert re.search(
        r"1 records were refused for good \(the last, gate//person/\S+ of \d+ bytes: HTTP 400\)", caplog.text
    )


def test_what_could_not_be_sent_waits_for_the_next_run(receiver, tmp_path, caplog):
    with sink(receiver, tmp_path) as hook:
        for event in told(5):
            hook.event(event)
    assert "10 records were not taken and wait in" in caplog.text
    assert "got Connection refused;" in caplog.text
    receiver.start()
    with sink(receiver, tmp_path) as hook:
        hook.finish()  # also where nothing more comes
        assert (hook.sent, hook.pending) == (10, 0)
    assert receiver.arrived() == wanted(5)


def test_events_of_files_wait_for_a_receiver_that_is_there(receiver, tmp_path):
    receiver.start()
    with sink(receiver, tmp_path, spool_mb=0.002, batch=2) as hook:
        for event in told(200):
            hook.event(event)
        hook.finish()
        assert (hook.sent, hook.lost) == (400, 0)
    assert receiver.arrived() == wanted(200)


KILLED = """
import sys
from pathlib import Path
from pipeline.sinks.webhook import WebhookSink
from tests.spooled import told
sink = WebhookSink(sys.argv[1], folder=Path(sys.argv[2]), batch=3)
for event in told(100_000):
    sink.event(event)
    print("told", flush=True)
"""


def test_a_run_that_is_killed_while_it_sends_loses_nothing(receiver, tmp_path):
    receiver.start()
    command = [sys.executable, "-c", KILLED, receiver.url, str(tmp_path)]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        until(lambda: len(receiver.requests) > 5)
        process.kill()
        n = process.stdout.read().count("told\n")
    with sink(receiver, tmp_path) as hook:
        hook.write(batch([]))
        until(lambda: hook.sent and not hook.pending)
    arrived = first_arrivals(receiver.arrived())
    assert len(arrived) in (n, n + 1)  # the last may have been taken before it could be said
    assert arrived == wanted(n)[: len(arrived)]


def test_closing_sends_what_is_there(receiver, tmp_path):
    receiver.start()
    with sink(receiver, tmp_path) as hook:
        for event in told(40):
            hook.event(event)
    assert receiver.arrived() == wanted(40)


def test_a_receiver_that_hangs_does_not_hold_up_the_end(receiver, tmp_path, monkeypatch):
    monkeypatch.setattr(delivery, "CLOSE_S", 0.3)
    receiver.start("hang")
    hook = WebhookSink(receiver.url, folder=tmp_path, timeout_s=60)
    hook.event(next(told(1)))
    until(lambda: receiver.requests)
    began_s = time.monotonic()
    hook.close()
    assert time.monotonic() - began_s < 5
    assert "sink-webhook" in stuck_threads()
    receiver.stop()
    until(lambda: "sink-webhook" not in stuck_threads())
    with contextlib.closing(Spool(tmp_path / "spool" / "webhook", 100)) as spool:
        assert len(spool) == 1


def test_a_receiver_that_failed_once_gets_all_of_a_nearly_full_spool(receiver, tmp_path):
    receiver.start("500")
    events = list(told(300))
    size = sum(len(event_json(event)) + 1 for event in events[:60])
    with sink(receiver, tmp_path, spool_mb=size / 1e6) as hook:  # files wait at half of that
        for event in events:
            hook.event(event)
        hook.finish()
        assert (hook.pending, hook.lost, hook.refused) == (0, 0, 0)
    assert first_arrivals(receiver.arrived()) == wanted(300)


def test_a_new_cause_is_told_and_the_same_one_is_not(receiver, tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(delivery, "MOST_S", 0.05)
    receiver.start("500", "500", "503", "503", "401", "401")
    with sink(receiver, tmp_path) as hook:
        hook.event(next(told(1)))
        until(lambda: hook.sent == 1)
    causes = [record.getMessage() for record in caplog.records if "must be there" in record.getMessage()]
    assert [cause.partition("got ")[2].partition(";")[0] for cause in causes] == ["HTTP 500", "HTTP 503", "HTTP 401"]


def test_a_run_over_files_is_partial_until_its_receiver_was_told_all(receiver, tmp_path, monkeypatch):
    monkeypatch.setattr(delivery, "PATIENCE_S", 0.2)
    hook = {"type": "webhook", "url": receiver.url, "rows": True}
    config = test_runner.configured(tmp_path, [{"path": str(clip("h264-closed.mp4", 60))}], sinks=[hook])
    outcome = run(config)
    counts = outcome.summary["receivers"]["webhook"]
    assert (outcome.state, outcome.exit_code, outcome.summary["frames"]["labelled"]) == ("partial", 3, 60)
    assert (counts["sent"], counts["pending"] > 0) == (0, True)
    receiver.start()
    outcome = run(config, mode="resume")
    assert (outcome.state, outcome.exit_code) == ("done", 0)
    assert sent_rows(receiver) == list(range(60))


def test_a_run_over_files_stays_partial_where_a_receiver_refused_some(receiver, tmp_path):
    receiver.start("400")
    hook = {"type": "webhook", "url": receiver.url, "rows": True, "batch": 1}
    config = test_runner.configured(tmp_path, [{"path": str(clip("h264-closed.mp4", 60))}], sinks=[hook])
    outcome = run(config)
    counts = outcome.summary["receivers"]["webhook"]
    assert (outcome.exit_code, counts["refused"], counts["sent"] > 0) == (3, 1, True)
    for _ in range(2):
        outcome = run(config, mode="resume")
        assert (outcome.state, outcome.exit_code) == ("partial", 3)
        assert outcome.summary["receivers"]["webhook"] == counts
    outcome = run(config, mode="overwrite")
    again = outcome.summary["receivers"]["webhook"]
    assert (outcome.state, again) == ("done", {**counts, "sent": counts["sent"] + 1, "refused": 0})


def test_of_cameras_what_was_refused_counts_since_the_run_was_started(receiver, tmp_path):
    receiver.start("400")
    for refused in (1, 0):
        with sink(receiver, tmp_path, live={"person": PERSON}) as hook:
            hook.event(next(told(1)))
            until(lambda: hook.sent + hook.refused == 1)
            assert hook.refused == refused


def sent_rows(receiver):
    return [row["frame"] for request in receiver.requests for row in request["body"]["rows"]]


def test_rows_that_were_committed_and_did_not_reach_the_spool_are_sent_on_resuming(receiver, tmp_path):
    receiver.start()
    hook = {"type": "webhook", "url": receiver.url, "rows": True}
    config = test_runner.configured(tmp_path, [{"path": str(clip("h264-closed.mp4", 60))}], sinks=[hook])
    assert run(config).state == "done"
    with contextlib.closing(sqlite3.connect(tmp_path / "runs/r/spool/webhook/spool.sqlite")) as spool:
        spool.execute("delete from marks where mark like '%/000000000012.parquet'")  # as a SIGKILL leaves it
        spool.commit()
    assert run(config, mode="resume").state == "done"
    again = sent_rows(receiver)[60:]
    assert again[0] == 12
    assert again == list(range(12, 12 + len(again)))
    assert len(again) < 48  # those of that segment
    assert run(config, mode="resume").state == "done"
    assert len(sent_rows(receiver)) == 60 + len(again)


def test_what_finds_no_room_on_resuming_is_sent_when_the_receiver_is_back(receiver, tmp_path, monkeypatch):
    monkeypatch.setattr(delivery, "PATIENCE_S", 0.2)
    sources = [{"path": str(clip("h264-closed.mp4", 60))}]
    assert run(test_runner.configured(tmp_path, sources)).state == "done"
    ends = list(committed(tmp_path / "runs" / "r"))
    with sink(receiver, tmp_path / "runs" / "r", rows=True, spool_mb=0.03) as hook:
        hook.resume(ends[:4])  # parts of 8 kB, of a receiver that is away
        assert (hook.lost, hook.sent) == (0, 0)
        assert hook.pending == 2 + 2  # the second filled half of it
        hook.commit(ends[4])  # waits behind them
        assert (hook.lost, hook.pending) == (0, 5)
        receiver.start()
        hook.finish()
        assert (hook.lost, hook.pending) == (0, 0)
    assert sent_rows(receiver) == list(range(60))


def test_a_run_that_is_stopped_on_resuming_leaves_the_rest_for_the_next_time(receiver, tmp_path):
    sources = [{"path": str(clip("h264-closed.mp4", 60))}]
    assert run(test_runner.configured(tmp_path, sources)).state == "done"
    ends, stop = list(committed(tmp_path / "runs" / "r")), Stop()
    stop.set()
    with sink(receiver, tmp_path / "runs" / "r", rows=True, stop=stop) as hook:
        hook.resume(ends)
        assert (hook.lost, hook.pending) == (0, len(ends))
    receiver.start()
    with sink(receiver, tmp_path / "runs" / "r", rows=True) as hook:
        hook.resume(ends)
        hook.finish()
    assert sent_rows(receiver) == list(range(60))


def test_a_sink_that_is_added_when_a_run_goes_on_gets_the_rows_before(receiver, tmp_path):
    receiver.start()
    sources = [{"path": str(clip("h264-closed.mp4", 60))}]
    assert run(test_runner.configured(tmp_path, sources)).state == "done"
    hook = {"type": "webhook", "url": receiver.url, "rows": True}
    assert run(test_runner.configured(tmp_path, sources, sinks=[hook]), mode="resume").state == "done"
    assert sent_rows(receiver) == list(range(60))


def test_events_of_files_are_told_once_however_often_the_run_goes_on(receiver, tmp_path):
    receiver.start()
    config = test_runner.configured(tmp_path, [{"path": str(clip("h264-closed.mp4", 60))}])
    found = f"{{{', '.join(f'{bit}: {{on: 0.5}}' for bit in BITS)}}}"
    sent = f"[{{type: webhook, url: '{receiver.url}'}}]"
    config = load_run_config(config.path, overrides=[f"filters.0.events={found}", f"sinks={sent}"])
    assert run(config).state == "done"
    first = receiver.arrived()
    assert len(first) > 10
    table = pq.read_table(tmp_path / "runs" / "r" / "events.parquet")
    assert len(table) == len(first) // 2
    for _ in range(2):
        assert run(config, mode="resume").state == "done"
    assert receiver.arrived() == first
    assert pq.read_table(tmp_path / "runs" / "r" / "events.parquet").equals(table)
    lost = next((tmp_path / "runs" / "r" / "frames").rglob("000000000012.parquet"))
    lost.unlink()
    (tmp_path / "runs" / "r" / "events.parquet").unlink()  # of what was told the spool knows itself
    assert run(config, mode="resume").state == "done"
    assert receiver.arrived() == first
    shutil.rmtree(tmp_path / "runs" / "r" / "spool")
    assert run(config, mode="resume").state == "done"
    assert receiver.arrived() == [*first, *first]


def test_several_sinks_share_the_time_to_end(tmp_path, monkeypatch):
    monkeypatch.setattr(delivery, "CLOSE_S", 1.0)
    release = threading.Event()

    class Hangs(SpooledSink):
        def send(self, records, timeout_s):
            release.wait(20)
            raise Away("released")

    sinks = [Hangs(f"s{k}", folder=tmp_path, spool_mb=1, batch=10) for k in range(4)]
    for one in sinks:
        one.event(next(told(1)))
    began_s = time.monotonic()
    for one in sinks:
        one.hurry()
    for one in sinks:
        one.close()
    assert time.monotonic() - began_s < 2.5
    assert {f"sink-s{k}" for k in range(4)} <= set(stuck_threads())
    release.set()
    until(lambda: not any(name.startswith("sink-s") for name in stuck_threads()))


def test_what_a_library_fails_with_is_tried_again_and_its_text_is_not_told(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(delivery, "FIRST_S", 0.01)

    class Odd(SpooledSink):
        failures = 2

        def send(self, records, timeout_s):
            self.failures -= 1
            if self.failures >= 0:
                raise UnicodeError("http://me:hunter2@host")
            return len(records)

    with contextlib.closing(Odd("odd", folder=tmp_path, spool_mb=1, batch=10)) as odd:
        odd.event(next(told(1)))
        until(lambda: odd.sent == 1)
    assert "must be there, got a failure (UnicodeError)" in caplog.text
    assert "hunter2" not in caplog.text


def test_beyond_the_bound_the_oldest_events_are_given_up_and_counted(receiver, tmp_path, caplog):
    events = list(told(50))
    with sink(receiver, tmp_path, spool_mb=0.01) as hook:
        for event in events:
            hook.event(event)
        kept = hook.pending
        assert hook.lost >= 1
        receiver.start()
        until(lambda: hook.pending == 0)
        assert hook.lost + hook.sent == 100
        assert f"{hook.lost} records were given up" not in caplog.text
    assert f"{hook.lost} records were given up" in caplog.text
    assert receiver.arrived() == wanted(50)[-kept:]


def test_rows_of_cameras_are_sent_as_they_come(receiver, tmp_path):
    receiver.start()
    with sink(receiver, tmp_path, rows=True, live={"person": PERSON}) as hook:
        hook.write(batch([7, 8]))
        until(lambda: hook.sent == 1)
    (request,) = receiver.requests
    assert [(row["frame"], row["label"], row["score"]) for row in request["body"]["rows"]] == [
        (7, "person", 0.75),
        (8, "person", 0.75),
    ]


def test_rows_of_files_are_sent_when_they_are_committed(receiver, tmp_path):
    receiver.start()
    parts = PartsSink(tmp_path, [PERSON], identity="abc")
    with sink(receiver, tmp_path, rows=True) as hook:
        end = SegmentEnd(Segment("gate"), Counts(indexed=600, decoded=600, labelled=600, written=600))
        for each in (parts, hook):
            each.write(batch(range(600)))
        assert hook.pending == 0
        for each in (parts, hook):
            each.commit(SegmentEnd(end.segment, end.counts, filters={"person": 600}))
        hook.finish()
        assert hook.pending == 0
    assert sent_rows(receiver) == list(range(600))


def test_a_secret_signs_each_request(receiver, tmp_path):
    receiver.start()
    with sink(receiver, tmp_path, secret="s3cret", headers={"X-Place": "yard"}) as hook:
        hook.event(next(told(1)))
        until(lambda: hook.sent == 1)
    (request,) = receiver.requests
    signature = hmac.new(b"s3cret", request["text"].encode(), hashlib.sha256).hexdigest()
    assert request["headers"]["X-Vpipe-Signature-256"] == f"sha256={signature}"
    assert request["headers"]["X-Place"] == "yard"


def test_credentials_of_the_address_are_sent_and_never_logged(receiver, tmp_path, caplog):
    receiver.start("500", "400")
    receiver.url = receiver.url.replace("http://", "http://me:hunter2@") + "?token=hunter3"
    with sink(receiver, tmp_path, headers={"X-Key": "hunter4"}) as hook:
        began, ended = told(1)
        hook.event(began)
        until(lambda: hook.refused == 1)
        receiver.stop()
        hook.event(ended)
        until(lambda: "refused" in caplog.text and caplog.text.count("must be there") == 2)
    assert receiver.requests[0]["headers"]["Authorization"] == "Basic bWU6aHVudGVyMg=="
    assert "hunter" not in caplog.text


def test_an_address_of_another_kind_is_refused_without_showing_it(tmp_path):
    with pytest.raises(ConfigError, match=r"^sink webhook: url must be http://host/path") as raised:
        WebhookSink("ftp://me:hunter2@host", folder=tmp_path)
    assert "hunter2" not in str(raised.value)


def test_a_webhook_keeps_the_contract_of_sinks(receiver, tmp_path):
    receiver.start()
    mean = Labelling("mean", ("red", "green"))
    check_sink(lambda: WebhookSink(receiver.url, folder=tmp_path, rows=True, live={"mean": mean}))
    assert sum(len(request["body"]["rows"]) for request in receiver.requests) == 10


def test_check_sends_a_test_event_and_says_what_became_of_it(receiver, tmp_path):
    receiver.start("204", "500")
    sinks = [
        {"type": "webhook", "url": receiver.url, "rows": True},
        {"type": "sqlite", "path": str(tmp_path / "events.sqlite"), "rows": True},
    ]
    config = test_runner.configured(tmp_path, [{"path": str(clip("h264-closed.mp4", 60))}], sinks=sinks)
    done = CliRunner().invoke(main, ["check", str(config.path), "--send"])
    assert (done.exit_code, done.stdout) == (0, f"{config.path}: fine\n")
    assert "webhook: took an event of the source test\nsqlite: took an event of the source test\n" in done.stderr
    (request,) = receiver.requests
    assert [event["source"] for event in request["body"]["events"]] == ["test"]
    assert request["body"]["run"] == "vpipe check"
    done = CliRunner().invoke(main, ["check", str(config.path), "--send"])
    assert (done.exit_code, done.stdout) == (1, "")
    assert "webhook: must take an event, got HTTP 500\n" in done.stderr
    config = test_runner.configured(tmp_path, [{"path": str(clip("h264-closed.mp4", 60))}])
    done = CliRunner().invoke(main, ["check", str(config.path), "--send"])
    assert (done.exit_code, "there is none" in done.stderr) == (2, True)
    assert not (tmp_path / "runs").exists()
