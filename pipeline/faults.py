"""Faults made on purpose, to rehearse what a run does about them: `vpipe run --fault SPEC`. A test tool.

kill@segment:3        the process ends by SIGKILL where the decoder takes up segment 3 of any source
crash@segment:3       the same by SIGSEGV, as of a fault in the decoder library
hang@frame:1200       the decoder hangs before the batch of frame 1200
raise@write:17:gate   the 17th batch that is written of source `gate` meets an error of the disk
"""

from __future__ import annotations

import os
import re
import signal
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass, fields, replace
from typing import Literal, get_args

import numpy as np

from pipeline.batch import FrameBatch, SegmentEnd, with_lost
from pipeline.contracts import Sink, Source
from pipeline.errors import ConfigError, SinkError
from pipeline.events import Event
from pipeline.sources.decode import SegmentTask
from pipeline.sources.file import FileSource, Refusal
from pipeline.sources.pool import Decoder
from pipeline.sources.reader import Reader
from pipeline.threads import hang

__all__ = ["Fault", "FaultyDecoder", "FaultySink", "FaultySource", "parse_fault"]

Kind = Literal["raise", "hang", "kill", "crash", "slow", "corrupt"]
Place = Literal["segment", "frame", "write"]

SPEC = re.compile(rf"({'|'.join(get_args(Kind))})@({'|'.join(get_args(Place))}):(\d+)(?::(.+))?")
SLOW_S = 0.5  # of each batch


@dataclass(frozen=True, slots=True)
class Fault:
    """What goes wrong, and where.

    Attributes:
        kind: raise: an error of the disk; hang: nothing more comes; kill: SIGKILL of the process in which it happens,
            as of the system for want of memory; crash: SIGSEGV of it; slow: each batch of the segment, or from there
            on, takes half a second longer; corrupt: the frames of the segment, or the frame, give no picture, or the
            part that the written batch belongs to is damaged behind its commit.
        place: What `number` is of: a segment of its source, a frame of it, a batch that is written.
        number: From 0; of writes from 1.
        source: Name of the source; None: any.
    """

    kind: Kind
    place: Place
    number: int
    source: str | None = None

    def __str__(self) -> str:
        return f"{self.kind}@{self.place}:{self.number}" + ("" if self.source is None else f":{self.source}")

    def is_in(self, batch: FrameBatch) -> bool:
        """Whether it is at a batch that was decoded."""
        if self.source not in (None, batch.source) or self.place == "write":
            return False
        if self.place == "segment":
            return batch.segment.number == self.number
        return bool(np.any(batch.index == self.number)) or (
            self.kind == "slow" and len(batch) > 0 and int(batch.index[-1]) >= self.number
        )

    def has_happened(self, batch: FrameBatch) -> bool:
        """Whether it did, by what became of a batch or a segment: it may be in another process that it happens."""
        frame = -1 if self.place == "segment" else self.number
        lost = () if batch.end is None or self.source not in (None, batch.source) else batch.end.lost
        return self.is_in(batch) or any(part.first <= frame <= part.last for part in lost)


def parse_fault(text: str) -> Fault:
    """Reads `KIND@PLACE:NUMBER[:SOURCE]`.

    Raises:
        ConfigError: It is none.
    """
    found = SPEC.fullmatch(text)
    if found is None:
        kinds, places = (" | ".join(get_args(kind)) for kind in (Kind, Place))
        told = f"must be KIND@PLACE:NUMBER[:SOURCE], KIND: {kinds}, PLACE: {places}, got {text!r}"
        raise ConfigError([f"--fault: {told}; hang@frame:1200, say"])
    kind, place, number, source = found.groups()
    return Fault(kind, place, int(number), source)  # type: ignore[arg-type]  # as the expression has them


class FaultySource:
    """A source at which faults happen.

    Args:
        source: What it is made of.
        faults: Those at `write` are passed over.
    """

    def __init__(self, source: Source, *faults: Fault) -> None:
        self.name = source.name
        self._source = source
        self._faults = faults

    def __iter__(self) -> Iterator[FrameBatch]:
        """Raises OSError at a fault that raises."""
        return _faulty(iter(self._source), self._faults)


class FaultySink(Sink):
    """A sink at which faults happen.

    Args:
        sink: What it is made of.
        faults: Those at `write` alone count.
        damage: What a fault that corrupts does behind the commit.
    """

    def __init__(self, sink: Sink, *faults: Fault, damage: Callable[[SegmentEnd], None] = lambda end: None) -> None:
        self._sink = sink
        self._faults = [fault for fault in faults if fault.place == "write"]
        self._written = dict.fromkeys(self._faults, 0)
        self._damage = damage
        self._damaged: set[object] = set()  # segments

    @property
    def to_come(self) -> list[Fault]:
        """Those that have not happened."""
        return [fault for fault, written in self._written.items() if written < fault.number]

    def resume(self, ends: Sequence[SegmentEnd]) -> None:
        self._sink.resume(ends)

    def write(self, batch: FrameBatch) -> None:
        for fault in self._faults:
            if fault.source not in (None, batch.source):
                continue
            self._written[fault] += 1
            reached = self._written[fault] - fault.number
            if reached == 0 and fault.kind == "corrupt":
                self._damaged.add(batch.segment)
            elif reached == 0 or (reached > 0 and fault.kind == "slow"):
                try:
                    _happen(fault)
                except OSError as error:
                    raise SinkError(str(error)) from None
        self._sink.write(batch)

    def event(self, event: Event) -> None:
        self._sink.event(event)

    def commit(self, end: SegmentEnd) -> None:
        self._sink.commit(end)
        if end.segment in self._damaged:
            self._damage(end)

    def finish(self) -> None:
        self._sink.finish()

    def close(self) -> None:
        self._sink.close()


class FaultyDecoder:
    """A decoder at which faults happen, wherever it works: see `Decoder`."""

    def __init__(self, decoder: Decoder, faults: Sequence[Fault]) -> None:
        self._decoder, self._faults = decoder, tuple(faults)

    def segments(self, file: FileSource, *, whole: bool = False) -> Sequence[SegmentTask | Refusal]:
        return [
            _FaultyTask(**{field.name: getattr(task, field.name) for field in fields(SegmentTask)}, faults=self._faults)
            if isinstance(task, SegmentTask)
            else task
            for task in self._decoder.segments(file, whole=whole)
        ]

    def frames(self, task: SegmentTask | Refusal) -> Iterator[FrameBatch]:
        return self._decoder.frames(task)

    def another(self) -> Decoder:
        return FaultyDecoder(self._decoder.another(), self._faults)

    def close(self) -> None:
        self._decoder.close()


@dataclass(frozen=True, slots=True)
class _FaultyTask(SegmentTask):
    faults: tuple[Fault, ...] = ()

    def frames(self, reader: Reader) -> Generator[FrameBatch]:
        came: list[np.ndarray[tuple[int], np.dtype[np.int64]]] = []
        try:
            for batch in _faulty(SegmentTask.frames(self, reader), self.faults):
                came.append(batch.index)
                yield batch
        except OSError as error:
            reader.close()
            yield self.broken(came, str(error), retry=True)


def _faulty(batches: Iterator[FrameBatch], faults: Sequence[Fault]) -> Iterator[FrameBatch]:
    done: set[tuple[Fault, object]] = set()
    lost: dict[object, list[int]] = {}  # by segment
    for batch in batches:
        for fault in faults:
            if not fault.is_in(batch):
                continue
            if fault.kind == "corrupt":
                gone = np.ones(len(batch), np.bool_) if fault.place == "segment" else batch.index == fault.number
                lost.setdefault(batch.segment, []).extend(batch.index[gone].tolist())
                batch = batch.rows(~gone)
            elif fault.kind == "slow" or (fault, batch.segment) not in done:
                done.add((fault, batch.segment))
                _happen(fault)
        numbers = sorted(set(lost.get(batch.segment, [])))
        if batch.end is not None and numbers:
            batch = replace(batch, end=_without(batch.end, numbers))
        yield batch


def _without(end: SegmentEnd, numbers: Sequence[int]) -> SegmentEnd:
    """The end of a segment of which these frames gave no picture after all."""
    counts = replace(end.counts, corrupt=end.counts.corrupt + len(numbers), decoded=end.counts.decoded - len(numbers))
    return replace(end, counts=counts, lost=with_lost(end.lost, numbers, "corrupt"))


def _happen(fault: Fault) -> None:
    if fault.kind == "raise":
        raise OSError(f"{fault}: an error made on purpose")
    if fault.kind in ("kill", "crash"):
        os.kill(os.getpid(), signal.SIGKILL if fault.kind == "kill" else signal.SIGSEGV)
    if fault.kind == "slow":
        time.sleep(SLOW_S)
    if fault.kind == "hang":
        hang()
