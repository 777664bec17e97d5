"""A run's spans as a timeline: a file in the Trace Event Format, for ui.perfetto.dev and chrome://tracing.

    with Trace(path) as trace:
        times = Times(trace.add)
        ...

Spans wait as tuples and are written in chunks, so that memory stays flat however long the run. Beyond `most` of them,
which is more than viewers are good for, the file grows no further. Nothing here fails a run: without room on the disk
there is no trace, and the log says so.
"""

from __future__ import annotations

import json
import logging
import time
from collections import deque
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Self

from pipeline.files import WholeFile
from pipeline.times import MAIN, Span

__all__ = ["Trace"]

log = logging.getLogger(__name__)

CHUNK = 1024  # spans written at once: some milliseconds, every hundred batches or so
MOST = 1_000_000  # spans, some 150 MB of file
PID = 1  # viewers take 0, of processes and threads, for the idle one

Event = dict[str, object]


class Trace:
    """A trace that appears at `path` at the end of the block, also if the run was interrupted or broke.

    If there was no span, no file appears.

    Args:
        path: The file. What is there is replaced.
        most: So many spans, the first, are written.
    """

    def __init__(self, path: Path, *, most: int = MOST) -> None:
        self._path = path
        self._most = self._left = most
        self._zero_s = time.perf_counter()
        self._spans: deque[Span] = deque()  # any thread appends, the calling one takes
        self._rows: set[int] = set()
        self._file: WholeFile | None = None

    def __enter__(self) -> Self:
        with self._lost():
            self._file = WholeFile(self._path)
            self._file.file.write(b'{"displayTimeUnit":"ms","traceEvents":[\n')
            self._file.file.write(_json([_metadata("process_name", MAIN, name="vpipe run")]))
        return self

    def __exit__(self, *_: object) -> None:
        self._flush()
        file, self._file = self._file, None
        if file is not None:
            with self._lost():
                try:
                    if self._rows:
                        file.file.write(b"\n]}\n")
                        file.commit()
                finally:
                    file.discard()

    def add(self, span: Span) -> None:
        """Takes a span; from any thread."""
        if self._file is None or self._left <= 0:
            return
        self._spans.append(span)
        if span.row == MAIN and len(self._spans) >= CHUNK:
            self._flush()

    def _flush(self) -> None:
        """Writes what waits. In the calling thread."""
        spans = [self._spans.popleft() for _ in range(len(self._spans))][: self._left]
        if self._file is None or not spans:
            return
        events = []
        for span in spans:
            if span.row not in self._rows:
                self._rows.add(span.row)
                events += _row(span.row)
            events.append(self._event(span))
        with self._lost():
            self._file.file.write(b",\n" + _json(events))
        self._left -= len(spans)
        if self._left <= 0:
            log.warning("%s: holds the first %d spans, and what follows is left out", self._path, self._most)

    def _event(self, span: Span) -> Event:
        # Whole microseconds: spans that touch must not overlap by rounding, or viewers drop one of them.
        began_us, ended_us = (int(1e6 * (at_s - self._zero_s)) for at_s in (span.began_s, span.ended_s))
        of = span.segment
        return {
            "ph": "X",
            "name": span.name,
            "cat": span.stage,
            "pid": PID,
            "tid": 1 + span.row,
            "ts": began_us,
            "dur": ended_us - began_us,
            "args": {} if of is None else {"source": of.source, "segment": of.number, "frames": span.frames},
        }

    @contextmanager
    def _lost(self) -> Generator[None]:
        """A trace that cannot be written is a warning: the labels matter more."""
        try:
            yield
        except OSError as exc:
            log.warning("%s: must be writable, got %s; there is no trace", self._path, exc.strerror or exc)
            file, self._file = self._file, None
            if file is not None:
                file.discard()


def _row(row: int) -> list[Event]:
    """What a row is called, and where it stands."""
    name = "main: fold, filter, sinks" if row == MAIN else f"decode-{row - 1}"
    return [_metadata("thread_name", row, name=name), _metadata("thread_sort_index", row, sort_index=row)]


def _metadata(what: str, row: int, **values: object) -> Event:
    return {"ph": "M", "name": what, "pid": PID, "tid": 1 + row, "args": values}


def _json(events: list[Event]) -> bytes:
    return json.dumps(events, separators=(",", ":"))[1:-1].encode()
