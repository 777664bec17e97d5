"""The filter stage: one or more FoldedCNNs label the pictures of every group."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from pipeline.batch import Counts, FoldedBatch, FrameBatch, Segment, SegmentEnd
from pipeline.contracts import Engine, FilterStage, Handle
from pipeline.times import Times

__all__ = ["Filter", "folded_filter"]

LONGEST_WAIT_S = 0.5  # of a group for others to share its forward: as long as nobody notices

Pixels = npt.NDArray[np.uint8]
Scores = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Filter:
    """A FoldedCNN and what of its rows goes on.

    Attributes:
        name: Carried by the rows that it scores.
        engine: What runs it.
        keep: (class, least score): rows that reach one of them go on; empty means all.
    """

    name: str
    engine: Engine
    keep: tuple[tuple[int, float], ...] = ()

    def keeps(self, scores: Scores) -> npt.NDArray[np.bool_]:
        """Which rows of scores (N, K) go on to the sinks."""
        if not self.keep or not len(scores):
            return np.ones(len(scores), np.bool_)
        reached: npt.NDArray[np.bool_] = np.logical_or.reduce([scores[:, k] >= least for k, least in self.keep])
        return reached


def folded_filter(
    filters: Sequence[Filter], *, times: Times | None = None, clock: Callable[[], float] = time.monotonic
) -> FilterStage:
    """Makes the filter stage. All filters see the same groups; `times` is told how long they take.

    For each FrameBatch that went into the groups it yields one batch per filter, with scores and without the rows that
    the filter's `keep` leaves out, in the order in which they came.

    A forward costs the same however many of its groups are padding, so groups wait for others, of whatever segment,
    until they fill one. A tick sends off what is there, and so does a batch that comes when a group has waited for
    more than `LONGEST_WAIT_S` by `clock`. One forward is in flight: on a GPU the next is uploaded while the last is
    computed.
    """
    if not filters:
        raise ValueError("at least one filter is needed")
    if len({filter.name for filter in filters}) < len(filters):
        raise ValueError("filters need different names")
    times = times or Times()
    return lambda groups: _label(groups, filters, times, clock)


def _label(
    groups: Iterator[FoldedBatch], filters: Sequence[Filter], times: Times, clock: Callable[[], float]
) -> Iterator[FrameBatch]:
    tallies: dict[Segment, _Tally] = {}
    lanes = [_Lane(filter, times) for filter in filters]
    waiting: deque[tuple[FoldedBatch, float]] = deque()

    def scored() -> Iterator[FrameBatch]:
        while waiting and all(lane.has(len(waiting[0][0].frames)) for lane in lanes):
            folded, _ = waiting.popleft()
            scores = [lane.take(len(folded.frames)) for lane in lanes]
            yield from _handed_back(folded, scores, filters, tallies)

    for folded in groups:
        now_s = clock()
        waiting.append((folded, now_s))
        for lane in lanes:
            lane.add(folded)
        yield from scored()
        for bring in (_Lane.collect, _Lane.flush):  # what is under way may be all that is late
            if waiting and (_is_tick(folded) or now_s - waiting[0][1] > LONGEST_WAIT_S):
                for lane in lanes:
                    bring(lane)
                yield from scored()
    for lane in lanes:
        lane.flush()
    yield from scored()


def _is_tick(folded: FoldedBatch) -> bool:
    return not len(folded.frames) and all(part.end is None for part in folded.parts)


class _Piece(NamedTuple):
    """Some groups of a batch."""

    folded: FoldedBatch
    first: int
    stop: int

    @property
    def frames(self) -> Pixels:
        return self.folded.frames[self.first : self.stop]

    @property
    def pictures(self) -> int:
        """How many there are, without padding."""
        f = self.folded.frames.shape[1]
        return int(np.count_nonzero(self.folded.slot[self.first * f : self.stop * f] >= 0))


class _Lane:
    """The forwards of one filter: groups go in, and their scores come out in the same order."""

    def __init__(self, filter: Filter, times: Times) -> None:
        self._filter = filter
        self._times = times
        self._pieces: list[_Piece] = []  # of the next forward
        self._in_flight: tuple[Handle, list[_Piece]] | None = None
        self._scores = np.empty((0, 1, 1), np.float32)  # (groups, f, K), that nobody has taken yet

    def add(self, folded: FoldedBatch) -> None:
        """Takes the groups of a batch, and starts the forwards that they fill."""
        first = 0
        while first < len(folded.frames):
            room = self._filter.engine.groups - sum(piece.stop - piece.first for piece in self._pieces)
            stop = min(len(folded.frames), first + room)
            self._pieces.append(_Piece(folded, first, stop))
            if stop - first == room:
                self._submit()
            first = stop

    def flush(self) -> None:
        """Brings the scores of all that was added."""
        if self._pieces:
            self._submit()
        self.collect()

    def has(self, groups: int) -> bool:
        return groups <= len(self._scores)

    def take(self, groups: int) -> Scores:
        """The scores (groups, f, K) of the next groups."""
        taken, self._scores = self._scores[:groups], self._scores[groups:]
        return taken

    def _submit(self) -> None:
        pieces, self._pieces = self._pieces, []
        with self._span("submit", pieces):
            frames = pieces[0].frames if len(pieces) == 1 else np.concatenate([piece.frames for piece in pieces])
            handle = self._filter.engine.submit(frames)
        self.collect()
        self._in_flight = handle, pieces

    def collect(self) -> None:
        """Brings the scores of the forward under way, if there is one."""
        if self._in_flight is None:
            return
        (handle, pieces), self._in_flight = self._in_flight, None
        with self._span("result", pieces):
            scores = handle.result()
        self._scores = np.concatenate([self._scores, scores]) if len(self._scores) else scores

    def _span(self, what: str, pieces: Sequence[_Piece]) -> AbstractContextManager[None]:
        segment = pieces[0].folded.parts[0].segment
        return self._times.span("compute", f"{what} {self._filter.name}", segment, sum(p.pictures for p in pieces))


def _handed_back(
    folded: FoldedBatch, scores_by_filter: Sequence[Scores], filters: Sequence[Filter], tallies: dict[Segment, _Tally]
) -> Iterator[FrameBatch]:
    """Brings the scores (B, f, K) of one batch of groups back to the batches that its pictures came from."""
    f = folded.frames.shape[1]
    real = folded.slot >= 0
    to = folded.slot[real]
    fold_slot = np.empty(len(to), np.int16)
    fold_slot[to] = np.tile(np.arange(f, dtype=np.int16), len(folded.frames))[real]
    ordered = [_in_order(scores, real, to) for scores in scores_by_filter]
    first = 0
    for part in folded.parts:
        here = slice(first, first + len(part))
        first += len(part)
        tally = tallies.setdefault(part.segment, _Tally({filter.name: 0 for filter in filters}))
        kept = [filter.keeps(scores[here]) for filter, scores in zip(filters, ordered, strict=True)]
        tally.add(filters, kept)
        for filter, scores, keep in zip(filters, ordered, kept, strict=True):
            end = None
            if filter is filters[-1] and part.end is not None:
                end = tallies.pop(part.segment).close(part.end)
            scored = replace(part, scores=scores[here], fold_slot=fold_slot[here], filter=filter.name, end=end)
            yield scored if keep.all() else scored.rows(keep)


def _in_order(scores: Scores, real: npt.NDArray[np.bool_], to: npt.NDArray[np.int32]) -> Scores:
    """Scores (N, K) in the order of the pictures, without those of padding."""
    flat = scores.reshape(len(real), scores.shape[2])
    ordered = np.empty((len(to), flat.shape[1]), np.float32)
    ordered[to] = flat[real]
    return ordered


@dataclass(slots=True)
class _Tally:
    """What the filters did with the pictures of one segment."""

    rows: dict[str, int]
    labelled: int = 0
    written: int = 0

    def add(self, filters: Sequence[Filter], kept: Sequence[npt.NDArray[np.bool_]]) -> None:
        self.labelled += len(kept[0])
        self.written += int(np.count_nonzero(np.logical_or.reduce(kept)))
        for filter, keep in zip(filters, kept, strict=True):
            self.rows[filter.name] += int(np.count_nonzero(keep))

    def close(self, end: SegmentEnd) -> SegmentEnd:
        counts = Counts(
            labelled=self.labelled,
            failed=end.counts.decoded - self.labelled,
            written=self.written,
            filtered=self.labelled - self.written,
        )
        filters: Mapping[str, int] = dict(self.rows)
        return replace(end, counts=end.counts + counts, filters=filters)
