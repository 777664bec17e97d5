"""One single-threaded decoder per core, over the segments of all files.

Frame threads inside one decoder gain less than several decoders side by side (measured, see docs/architecture.md), and
they would fight with the pool.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import replace
from typing import Protocol, TypeAlias

import numpy as np
import numpy.typing as npt

from pipeline.batch import FrameBatch, Segment
from pipeline.errors import SourceError
from pipeline.sources.decode import SegmentTask
from pipeline.sources.file import FileSource, Refusal
from pipeline.sources.reader import Reader
from pipeline.threads import Shared, Stop, Watch, merge, stuck_threads

__all__ = ["Bundle", "Decoder", "Here", "Task", "Unit", "bundles", "decode"]

Numbers = npt.NDArray[np.int64]

MOST_STUCK = 16  # threads that were given up and have not ended: each holds a decoder, and pictures


class Decoder(Protocol):
    """What decodes one segment at a time. One thread's own."""

    def segments(self, file: FileSource, *, whole: bool = False) -> Sequence[SegmentTask | Refusal]:
        """See `FileSource.segments`."""

    def frames(self, task: SegmentTask | Refusal) -> Iterator[FrameBatch]:
        """The batches of a segment, in order; the last one carries its end."""

    def another(self) -> Decoder:
        """One more of its kind."""

    def close(self) -> None:
        """Frees what it holds."""


class Here:
    """Decodes in the thread that calls it."""

    def __init__(self) -> None:
        self._reader = Reader()

    def segments(self, file: FileSource, *, whole: bool = False) -> Sequence[SegmentTask | Refusal]:
        return list(file.segments(whole=whole))

    def frames(self, task: SegmentTask | Refusal) -> Iterator[FrameBatch]:
        return task.frames(self._reader)

    def another(self) -> Decoder:
        return Here()

    def close(self) -> None:
        self._reader.close()


class Bundle:
    """Up to f files that one worker decodes in lockstep, so that group k can hold the k-th frame of each.

    It yields rounds: one batch with pictures of each file that has not ended, in order, all of the same length but for
    the last of a file; and ticks of the file whose turn it is.
    """

    def __init__(self, sources: Sequence[FileSource]) -> None:
        self._sources = sources
        self._tasks: list[SegmentTask | Refusal] = []
        self.members = tuple(source.name for source in sources)

    def frames(self, decoder: Decoder) -> Iterator[FrameBatch]:
        decoders = [decoder.another() for _ in self.members]
        try:
            self._tasks = []
            for slot, (source, own) in enumerate(zip(self._sources, decoders, strict=True)):
                for task in own.segments(source, whole=True):  # one, unless it was stopped
                    self._tasks.append(replace(task, bundle=self.members, slot=slot))
            streams = [own.frames(task) for own, task in zip(decoders, self._tasks, strict=False)]
            while streams:
                going = []
                for stream in streams:
                    for batch in stream:
                        yield batch
                        # A tick is nobody's turn: while one file is silent for long, pictures of the others would wait.
                        if len(batch) or batch.end is not None:
                            break
                    else:  # it was stopped
                        return
                    if batch.end is None:
                        going.append(stream)
                streams = going
        finally:
            for own in decoders:
                own.close()

    def left(self, came: Came, why: str) -> Iterator[FrameBatch]:
        """The ends of its files when it was given up."""
        tasks = {task.source: task for task in self._tasks}
        for slot, source in enumerate(self._sources):
            task = tasks.get(source.name) or source.refusal(why, bundle=self.members, slot=slot)
            yield from _left(task, came, why)


Came: TypeAlias = "dict[Segment, list[Numbers] | None]"
"""The frames that came of each segment of a task; None where its end did."""

Task: TypeAlias = "SegmentTask | Refusal | Bundle"
"""A piece of work for one decoder."""

Unit: TypeAlias = "FileSource | Task"
"""A file is opened when its turn comes; its segments are tasks."""


def bundles(sources: Sequence[FileSource], fold: int) -> Iterator[Bundle]:
    """Files in bundles of `fold`, to be folded across each other (order `streams`)."""
    for first in range(0, len(sources), fold):
        yield Bundle(tuple(sources[first : first + fold]))


def decode(
    units: Iterable[Unit],
    *,
    workers: int,
    decoder: Callable[[], Decoder] = Here,
    limit_s: float = float("inf"),
    others: Sequence[Iterable[FrameBatch]] = (),
    stop: Stop | None = None,
    grace_s: float = 0.0,
    watch: Watch[FrameBatch] | None = None,
) -> Generator[FrameBatch]:
    """Decodes files on `workers` threads, and runs `others` (sources that are no files) on a thread each.

    Args:
        units: Files or what was made of them; taken in order, and opened no earlier than needed.
        workers: Number of decoders.
        decoder: Makes one.
        limit_s: After which a decoder that shows no sign of life is given up: its segment ends with what came, to be
            tried again, and another decoder goes on in its place. Where too many are, SourceError is raised.
        others: Other sources.
        stop: Ends it.
        grace_s: How long others have to come to an end then.
        watch: See `merge`.
    """
    if workers < 0:
        raise ValueError(f"workers must be at least 0, got {workers}")

    def tasks(unit: Unit, work: object) -> Iterable[Task]:
        assert isinstance(work, _Work)
        return work.decoder.segments(unit) if isinstance(unit, FileSource) else [unit]

    shared: Shared[Unit, Task] = Shared(units, tasks)
    works: list[_Work | None] = [*(_Work(shared, decoder, stop) for _ in range(workers)), *(None for _ in others)]

    def instead(number: int) -> Callable[[], _Work] | None:
        work = works[number]

        def another() -> _Work:
            assert work is not None
            if len(stuck := stuck_threads()) > MOST_STUCK:
                told = f"{len(stuck)} decoders gave nothing for {limit_s:g} s each and are still at it"
                raise SourceError("", f"{told}; see whether the footage can be read, and --resume")
            made = _Work(shared, decoder, stop, first=work.left(limit_s))
            works.append(made)
            return made

        return None if work is None else another

    return merge(
        [*(work for work in works if work is not None), *others],
        depth=2 * (workers + len(others)),
        stop=stop,
        grace_s=grace_s,
        watch=watch,
        limit_s=limit_s,
        instead=instead,
        name="decode",
    )


class _Work:
    """What one thread decodes, task after task."""

    def __init__(
        self,
        tasks: Shared[Unit, Task],
        decoder: Callable[[], Decoder],
        stop: Stop | None,
        first: Sequence[FrameBatch] = (),
    ) -> None:
        self._tasks = tasks
        self._make = decoder
        self._stop = stop
        self._first = first
        self._came: Came = {}
        self.decoder: Decoder

    def __iter__(self) -> Iterator[FrameBatch]:
        yield from self._first
        self._first = ()
        self.decoder = self._make()
        with closing(self.decoder):
            while not self._stop and (task := self._tasks.take(self)) is not None:
                self._came.clear()
                frames = task.frames(self.decoder) if isinstance(task, Bundle) else self.decoder.frames(task)
                for batch in frames:
                    if self._stop:
                        return
                    yield batch
                    self._note(batch)

    def _note(self, batch: FrameBatch) -> None:
        """What was taken of a segment. Of one that never had pictures nothing is kept."""
        came = self._came.setdefault(batch.segment, [])
        if batch.end is not None:
            self._came[batch.segment] = None
        elif came is not None and len(batch):
            came.append(batch.index)

    def left(self, limit_s: float) -> Sequence[FrameBatch]:
        """It is stuck: the ends of what it was at."""
        file, task = self._tasks.leave(self)
        why = f"its decoder gave nothing for {limit_s:g} s and is left alone; `decode.isolate: true` ends such ones"
        ends: list[FrameBatch] = []
        if isinstance(file, FileSource):
            ends.append(file.refusal(why).batch)
        elif isinstance(task, Bundle):
            ends += task.left(self._came, why)
        elif task is not None:
            ends += _left(task, self._came, why)
        return ends


def _left(task: SegmentTask | Refusal, came: Came, why: str) -> Iterator[FrameBatch]:
    """The end of a segment that was given up, unless it has come."""
    index = came.get(task.segment, [])
    if index is None:
        return
    if isinstance(task, Refusal):
        yield task.batch
    else:
        yield task.broken(index, why, retry=True)
