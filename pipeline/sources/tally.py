"""Numbering the frames that come out of a decoder, keeping count of them, and filling them into batches."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

import av
import numpy as np
import numpy.typing as npt

from pipeline.batch import CapturedBy, Counts, FrameBatch, Lost, Pixels, Segment, SegmentEnd, lost_ranges
from pipeline.sources.cuts import Cut
from pipeline.sources.index import NOT_ONE_EACH, TIMELESS_DEMUXERS, Index
from pipeline.sources.scaler import View
from pipeline.sources.selection import Selection

__all__ = ["Builder", "Counted", "Ranked", "batches_of"]


class Ranked:
    """Numbers frames by the rank of their time stamp in the index, and notes which came."""

    def __init__(self, index: Index, cut: Cut, selected: npt.NDArray[np.bool_], selection: Selection) -> None:
        self._first = cut.first_frame
        self._pts = index.shown[cut.first_frame : cut.last_frame]
        self._times = index.seconds(self._pts)
        self.file_start_s = float(index.seconds(index.shown[:1])[0])
        self._selected = selected[cut.first_frame : cut.last_frame]
        self._came = np.zeros(len(self._pts), np.bool_)
        self._damaged = 0
        self._unread = 0
        self._next = 0
        self.asks_for_any = bool(self._selected.any())
        # Whether frames behind the last one of the file would be asked for.
        last_s = float(index.seconds(index.shown[-1:])[0]) - self.file_start_s
        self.is_satisfied = selection.is_over(int(np.count_nonzero(selected)), last_s)

    def place(self, frame: av.VideoFrame) -> tuple[int, float]:
        """The frame's number, or -1 if it is not asked for; and its time in seconds."""
        pts = frame.pts
        at = self._next
        if at >= len(self._pts) or self._pts[at] != pts:
            # A frame is missing before it, or it belongs to a neighbour (a leading picture of the entry).
            at = len(self._pts) if pts is None else int(np.searchsorted(self._pts, pts))
            if not self._next <= at < len(self._pts) or self._pts[at] != pts:
                return -1, math.nan
        self._came[at] = True
        self._next = at + 1
        if not self._selected[at]:
            return -1, math.nan
        self._damaged += frame.is_corrupt
        return self._first + at, float(self._times[at])

    def take(self, numbers: npt.NDArray[np.int64]) -> None:
        """These frames came, and no others will."""
        self._came[numbers - self._first] = True

    def leaves_out(self, pts: int | None) -> bool:
        """Whether a frame that is asked for, and has not come, would be behind its time if this one came next."""
        at = len(self._pts) if pts is None else int(np.searchsorted(self._pts, pts))
        return bool(self._selected[self._next : at].any())

    @property
    def is_whole(self) -> bool:
        """Whether all that is asked for has come."""
        return bool((self._came | ~self._selected).all())

    def error(self) -> None:
        """A packet gave no picture: its frame will be missing among those that came."""

    def lose(self, number: int) -> None:
        """A frame that was placed cannot be used after all."""
        self._came[number - self._first] = False

    def close(self, *, unread: int) -> str | None:
        """The end of the file was reached; `unread` frames more stand in its index. What else is missing, in words."""
        self._unread = unread
        return None

    def counts(self) -> tuple[Counts, tuple[Lost, ...]]:
        if not self.asks_for_any:
            self._came[:] = True
        missing = self._selected & ~self._came
        skipped = int(np.count_nonzero(~self._selected))
        corrupt = int(np.count_nonzero(missing))
        lost = lost_ranges(np.flatnonzero(missing) + self._first, "corrupt")
        if self._unread:
            first = self._first + len(self._pts)
            lost = (*lost, Lost(first, first + self._unread - 1, "unread"))
        counts = Counts(
            indexed=len(self._pts) + self._unread,
            skipped=skipped,
            corrupt=corrupt,
            unread=self._unread,
            decoded=len(self._pts) - skipped - corrupt,
            damaged=self._damaged,
        )
        return counts, lost


class Counted:
    """Numbers frames as they come out of the decoder; a packet that gave none takes a number too.

    Where packets vanish without an error, nothing tells which: the loss is known at the end, by the number of packets,
    and the frames behind it are numbered too low. That is said.
    """

    asks_for_any = True

    def __init__(self, index: Index, selection: Selection) -> None:
        rate = index.counted_rate
        self._frame_s = None if not rate else float(1 / rate)
        self._time_base = float(index.time_base)
        self._has_times = index.demuxer not in TIMELESS_DEMUXERS
        self._selection = selection
        self._choose: Callable[[int, float], bool] | None = None if selection.takes_all else selection.chooser()
        # What the packets promise; unknown where they are known not to give one frame each.
        self._expected = None if index.whole_because == NOT_ONE_EACH else index.frames
        self._packets = index.frames
        self._codec = index.codec
        self._corrupt: list[int] = []
        self._skipped = self._decoded = self._damaged = self._unread = 0
        self._number = 0
        self._keys = 0
        self._last_s = math.nan
        self.file_start_s = math.nan

    def place(self, frame: av.VideoFrame) -> tuple[int, float]:
        number = self._number
        self._number += 1
        time_s = math.nan
        if self._frame_s is not None:
            time_s = number * self._frame_s
        elif self._has_times and frame.pts is not None:
            time_s = frame.pts * self._time_base
        if math.isnan(self.file_start_s):
            self.file_start_s = time_s
        self._last_s = time_s
        if not self._is_selected(frame, number, time_s - self.file_start_s):
            self._skipped += 1
            return -1, time_s
        self._decoded += 1
        self._damaged += frame.is_corrupt
        return number, time_s

    def take(self, numbers: npt.NDArray[np.int64]) -> None:
        """These frames came, in order, and no others will. Others before the last of them were not asked for."""
        self._decoded = len(numbers)
        self._number = int(numbers[-1]) + 1 if len(numbers) else 0
        if self._selection.takes_all:
            self._corrupt = np.setdiff1d(np.arange(self._number), numbers).tolist()
        else:
            self._skipped = self._number - len(numbers)

    def _is_selected(self, frame: av.VideoFrame, number: int, since_s: float) -> bool:
        if self._selection.frames == "key":  # packets cannot be told from each other: all are decoded
            if not frame.key_frame:
                return False
            number = self._keys
            self._keys += 1
        return self._choose is None or self._choose(number, since_s)

    def error(self) -> None:
        self._corrupt.append(self._number)
        self._number += 1

    def lose(self, number: int) -> None:
        self._corrupt.append(number)
        self._decoded -= 1

    @property
    def is_satisfied(self) -> bool:
        return self._selection.is_over(self._decoded, self._last_s - self.file_start_s)

    def close(self, *, unread: int) -> str | None:
        missing = 0 if self._expected is None else max(0, self._expected - self._number)
        self._corrupt += range(self._number, self._number + missing)
        self._number += missing
        self._unread = unread
        if self._expected is None and not self._is_usual():
            frames = self._number - len(self._corrupt)
            return f"{self._packets} packets gave {frames} frames, and nothing tells whether any is missing"
        if not (missing or unread):
            return None
        return (
            f"{missing + unread} of {self._number + unread} frames gave no picture, and nothing tells which: frames "
            "behind a loss are numbered too low"
        )

    def _is_usual(self) -> bool:
        """Whether so many frames come of so many packets where nothing is missing: one of each, of each pair (a field
        each), or of MPEG-4 one less (two frames in a packet, and a last one without a picture)."""
        frames = self._number - len(self._corrupt)
        less = int(self._codec == "mpeg4")
        is_each = frames in (self._packets, self._packets - less)
        return frames > 0 and (is_each or abs(2 * frames - self._packets) <= 1)

    def counts(self) -> tuple[Counts, tuple[Lost, ...]]:
        lost = lost_ranges(np.array(sorted(self._corrupt), np.int64), "corrupt")
        if self._unread:
            lost = (*lost, Lost(self._number, self._number + self._unread - 1, "unread"))
        counts = Counts(
            indexed=self._number + self._unread,
            skipped=self._skipped,
            corrupt=len(self._corrupt),
            unread=self._unread,
            decoded=self._decoded,
            damaged=self._damaged,
        )
        return counts, lost


class Builder:
    """Fills batches frame by frame, one for each view, so that a picture is written once, where it stays.

    Args:
        segment: Whose frames.
        views: What is shown of each.
        batch_frames: Frames per batch.
    """

    def __init__(self, segment: Segment, views: Sequence[View], batch_frames: int) -> None:
        self._segment = segment
        self._views = views
        self._batch_frames = batch_frames
        self._begin()

    def _begin(self) -> None:
        n = self._batch_frames
        self._frames = [
            np.empty((n, view.pictures, view.picture.height, view.picture.width, 3), np.uint8) for view in self._views
        ]
        self._index = np.empty(n, np.int64)
        self._pts_s = np.empty(n, np.float64)
        self._n = 0

    @property
    def is_full(self) -> bool:
        return self._n == self._batch_frames

    def row(self, number: int, time_s: float) -> list[Pixels]:
        """Room for the next frame: of each view (pictures, H, W, 3)."""
        n = self._n
        self._n += 1
        self._index[n] = number
        self._pts_s[n] = time_s
        return [frames[n] for frames in self._frames]

    def drop_row(self) -> None:
        """Takes the last row back."""
        self._n -= 1

    def take(self, utc_offset_s: float | None, end: SegmentEnd | None = None) -> Iterator[FrameBatch]:
        """What was filled so far, a batch of each view that has pictures; the end rides on that of the last view. The
        next row begins others."""
        n = self._n
        pts_s = self._pts_s[:n]
        captured_s = None if utc_offset_s is None else pts_s + utc_offset_s
        frames, index = [frames[:n] for frames in self._frames], self._index[:n]
        self._begin()
        by: CapturedBy | None = None if captured_s is None else "start"
        yield from batches_of(self._segment, self._views, frames, index, pts_s, captured_s, end, captured_by=by)


def batches_of(
    segment: Segment,
    views: Sequence[View],
    frames: Sequence[Pixels],
    index: npt.NDArray[np.int64],
    pts_s: npt.NDArray[np.float64],
    captured_s: npt.NDArray[np.float64] | None,
    end: SegmentEnd | None = None,
    *,
    captured_by: CapturedBy | None = None,
) -> Iterator[FrameBatch]:
    """Some frames of a segment: a batch of each view that has pictures; the end rides on that of the last view.

    Args:
        segment: Theirs.
        views: What is shown of each frame.
        frames: Of each view uint8 (N, pictures, H, W, 3).
        index, pts_s, captured_s, captured_by: Of the frames, see FrameBatch.
        end: Of the segment, if these are its last frames.
    """
    for number, (view, shown) in enumerate(zip(views, frames, strict=True)):
        if view.regions is None:
            batch = FrameBatch(segment, shown[:, 0], index, pts_s, captured_s, captured_by=captured_by, view=number)
        else:
            count = view.pictures
            batch = FrameBatch(
                segment,
                shown.reshape(len(index) * count, *shown.shape[2:]),
                np.repeat(index, count),
                np.repeat(pts_s, count),
                None if captured_s is None else np.repeat(captured_s, count),
                captured_by=captured_by,
                view=number,
                regions=view.names,
                region=np.tile(np.arange(count, dtype=np.int16), len(index)),
            )
        if number == len(views) - 1:
            batch = replace(batch, end=end)
        if len(batch) or batch.end is not None or len(views) == 1:
            yield batch
