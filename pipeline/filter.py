"""The filter stage: one or more FoldedCNNs label the pictures of every group."""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from pipeline.batch import Counts, FoldedBatch, FrameBatch, Segment, SegmentEnd, with_lost
from pipeline.contracts import Engine, FilterStage, Handle
from pipeline.errors import ForwardError
from pipeline.times import Times

__all__ = ["Filter", "Told", "folded_filter"]

log = logging.getLogger(__name__)

MOST_FAILURES = 3  # forwards in a row without a single score, after which a model is held to be broken
LONGEST_WAIT_S = 0.5  # of a group for others to share its forward: as long as nobody notices

Owed = Callable[[Segment], Sequence[int]]
"""Of each filter, how many pictures it is to score of every frame of a segment."""

Told = Callable[[FrameBatch, int, int], None]
"""Told of the rows that a filter has scored, before its `keep`, and how many frames of their source are labelled and
written with them: the sums over a segment are what its end counts."""

Pixels = npt.NDArray[np.uint8]
Scores = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Filter:
    """A FoldedCNN and what of its rows goes on.

    Attributes:
        name: Carried by the rows that it scores.
        engine: What runs it.
        keep: (class, least score): rows that reach one of them go on; empty means all.
        grouping: Place of its groups' Grouping among those of the run.
    """

    name: str
    engine: Engine
    keep: tuple[tuple[int, float], ...] = ()
    grouping: int = 0

    def keeps(self, scores: Scores) -> npt.NDArray[np.bool_]:
        """Which rows of scores (N, K) go on to the sinks."""
        if not self.keep or not len(scores):
            return np.ones(len(scores), np.bool_)
        reached: npt.NDArray[np.bool_] = np.logical_or.reduce([scores[:, k] >= least for k, least in self.keep])
        return reached


def folded_filter(
    filters: Sequence[Filter],
    *,
    owed: Owed | None = None,
    longest_wait_s: float = LONGEST_WAIT_S,
    times: Times | None = None,
    told: Told | None = None,
    clock: Callable[[], float] = time.monotonic,
) -> FilterStage:
    """Makes the filter stage. Each filter sees the groups of its grouping; `times` is told how long they take, and
    `told` what became of them.

    `owed` says of the frames of a segment how many pictures each filter is to score; without it one. What
    a frame is owed and did not get is told as `failed`.

    A picture without a score, as its forward failed or gave NaN, has no row, and its frame is named in the segment's
    end. What a device that is lost fails with is raised, and so is what `MOST_FAILURES` forwards in a row fail with.

    For each FrameBatch that went into the groups it yields one batch per filter that sees it, with scores and without
    the rows that the filter's `keep` leaves out. The batches of a filter keep their order; the end of a segment rides
    on its last batch of all.

    A forward costs the same however many of its groups are padding, so groups wait for others, of whatever segment,
    until they fill one. A tick sends off what is there, and so does a batch that comes when a group has waited for
    more than `longest_wait_s` by `clock`. One forward of each filter is in flight: on a GPU the next is uploaded while
    the last is computed.
    """
    if not filters:
        raise ValueError("at least one filter is needed")
    if len({filter.name for filter in filters}) < len(filters):
        raise ValueError("filters need different names")
    times = times or Times()
    owed = owed or (lambda segment: [1] * len(filters))
    return lambda groups: _label(groups, filters, owed, longest_wait_s, times, told, clock)


def _label(
    groups: Iterator[FoldedBatch],
    filters: Sequence[Filter],
    owed: Owed,
    longest_wait_s: float,
    times: Times,
    told: Told | None,
    clock: Callable[[], float],
) -> Iterator[FrameBatch]:
    tallies: dict[Segment, _Tally] = {}

    def tally_of(segment: Segment) -> _Tally:
        if segment not in tallies:
            owes = zip(filters, owed(segment), strict=True)
            tallies[segment] = _Tally({filter.name: _Sums(count) for filter, count in owes})
        return tallies[segment]

    lanes = [_Lane(filter, longest_wait_s, times) for filter in filters]

    def scored() -> Iterator[FrameBatch]:
        for lane in lanes:
            for folded, scores, whys in lane.scored():
                for batch in _handed_back(folded, scores, whys, lane.filter, tally_of, told):
                    if batch.end is not None:
                        del tallies[batch.segment]
                    yield batch

    for folded in groups:
        now_s = clock()
        for lane in lanes:
            if lane.filter.grouping == folded.grouping:
                lane.add(folded, now_s)
        yield from scored()
        for bring in (_Lane.collect, _Lane.flush):  # what is under way may be all that is late
            for lane in lanes:
                if lane.is_late(now_s):
                    bring(lane)
            yield from scored()
    for lane in lanes:
        lane.flush()
    yield from scored()


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


class _Failed(NamedTuple):
    """A forward that could not even be started."""

    error: ForwardError

    def result(self) -> Scores:
        raise self.error


class _Lane:
    """The forwards of one filter: batches of groups go in, and come out with their scores in the same order."""

    def __init__(self, filter: Filter, longest_wait_s: float, times: Times) -> None:
        self.filter = filter
        self._longest_wait_s = longest_wait_s
        self._times = times
        self._waiting: deque[tuple[FoldedBatch, float]] = deque()
        self._pieces: list[_Piece] = []  # of the next forward
        self._in_flight: tuple[Handle, list[_Piece]] | None = None
        self._scores = np.empty((0, 1, 1), np.float32)  # (groups, f, K), that nobody has taken yet
        self._whys: list[str] = []  # of each of those groups, what its forward failed with, if it did
        self._failures = 0  # forwards in a row
        self._told = ""  # what the log knows that one failed with

    def add(self, folded: FoldedBatch, now_s: float) -> None:
        """Takes the groups of a batch, and starts the forwards that they fill."""
        self._waiting.append((folded, now_s))
        first = 0
        while first < len(folded.frames):
            room = self.filter.engine.groups - sum(piece.stop - piece.first for piece in self._pieces)
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

    def is_late(self, now_s: float) -> bool:
        """Whether a batch has waited for too long, or a tick came behind it."""
        if not self._waiting:
            return False
        return _is_tick(self._waiting[-1][0]) or now_s - self._waiting[0][1] > self._longest_wait_s

    def scored(self) -> Iterator[tuple[FoldedBatch, Scores, Sequence[str]]]:
        """The batches whose scores (B, f, K) are all there; with what the forward of each group failed with."""
        while self._waiting and (count := len(self._waiting[0][0].frames)) <= len(self._scores):
            taken, self._scores = self._scores[:count], self._scores[count:]
            whys, self._whys = self._whys[:count], self._whys[count:]
            yield self._waiting.popleft()[0], taken, whys

    def _submit(self) -> None:
        pieces, self._pieces = self._pieces, []
        with self._span("submit", pieces):
            frames = pieces[0].frames if len(pieces) == 1 else np.concatenate([piece.frames for piece in pieces])
            handle: Handle
            try:
                handle = self.filter.engine.submit(frames)
            except ForwardError as error:
                handle = _Failed(error)  # whose turn comes behind the forward under way
        self.collect()
        self._in_flight = handle, pieces

    def collect(self) -> None:
        """Brings the scores of the forward under way, if there is one."""
        if self._in_flight is None:
            return
        (handle, pieces), self._in_flight = self._in_flight, None
        why = ""
        with self._span("result", pieces):
            try:
                scores = handle.result()
                self._failures = 0
            except ForwardError as error:
                scores, why = self._without(error), str(error)
        self._whys += [why] * len(scores)
        self._scores = np.concatenate([self._scores, scores]) if len(self._scores) else scores

    def _without(self, error: ForwardError) -> Scores:
        """The scores of a forward that did not give all. Raises the error where going on makes no sense."""
        self._failures = self._failures + 1 if np.isnan(error.scores).all() else 0
        if error.is_final or self._failures == MOST_FAILURES:
            raise error
        if str(error) != self._told:
            self._told = str(error)
            log.warning("filter %s: pictures without a score: %s", self.filter.name, error)
        return error.scores

    def _span(self, what: str, pieces: Sequence[_Piece]) -> AbstractContextManager[None]:
        segment = pieces[0].folded.parts[0].segment
        return self._times.span("compute", f"{what} {self.filter.name}", segment, sum(p.pictures for p in pieces))


def _is_tick(folded: FoldedBatch) -> bool:
    return not len(folded.frames) and all(part.end is None for part in folded.parts)


def _handed_back(
    folded: FoldedBatch,
    scores: Scores,
    whys: Sequence[str],
    by: Filter,
    tally_of: Callable[[Segment], _Tally],
    told: Told | None,
) -> Iterator[FrameBatch]:
    """Brings the scores (B, f, K) of one batch of groups back to the batches that its pictures came from; `whys` of its
    groups tell why some are NaN."""
    f = folded.frames.shape[1]
    real = folded.slot >= 0
    to = folded.slot[real]
    fold_slot = np.empty(len(to), np.int16)
    fold_slot[to] = np.tile(np.arange(f, dtype=np.int16), len(folded.frames))[real]
    ordered = _in_order(scores, real, to)
    missing: npt.NDArray[np.bool_] = np.logical_or.reduce(np.isnan(ordered), axis=1)
    there = ~missing
    group = np.empty(len(to), np.int64)
    group[to] = np.repeat(np.arange(len(folded.frames)), f)[real]
    first = 0
    for part in folded.parts:
        here = slice(first, first + len(part))
        first += len(part)
        kept = by.keeps(ordered[here]) & there[here]
        tally = tally_of(part.segment)
        labelled, written = tally.labelled, tally.written
        end = tally.add(by, part, kept, there[here], next((whys[of] for of in group[here][missing[here]]), ""))
        scored = replace(part, scores=ordered[here], fold_slot=fold_slot[here], filter=by.name, end=end)
        if told is not None:
            told(scored.rows(there[here]), tally.labelled - labelled, tally.written - written)
        yield scored if kept.all() else scored.rows(kept)


def _in_order(scores: Scores, real: npt.NDArray[np.bool_], to: npt.NDArray[np.int32]) -> Scores:
    """Scores (N, K) in the order of the pictures, without those of padding."""
    flat = scores.reshape(len(real), scores.shape[2])
    ordered = np.empty((len(to), flat.shape[1]), np.float32)
    ordered[to] = flat[real]
    return ordered


@dataclass(slots=True)
class _Sums:
    """What one filter did with the pictures of a segment."""

    owed: int  # of each frame
    seen: int = 0  # pictures
    pictures: int = 0  # with a score
    rows: int = 0
    last: int = -1  # frame
    ended: bool = False


@dataclass(slots=True)
class _Tally:
    """What the filters did with the pictures of one segment."""

    by_filter: dict[str, _Sums]
    written: int = 0  # frames of which a row goes on
    open: set[int] = field(default_factory=set)  # more of them, which other filters have not reached yet
    failed: set[int] = field(default_factory=set)  # frames of which a picture has no score
    why: str | None = None

    @property
    def labelled(self) -> int:
        """Frames of which every filter has given what it owes."""
        asked = [one for one in self.by_filter.values() if one.owed]
        reached = min((one.seen // one.owed for one in asked), default=0)
        last = min((one.last for one in asked), default=-1)
        return max(0, reached - sum(frame <= last for frame in self.failed))

    def add(
        self, by: Filter, part: FrameBatch, kept: npt.NDArray[np.bool_], there: npt.NDArray[np.bool_], why: str
    ) -> SegmentEnd | None:
        """Counts some rows, of which some are kept and some are there at all; `why` the first of the others is not.
        Returns the segment's end once all filters are through."""
        sums = self.by_filter[by.name]
        sums.seen += len(part)
        sums.pictures += int(np.count_nonzero(there))
        sums.rows += int(np.count_nonzero(kept))
        if not there.all():
            self.failed.update(np.unique(part.index[~there]).tolist())
            self.why = self.why or f"filter {by.name}: {why}"
        if len(part):
            sums.last = int(part.index[-1])
            self.open.update(np.unique(part.index[kept]).tolist())
            reached = min(one.last for one in self.by_filter.values() if one.owed)
            self._settle({frame for frame in self.open if frame < reached})
        if part.end is None:
            return None
        sums.ended = True
        return self._closed(part.end) if all(sums.ended for sums in self.by_filter.values()) else None

    def _settle(self, frames: set[int]) -> None:
        self.written += len(frames - self.failed)
        self.open -= frames

    def _closed(self, end: SegmentEnd) -> SegmentEnd:
        self._settle(self.open)
        sums = self.by_filter.values()
        counts = Counts(
            labelled=self.labelled,
            failed=end.counts.decoded - self.labelled,
            written=self.written,
            filtered=self.labelled - self.written,
            pictures=sum(one.pictures for one in sums),
        )
        filters: Mapping[str, int] = {name: one.rows for name, one in self.by_filter.items()}
        return replace(
            end,
            counts=end.counts + counts,
            lost=with_lost(end.lost, self.failed, "failed"),
            error=end.error or self.why,
            filters=filters,
            per_frame=sum(one.owed for one in sums),
        )
