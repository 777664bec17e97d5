"""Calls a function with the rows of every committed segment.

type: callback
call: package.module:function     # or, from Python, the function itself
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pyarrow as pa

from pipeline.batch import FrameBatch, SegmentEnd
from pipeline.contracts import Sink
from pipeline.errors import SinkError
from pipeline.sinks.parts import open_part, part_path
from specialized.objects import OWN_CODE, load_object, one_line

__all__ = ["CallbackSink"]


class CallbackSink(Sink):
    """Calls a function with a `pyarrow.Table` per committed segment and filter, on the run's main thread.

    The tables of one source come in the order of its frames; one without rows comes too. Their schema is that of the
    parts, `pipeline.rows.labelling_of(table.schema.metadata)` tells whose rows they are.

    Args:
        call: The function, or `package.module:function`.
        folder: The run's folder.
    """

    def __init__(self, call: str | Callable[[pa.Table], object], *, folder: Path) -> None:
        self._call = load_object(call) if isinstance(call, str) else call
        self._name = call if isinstance(call, str) else getattr(call, "__qualname__", repr(call))
        self._folder = folder

    def write(self, batch: FrameBatch) -> None:
        """Nothing to do: what counts is what gets committed."""

    def commit(self, end: SegmentEnd) -> None:
        """Hands over the rows of each filter.

        Raises:
            SinkError: the function raised.
        """
        if end.retry:
            return
        for name in end.filters:
            with open_part(part_path(self._folder, name, end.segment)) as part:
                rows = part.read()
            try:
                self._call(rows)
            except OWN_CODE as exc:  # the user's function may raise anything
                cause = one_line(exc)
                raise SinkError(
                    f"callback {self._name}: must take the rows of every segment, got {cause} at {end.segment.source} "
                    f"from frame {end.segment.first_frame}; mend it, the rows are in {self._folder}"
                ) from exc
