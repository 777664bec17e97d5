"""Cutting a file into segments that decode to exactly the frames of one straight pass.

    packets, decode order   ...P  K  b  b  P  P  K' b' b' P ...       K, K': clean entries;  b: leading pictures,
    presentation order      ... b  b  K  P  P  b' b' K' P ...             decoded after K, shown before it

A segment holds the frames with K.pts <= pts < K'.pts. Its decoder is fed from K up to K' and the leading pictures of
K', because those belong to it and refer to K'. The cuts depend on the file alone, but for segments that are committed:
they stay as they are.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from pipeline.batch import Segment
from pipeline.sources.index import Index

__all__ = ["LEAST_FRAMES", "Cut", "cut_file", "whole_file"]

MOST_SHORT_SEGMENTS = 8
LEAST_FRAMES = 300  # shorter ones cost more in seeks than they gain in parallelism
SEGMENT_BYTES = 32 << 20
MOST_REORDERED = 64  # packets behind an entry that may be shown before it: twice what any codec allows


@dataclass(frozen=True, slots=True)
class Cut:
    """A part of a file that is decoded on its own.

    Attributes:
        number: Position among the file's cuts.
        first, stop: Packets to feed: places first to stop - 1, then the decoder is flushed.
        first_frame, last_frame: Frames it holds: numbers first_frame to last_frame - 1.
        low, high: Frames with low <= pts < high belong to it; None is open.
        is_last: Whether the file ends with it.
    """

    number: int
    first: int
    stop: int
    first_frame: int
    last_frame: int
    low: int | None
    high: int | None
    is_last: bool


def cut_file(
    index: Index,
    *,
    segment_frames: int = 4096,
    segment_bytes: int = SEGMENT_BYTES,
    committed: Sequence[Segment] = (),
) -> tuple[Cut, ...]:
    """Cuts a file at the first clean entry after `segment_frames` frames or `segment_bytes` of packets.

    Short files are cut into up to 8 segments of at least 300 frames, so that several decoders can work on them. Where
    segments are committed the cuts are theirs: when they were made, less of the file may have been there to be read.
    """
    if index.whole_because is not None:
        return whole_file(index)
    target = min(segment_frames, max(LEAST_FRAMES, -(-index.frames // MOST_SHORT_SEGMENTS)))
    highest = np.maximum.accumulate(index.pts)
    bytes_before = np.cumsum(index.size) - index.size
    borders = {segment.first_frame for segment in committed}
    inside = np.zeros(index.frames + 1, np.bool_)
    times_s = index.seconds(index.shown)
    for segment in committed:
        if segment.end_s is not None:
            stop = int(np.searchsorted(times_s, segment.end_s))
            borders.add(stop)
            inside[segment.first_frame + 1 : stop] = True
    # Where reading broke off, leading pictures of a last entry may be missing, which belong to the segment before it.
    known = len(index.pts) - (MOST_REORDERED if index.io_error is not None else 0)
    starts = [0]
    first_frame, first_byte = 0, 0
    for place in index.entries:
        if place == 0 or place > known or highest[place - 1] >= index.pts[place]:
            continue  # a frame decoded before this entry is shown after it
        frame = int(np.searchsorted(index.shown, index.pts[place]))
        is_short = frame - first_frame < target and bytes_before[place] - first_byte < segment_bytes
        if frame == first_frame or inside[frame] or (is_short and frame not in borders):
            continue
        starts.append(place)
        first_frame, first_byte = frame, int(bytes_before[place])
    ends: list[int | None] = [*starts[1:], None]
    return tuple(_cut(index, number, start, end) for number, (start, end) in enumerate(zip(starts, ends, strict=True)))


def whole_file(index: Index) -> tuple[Cut, ...]:
    """The file as one segment."""
    return (_cut(index, 0, 0, None),)


def _leading(index: Index, entry: int) -> int:
    """How many packets from an entry on hold its leading pictures, itself included; 0 if it has none."""
    near = index.pts[entry : entry + MOST_REORDERED]
    before = np.flatnonzero(near < index.pts[entry])
    return int(before[-1]) + 1 if len(before) else 0


def _cut(index: Index, number: int, start: int, end: int | None) -> Cut:
    low = int(index.pts[start]) if number else None
    high = None if end is None else int(index.pts[end])
    stop = len(index.pts) if end is None else end + _leading(index, end)
    first_frame = int(np.searchsorted(index.shown, low)) if low is not None else 0
    last_frame = int(np.searchsorted(index.shown, high)) if high is not None else index.frames
    return Cut(number, start, stop, first_frame, last_frame, low, high, is_last=end is None)
