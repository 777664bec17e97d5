"""What a run spends its time on, measured where the work is done, once for the summary and for a trace.

    with times.span("compute", "fold", segment, frames):
        ...

Decoders run side by side, each on a row of its own; all else happens one after the other in the calling thread, which
is the row `MAIN`. A stage sums up the spans of its name.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from typing import Literal, NamedTuple

from pipeline.batch import FrameBatch, Segment, SegmentEnd
from pipeline.contracts import Sink
from pipeline.events import Event
from pipeline.threads import Activity

__all__ = ["MAIN", "Span", "TimedSink", "Times"]

MAIN = 0

StageName = Literal["decode", "waiting_out", "waiting_in", "compute", "sink"]

_OF_ACTIVITY: dict[Activity, tuple[StageName, str]] = {
    "produce": ("decode", "decode"),
    "full": ("waiting_out", "wait for room"),
    "empty": ("waiting_in", "wait for a batch"),
}


class Span(NamedTuple):
    """A stretch of time on one row.

    Attributes:
        row: `MAIN`, or 1 + the number of a decoder.
        stage: What the time counts as.
        name: What was done.
        began_s: By `time.perf_counter`, as is `ended_s`.
        segment: Whose frames, or None.
        frames: How many of them; 0 where it is not about frames.
    """

    row: int
    stage: StageName
    name: str
    began_s: float
    ended_s: float
    segment: Segment | None = None
    frames: int = 0


class Times:
    """Adds up the seconds of each stage.

    Args:
        record: Called with every span, from the thread that it tells of.
    """

    def __init__(self, record: Callable[[Span], None] | None = None) -> None:
        self._record = record
        # Of (row, stage, name): written by the row's thread alone.
        self._seconds: dict[tuple[int, StageName, str], float] = {}

    @contextmanager
    def span(
        self, stage: Literal["compute", "sink"], name: str, segment: Segment | None = None, frames: int = 0
    ) -> Generator[None]:
        """The time that the block takes, in the calling thread, also if it raises. Blocks do not hold each other."""
        began_s = time.perf_counter()
        try:
            yield
        finally:
            self._add(Span(MAIN, stage, name, began_s, time.perf_counter(), segment, frames))

    def watch(
        self, activity: Activity, producer: int | None, began_s: float, ended_s: float, batch: FrameBatch | None
    ) -> None:
        """Takes what `pipeline.threads.merge` tells of the decoders and of the wait for them."""
        row = MAIN if producer is None else 1 + producer
        segment, frames = (None, 0) if batch is None else (batch.segment, len(batch))
        self._add(Span(row, *_OF_ACTIVITY[activity], began_s, ended_s, segment, frames))

    def stages(self, *, transfer_s: float) -> dict[str, dict[str, float]]:
        """Per stage `busy_s`, `waiting_in_s` and `waiting_out_s`, as the summary has them; any thread may ask.

        Args:
            transfer_s: What the engines spent on moving pictures, within the spans of `compute`.
        """
        decode, full = self._sum("decode"), self._sum("waiting_out")
        return {
            "decode": _stage(decode, waiting_out=full),
            "transfer": _stage(transfer_s, waiting_in=self._sum("waiting_in")),
            "compute": _stage(max(0.0, self._sum("compute") - transfer_s)),
            "sink": _stage(self._sum("sink")),
        }

    def of_span(self, name: str) -> float:
        """Seconds of all spans of this name; any thread may ask."""
        return sum((seconds for (_, _, of), seconds in self._seconds.copy().items() if of == name), 0.0)

    def _add(self, span: Span) -> None:
        key = span.row, span.stage, span.name
        self._seconds[key] = self._seconds.get(key, 0.0) + span.ended_s - span.began_s
        if self._record is not None:
            self._record(span)

    def _sum(self, stage: StageName) -> float:
        return sum((seconds for (_, of, _), seconds in self._seconds.copy().items() if of == stage), 0.0)


class TimedSink(Sink):
    """Passes on to a sink, whose time counts as that of the stage `sink`."""

    def __init__(self, name: str, sink: Sink, times: Times) -> None:
        self._name = name
        self._sink = sink
        self._times = times

    def resume(self, ends: Sequence[SegmentEnd]) -> None:
        with self._times.span("sink", f"resume {self._name}"):
            self._sink.resume(ends)

    def write(self, batch: FrameBatch) -> None:
        with self._times.span("sink", f"write {self._name}", batch.segment, len(batch)):
            self._sink.write(batch)

    def commit(self, end: SegmentEnd) -> None:
        with self._times.span("sink", f"commit {self._name}", end.segment):
            self._sink.commit(end)

    def event(self, event: Event) -> None:
        self._sink.event(event)

    def finish(self) -> None:
        with self._times.span("sink", f"finish {self._name}"):
            self._sink.finish()

    def close(self) -> None:
        with self._times.span("sink", f"close {self._name}"):
            self._sink.close()


def _stage(busy: float, *, waiting_in: float = 0.0, waiting_out: float = 0.0) -> dict[str, float]:
    return {"busy_s": busy, "waiting_in_s": waiting_in, "waiting_out_s": waiting_out}
