"""What the page shows, as JSON and JPEG. It reads what the run's threads keep, and they never wait for it."""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict

from pipeline.events import Event
from pipeline.machine import versions
from pipeline.monitor import Monitor
from pipeline.regions import Region
from pipeline.rows import Labelling, labels_of
from pipeline.sinks.delivery import SpooledSink
from pipeline.sources.camera import Camera
from pipeline.sources.stills import as_jpeg
from pipeline.telemetry import Telemetry
from pipeline.text import printable

__all__ = ["Content"]

MOMENTS = 300  # seconds that the plots reach back
MOST_FILES = 200  # sources in the table of those that are no cameras


class Content:
    """What is to be seen of a run.

    Args:
        name: Of the run.
        monitor: Knows of its sources.
        telemetry: Knows of its machine.
        labellings: How scores become labels, by the name of the filter.
        receivers: Gives the sinks that send.
        clock: UTC in seconds since 1970.
    """

    def __init__(
        self,
        name: str,
        *,
        monitor: Monitor,
        telemetry: Telemetry,
        labellings: Mapping[str, Labelling],
        receivers: Callable[[], Sequence[SpooledSink]] = tuple,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._name, self._version = name, versions()["vpipe"]
        self._monitor, self._telemetry, self._labellings = monitor, telemetry, labellings
        self._receivers, self._clock = receivers, clock
        self._began_s = clock()
        self._moments: deque[tuple[float, float, float | None, float | None]] = deque(maxlen=MOMENTS)
        self._before: tuple[float, int] | None = None  # time, and frames labelled until then

    def sample(self) -> None:
        """Notes a moment for the plots; to be called once a second, from any one thread."""
        now_s = self._clock()
        labelled = sum(counts.labelled for counts in self._monitor.counts().values())
        if self._before is not None and now_s > self._before[0]:
            rate = max(0, labelled - self._before[1]) / (now_s - self._before[0])
            last = self._telemetry.last
            self._moments.append((now_s, rate, last.get("gpu_util"), last.get("cpu_percent")))
        self._before = now_s, labelled

    def state(self) -> dict[str, object]:
        """All that is shown, but pictures."""
        moments = list(self._moments)
        counts = self._monitor.counts()
        cameras = self._monitor.cameras
        files = [] if cameras else [name for name, of in counts.items() if of.indexed]
        return {
            "name": self._name,
            "version": self._version,
            "now_s": self._clock(),
            "began_s": self._began_s,
            "problems": [printable(problem) for problem in self._monitor.problems()],
            "cameras": [self._camera(camera) for camera in cameras.values()],
            "files": [{"name": printable(name), **asdict(counts[name])} for name in files[-MOST_FILES:]],
            "files_done": len(files),
            "events": [_event(event) for event in reversed([*self._monitor.events.values()])],
            "receivers": [
                {"name": sink.name, "sent": sink.sent, "pending": sink.pending, "lost": sink.lost + sink.refused}
                for sink in self._receivers()
            ],
            "plots": {
                "time_s": [moment[0] for moment in moments],
                "frames_per_s": [moment[1] for moment in moments],
                "gpu_percent": [moment[2] for moment in moments],
                "cpu_percent": [moment[3] for moment in moments],
            },
        }

    def picture(self, camera: str) -> bytes | None:
        """A JPEG of a frame of a camera that is about a second old; None: there is none."""
        found = self._monitor.cameras.get(camera)
        preview = None if found is None else found.preview
        return None if preview is None else as_jpeg(preview.picture)

    def thumbnail(self, key: str) -> bytes | None:
        """The JPEG of an event; None: there is none."""
        event = self._monitor.events.get(key)
        return None if event is None else event.thumbnail

    def _camera(self, camera: Camera) -> dict[str, object]:
        counts = self._monitor.counts_of(camera)
        regions = {region.name: region for view in camera.views for region in view.regions or ()}
        labels: list[dict[str, object]] = []
        for said in self._monitor.newest(camera.name):
            ((label, score),) = labels_of(said.scores[None], self._labellings[said.filter])
            place = None if said.region is None else regions.get(said.region)
            labels.append(
                {
                    "filter": said.filter,
                    "region": said.region,
                    "label": label,
                    "score": round(score, 4),
                    "corners": None if place is None else _corners(place, camera.size),
                }
            )
        return {
            "name": camera.name,
            "state": camera.state,
            "why": printable(camera.why),
            "lag_s": self._monitor.lag_s(camera.name),
            "reconnects": camera.reconnects,
            "received": counts.indexed,
            "labelled": counts.labelled,
            "dropped": counts.dropped,
            "corrupt": counts.corrupt,
            "picture": camera.previews,
            "labels": labels,
        }


def _corners(region: Region, size: tuple[int, int] | None) -> list[tuple[float, float]] | None:
    """Of a region, in fractions of the picture's width and height; None: its size is not known."""
    x, y, w, h = region.x, region.y, region.w, region.h
    corners = region.polygon or ((x, y), (x + w, y), (x + w, y + h), (x, y + h))
    if not region.in_pixels:
        return list(corners)
    return None if size is None else [(x / size[0], y / size[1]) for x, y in corners]


def _event(event: Event) -> dict[str, object]:
    told = event.told() | {"key": event.key, "is_over": event.is_over, "thumbnail": event.thumbnail is not None}
    score = event.best_score
    return told | {"best_score": round(score, 4) if math.isfinite(score) else None}
