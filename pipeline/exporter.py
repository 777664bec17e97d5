"""How a run goes, over HTTP: `/metrics` for Prometheus, `/healthz` for whoever restarts or calls.

    with Endpoint(host, port) as endpoint:           the port is taken
        with endpoint.serving(collector, health):    it answers
            ...

Nothing is counted here: a scrape reads what the run's threads keep for themselves, and they never wait for one.
"""

from __future__ import annotations

import logging
import math
import socket
import socketserver
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import accumulate
from typing import Self, get_args

import psutil  # type: ignore[import-untyped]
from prometheus_client import CollectorRegistry, MetricsHandler, ProcessCollector
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    InfoMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector

from pipeline.machine import versions
from pipeline.monitor import LATENCIES_S, Monitor
from pipeline.sinks.delivery import SpooledSink
from pipeline.sources.camera import State
from pipeline.telemetry import Telemetry
from pipeline.text import printable
from pipeline.threads import beside
from pipeline.times import Times
from specialized.objects import one_line

__all__ = ["Endpoint", "RunCollector"]

log = logging.getLogger(__name__)

CLIENT_S = 5.0  # until a client that says nothing is left
POLL_S = 0.1  # how soon the server sees that the run is over

# Of each count of `pipeline.batch.Counts` the name of its metric, and what it counts.
FRAMES = {
    "indexed": ("received", "Frames that the file holds or that came of the camera."),
    "skipped": ("skipped", "Frames left out on request."),
    "corrupt": ("corrupt", "Frames lost to damage."),
    "unread": ("unread", "Frames promised by the file's index, whose data is not there."),
    "dropped": ("dropped", "Frames given up for newer ones; lane_full: they came faster than they were labelled."),
    "decoded": ("decoded", "Frames handed on to be labelled."),
    "damaged": ("damaged", "Decoded frames that the decoder had to conceal."),
    "failed": ("failed", "Decoded frames without a score; those of a camera count at the end of its window."),
    "labelled": ("labelled", "Frames scored by every filter."),
    "filtered": ("filtered", "Labelled frames that no filter keeps; of a camera they count at the end of its window."),
    "written": ("written", "Frames of which a row reaches the sinks."),
}

# Of what telemetry samples the name of its metric, what it is, and by what it is divided.
GPU = {
    "gpu_util": ("utilization_ratio", "Share of the time in which a kernel ran on the GPU.", 100),
    "nvdec_util": ("decoder_utilization_ratio", "Share of the time in which the GPU's video decoder was busy.", 100),
    "memory_bytes": ("memory_used_bytes", "Memory in use on the GPU, by all processes.", 1),
    "power_w": ("power_watts", "Power that the GPU draws.", 1),
}

# Of what a sink that sends counts, what it is.
RECEIVERS = {
    "sent": "Records that arrived: events, and tables of up to 256 rows.",
    "refused": "Records that the receiver refused for good.",
    "lost": "Records that were given up for newer ones, as more than `spool_mb` waited.",
}

WAITS = {"waiting_in_s": "input_empty", "waiting_out_s": "output_full"}


class RunCollector(Collector):
    """The metrics of a run, read when they are asked for.

    Args:
        name: Of the run.
        monitor: Knows of its sources.
        times: Knows of its stages.
        telemetry: Knows of its GPU.
        groupings: Of each filter, by its name, the place of its grouping.
        pictures: That were grouped, by the place of the grouping, without padding.
        padded: Slots, likewise.
        receivers: Gives the sinks that send.
        transfer_s: What the engines have spent on moving pictures.
    """

    def __init__(
        self,
        name: str,
        *,
        monitor: Monitor,
        times: Times,
        telemetry: Telemetry,
        groupings: Mapping[str, int],
        pictures: Mapping[int, int],
        padded: Mapping[int, int],
        receivers: Callable[[], Sequence[SpooledSink]],
        transfer_s: Callable[[], float],
    ) -> None:
        self._info = {"name": name, "version": str(versions()["vpipe"])}
        self._monitor, self._times, self._telemetry = monitor, times, telemetry
        self._groupings, self._pictures, self._padded = groupings, pictures, padded
        self._receivers, self._transfer_s = receivers, transfer_s
        self._most_s: dict[tuple[str, str], float] = {}
        self._process = psutil.Process()

    def collect(self) -> Iterator[Metric]:
        """Called from a thread of the server's, for each scrape."""
        yield InfoMetricFamily("vpipe_run", "The run and what runs it.", self._info)
        yield from self._frames()
        yield from self._cameras()
        yield from self._latencies()
        yield from self._stages()
        yield from self._filters()
        yield from self._sinks()
        for key, (name, told, over) in GPU.items():
            if (value := self._telemetry.last.get(key)) is not None:
                yield GaugeMetricFamily(f"vpipe_gpu_{name}", told, value / over)
        yield GaugeMetricFamily("process_num_threads", "Threads of the process.", self._process.num_threads())

    def _frames(self) -> Iterator[Metric]:
        counts = self._monitor.counts()
        for field, (name, told) in FRAMES.items():
            reasons = ("lane_full",) if name == "dropped" else ()
            labels = ("source", "reason") if reasons else ("source",)
            family = CounterMetricFamily(f"vpipe_frames_{name}", told, labels=labels)
            for source, of in counts.items():
                family.add_metric((printable(source), *reasons), getattr(of, field))
            yield family

    def _cameras(self) -> Iterator[Metric]:
        cameras = self._monitor.cameras
        if not cameras:
            return
        state = GaugeMetricFamily("vpipe_camera_state", "1 for the state it is in.", labels=("source", "state"))
        reconnects = CounterMetricFamily(
            "vpipe_camera_reconnects", "How often it was connected to anew.", labels=("source",)
        )
        age = GaugeMetricFamily(
            "vpipe_camera_last_frame_age_seconds", "Since its last frame was decoded.", labels=("source",)
        )
        lag = GaugeMetricFamily(
            "vpipe_camera_lag_seconds", "Since the newest frame with a label was captured.", labels=("source",)
        )
        own = GaugeMetricFamily(
            "vpipe_camera_own_clock",
            "Whether the time of capture is by the camera's own clock (1) or its packets' arrival (0).",
            labels=("source",),
        )
        for name, camera in cameras.items():
            now = camera.state
            for one in get_args(State):
                state.add_metric((name, one), one == now)
            reconnects.add_metric((name,), camera.reconnects)
            if camera.last_frame_s is not None:
                age.add_metric((name,), time.monotonic() - camera.last_frame_s)
            if (lag_s := self._monitor.lag_s(name)) is not None:
                lag.add_metric((name,), lag_s)
            own.add_metric((name,), camera.tells_time)
        yield from (state, reconnects, age, lag, own)

    def _latencies(self) -> Iterator[Metric]:
        if not self._monitor.cameras:
            return
        family = HistogramMetricFamily(
            "vpipe_camera_latency_seconds",
            "From the capture of a row's frame until every sink had taken the row; 0 where the clock of the camera is "
            "ahead.",
            labels=("source",),
        )
        for name in self._monitor.cameras:
            found = self._monitor.latencies(name)
            bounds = [*(f"{bound:g}" for bound in LATENCIES_S), "+Inf"]
            family.add_metric((name,), list(zip(bounds, accumulate(found.rows), strict=True)), found.sum_s)
        yield family

    def _stages(self) -> Iterator[Metric]:
        busy = CounterMetricFamily("vpipe_stage_busy_seconds", "Seconds at work, over all threads.", labels=("stage",))
        waiting = CounterMetricFamily(
            "vpipe_stage_waiting_seconds",
            "Seconds of waiting for what comes before (input_empty) or behind (output_full), over all threads.",
            labels=("stage", "reason"),
        )
        for stage, seconds in self._times.stages(transfer_s=self._transfer_s()).items():
            busy.add_metric((stage,), self._rising(stage, "busy_s", seconds["busy_s"]))
            for key, reason in WAITS.items():
                waiting.add_metric((stage, reason), self._rising(stage, key, seconds[key]))
        yield from (busy, waiting)

    def _rising(self, stage: str, key: str, seconds: float) -> float:
        """The most so far. Within a span of `compute` its share of `transfer` is known before the span itself, and
        taken from it: a counter that fell would be taken for one that began anew."""
        most_s = self._most_s[stage, key] = max(seconds, self._most_s.get((stage, key), -math.inf))
        return most_s

    def _filters(self) -> Iterator[Metric]:
        pictures = CounterMetricFamily(
            "vpipe_filter_pictures", "Pictures that were grouped for it, without padding.", labels=("filter",)
        )
        padded = CounterMetricFamily(
            "vpipe_filter_padded_slots", "Slots of its groups that held no picture of their own.", labels=("filter",)
        )
        forward = CounterMetricFamily(
            "vpipe_filter_forward_seconds", "Seconds of its forward passes, with their transfer.", labels=("filter",)
        )
        for name, grouping in self._groupings.items():
            pictures.add_metric((name,), self._pictures.get(grouping, 0))
            padded.add_metric((name,), self._padded.get(grouping, 0))
            spent_s = self._times.of_span(f"submit {name}") + self._times.of_span(f"result {name}")
            forward.add_metric((name,), spent_s)
        yield from (pictures, padded, forward)

    def _sinks(self) -> Iterator[Metric]:
        pending = GaugeMetricFamily("vpipe_sink_pending", "Records that wait to be sent.", labels=("sink",))
        counters = [
            CounterMetricFamily(f"vpipe_sink_{field}", told, labels=("sink",)) for field, told in RECEIVERS.items()
        ]
        for sink in self._receivers():
            pending.add_metric((sink.name,), sink.pending)
            for field, family in zip(RECEIVERS, counters, strict=True):
                family.add_metric((sink.name,), getattr(sink, field))
        yield from (pending, *counters)


class Endpoint:
    """An address that is taken when it is made, and answers while it is `serving`.

    Args:
        host: Address or name of the interface.
        port: 0 for any that is free.

    Attributes:
        port: The one that was taken.

    Raises:
        OSError: It cannot be taken.
    """

    def __init__(self, host: str, port: int) -> None:
        self._host = host
        self._server = _Server(host, port)
        self.port = self._server.server_address[1]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._server.server_close()

    @contextmanager
    def serving(self, collector: Collector, health: Callable[[], list[str]]) -> Iterator[None]:
        """Answers from a thread of its own until the block is left; `/healthz` tells the problems that `health` has."""
        collectors = CollectorRegistry()
        collectors.register(collector)
        ProcessCollector(registry=collectors)

        class Handler(_Handler):
            registry = collectors
            problems = staticmethod(health)

        self._server.RequestHandlerClass = Handler
        host = f"[{self._host}]" if ":" in self._host else self._host
        log.info("metrics at http://%s:%d/metrics", host, self.port)
        with beside(lambda: self._server.serve_forever(POLL_S), end=self._server.shutdown, name="metrics"):
            yield


class _Handler(MetricsHandler):
    """Answers one client, in a thread of its own."""

    timeout = CLIENT_S

    @staticmethod
    def problems() -> list[str]:
        """Why not all is well, a line each."""
        return []

    def do_HEAD(self) -> None:  # noqa: N802 (named by its base)
        """The status alone, which is what some probes ask for."""
        found = self._found()
        self._say(200 if found is None else found[0], [])

    def do_GET(self) -> None:  # noqa: N802 (named by its base)
        found = self._found()
        if found is None:
            super().do_GET()
        else:
            self._say(*found)

    def _found(self) -> tuple[int, list[str]] | None:
        """The status and the lines of what is asked for; None: it is the metrics."""
        match self.path.partition("?")[0]:
            case "/metrics":
                return None
            case "/healthz":
                problems = self.problems()
                return (503, problems) if problems else (200, ["ok"])
            case _:
                return 404, ["there is /metrics, and /healthz"]

    def _say(self, status: int, lines: list[str]) -> None:
        body = "".join(f"{line}\n" for line in lines).encode(errors="backslashreplace")
        self.send_response(status)
        self.send_header("Content-Type", "text/plain; charset=utf-8")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


class _Server(socketserver.ThreadingTCPServer):
    allow_reuse_address = True  # the port of a run that has just ended is free
    daemon_threads = True  # a client that hangs holds up neither the others nor the end of the run

    def __init__(self, host: str, port: int) -> None:
        self.address_family = socket.AF_INET6 if ":" in host else socket.AF_INET
        super().__init__((host, port), _Handler)

    def handle_error(self, request: object, client_address: object) -> None:
        error = sys.exception()
        if not isinstance(error, OSError):  # else the client has left
            log.warning("metrics: an answer failed: %s", one_line(error) if isinstance(error, Exception) else error)
