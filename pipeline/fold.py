"""The folding stage: groups of f pictures, formed as the model was trained for.

    consecutive   0 1 2 3 | 4 5 6 7 | ...          a view of the decoded memory
    strided       0 64 128 192 | 1 65 129 193 ...  within windows of 64·f frames
    shuffled      seeded, within the same windows
    regions       the regions of a frame, and on into the next
    streams       one frame of each source of a bundle

In all of them but `regions` the pictures of a group are of one region. A group never spans two segments. What does not
fill a group at the end of a segment is padded with the group's last picture; the padding's scores are thrown away.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from pipeline.batch import FoldedBatch, FrameBatch, Segment
from pipeline.contracts import FoldStage
from pipeline.regions import chosen
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
        return len(chosen(self.regions, regions)) if regions else 0 if self.regions else 1

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


def fold(*groupings: Grouping, seed: int = 0, times: Times | None = None) -> FoldStage:
    """Makes the folding stage.

    Args:
        groupings: One or more. Each sees every batch.
        seed: Of the order `shuffled`.
        times: Told how long it takes.
    """
    if not groupings:
        raise ValueError("at least one grouping is needed")
    times = times or Times()
    return lambda batches: _fold(batches, groupings, seed, times)


def _fold(
    batches: Iterator[FrameBatch], groupings: Sequence[Grouping], seed: int, times: Times
) -> Iterator[FoldedBatch]:
    formers = [
        _Across(grouping, number, times) if grouping.order == "streams" else _Along(grouping, number, seed, times)
        for number, grouping in enumerate(groupings)
    ]
    for batch in batches:
        for grouping, former in zip(groupings, formers, strict=True):
            if (part := grouping.of(batch)) is not None:
                yield from former.formed(part)


@dataclass(slots=True)
class _Open:
    """What is kept back of a segment until a whole unit of groups is there."""

    parts: list[FrameBatch] = field(default_factory=list)
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

    def formed(self, batch: FrameBatch) -> Iterator[FoldedBatch]:
        """The groups that are whole with this batch."""
        f, order = self._grouping.f, self._grouping.order
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
            pictures = sum(map(len, take))
            with self._times.span("compute", "fold", batch.segment, pictures):
                positions = groups(pictures // state.per_frame, f, order, seed=self._seed, first_window=state.windows)
                folded = _group(take, _of_regions(positions, state.per_frame), self._number)
            yield folded
            state.windows += pictures // window


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

    def formed(self, batch: FrameBatch) -> Iterator[FoldedBatch]:
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
