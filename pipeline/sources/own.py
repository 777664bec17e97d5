"""A source of the user's own, held to its contract and kept from taking the others down with it."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterator

from pipeline.batch import FrameBatch, Segment, SegmentEnd
from pipeline.contracts import Source
from specialized.objects import OWN_CODE, one_line

__all__ = ["OwnSource"]

log = logging.getLogger(__name__)


class OwnSource:
    """Passes a source's batches on. What it raises, or does against the contract of a source, becomes the end of the
    segments that are open.

    Args:
        source: The source.
        size: (height, width) of the pictures that it is to give.
    """

    def __init__(self, source: Source, size: tuple[int, int]) -> None:
        self.name = source.name
        self._source = source
        self._size = size

    def __iter__(self) -> Iterator[FrameBatch]:
        begun: dict[Segment, int | None] = {}  # the last frame that came of each, -1 before any; None: it has ended
        came: Counter[Segment] = Counter()  # pictures
        last: SegmentEnd | None = None
        iterator = None
        try:
            iterator = iter(self._source)
            for batch in iterator:
                if not isinstance(batch, FrameBatch):
                    raise ValueError(f"a source must give FrameBatches, got {type(batch).__name__}")
                self._check(batch, begun.get(batch.segment, -1))
                came[batch.segment] += len(batch)
                if batch.end is not None:
                    n, told = came.pop(batch.segment), batch.end.counts.decoded
                    if n != told and not batch.end.retry:
                        where = f"segment {batch.segment.number}"
                        raise ValueError(f"{where}: its end must tell of {n} frames decoded, got {told}")
                begun[batch.segment] = int(batch.index[-1]) if len(batch) else begun.get(batch.segment, -1)
                if batch.end is not None:
                    begun[batch.segment] = None
                    if last is None or last.segment.number < batch.segment.number:
                        last = batch.end
                yield batch
            error = "the source ended in the middle of a segment"
            if last is not None and last.segment.end_s is not None and all(frame is None for frame in begun.values()):
                error = "the source ended without a last segment, whose end_s is None"
                begun[_following(self.name, last)] = -1
        except OWN_CODE as exc:  # the user's code may raise anything
            log.error("%s: %s", self.name, one_line(exc), exc_info=log.isEnabledFor(logging.DEBUG))
            error = one_line(exc)
            if all(frame is None for frame in begun.values()):
                begun[_following(self.name, last)] = -1
        finally:
            close = getattr(iterator, "close", None)
            if close is not None:
                close()
        for segment, frame in begun.items():
            if frame is not None:
                yield FrameBatch.tick(segment, end=SegmentEnd(segment, error=error, retry=True))

    def _check(self, batch: FrameBatch, before: int | None) -> None:
        """Raises ValueError for a batch that would not be labelled as what it is."""
        if batch.source != self.name:
            raise ValueError(f"batches must be of the source {self.name!r}, got {batch.source!r}")
        if batch.view or batch.regions or batch.region is not None:
            raise ValueError("batches must be of whole frames, got regions; name regions of files")
        where = f"segment {batch.segment.number}"
        if before is None:
            raise ValueError(f"{where}: must have nothing behind its end, got {batch!r}")
        if not len(batch):
            return
        if batch.frames.shape[1:3] != self._size:
            (height, width), (h, w) = self._size, batch.frames.shape[1:3]
            raise ValueError(f"{where}: pictures must be {width}x{height} as the model takes them, got {w}x{h}")
        first = max(before + 1, batch.segment.first_frame)
        if batch.index[0] < first or not (batch.index[1:] > batch.index[:-1]).all():
            raise ValueError(
                f"{where}: frame numbers must ascend from {first}, got {batch.index[0]}..{batch.index[-1]}"
            )


def _following(source: str, last: SegmentEnd | None) -> Segment:
    """The segment that would have come next."""
    if last is None:
        return Segment(source)
    first_frame = last.segment.first_frame + last.counts.indexed
    return Segment(source, number=last.segment.number + 1, first_frame=first_frame)
