"""One single-threaded decoder per core, over the segments of all files.

Frame threads inside one decoder gain less than several decoders side by side (measured, see docs/architecture.md), and
they would fight with the pool.
"""

from __future__ import annotations

from collections.abc import Generator, Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Protocol

from pipeline.batch import FrameBatch
from pipeline.sources.decode import SegmentTask
from pipeline.sources.file import FileSource, Refusal
from pipeline.sources.reader import Reader
from pipeline.threads import Stop, Watch, merge, share

__all__ = ["Bundle", "Task", "bundles", "decode", "segments"]


class Task(Protocol):
    """A piece of work for one decoder. Its batches come in order, and each segment's last carries its end."""

    def frames(self, reader: Reader) -> Iterator[FrameBatch]: ...


def decode(
    tasks: Iterable[Task],
    *,
    workers: int,
    others: Sequence[Iterable[FrameBatch]] = (),
    stop: Stop | None = None,
    grace_s: float = 0.0,
    watch: Watch[FrameBatch] | None = None,
) -> Generator[FrameBatch]:
    """Decodes tasks on `workers` threads, and runs `others` (sources that are no files) on a thread each.

    Tasks are taken in order, each when its turn comes, so that files are opened no earlier than needed. After a `stop`
    others have `grace_s` seconds to come to an end.
    """
    if workers < 0:
        raise ValueError(f"workers must be at least 0, got {workers}")
    shared = share(tasks)
    return merge(
        [*(_work(shared, stop) for _ in range(workers)), *others],
        depth=2 * (workers + len(others)),
        stop=stop,
        grace_s=grace_s,
        watch=watch,
        name="decode",
    )


def _work(tasks: Iterator[Task], stop: Stop | None) -> Iterator[FrameBatch]:
    with Reader() as reader:
        for task in tasks:
            for batch in task.frames(reader):
                if stop:
                    return
                yield batch


def segments(sources: Iterable[FileSource]) -> Iterator[SegmentTask | Refusal]:
    """The segments of all files, file by file."""
    for source in sources:
        yield from source.segments()


def bundles(sources: Sequence[FileSource], fold: int) -> Iterator[Bundle]:
    """Files in bundles of `fold`, to be folded across each other (order `streams`)."""
    for first in range(0, len(sources), fold):
        yield Bundle(tuple(sources[first : first + fold]))


class Bundle:
    """Up to f files that one worker decodes in lockstep, so that group k can hold the k-th frame of each.

    It yields rounds: one batch of each file that has not ended, in order, all of the same length but for the last of
    a file.
    """

    def __init__(self, sources: Sequence[FileSource]) -> None:
        self._sources = sources
        self.members = tuple(source.name for source in sources)

    def frames(self, reader: Reader) -> Iterator[FrameBatch]:
        readers = [Reader() for _ in self.members]
        streams = [
            _whole(source, self.members, slot).frames(own)
            for slot, (source, own) in enumerate(zip(self._sources, readers, strict=True))
        ]
        try:
            while streams:
                going = []
                for stream in streams:
                    batch = next(stream)
                    if batch.end is None:
                        going.append(stream)
                    yield batch
                streams = going
        finally:
            for own in readers:
                own.close()


def _whole(source: FileSource, members: tuple[str, ...], slot: int) -> SegmentTask | Refusal:
    """A file as a single segment of a bundle."""
    (task,) = source.segments(whole=True)
    return replace(task, bundle=members, slot=slot)
