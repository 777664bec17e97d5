"""The folding stage: groups of f pictures, formed as the model was trained for.

    consecutive   0 1 2 3 | 4 5 6 7 | ...          a view of the decoded memory
    strided       0 64 128 192 | 1 65 129 193 ...  within windows of 64·f pictures
    shuffled      seeded, within the same windows
    streams       one picture of each source of a bundle

A group never spans two segments. What does not fill a group at the end of a segment is padded with the group's last
picture; the padding's scores are thrown away.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from pipeline.batch import FoldedBatch, FrameBatch, Segment
from pipeline.contracts import FoldStage
from pipeline.times import Times
from specialized.orders import ORDERS, WINDOW_GROUPS, Order, groups

__all__ = ["fold"]


def fold(f: int, order: Order, *, seed: int = 0, times: Times | None = None) -> FoldStage:
    """Makes the folding stage.

    Args:
        f: Pictures per group; 1 means no folding.
        order: How groups are formed.
        seed: Of the order `shuffled`.
        times: Told how long it takes.
    """
    if f < 1:
        raise ValueError(f"f must be at least 1, got {f}")
    if order not in ORDERS:
        raise ValueError(f"order must be one of {', '.join(ORDERS)}, got {order!r}")
    times = times or Times()
    if order == "streams":
        return lambda batches: _across(batches, f, times)
    return lambda batches: _along(batches, f, order, seed, times)


@dataclass(slots=True)
class _Open:
    """What is kept back of a segment until a whole unit of groups is there."""

    parts: list[FrameBatch] = field(default_factory=list)
    windows: int = 0


def _along(batches: Iterator[FrameBatch], f: int, order: Order, seed: int, times: Times) -> Iterator[FoldedBatch]:
    """Groups along time, within each segment."""
    unit = f if order == "consecutive" or f == 1 else f * WINDOW_GROUPS
    open_segments: dict[Segment, _Open] = {}
    take: list[FrameBatch]
    rest: list[FrameBatch]
    for batch in batches:
        state = open_segments.setdefault(batch.segment, _Open())
        state.parts.append(batch)
        n = sum(len(part) for part in state.parts)
        if batch.end is not None:
            del open_segments[batch.segment]
            take, rest = state.parts, []
        else:
            take, rest = _split(state.parts, n - n % unit)
            state.parts = rest
        if take:
            pictures = sum(map(len, take))
            with times.span("compute", "fold", batch.segment, pictures):
                folded = _group(take, groups(pictures, f, order, seed=seed, first_window=state.windows))
            yield folded
            state.windows += pictures // (f * WINDOW_GROUPS)


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


def _across(batches: Iterator[FrameBatch], f: int, times: Times) -> Iterator[FoldedBatch]:
    """Groups across the sources of a bundle: group k holds the k-th picture of each."""
    waiting: dict[tuple[str, ...], dict[int, FrameBatch]] = {}
    ended: dict[tuple[str, ...], set[int]] = {}
    for batch in batches:
        bundle, slot = batch.segment.bundle, batch.segment.slot
        if slot >= f or not bundle:
            raise ValueError(f"order streams takes bundles of up to {f} sources, got {batch.segment}")
        arrived = waiting.setdefault(bundle, {})
        arrived[slot] = batch
        over = ended.setdefault(bundle, set())
        if len(arrived) + len(over) < len(bundle):
            continue
        parts = [arrived[slot] for slot in sorted(arrived)]
        positions = np.full((max(map(len, parts)), f), -1, np.int32)
        first = 0
        for part in parts:
            positions[: len(part), part.segment.slot] = np.arange(first, first + len(part))
            first += len(part)
        over.update(slot for slot, part in arrived.items() if part.end is not None)
        arrived.clear()
        if len(over) == len(bundle):
            del waiting[bundle], ended[bundle]
        with times.span("compute", "fold", parts[0].segment, first):
            folded = _group(parts, positions)
        yield folded


def _group(parts: Sequence[FrameBatch], positions: npt.NDArray[np.int32]) -> FoldedBatch:
    """Lays the pictures of some batches out in groups.

    Args:
        parts: Whole batches.
        positions: int32 (B, f), places in the concatenated parts; -1 is padding.
    """
    count, f = positions.shape
    slot = positions.reshape(count * f, copy=False)
    with_pictures = [part.frames for part in parts if len(part)] or [parts[0].frames]
    pictures = with_pictures[0] if len(with_pictures) == 1 else np.concatenate(with_pictures)
    if np.array_equal(slot, np.arange(len(pictures))):
        frames = pictures.reshape(count, f, *pictures.shape[1:], copy=False)
    else:
        frames = pictures[np.where(positions < 0, positions.max(axis=1, keepdims=True), positions)]
    return FoldedBatch(frames, tuple(parts), slot)
