"""What is known of a run while it goes: per source frames, latencies, lags and newest labels; events; if all is well.

The run's own thread writes, and replaces every value as a whole, so that any other thread may read without a lock: at
worst it sees two values of which one is a batch older.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from pipeline.batch import Counts, FrameBatch, SegmentEnd
from pipeline.contracts import Watcher
from pipeline.events import Event
from pipeline.sources.camera import Camera

__all__ = ["LATENCIES_S", "Latencies", "Monitor", "Said"]

LAST = 4  # batches in which each region of a camera has its turn: groups may part a frame
MOST_EVENTS = 100  # that are kept
LATENCIES_S = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)


class Latencies(NamedTuple):
    """How long rows took.

    Attributes:
        rows: How many took up to each of `LATENCIES_S` and longer than the one before, then those over the last.
        sum_s: Of them all.
    """

    rows: tuple[int, ...] = (0,) * (len(LATENCIES_S) + 1)
    sum_s: float = 0.0


@dataclass(frozen=True, slots=True)
class _Rows:
    """Of a batch, what it says without its pictures; see FrameBatch."""

    index: npt.NDArray[np.int64]
    region: npt.NDArray[np.int16] | None
    regions: tuple[str, ...]
    scores: npt.NDArray[np.float32]


class Said(NamedTuple):
    """What a filter said last of a region, or of whole frames.

    Attributes:
        filter: Its name.
        region: Name of the region; None: the whole frame.
        frame: Number of the frame.
        scores: Float32 (K,).
    """

    filter: str
    region: str | None
    frame: int
    scores: npt.NDArray[np.float32]


class Monitor(Watcher):
    """A `pipeline.contracts.Watcher` that keeps what others may ask for while a run goes.

    Frames of files count when their segment is committed, as the ledger has them, those of cameras as they come.

    Args:
        sources: Names of all sources.
        cameras: Gives those that are cameras, which come and go.
        lag_s: How old the newest label of a camera may be.
        clock: UTC in seconds since 1970.
    """

    def __init__(
        self,
        sources: Sequence[str],
        *,
        cameras: Callable[[], Sequence[Camera]] = tuple,
        lag_s: float = 10.0,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._cameras, self._is_live = cameras, bool(cameras())
        self._lag_s, self._clock = lag_s, clock
        self._began_s = clock()
        self._seen_s = dict.fromkeys(self.cameras, self._began_s)  # since when each camera is waited for
        self._committed = dict.fromkeys(sources, Counts())
        self._labelled: dict[str, int] = {}  # frames of cameras, of segments that are still open too
        self._written: dict[str, int] = {}
        self._newest_s: dict[str, float] = {}  # when the newest frame with a label was captured
        self._latencies: dict[str, Latencies] = {}
        self._last: dict[tuple[str, str], tuple[_Rows, ...]] = {}  # by camera and filter
        self.events: Mapping[str, Event] = {}  # the latest, by their keys; replaced as a whole

    @property
    def cameras(self) -> Mapping[str, Camera]:
        """Those that are there now, by name."""
        return {camera.name: camera for camera in self._cameras()}

    def begin(self, sources: Sequence[str], cameras: Callable[[], Sequence[Camera]] = tuple) -> None:
        self._began_s = self._clock()
        self._seen_s = dict.fromkeys(self.cameras, self._began_s)

    def scored(self, batch: FrameBatch, labelled: int, written: int) -> None:
        """Takes what the filter stage tells, see `pipeline.filter.Told`."""
        name = batch.source
        if len(batch) and batch.scores is not None:
            rows = _Rows(batch.index, batch.region, batch.regions, batch.scores)
            self._last[name, batch.filter] = (*self._last.get((name, batch.filter), ()), rows)[-LAST:]
        self._labelled[name] = self._labelled.get(name, 0) + labelled
        self._written[name] = self._written.get(name, 0) + written
        if len(batch) and batch.captured_s is not None:
            self._newest_s[name] = float(batch.captured_s[-1])

    def written(self, batch: FrameBatch) -> None:
        if not len(batch) or batch.captured_s is None or not self._is_live:
            return
        # The clock of a camera may be ahead of this one.
        took_s = np.maximum(0.0, self._clock() - batch.captured_s)
        rows = np.bincount(np.searchsorted(LATENCIES_S, took_s), minlength=len(LATENCIES_S) + 1)
        before = self.latencies(batch.source)
        self._latencies[batch.source] = Latencies(
            tuple(a + b for a, b in zip(before.rows, rows.tolist(), strict=True)), before.sum_s + float(took_s.sum())
        )

    def event(self, event: Event) -> None:
        others = {key: other for key, other in self.events.items() if key != event.key}
        newest = [*others.items()][-(MOST_EVENTS - 1) :]
        self.events = dict([*newest, (event.key, event)])

    def committed(self, end: SegmentEnd) -> None:
        if not end.retry:
            name = end.segment.source
            self._committed[name] = self._committed.get(name, Counts()) + end.counts

    def counts(self) -> dict[str, Counts]:
        """What became of the frames of every source since the run was started; `failed` and `filtered` of a camera
        count when its window is committed."""
        return self._committed | {name: self.counts_of(camera) for name, camera in self.cameras.items()}

    def counts_of(self, camera: Camera) -> Counts:
        """What became of the frames of a camera, likewise."""
        name = camera.name
        done = self._committed.get(name, Counts())
        # Read from behind, so that of frames that come meanwhile none is written before it was taken.
        written, labelled = self._written.get(name, 0), self._labelled.get(name, 0)
        return replace(camera.taken, labelled=labelled, written=written, failed=done.failed, filtered=done.filtered)

    def newest(self, camera: str) -> list[Said]:
        """What each filter said last of each region of a camera, kept or not, in the order of the regions."""
        said = []
        for (name, filter), batches in self._last.copy().items():
            if name != camera:
                continue
            found: dict[int, Said] = {}
            for rows in reversed(batches):
                for at in reversed(range(len(rows.index))):
                    place = -1 if rows.region is None else int(rows.region[at])
                    region = None if place < 0 else rows.regions[place]
                    found.setdefault(place, Said(filter, region, int(rows.index[at]), rows.scores[at]))
            said += [found[place] for place in sorted(found)]
        return said

    def latencies(self, camera: str) -> Latencies:
        """Of the rows of a camera, from the capture of their frame until every sink had taken them."""
        return self._latencies.get(camera, Latencies())

    def lag_s(self, camera: str) -> float | None:
        """How old the newest frame with a label is; None: there is none yet."""
        newest_s = self._newest_s.get(camera)
        return None if newest_s is None else self._clock() - newest_s

    def problems(self) -> list[str]:
        """Why not all is well, a line each; none: all is, or there are no cameras."""
        told = []
        states = {name: camera.state for name, camera in self.cameras.items()}
        if states and "live" not in states.values():
            each = ", ".join(f"{name} is {state}" for name, state in states.items())
            told.append(f"a camera must be live, got none: {each}")
        for name in self.cameras:
            now_s = self._clock()
            lag_s, waited_s = self.lag_s(name), now_s - self._seen_s.setdefault(name, now_s)  # it was added meanwhile
            if lag_s is not None and lag_s > self._lag_s:
                told.append(f"{name}: its newest label must be {self._lag_s:g} s old at most, got {lag_s:.1f} s")
            elif lag_s is None and waited_s > self._lag_s:
                told.append(f"{name}: must have a label after {self._lag_s:g} s, got none in {waited_s:.1f} s")
        return told
