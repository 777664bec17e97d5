"""The folding stage: groups of f pictures, formed as the model was trained for.

    consecutive   0 1 2 3 | 4 5 6 7 | ...          a view of the decoded memory
    strided       0 64 128 192 | 1 65 129 193 ...  within windows of 64·f frames
    shuffled      seeded, within the same windows
    regions       the regions of a frame, and on into the next
    streams       one frame of each source of a bundle, or of the cameras that have one

In all of them but `regions` the pictures of a group are of one region. A group never spans two segments. What does not
fill a group at the end of a segment, or has waited for too long, is padded with the group's last picture; the padding's
scores are thrown away.
"""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from pipeline.batch import FoldedBatch, FrameBatch, Segment
from pipeline.contracts import FoldStage
from pipeline.regions import chosen, pictures_of
from pipeline.times import Times
from specialized.orders import ORDERS, WINDOW_GROUPS, Order, groups

__all__ = ["Grouping", "fold"]


@dataclass(frozen=True, slots=True)
class Grouping:
    """Which pictures are grouped for a filter, and how.

    Attributes:
        f: Pictures per group; 1 means no folding.
        order: How groups are formed.
        view: Of which view its pictures are.
        regions: Patterns of the names of its regions; empty: all, and whole frames.
    """

    f: int
    order: Order
    view: int = 0
    regions: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.f < 1:
            raise ValueError(f"f must be at least 1, got {self.f}")
        if self.order not in ORDERS:
            raise ValueError(f"order must be one of {', '.join(ORDERS)}, got {self.order!r}")

    def per_frame(self, regions: tuple[str, ...]) -> int:
        """How many pictures of its own a frame with these regions has; none: the whole frame is one."""
        return pictures_of(self.regions, regions)

    def of(self, batch: FrameBatch) -> FrameBatch | None:
        """Its rows of a batch, or None; ticks and the ends of segments are everyone's."""
        if batch.view != self.view or (self.regions and not batch.regions):
            empty = batch.end is not None or not len(batch)
            return FrameBatch.tick(batch.segment, size=(1, 1), end=batch.end) if empty else None
        if not batch.regions or batch.region is None:
            return batch
        wanted = chosen(self.regions, batch.regions)
        if len(wanted) == len(batch.regions):
            return batch
        mask = np.zeros(len(batch.regions), np.bool_)
        mask[list(wanted)] = True
        rows = batch.rows(mask[batch.region])
        return rows if len(rows) or batch.end is not None or not len(batch) else None


def fold(
    *groupings: Grouping,
    seed: int = 0,
    max_wait_s: float = math.inf,
    cameras: Callable[[], int] | None = None,
    times: Times | None = None,
    clock: Callable[[], float] = time.monotonic,
) -> FoldStage:
    """Makes the folding stage.

    Args:
        groupings: One or more. Each sees every batch.
        seed: Of the order `shuffled`.
        max_wait_s: How long a picture waits for others, by `clock`: its group is then padded. It is looked at whenever
            a batch comes, a tick say.
        cameras: Says how many there are: a group across them waits for no more.
        times: Told how long it takes.
    """
    if not groupings:
        raise ValueError("at least one grouping is needed")
    times = times or Times()
    return lambda batches: _fold(batches, groupings, seed, max_wait_s, cameras, times, clock)


def _fold(
    batches: Iterator[FrameBatch],
    groupings: Sequence[Grouping],
    seed: int,
    max_wait_s: float,
    cameras: Callable[[], int] | None,
    times: Times,
    clock: Callable[[], float],
) -> Iterator[FoldedBatch]:
    formers = [
        (_Across(grouping, number, times), _Among(grouping, number, cameras, times))
        if grouping.order == "streams"
        else (_Along(grouping, number, seed, times),) * 2
        for number, grouping in enumerate(groupings)
    ]
    for batch in batches:
        now_s = clock()
        for grouping, (bundled, loose) in zip(groupings, formers, strict=True):
            if (part := grouping.of(batch)) is not None:
                yield from (bundled if batch.segment.bundle else loose).formed(part, now_s)
            yield from loose.late(now_s - max_wait_s)


@dataclass(slots=True)
class _Open:
    """What is kept back of a segment until a whole unit of groups is there."""

    parts: list[FrameBatch] = field(default_factory=list)
    since_s: float = math.inf  # when the first of their pictures came
    windows: int = 0
    per_frame: int = 1


class _Along:
    """Groups within each segment."""

    def __init__(self, grouping: Grouping, number: int, seed: int, times: Times) -> None:
        self._grouping = grouping
        self._number = number
        self._seed = seed
        self._times = times
        self._open: dict[Segment, _Open] = {}

    def formed(self, batch: FrameBatch, now_s: float) -> Iterator[FoldedBatch]:
        """The groups that are whole with this batch, which came now."""
        f, order = self._grouping.f, self._grouping.order
        if not len(batch) and batch.end is None:
            yield _group([batch], np.empty((0, f), np.int32), self._number)
            return
        state = self._open.setdefault(batch.segment, _Open())
        state.parts.append(batch)
        if len(batch) and order != "regions":
            state.per_frame = self._grouping.per_frame(batch.regions)
        window = f * WINDOW_GROUPS * state.per_frame
        unit = f * state.per_frame if order in ("consecutive", "regions") or f == 1 else window
        n = sum(map(len, state.parts))
        rest: list[FrameBatch]
        if batch.end is not None:
            del self._open[batch.segment]
            take, rest = state.parts, []
        else:
            take, rest = _split(state.parts, n - n % unit)
            state.parts = rest
        if take:
            state.since_s = math.inf
        if rest:
            state.since_s = min(state.since_s, now_s)
        if take:
            yield self._group(take, state)

    def late(self, since_s: float) -> Iterator[FoldedBatch]:
        """Groups of what has waited since then, or for longer."""
        for state in self._open.values():
            if state.since_s <= since_s and state.parts:
                take, state.parts, state.since_s = state.parts, [], math.inf
                yield self._group(take, state)

    def _group(self, parts: Sequence[FrameBatch], state: _Open) -> FoldedBatch:
        f, order = self._grouping.f, self._grouping.order
        pictures = sum(map(len, parts))
        with self._times.span("compute", "fold", parts[0].segment, pictures):
            positions = groups(pictures // state.per_frame, f, order, seed=self._seed, first_window=state.windows)
            folded = _group(parts, _of_regions(positions, state.per_frame), self._number)
        state.windows += pictures // (f * WINDOW_GROUPS * state.per_frame)
        return folded


def _of_regions(positions: npt.NDArray[np.int32], count: int) -> npt.NDArray[np.int32]:
    """From groups of frames (B, f) to those of their regions (B·count, f), whose pictures lie frame by frame."""
    if count == 1:
        return positions
    each = positions[:, None, :] * np.int32(count) + np.arange(count, dtype=np.int32)[None, :, None]
    return np.where(positions[:, None, :] < 0, np.int32(-1), each).reshape(-1, positions.shape[1])


def _split(parts: list[FrameBatch], n: int) -> tuple[list[FrameBatch], list[FrameBatch]]:
    """The first n pictures, and the others; a batch across the border becomes two."""
    first: list[FrameBatch] = []
    for at, part in enumerate(parts):
        if n < len(part):
            if n:
                first.append(part.rows(slice(0, n)))
            return first, [part.rows(slice(n, None)), *parts[at + 1 :]]
        first.append(part)
        n -= len(part)
    return first, []


class _Across:
    """Groups across the sources of a bundle: group k holds the k-th picture of each."""

    def __init__(self, grouping: Grouping, number: int, times: Times) -> None:
        self._grouping = grouping
        self._number = number
        self._times = times
        self._waiting: dict[tuple[str, ...], dict[int, deque[FrameBatch]]] = {}
        self._ended: dict[tuple[str, ...], set[int]] = {}

    def formed(self, batch: FrameBatch, now_s: float) -> Iterator[FoldedBatch]:
        """The groups that are whole with this batch: of one batch of each source that has not ended."""
        f, bundle, slot = self._grouping.f, batch.segment.bundle, batch.segment.slot
        if slot >= f or not bundle:
            raise ValueError(f"order streams takes bundles of up to {f} sources, got {batch.segment}")
        if not len(batch) and batch.end is None:
            return  # a tick: no source may be a batch ahead of the others for it
        waiting = self._waiting.setdefault(bundle, {})
        waiting.setdefault(slot, deque()).append(batch)
        over = self._ended.setdefault(bundle, set())
        while bundle in self._waiting and all(waiting.get(k) for k in range(len(bundle)) if k not in over):
            yield self._group(bundle, [waiting[k].popleft() for k in range(len(bundle)) if k not in over])

    def _group(self, bundle: tuple[str, ...], parts: Sequence[FrameBatch]) -> FoldedBatch:
        positions = np.full((max(map(len, parts)), self._grouping.f), -1, np.int32)
        first = 0
        for part in parts:
            positions[: len(part), part.segment.slot] = np.arange(first, first + len(part))
            first += len(part)
        over = self._ended[bundle]
        over.update(part.segment.slot for part in parts if part.end is not None)
        if len(over) == len(bundle):
            del self._waiting[bundle], self._ended[bundle]
        with self._times.span("compute", "fold", parts[0].segment, first):
            return _group(parts, positions, self._number)


class _Among:
    """Groups across cameras, which come and go: the oldest waiting frame of each of f of them, the oldest first."""

    def __init__(self, grouping: Grouping, number: int, cameras: Callable[[], int] | None, times: Times) -> None:
        self._grouping = grouping
        self._number = number
        self._cameras = cameras
        self._times = times
        # By source: a frame each, behind the last one perhaps the end of a segment; and when it came. In the order in
        # which the first of them did.
        self._waiting: dict[str, deque[tuple[float, FrameBatch]]] = {}

    def formed(self, batch: FrameBatch, now_s: float) -> Iterator[FoldedBatch]:
        """The groups that are whole with this batch, which came now."""
        waiting = self._waiting.get(batch.source)
        if not len(batch) and not (batch.end and waiting):
            yield _group([batch], np.empty((0, self._grouping.f), np.int32), self._number)
            return
        queue = self._waiting.setdefault(batch.source, deque())
        each = self._grouping.per_frame(batch.regions)
        cuts = range(0, len(batch), each) if len(batch) else [0]
        queue.extend((now_s, batch.rows(slice(k, k + each if k + each < len(batch) else None))) for k in cuts)
        while len(self._waiting) >= self._enough or (batch.end is not None and batch.source in self._waiting):
            yield self._oldest()

    @property
    def _enough(self) -> int:
        """Cameras that make a group."""
        f = self._grouping.f
        return f if self._cameras is None else min(f, max(1, self._cameras()))

    def late(self, since_s: float) -> Iterator[FoldedBatch]:
        """Groups of what has waited since then, or for longer."""
        while self._waiting and min(queue[0][0] for queue in self._waiting.values()) <= since_s:
            yield self._oldest()

    def _oldest(self) -> FoldedBatch:
        f = self._grouping.f
        parts: list[FrameBatch] = []
        slots: list[tuple[int, int]] = []  # where each frame's pictures begin, and how many there are
        first = 0
        for source in sorted(self._waiting, key=lambda name: self._waiting[name][0][0])[:f]:
            queue = self._waiting[source]
            taken = [queue.popleft()[1]]
            while queue and not len(queue[0][1]):
                taken.append(queue.popleft()[1])
            if not queue:
                del self._waiting[source]
            slots.append((first, len(taken[0])))
            parts += taken
            first += len(taken[0])
        positions = np.full((max(count for _, count in slots), f), -1, np.int32)
        for slot, (start, count) in enumerate(slots):
            positions[:count, slot] = np.arange(start, start + count)
        with self._times.span("compute", "fold", parts[0].segment, first):
            return _group(parts, positions, self._number)


def _group(parts: Sequence[FrameBatch], positions: npt.NDArray[np.int32], grouping: int) -> FoldedBatch:
    """Lays the pictures of some batches out in groups.

    Args:
        parts: Whole batches.
        positions: int32 (B, f), places in the concatenated parts; -1 is padding.
        grouping: See FoldedBatch.
    """
    count, f = positions.shape
    slot = positions.reshape(count * f, copy=False)
    with_pictures = [part.frames for part in parts if len(part)] or [parts[0].frames]
    pictures = with_pictures[0] if len(with_pictures) == 1 else np.concatenate(with_pictures)
    if np.array_equal(slot, np.arange(len(pictures))):
        frames = pictures.reshape(count, f, *pictures.shape[1:], copy=False)
    else:
        frames = pictures[np.where(positions < 0, positions.max(axis=1, keepdims=True), positions)]
    return FoldedBatch(frames, tuple(parts), slot, grouping)
