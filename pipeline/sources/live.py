"""Cameras as one iterable of batches, cut into windows of time.

    camera ── thread ── lane, drops its oldest ─┐
    camera ── thread ── lane, drops its oldest ─┼─▶ batches of whatever waits ─▶ (blocks when labelling is slower)
    camera ── thread ── lane, drops its oldest ─┘

What labelling does not take in time is dropped in the lanes, newest last, and counted; so every camera gets its turn,
and none is ever further behind than its lane is deep. A window of a camera is a segment: it ends by the clock, whether
the camera is there or hangs.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np

from pipeline.batch import Counts, FrameBatch, Lost, Segment, SegmentEnd
from pipeline.sources.camera import Camera, Received, joined
from pipeline.sources.tally import batches_of
from pipeline.threads import Lanes, Stop

__all__ = ["Cameras"]

LANE = 8  # frames that wait for each camera: less than a second of it
SILENCE_S = 0.02  # without a frame until a tick


class Cameras:
    """Some live cameras.

    Args:
        cameras: Each is iterated in a thread of its own.
        window_s: How long a segment is; it ends when UTC is a multiple of it.
        stop: Ends the iteration: what has come is handed on, and every open segment ends.
        last: Of cameras whose numbers go on, by their name: the end of the last segment.
        lane: How many frames of each may wait.
        clock: UTC in seconds since 1970.
    """

    def __init__(
        self,
        cameras: Sequence[Camera],
        *,
        window_s: float,
        stop: Stop,
        last: Mapping[str, SegmentEnd] | None = None,
        lane: int = LANE,
        clock: Callable[[], float] = time.time,
    ) -> None:
        for camera in cameras:
            if end := (last or {}).get(camera.name):
                camera.next_frame = end.segment.first_frame + end.counts.indexed
        numbers = {name: end.segment.number + 1 for name, end in (last or {}).items()}
        self._windows = {camera.name: _Windows(camera, window_s, numbers.get(camera.name, 0)) for camera in cameras}
        self._cameras, self._stop, self._lane, self._clock = tuple(cameras), stop, lane, clock

    def __iter__(self) -> Iterator[FrameBatch]:
        lanes: Lanes[Received] = Lanes(depth=self._lane, drop=lambda older, newer: newer.dropping(older), name="camera")
        nobody = Segment(self._cameras[0].name, number=-1)  # a tick is of no window
        try:
            for camera in self._cameras:
                lanes.start(camera.name, camera)
            while not self._stop:
                taken = lanes.take(SILENCE_S)
                now_s = self._clock()
                for name, windows in self._windows.items():
                    yield from windows.batches(taken.get(name, ()), now_s)
                if not taken:
                    yield FrameBatch.tick(nobody)
            for name, received in lanes.take(0).items():
                yield from self._windows[name].batches(received, self._clock())
            for windows in self._windows.values():
                yield from windows.end()
                if windows.is_empty:
                    yield windows.nothing()
        finally:
            for camera in self._cameras:
                camera.stop.set()
            lanes.close()


class _Windows:
    """The segments of one camera, one after the other."""

    def __init__(self, camera: Camera, window_s: float, number: int) -> None:
        self._camera, self._window_s = camera, window_s
        self._first = self._number = number
        self._ends_s = 0.0
        self._next = camera.next_frame  # the first frame that no window has yet
        self._counts = Counts()
        self._lost: tuple[Lost, ...] = ()
        self.open: Segment | None = None

    def batches(self, received: Sequence[Received], now_s: float) -> Iterator[FrameBatch]:
        """The frames, in one batch of each view; before them the end of a window that is over by now."""
        if self.open is not None and now_s >= self._ends_s:
            yield from self.end()
        if not received:
            return
        if self.open is None:
            begins_s = now_s // self._window_s * self._window_s
            self._ends_s = begins_s + self._window_s
            self.open = Segment(self._camera.name, self._number, self._next, window_utc_s=begins_s)
            self._number += 1
        for one in received:
            self._next += one.counts.indexed
            self._counts += one.counts
            self._lost = joined(self._lost, one.lost)
        frames = [(one, one.views) for one in received if one.views is not None]
        if not frames:
            return
        yield from batches_of(
            self.open,
            self._camera.views,
            [np.stack(pictures) for pictures in zip(*(views for _, views in frames), strict=True)],
            np.array([one.number for one, _ in frames], np.int64),
            np.array([one.pts_s for one, _ in frames], np.float64),
            np.array([one.captured_s for one, _ in frames], np.float64),
        )

    @property
    def is_empty(self) -> bool:
        """Whether nothing came at all."""
        return self._number == self._first

    def nothing(self) -> FrameBatch:
        """Tells that nothing came."""
        segment = Segment(self._camera.name, self._number, self._next, window_utc_s=self._ends_s)
        told = ": ".join(filter(None, (self._camera.state, self._camera.why)))
        return FrameBatch.tick(segment, end=SegmentEnd(segment, error=f"no frame came: {told}", retry=True))

    def end(self) -> Iterator[FrameBatch]:
        """Ends the window that is open, if one is."""
        if self.open is not None:
            end = SegmentEnd(self.open, self._counts, self._lost)
            yield FrameBatch.tick(self.open, end=end)
        self.open, self._counts, self._lost = None, Counts(), ()
