"""Writing to the standard output, whoever reads it."""

from __future__ import annotations

import os
import select

import pyarrow as pa

from pipeline.errors import SinkError
from pipeline.outputs import CLOSED
from pipeline.threads import Stop

__all__ = ["to_stdout"]

STDOUT = 1
WAIT_S = 0.2  # for a slow reader, before looking whether the run is to stop


def to_stdout(data: pa.Buffer | bytes, stop: Stop | None) -> None:
    """Writes all of it.

    Args:
        data: Text.
        stop: Ends the wait for a reader that does not read.

    Raises:
        SinkError: The reader has left, or did not read when `stop` was set.
    """
    if STDOUT in CLOSED:
        raise SinkError("standard output: must be open, got it closed; use a path")
    rest = memoryview(data)
    try:
        while rest:
            if select.select([], [STDOUT], [], WAIT_S)[1]:
                rest = rest[os.write(STDOUT, rest[: select.PIPE_BUF]) :]  # so much never blocks a writable pipe
            elif stop:
                raise SinkError(
                    "standard output: must be read to its end, got a stop while nobody read; rows that were not read "
                    "come no more: use a path"
                )
    except BrokenPipeError as exc:
        raise SinkError(
            "standard output: must be read to its end, got a reader that left; read all, or use a path"
        ) from exc
    except OSError as exc:
        raise SinkError(f"standard output: must be writable, got {exc.strerror}; use a path") from exc
