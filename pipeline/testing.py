"""Fakes and conformance checks for those who write their own sources, stages and sinks; our own parts pass them too."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from pipeline.batch import Counts, FoldedBatch, FrameBatch, Segment, SegmentEnd
from pipeline.contracts import Sink, Source
from pipeline.faults import Fault, FaultySink, FaultySource
from pipeline.sinks.delivery import Away, Severed

__all__ = [
    "Fault",
    "FaultySink",
    "FaultySource",
    "ListBroker",
    "ListSink",
    "ListSource",
    "MeanEngine",
    "check_fold",
    "check_sink",
    "check_source",
    "numbered_batches",
    "numbers_in",
]


def numbered_batches(
    source: str, lengths: Sequence[int], *, segment: int = 0, first_frame: int = 0, size: tuple[int, int] = (2, 3)
) -> list[FrameBatch]:
    """The batches of one segment whose pictures show their own frame number.

    Args:
        source: Name of the source.
        lengths: Pictures per batch; the last one carries the segment's end.
        segment: Number of the segment.
        first_frame: Number of its first frame.
        size: Height and width, of at least two pixels together.

    Returns:
        Batches in which picture n is filled with n % 256 in the red and n // 256 in the green channel.
    """
    part = Segment(source, segment, first_frame)
    batches = []
    for at, n in enumerate(lengths):
        index = np.arange(first_frame, first_frame + n, dtype=np.int64)
        first_frame += n
        frames = np.zeros((n, *size, 3), np.uint8)
        frames[..., 0] = (index % 256)[:, None, None]
        frames[..., 1] = (index // 256)[:, None, None]
        end = None
        if at == len(lengths) - 1:
            end = SegmentEnd(part, Counts(indexed=sum(lengths), decoded=sum(lengths)))
        batches.append(FrameBatch(part, frames, index, index / 25, end=end))
    return batches


class ListSource:
    """A source of given batches."""

    def __init__(self, name: str, batches: Sequence[FrameBatch]) -> None:
        self.name = name
        self._batches = batches

    def __iter__(self) -> Iterator[FrameBatch]:
        yield from self._batches


class ListSink(Sink):
    """A sink that remembers what it was told."""

    def __init__(self) -> None:
        self.batches: list[FrameBatch] = []
        self.committed: list[SegmentEnd] = []
        self.closed = 0

    def write(self, batch: FrameBatch) -> None:
        self.batches.append(batch)

    def commit(self, end: SegmentEnd) -> None:
        self.committed.append(end)

    def close(self) -> None:
        self.closed += 1


class ListBroker:
    """An MQTT broker that remembers what was published, for `MqttSink(connect=broker.connect)`.

    Attributes:
        is_up: Whether it can be reached.
        acknowledges: How many more messages it acknowledges before it breaks the connection; None: all.
        poison: It breaks the connection at a message that holds this; None: at none.
        messages: Topic and payload of what was published, repeats included.
        most_open: The most messages that waited for an acknowledgement at once.
    """

    def __init__(self) -> None:
        self.is_up = True
        self.acknowledges: int | None = None
        self.poison: bytes | None = None
        self.messages: list[tuple[str, bytes]] = []
        self.most_open = 0

    def connect(self, timeout_s: float) -> _ListConnection:
        if not self.is_up:
            raise Away("Connection refused")
        return _ListConnection(self)


class _ListConnection:
    def __init__(self, broker: ListBroker) -> None:
        self._broker = broker
        self._open: list[int] = []

    def publish(self, topic: str, payload: bytes) -> int:
        if not self._broker.is_up:
            raise Severed("a connection that ended")
        self._broker.messages.append((topic, payload))
        self._open.append(len(self._broker.messages))
        self._broker.most_open = max(self._broker.most_open, len(self._open))
        return self._open[-1]

    def acknowledged(self, timeout_s: float) -> set[int]:
        """One at a time."""
        if not self._broker.is_up or self._broker.acknowledges == 0:
            self._broker.acknowledges = None
            raise Severed("a connection that ended")
        poison = self._broker.poison
        if self._open and poison is not None and poison in self._broker.messages[self._open[0] - 1][1]:
            raise Severed("a connection that ended")
        if self._open and self._broker.acknowledges is not None:
            self._broker.acknowledges -= 1
        return {self._open.pop(0)} if self._open else set()

    def close(self) -> None:
        """Nothing to do."""


@dataclass
class _Scores:
    scores: npt.NDArray[np.float32]

    def result(self) -> npt.NDArray[np.float32]:
        return self.scores


class MeanEngine:
    """An engine whose scores are the mean red and green of each picture, so that a score tells its picture.

    With `numbered_batches` the frame number is `red + 256 * green`. `passes` counts the forward passes.
    """

    def __init__(self, groups: int) -> None:
        self.groups = groups
        self.passes = 0

    def submit(self, frames: npt.NDArray[np.uint8]) -> _Scores:
        if not 0 < len(frames) <= self.groups:
            raise ValueError(f"expected 1 to {self.groups} groups, got {len(frames)}")
        self.passes += 1
        return _Scores(frames.mean(axis=(2, 3), dtype=np.float32)[..., :2])


def numbers_in(scores: npt.NDArray[np.float32]) -> npt.NDArray[np.int64]:
    """The frame numbers that `MeanEngine` saw in `numbered_batches`."""
    if not len(scores):
        return np.empty(0, np.int64)
    numbers: npt.NDArray[np.int64] = np.rint(scores[:, 0] + 256 * scores[:, 1]).astype(np.int64)
    return numbers


def check_source(source: Source) -> None:
    """Checks that a source keeps its contract. Raises AssertionError with the clause that it breaks."""
    _check(isinstance(source.name, str) and source.name != "", "a source has a name")
    ended: set[Segment] = set()
    last: dict[Segment, int] = {}
    decoded: dict[Segment, int] = {}
    for batch in source:
        segment = batch.segment
        _check(segment.source == source.name, "batches carry the source's name")
        _check(segment not in ended, "nothing comes after the end of a segment")
        _check(bool((np.diff(batch.index) > 0).all()), "frame numbers ascend within a batch")
        if len(batch):
            _check(batch.index[0] > last.get(segment, -1), "frame numbers ascend from batch to batch")
            _check(batch.index[0] >= segment.first_frame, "a segment's frames begin at its first_frame")
            last[segment] = int(batch.index[-1])
        decoded[segment] = decoded.get(segment, 0) + len(batch)
        if batch.end is not None:
            ended.add(segment)
            counts = batch.end.counts
            _check(counts.decoded == decoded[segment], "the end counts the pictures that came")
            _check(
                counts.indexed == counts.skipped + counts.corrupt + counts.unread + counts.dropped + counts.decoded,
                "indexed = skipped + corrupt + unread + dropped + decoded",
            )
    _check(set(decoded) == ended, "every segment that was begun ends")
    iterator = iter(source)
    next(iterator, None)
    close = getattr(iterator, "close", None)
    if close is not None:
        close()  # leaving early must not raise


def check_fold(stage: Callable[[Iterator[FrameBatch]], Iterator[FoldedBatch]], batches: Iterable[FrameBatch]) -> None:
    """Checks that a folding stage gives every picture of `batches` one slot and ends every segment behind its last."""
    given = list(batches)
    seen: dict[Segment, list[int]] = {}
    ended: list[Segment] = []
    for folded in stage(iter(given)):
        pictures = np.concatenate(
            [part.frames for part in folded.parts if len(part)] or [np.empty((0, 1, 1, 3), np.uint8)]
        )
        real = folded.slot >= 0
        _check(sorted(folded.slot[real].tolist()) == list(range(len(pictures))), "each picture has one slot")
        flat = folded.frames.reshape(-1, *folded.frames.shape[2:])
        _check(bool((flat[real] == pictures[folded.slot[real]]).all()), "each slot holds its own picture")
        for part in folded.parts:
            _check(part.segment not in ended, "nothing comes after the end of a segment")
            seen.setdefault(part.segment, []).extend(part.index.tolist())
            ended.extend([part.segment] if part.end is not None else [])
    expected: dict[Segment, list[int]] = {}
    for batch in given:
        expected.setdefault(batch.segment, []).extend(batch.index.tolist())
    _check(seen == expected, "every picture comes out, in the order of its segment")
    _check(sorted(map(repr, ended)) == sorted(repr(b.segment) for b in given if b.end), "every segment ends")


def check_sink(make: Callable[[], Sink]) -> None:
    """Checks that a sink takes what a run may send: empty batches, interleaved segments, an early end, a later run.

    Args:
        make: Makes a fresh sink that has a filter called `mean` with two classes.
    """
    sink = make()
    a = _scored(numbered_batches("a", [3, 0]))
    b = _scored(numbered_batches("b", [2, 2]))
    for batch in (a[0], b[0], a[1]):
        sink.write(batch)
    _commit(sink, a[1])
    sink.write(b[1])
    _commit(sink, b[1])
    sink.close()
    early = make()
    early.write(a[0])
    early.close()  # an interrupted run: nothing was committed
    again = make()
    again.resume([batch.end for batch in (a[1], b[1]) if batch.end is not None])
    again.close()  # one that goes on, and had nothing left to do


def _scored(batches: Sequence[FrameBatch]) -> list[FrameBatch]:
    engine = MeanEngine(groups=1000)
    return [
        replace(
            batch,
            scores=engine.submit(batch.frames[:, None]).result()[:, 0] if len(batch) else np.empty((0, 2), np.float32),
            fold_slot=np.zeros(len(batch), np.int16),
            filter="mean",
            end=None
            if batch.end is None
            else replace(
                batch.end,
                counts=batch.end.counts + Counts(labelled=batch.end.counts.decoded, written=batch.end.counts.decoded),
                filters={"mean": batch.end.counts.decoded},
            ),
        )
        for batch in batches
    ]


def _commit(sink: Sink, batch: FrameBatch) -> None:
    if batch.end is not None:
        sink.commit(batch.end)


def _check(holds: bool, clause: str) -> None:
    if not holds:
        raise AssertionError(clause)
