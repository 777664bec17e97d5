"""A source of the user's own, kept from taking the others down with it."""

from __future__ import annotations

import logging
from collections.abc import Iterator

from pipeline.batch import FrameBatch, Segment, SegmentEnd
from pipeline.contracts import Source
from specialized.objects import one_line

__all__ = ["OwnSource"]

log = logging.getLogger(__name__)


class OwnSource:
    """Passes a source's batches on. What it raises becomes the end of the segments that are open."""

    def __init__(self, source: Source) -> None:
        self.name = source.name
        self._source = source

    def __iter__(self) -> Iterator[FrameBatch]:
        begun: dict[Segment, bool] = {}  # whether it has ended
        iterator = None
        try:
            iterator = iter(self._source)
            for batch in iterator:
                if batch.view or batch.regions or batch.region is not None:
                    raise ValueError("batches must be of whole frames, got regions; name regions of files")
                begun[batch.segment] = batch.end is not None
                yield batch
            error = "the source ended in the middle of a segment"
        except Exception as exc:  # the user's code may raise anything
            log.error("%s: %s", self.name, one_line(exc), exc_info=log.isEnabledFor(logging.DEBUG))
            error = one_line(exc)
            if not any(not ended for ended in begun.values()):
                begun[Segment(self.name, number=1 + max((s.number for s in begun), default=-1))] = False
        finally:
            close = getattr(iterator, "close", None)
            if close is not None:
                close()
        for segment, ended in begun.items():
            if not ended:
                yield FrameBatch.tick(segment, end=SegmentEnd(segment, error=error, retry=True))
