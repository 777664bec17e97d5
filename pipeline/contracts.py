"""What a part must do to be plugged in: a source, a stage, an engine, a sink, a watcher.

Source ──FrameBatch──▶ Stage ──▶ Stage ──FrameBatch + scores──▶ Sink
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Protocol, TypeVar, runtime_checkable

import numpy as np
import numpy.typing as npt

from pipeline.batch import FoldedBatch, FrameBatch, SegmentEnd
from pipeline.events import Event

if TYPE_CHECKING:
    from pipeline.sources.camera import Camera  # loads FFmpeg

In = TypeVar("In")
Out = TypeVar("Out")

Stage = Callable[[Iterator[In]], Iterator[Out]]
"""A generator function made by a plain factory that checks its arguments before the first batch.

What comes after its loop is the flush; what must happen in any case stands in `finally`.
"""


@runtime_checkable
class Source(Protocol):
    """An iterable of batches with a name; its constructor does no I/O.

    Iterating may block on a file. The batches of a segment come in order, its SegmentEnd rides on the last one, and
    every segment that was begun ends with one: a failure is an `end.error`, never an exception. Batches of different
    segments may come in any order. Closing the iterator frees what it holds.
    """

    name: str

    def __iter__(self) -> Iterator[FrameBatch]: ...


class Handle(Protocol):
    """A forward pass under way."""

    def result(self) -> npt.NDArray[np.float32]:
        """Waits for the scores, float32 (B, f, K).

        Raises:
            ForwardError: Not all of them are there.
        """


class Engine(Protocol):
    """Runs a FoldedCNN. `specialized.engines` holds those that ship."""

    @property
    def groups(self) -> int:
        """The most groups of one forward pass."""

    def submit(self, frames: npt.NDArray[np.uint8]) -> Handle:
        """Starts a forward pass of uint8 (b, f, H, W, 3) with b up to `groups`; the caller leaves `frames` alone until
        the handle's result is there. Raises ForwardError as the handle does."""


class Sink(ABC):
    """Takes labelled batches. Only `write` is required. All calls come from one thread.

    `write` may keep rows back until `commit`: what is not committed may come again in a later run, what is committed
    never does. A sink that must not see uncommitted rows keeps them by `batch.segment` and drops them at `close`.

    Attributes:
        takes_again: Whether it is told of events that were told before, too, when a run over files goes on: it knows by
            `Event.key` which it has, or that it was not there; the run does not.
    """

    takes_again: bool = False

    def resume(self, ends: Sequence[SegmentEnd]) -> None:  # noqa: B027 (empty on purpose: optional)
        """Called first, where a run over files goes on: these segments are committed, in the order of their frames.

        Of the last of them this sink may not have been told, as the run was killed before it was.
        """

    @abstractmethod
    def write(self, batch: FrameBatch) -> None:
        """Takes the rows of one filter; N = 0 is common. Segments of one source may be interleaved."""

    def event(self, event: Event) -> None:  # noqa: B027 (empty on purpose: optional)
        """An event has begun (`is_over` is False) or is over.

        Those of a track come in order, each of both at least once over the life of a run: one that is resumed may tell
        some again, which `Event.key` tells. A sink that is added then is told those before if it `takes_again`.
        """

    def sync(self) -> None:  # noqa: B027 (empty on purpose: optional)
        """A run over files has told all its events, and notes so when this returns: by then they must be safe, also
        from the machine's own end."""

    def commit(self, end: SegmentEnd) -> None:  # noqa: B027 (empty on purpose: optional)
        """The segment is written by every sink up to here and, in the run's own parts, on disk.

        The commits of one source come in the order of its frames.
        """

    def finish(self) -> None:  # noqa: B027 (empty on purpose: optional)
        """The run came to its own end: every segment is committed. `close` follows."""

    def close(self) -> None:  # noqa: B027 (empty on purpose: optional)
        """Called once, also after a failure; what was committed must be safe when it returns."""


class Watcher:
    """Told how a run goes, from its own thread; for progress displays and metrics. None of it is required."""

    def begin(self, sources: Sequence[str], cameras: Callable[[], Sequence[Camera]] = tuple) -> None:
        """All is loaded, decoding begins. `cameras` gives the sources that are cameras, which come and go."""

    def decoded(self, batch: FrameBatch) -> None:
        """Pictures have left their decoder."""

    def written(self, batch: FrameBatch) -> None:
        """Every sink has taken the rows of a filter. N = 0 is common."""

    def event(self, event: Event) -> None:
        """An event has begun or is over, see `Sink.event`."""

    def committed(self, end: SegmentEnd) -> None:
        """A segment is safe."""


FoldStage = Stage[FrameBatch, FoldedBatch]
FilterStage = Stage[FoldedBatch, FrameBatch]
