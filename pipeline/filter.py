"""The filter stage: one or more FoldedCNNs label the pictures of every group."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from pipeline.batch import Counts, FoldedBatch, FrameBatch, Segment, SegmentEnd
from pipeline.contracts import Engine, FilterStage, Handle
from pipeline.times import Times

__all__ = ["Filter", "folded_filter"]

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


def folded_filter(filters: Sequence[Filter], *, times: Times | None = None) -> FilterStage:
    """Makes the filter stage. All filters see the same groups; `times` is told how long they take.

    For each FrameBatch that went into the groups it yields one batch per filter, with scores and without the rows that
    the filter's `keep` leaves out. One batch is in flight: on a GPU the next is uploaded while the last is computed.
    """
    if not filters:
        raise ValueError("at least one filter is needed")
    if len({filter.name for filter in filters}) < len(filters):
        raise ValueError("filters need different names")
    times = times or Times()
    return lambda groups: _label(groups, filters, times)


def _label(groups: Iterator[FoldedBatch], filters: Sequence[Filter], times: Times) -> Iterator[FrameBatch]:
    tallies: dict[Segment, _Tally] = {}
    in_flight: tuple[FoldedBatch, list[list[Handle]]] | None = None
    for folded in groups:
        submitted = [_submit(filter, folded, times) for filter in filters]
        if in_flight is not None:
            yield from _collect(*in_flight, filters, tallies, times)
        in_flight = folded, submitted
    if in_flight is not None:
        yield from _collect(*in_flight, filters, tallies, times)


def _submit(filter: Filter, folded: FoldedBatch, times: Times) -> list[Handle]:
    """Starts as many forward passes as the groups need."""
    engine = filter.engine
    with _span(times, "submit", filter, folded):
        return [
            engine.submit(folded.frames[first : first + engine.groups])
            for first in range(0, len(folded.frames), engine.groups)
        ]


def _span(times: Times, what: str, filter: Filter, folded: FoldedBatch) -> AbstractContextManager[None]:
    return times.span("compute", f"{what} {filter.name}", folded.parts[0].segment, sum(map(len, folded.parts)))


def _collect(
    folded: FoldedBatch,
    submitted: list[list[Handle]],
    filters: Sequence[Filter],
    tallies: dict[Segment, _Tally],
    times: Times,
) -> Iterator[FrameBatch]:
    """Brings the scores of one batch of groups back to the batches that its pictures came from."""
    f = folded.frames.shape[1]
    pictures = sum(map(len, folded.parts))
    real = folded.slot >= 0
    to = folded.slot[real]
    fold_slot = np.empty(pictures, np.int16)
    fold_slot[to] = np.tile(np.arange(f, dtype=np.int16), len(folded.frames))[real]
    scores_by_filter = []
    for filter, handles in zip(filters, submitted, strict=True):
        with _span(times, "result", filter, folded):
            scores_by_filter.append(_in_order([handle.result() for handle in handles], real, to))
    first = 0
    for part in folded.parts:
        here = slice(first, first + len(part))
        first += len(part)
        tally = tallies.setdefault(part.segment, _Tally({filter.name: 0 for filter in filters}))
        kept = [filter.keeps(scores[here]) for filter, scores in zip(filters, scores_by_filter, strict=True)]
        tally.add(filters, kept)
        for filter, scores, keep in zip(filters, scores_by_filter, kept, strict=True):
            end = None
            if filter is filters[-1] and part.end is not None:
                end = tallies.pop(part.segment).close(part.end)
            scored = replace(part, scores=scores[here], fold_slot=fold_slot[here], filter=filter.name, end=end)
            yield scored if keep.all() else scored.rows(keep)


def _in_order(results: Sequence[Scores], real: npt.NDArray[np.bool_], to: npt.NDArray[np.int32]) -> Scores:
    """Scores (N, K) in the order of the pictures, without those of padding."""
    if not results:
        return np.empty((0, 1), np.float32)
    scores = np.concatenate(results)
    scores = scores.reshape(-1, scores.shape[2])
    ordered = np.empty((len(to), scores.shape[1]), np.float32)
    ordered[to] = scores[real]
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
