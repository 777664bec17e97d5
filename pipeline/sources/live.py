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
from itertools import groupby

import numpy as np

from pipeline.batch import Counts, FrameBatch, Lost, Segment, SegmentEnd
from pipeline.sources.camera import Camera, Preview, Received, joined
from pipeline.sources.tally import batches_of
from pipeline.threads import Lanes, Stop

__all__ = ["Cameras"]

LANE = 8  # frames that wait for each camera: less than a second of it
APART_S = 0.05  # between the ends of the windows of two cameras
SILENCE_S = 0.02  # without a frame until a tick
LAST_S = 0.25  # for a camera that is left to tell what came last; frames of the others wait in their lanes


class Cameras:
    """Some live cameras, which may come and go.

    Args:
        cameras: One or more, of different names. Each is iterated in a thread of its own.
        window_s: How long a segment is; it ends when UTC is a multiple of it, that of each further camera a little
            later, since a commit takes time in which nothing is labelled.
        lane: How many frames of each may wait.
        clock: UTC in seconds since 1970.
    """

    def __init__(
        self,
        cameras: Sequence[Camera],
        *,
        window_s: float,
        lane: int = LANE,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._window_s, self._lane, self._clock = window_s, lane, clock
        self.all = tuple(cameras)  # is replaced as a whole
        self._regions: dict[str, list[tuple[int, tuple[str, ...]]]] = {}  # each with the first segment that has it

    def regions(self, segment: Segment) -> tuple[str, ...]:
        """Names of the regions of a segment that is open or ended lately; none: whole frames."""
        known = reversed(self._regions[segment.source])
        return next((regions for first, regions in known if first <= segment.number), ())  # a tick is of none

    def preview(self, name: str) -> Preview | None:
        """Of a camera, a frame about a second older than the last at most; None: none yet."""
        return next((camera.preview for camera in self.all if camera.name == name), None)

    def change(self, cameras: Sequence[Camera]) -> None:
        """From now on it is these, one or more. Those that are there already go on; others end, and what came of them
        is handed on. May be called from any thread.
        """
        self.all = tuple(cameras)

    def batches(self, *, stop: Stop, last: Mapping[str, SegmentEnd] | None = None) -> Iterator[FrameBatch]:
        """What they give, until `stop` is set: what has come is handed on then, and every open segment ends.

        Args:
            stop: Ends it.
            last: Of cameras whose numbers go on, by their name: the end of the last segment.
        """
        lanes: Lanes[Received] = Lanes(depth=self._lane, drop=lambda older, newer: newer.dropping(older), name="camera")
        nobody = Segment(self.all[0].name, number=-1)  # a tick is of no window
        goes_on = {
            name: (end.segment.number + 1, end.segment.first_frame + end.counts.indexed)
            for name, end in (last or {}).items()
        }
        taken_of: dict[str, Counts] = {}  # of cameras that were here before
        going: dict[int, _Windows] = {}  # by lane
        here: tuple[Camera, ...] = ()
        try:
            while not stop:
                if self.all is not here:
                    here = self.all
                    for lane in [lane for lane, windows in going.items() if windows.camera not in here]:
                        windows = going.pop(lane)
                        windows.leave()
                        yield from windows.over(lanes.leave(lane, LAST_S), self._clock())
                        goes_on[windows.camera.name], taken_of[windows.camera.name] = windows.next, windows.camera.taken
                    for camera in set(here) - {windows.camera for windows in going.values()}:
                        number, camera.next_frame = goes_on.get(camera.name, (0, 0))
                        camera.taken = taken_of.get(camera.name, Counts())
                        before = self._regions.get(camera.name, [])[-1:]  # of frames that are still under way
                        self._regions[camera.name] = [*before, (number, camera.regions)]
                        lane = lanes.start(camera, camera.name)
                        late_s = min(lane * APART_S, self._window_s / 2)
                        going[lane] = _Windows(camera, self._window_s, number, late_s=late_s)
                taken = lanes.take(SILENCE_S)
                now_s = self._clock()
                for lane, windows in going.items():
                    yield from windows.batches(taken.get(lane, ()), now_s)
                if not taken:
                    yield FrameBatch.tick(nobody)
            for windows in going.values():
                windows.leave()
            until_s = time.monotonic() + LAST_S
            left = {lane: lanes.leave(lane, until_s - time.monotonic()) for lane in going}
            for lane, windows in going.items():
                yield from windows.over(left[lane], self._clock())
        finally:
            for windows in going.values():
                windows.camera.stop.set()
            lanes.close()


class _Windows:
    """The segments of one camera, one after the other."""

    def __init__(self, camera: Camera, window_s: float, number: int, *, late_s: float = 0.0) -> None:
        self.camera, self._window_s, self._late_s = camera, window_s, late_s
        self._first = self._number = number
        self._begins_s = self._ends_s = 0.0
        self._next = camera.next_frame  # the first frame that no window has yet
        self._earlier, self._counts = camera.taken, Counts()  # of the windows before, and of the one that is open
        self._lost: tuple[Lost, ...] = ()
        self._left_as = ""  # what the camera was when it was left
        self._spent_s: Mapping[str, float] = {}  # in the states of the camera, up to the last end
        self.open: Segment | None = None

    def batches(self, received: Sequence[Received], now_s: float) -> Iterator[FrameBatch]:
        """The frames, in one batch of each view and clock; before them the end of a window that is over by now."""
        if self.open is not None and not self._begins_s <= now_s < self._ends_s:  # the clock may be set back
            yield from self.end()
        if not received:
            return
        if self.open is None:
            self._begins_s = now_s // self._window_s * self._window_s
            self._ends_s = self._begins_s + self._window_s + self._late_s
            self.open = Segment(self.camera.name, self._number, self._next, window_utc_s=self._begins_s)
            self._number += 1
        for one in received:
            self._next += one.counts.indexed
            self._counts += one.counts
            self._lost = joined(self._lost, one.lost)
        self.camera.taken = self._earlier + self._counts
        shown = [(one, one.views) for one in received if one.views is not None]
        for by, group in groupby(shown, key=lambda pair: pair[0].captured_by):
            frames = list(group)
            yield from batches_of(
                self.open,
                self.camera.views,
                [np.stack(pictures) for pictures in zip(*(views for _, views in frames), strict=True)],
                np.array([one.number for one, _ in frames], np.int64),
                np.array([one.pts_s for one, _ in frames], np.float64),
                np.array([one.captured_s for one, _ in frames], np.float64),
                captured_by=by,
            )

    @property
    def next(self) -> tuple[int, int]:
        """Number of the next window, and of its first frame."""
        return self._number, self._next

    def leave(self) -> None:
        """Asks the camera to end."""
        self._left_as = ": ".join(filter(None, (self.camera.state, self.camera.why)))
        self.camera.stop.set()

    def over(self, received: Sequence[Received], now_s: float) -> Iterator[FrameBatch]:
        """The last frames, and the end."""
        yield from self.batches(received, now_s)
        if self.open is None:
            yield self._nothing()
        yield from self.end()

    def _nothing(self) -> FrameBatch:
        """Tells that nothing came, since the window before or at all, which alone is an error."""
        segment = Segment(self.camera.name, self._number, self._next, window_utc_s=self._begins_s)
        error = f"no frame came: {self._left_as}" if self._number == self._first else None
        return FrameBatch.tick(segment, end=SegmentEnd(segment, error=error, retry=True, states=self._states()))

    def end(self) -> Iterator[FrameBatch]:
        """Ends the window that is open, if one is."""
        if self.open is not None:
            end = SegmentEnd(self.open, self._counts, self._lost, states=self._states())
            yield FrameBatch.tick(self.open, end=end)
        self._earlier += self._counts
        self.open, self._counts, self._lost = None, Counts(), ()

    def _states(self) -> dict[str, float]:
        """Seconds that the camera was in each state since the last end."""
        before, self._spent_s = self._spent_s, self.camera.spent_s
        return {state: round(spent_s - before.get(state, 0.0), 3) for state, spent_s in self._spent_s.items()}
