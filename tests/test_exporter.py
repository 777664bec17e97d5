"""The endpoint of a run: what it says agrees with the ledger, and it never holds up the run."""

import contextlib
import http.client
import json
import logging
import re
import socket
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.registry import Collector
from ruamel.yaml import YAML

from pipeline.config import load_run_config
from pipeline.contracts import Watcher
from pipeline.errors import ConfigError
from pipeline.exporter import CLIENT_S, FRAMES, Endpoint, RunCollector
from pipeline.monitor import Monitor
from pipeline.runner import run
from pipeline.sinks.delivery import Refused, SpooledSink
from pipeline.telemetry import Telemetry
from pipeline.threads import Stop
from pipeline.times import Times
from tests import spooled, test_camera, test_runner
from tests.clips import NUMBER_BITS, clip
from tests.rtsp import serving
from tests.test_telemetry import UUID, Driver, Process

ROOT = Path(__file__).parents[1]
LIMIT_S = 20.0  # until what is waited for must have come
FRAMES_OF_A_CLIP = 60
NAME = re.compile(r"\b(?:vpipe|process)_\w+")


def get(port, path):
    """Status and text."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=LIMIT_S)
    with contextlib.closing(connection):
        connection.request("GET", path)
        answer = connection.getresponse()
        return answer.status, answer.read().decode()


def parsed(text):
    """(name, its labels in order) -> value."""
    families = text_string_to_metric_families(text)
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in families
        for sample in family.samples
    }


def value(samples, name, **labels):
    return samples[name, tuple(sorted(labels.items()))]


def until(holds, what):
    """Waits until something holds, and returns it."""
    until_s = time.monotonic() + LIMIT_S
    while not (found := holds()):
        assert time.monotonic() < until_s, f"{what} must be so in {LIMIT_S} s"
        time.sleep(0.02)
    return found


def port_told(caplog, what):
    """Asks for the port that the log tells of; None while it does not."""
    caplog.set_level(logging.INFO, logger="pipeline")

    def told():
        found = re.search(rf"{what} at http://127\.0\.0\.1:(\d+)/", caplog.text)
        return None if found is None else int(found[1])

    return told


@pytest.fixture
def port(caplog):
    return port_told(caplog, "metrics")


class Scrapes(Watcher):
    """A watcher that looks at the endpoint whenever a segment is safe."""

    def __init__(self, port):
        self._port = port
        self.text, self.health = "", (0, "")

    def committed(self, end):
        _, self.text = get(self._port(), "/metrics")
        self.health = get(self._port(), "/healthz")


def assert_agree(samples, ledger):
    """Every count of every source."""
    for source, told in ledger["sources"].items():
        for field, (name, _) in FRAMES.items():
            labels = {"source": source} | ({"reason": "lane_full"} if name == "dropped" else {})
            found = value(samples, f"vpipe_frames_{name}_total", **labels)
            assert found == told["counts"][field], (source, field)


def test_at_the_end_of_a_run_its_counters_agree_with_its_ledger(tmp_path, port):
    sources = [
        {"name": "a", "path": str(clip("h264-closed.mp4", FRAMES_OF_A_CLIP)), "every": 3},
        {"name": "b", "path": str(clip("vp9.webm", FRAMES_OF_A_CLIP, source=1))},
    ]
    test_runner.configured(tmp_path, sources, f=4, filters=("one", "two"), metrics={"port": 0})
    keep = [f"filters.{k}.keep={{b{NUMBER_BITS - 1:02}: 0.5}}" for k in range(2)]  # odd numbers
    scrapes = Scrapes(port)
    outcome = run(load_run_config(tmp_path / "run.yaml", overrides=keep), watcher=scrapes)
    assert outcome.exit_code == 0
    samples = parsed(scrapes.text)
    ledger = json.loads(outcome.folder.ledger.read_text())
    assert_agree(samples, ledger)
    assert ledger["counts"]["skipped"] == 40
    assert 0 < ledger["counts"]["filtered"] < ledger["counts"]["labelled"] == 80
    for name, told in outcome.summary["filters"].items():
        assert value(samples, "vpipe_filter_pictures_total", filter=name) == 80
        assert value(samples, "vpipe_filter_padded_slots_total", filter=name) == told["padded_slots"]
        assert value(samples, "vpipe_filter_forward_seconds_total", filter=name) > 0
    for stage, told in outcome.summary["stages"].items():
        assert 0 <= value(samples, "vpipe_stage_busy_seconds_total", stage=stage) <= told["busy_s"]
    assert value(samples, "vpipe_stage_busy_seconds_total", stage="decode") > 0
    assert [labels for (name, labels) in samples if name == "vpipe_run_info" and ("name", "r") in labels]
    assert value(samples, "process_resident_memory_bytes") > 1e6
    assert value(samples, "process_num_threads") > 1
    assert scrapes.health == (200, "ok\n")
    with pytest.raises(OSError):  # noqa: PT011 (refused, or reset)
        get(port(), "/metrics")


@contextlib.contextmanager
def running(config, watcher=None):
    """A run in a thread, stopped at the end of the block; its outcome is then the future's result."""
    stop = Stop()
    with ThreadPoolExecutor(1) as pool:
        future = pool.submit(run, config, stop=stop, watcher=watcher)
        try:
            yield future
        finally:
            stop.set()


def states(samples, name):
    """Those that a camera is in."""
    found = [dict(labels) for (of, labels), is_in in samples.items() if of == "vpipe_camera_state" and is_in]
    return [labels["state"] for labels in found if labels["source"] == name]


def test_cameras_that_go_and_come_back_are_told_with_their_health(tmp_path, port):
    scrapes = Scrapes(port)
    with serving(*[test_camera.CLOCK] * 2, rtcp=True, user="viewer", password="canary-77") as server:
        config = test_camera.configured(tmp_path, server, more="metrics: {port: 0, lag_s: 8}")
        with running(config, scrapes) as future:
            at = until(port, "the port is told")

            def scraped():
                return parsed(get(at, "/metrics")[1])

            until(lambda: get(at, "/healthz") == (200, "ok\n"), "well")
            until(lambda: value(scraped(), "vpipe_camera_latency_seconds_count", source="c1") > 20, "rows")
            until(lambda: value(scraped(), "vpipe_camera_own_clock", source="c0") == 1, "the camera's own clock")
            samples = scraped()
            assert [states(samples, name) for name in ("c0", "c1")] == [["live"], ["live"]]
            assert value(samples, "vpipe_frames_labelled_total", source="c0") > 0
            assert abs(value(samples, "vpipe_camera_lag_seconds", source="c0")) < 8
            server.kill()
            until(lambda: {*states(scraped(), "c0"), *states(scraped(), "c1")} == {"down"}, "down")
            status, told = get(at, "/healthz")
            assert status == 503
            assert told.splitlines()[0] == "a camera must be live, got none: c0 is down, c1 is down"
            silent_s = value(scraped(), "vpipe_camera_last_frame_age_seconds", source="c0")
            until(
                lambda: value(scraped(), "vpipe_camera_last_frame_age_seconds", source="c0") > silent_s, "older frames"
            )
            server.restart()
            until(lambda: get(at, "/healthz") == (200, "ok\n"), "well again")
            assert value(scraped(), "vpipe_camera_reconnects_total", source="c0") > 0
    outcome = future.result()
    samples = parsed(scrapes.text)
    assert "canary" not in scrapes.text + told
    assert_agree(samples, json.loads(outcome.folder.ledger.read_text()))
    rows = test_camera.rows_of(outcome)
    for name in ("c0", "c1"):
        counted = sum(row["source"] == name for row in rows)
        assert value(samples, "vpipe_camera_latency_seconds_count", source=name) == counted
        assert value(samples, "vpipe_camera_latency_seconds_bucket", source=name, le="+Inf") == counted
        assert value(samples, "vpipe_frames_labelled_total", source=name) == counted


def told_by(collector):
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in collector.collect()
        for sample in family.samples
    }


def collector(telemetry, *, times=None, receivers=(), transfer_s=lambda: 0.0):
    return RunCollector(
        "r",
        monitor=Monitor(["s"]),
        times=times or Times(),
        telemetry=telemetry,
        groupings={},
        pictures={},
        padded={},
        receivers=lambda: receivers,
        transfer_s=transfer_s,
    )


def test_what_became_of_what_a_sink_sends_is_told(tmp_path):
    class Half(SpooledSink):
        def send(self, records, timeout_s):
            if b'"began"' in records[0]:
                raise Refused("no")
            return len(records)

    sink = Half("hook", folder=tmp_path, spool_mb=1, batch=1)
    found = told_by(collector(Telemetry(tmp_path / "t.parquet"), receivers=[sink]))
    names = {name: value for (name, labels), value in found.items() if labels == (("sink", "hook"),)}
    assert names == {
        "vpipe_sink_pending": 0,
        "vpipe_sink_sent_total": 0,
        "vpipe_sink_refused_total": 0,
        "vpipe_sink_lost_total": 0,
    }
    with contextlib.closing(sink):
        for event in (*spooled.told(5), next(spooled.told(1, "yard"))):
            sink.event(event)
        until(lambda: not sink.pending, "all are dealt with")
        found = told_by(collector(Telemetry(tmp_path / "t.parquet"), receivers=[sink]))
    assert found["vpipe_sink_sent_total", (("sink", "hook"),)] == 5
    assert found["vpipe_sink_refused_total", (("sink", "hook"),)] == 6


def test_the_gpu_is_told_as_telemetry_found_it_last(tmp_path):
    with Telemetry(tmp_path / "t.parquet", nvml=Driver(lacks=["power"]), gpu_uuid=UUID, process=Process()) as telemetry:
        assert not [name for name, _ in told_by(collector(telemetry)) if "gpu" in name]
        telemetry.sample()
        telemetry.sample()
        samples = told_by(collector(telemetry))
    assert {name: found for (name, _), found in samples.items() if "gpu" in name} == {
        "vpipe_gpu_utilization_ratio": 0.03,  # the third reading: memory_util reads it too
        "vpipe_gpu_decoder_utilization_ratio": 0.02,
        "vpipe_gpu_memory_used_bytes": 2 << 30,
    }


def test_no_counter_ever_falls_though_transfer_is_known_before_the_span_that_holds_it(tmp_path):
    times, transfer_s = Times(), [0.0]
    times.watch("produce", 0, 0.0, 5.0, None)
    with times.span("compute", "submit m"):
        pass
    of = collector(Telemetry(tmp_path / "t.parquet"), times=times, transfer_s=lambda: transfer_s[0])
    key = "vpipe_stage_busy_seconds_total", (("stage", "compute"),)
    first = told_by(of)[key]
    transfer_s[0] = first / 2
    second = told_by(of)
    assert second[key] == first > 0
    assert second["vpipe_stage_busy_seconds_total", (("stage", "transfer"),)] == first / 2
    assert second["vpipe_stage_busy_seconds_total", (("stage", "decode"),)] == 5


class Nothing(Collector):
    def collect(self):
        return []


def test_a_client_that_says_nothing_holds_up_neither_the_others_nor_the_end():
    with Endpoint("127.0.0.1", 0) as endpoint, socket.create_connection(("127.0.0.1", endpoint.port)):
        with endpoint.serving(Nothing(), list):
            assert get(endpoint.port, "/healthz?now") == (200, "ok\n")
            for path, status in {"/healthz": 200, "/metrics": 200, "/other": 404}.items():
                with contextlib.closing(http.client.HTTPConnection("127.0.0.1", endpoint.port)) as asked:
                    asked.request("HEAD", path)
                    assert asked.getresponse().status == status
            assert get(endpoint.port, "/")[0] == 404
            left_s = time.monotonic()
        assert time.monotonic() - left_s < CLIENT_S / 2


class Broken(Collector):
    def collect(self):
        raise KeyError("lens")


def test_an_answer_that_fails_is_a_warning_and_the_next_one_comes(caplog):
    with Endpoint("127.0.0.1", 0) as endpoint, endpoint.serving(Broken(), lambda: ["it rains"]):
        with pytest.raises(http.client.RemoteDisconnected):
            get(endpoint.port, "/metrics")
        assert get(endpoint.port, "/healthz") == (503, "it rains\n")
    assert "metrics: an answer failed: KeyError" in caplog.text


def test_a_port_that_is_taken_is_told_with_its_cure_before_anything_is_started(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as other:
        taken = other.getsockname()[1]
        config = test_runner.configured(
            tmp_path, [{"path": str(clip("h264-closed.mp4", FRAMES_OF_A_CLIP))}], metrics={"port": taken}
        )
        with pytest.raises(ConfigError) as caught:
            run(config)
    (problem,) = caught.value.problems
    told = f"metrics.port: must be free to listen at, got {taken} at 127.0.0.1: Address already in use; choose another"
    assert problem.endswith(told)
    assert not (tmp_path / "runs" / "r").exists()


@pytest.mark.parametrize("host", ["no..host", "192.0.2.1"])
def test_a_host_that_is_not_of_this_machine_is_a_problem_of_one_line(tmp_path, host):
    config = test_runner.configured(
        tmp_path, [{"path": str(clip("h264-closed.mp4", FRAMES_OF_A_CLIP))}], metrics={"port": 0, "host": host}
    )
    with pytest.raises(ConfigError) as caught:
        run(config)
    (problem,) = caught.value.problems
    assert f"must be free to listen at, got 0 at {host}: " in problem


def test_nothing_listens_unless_it_is_asked_for(tmp_path):
    config = test_runner.configured(tmp_path, [{"path": str(clip("h264-closed.mp4", FRAMES_OF_A_CLIP))}])
    assert config.metrics is None
    asked = load_run_config(tmp_path / "run.yaml", overrides=["metrics={}"])
    assert asked.metrics is not None
    assert asked.metrics.model_dump() == {"port": 9464, "host": "127.0.0.1", "lag_s": 10.0}
    code = "import sys, pipeline.runner; sys.exit('prometheus_client' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, timeout=LIMIT_S * 3).returncode == 0


def queries(node):
    """Every query of a dashboard, those of its variables too."""
    if isinstance(node, dict):
        for key, below in node.items():
            if key in ("expr", "query", "definition") and isinstance(below, str):
                yield below
            else:
                yield from queries(below)
    elif isinstance(node, list):
        for below in node:
            yield from queries(below)


def test_the_dashboard_and_the_alerts_ask_for_nothing_that_a_run_does_not_tell(tmp_path, port):
    dashboard = json.loads((ROOT / "docs" / "grafana-dashboard.json").read_text(encoding="utf-8"))
    wanted = {name for query in queries(dashboard) for name in NAME.findall(query)}
    page = (ROOT / "docs" / "live.md").read_text(encoding="utf-8")
    (rules,) = (
        group["rules"] for group in YAML(typ="safe").load(page.split("```yaml\n")[-1].split("```")[0])["groups"]
    )
    asked = {name for rule in rules for name in NAME.findall(rule["expr"])}
    with Telemetry(tmp_path / "t.parquet", nvml=Driver(), gpu_uuid=UUID, process=Process()) as telemetry:
        telemetry.sample()
        found = {name for name, _ in told_by(collector(telemetry)) if name.startswith("vpipe_gpu_")}
    with serving(test_camera.CLOCK) as server:
        more = f"metrics: {{port: 0}}\nsinks: [{{type: sqlite, path: '{tmp_path}/rows.sqlite', rows: true}}]"
        config = test_camera.configured(tmp_path, server, cameras=1, more=more)
        with running(config):
            at = until(port, "the port is told")

            def rows():
                return value(parsed(get(at, "/metrics")[1]), "vpipe_camera_latency_seconds_count", source="c0")

            until(lambda: rows() > 0, "rows")
            found |= {name for name, _ in parsed(get(at, "/metrics")[1])}
    assert len(wanted) > 25
    assert sorted((wanted | asked) - found) == []
    assert len(asked) == len(rules) - 1  # but for `up`
    ours = {name for name in found if name.startswith("vpipe_") and not name.endswith(("_sum", "_count", "_created"))}
    assert sorted(ours - wanted) == []
