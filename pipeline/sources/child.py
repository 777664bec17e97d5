"""The process of a decoder that is isolated: it answers what `pipeline.sources.isolate` asks."""

from __future__ import annotations

import contextlib
import io
import mmap
import os
import pickle
import signal
import sys
import time
from collections.abc import Iterator
from multiprocessing.connection import Connection
from typing import Any, BinaryIO

import numpy as np

from pipeline.batch import FrameBatch
from pipeline.sources.container import has_room
from pipeline.sources.decode import SegmentTask
from pipeline.sources.index import Index
from pipeline.sources.pool import Here
from pipeline.threads import heard_by

__all__ = ["HALVES", "OWN_END", "serve"]

HALVES = 2  # of the memory that both share: one is filled while the other is copied
OWN_END = 70  # exit code of a process that Python code ended, not the decoder library
HEARTBEAT_S = 1.0


def serve(line: int, shared: int, n_bytes: int, memory_mb: int) -> None:
    """The process: decodes what it is sent, until nobody listens."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):  # a whole group may get them: who started it ends it
        signal.signal(number, signal.SIG_IGN)
    _die_with_parent()
    link: Connection[Any, Any] = Connection(line)
    memory = mmap.mmap(shared, n_bytes) if n_bytes else None
    os.close(shared)
    last_s = time.monotonic()

    def heartbeat() -> None:
        nonlocal last_s
        if (now_s := time.monotonic()) - last_s > HEARTBEAT_S:
            last_s = now_s
            link.send(("alive", None))

    heard_by(heartbeat)
    _limit_memory(memory_mb)
    try:
        link.send(("ready", None))
        _answer_all(link, memory, n_bytes // HALVES)
    except ConnectionError:  # nobody listens
        pass
    except Exception as error:
        sys.stderr.write(f"{type(error).__name__}: {error}\n")
        sys.exit(OWN_END)


def _answer_all(link: Connection[Any, Any], memory: mmap.mmap | None, half: int) -> None:
    """Answers what comes. Raises ConnectionError when nobody listens any more."""
    decoder = Here()
    unpickler = _Unpickler
    index: Index | None = None
    while True:
        try:
            kind, content, more = unpickler(io.BytesIO(link.recv_bytes()), index).load()
            if kind == "index":
                index = content
            elif kind == "segments":
                link.send(("segments", decoder.segments(content, whole=more)))
            else:
                _send_frames(link, memory, half, _with_room(content, decoder.frames(content)))
        except Exception as error:  # also that the code was changed meanwhile, and cannot read the message
            index = None
            link.send(("failed", f"{type(error).__name__}: {error}"))


class _Unpickler(pickle.Unpickler):
    def __init__(self, file: BinaryIO, index: Index | None) -> None:
        super().__init__(file)
        self._index = index

    def persistent_load(self, name: str) -> Index | None:
        return self._index


def _with_room(task: SegmentTask, batches: Iterator[FrameBatch]) -> Iterator[FrameBatch]:
    """The same. Raises MemoryError where pictures are missing and there is no room for any."""
    for batch in batches:
        is_damaged = batch.end is not None and batch.end.counts.corrupt
        if is_damaged and not has_room(task.index.width, task.index.height):
            raise MemoryError("no room for pictures")
        yield batch


def _send_frames(
    link: Connection[Any, Any], memory: mmap.mmap | None, half: int, batches: Iterator[FrameBatch]
) -> None:
    names = [name for name in FrameBatch.__slots__ if name != "frames"]
    under_way = 0
    for number, batch in enumerate(batches):
        if under_way == HALVES:
            link.recv_bytes()
            under_way -= 1
        at, frames = number % HALVES * half, batch.frames
        if frames.size:
            assert memory is not None
            np.frombuffer(memory, np.uint8, frames.size, at)[:] = frames.reshape(-1)
        link.send(("batch", ({name: getattr(batch, name) for name in names}, frames.shape, at)))
        under_way += 1
    for _ in range(under_way):
        link.recv_bytes()


def _limit_memory(memory_mb: int) -> None:
    import resource

    with contextlib.suppress(OSError, ValueError):  # no /proc: then without
        with open("/proc/self/statm", encoding="ascii") as file:
            taken = int(file.read().split()[0]) * os.sysconf("SC_PAGE_SIZE")
        resource.setrlimit(resource.RLIMIT_AS, (taken + memory_mb * 1_000_000,) * 2)


def _die_with_parent() -> None:
    """A decoder that hangs does not outlive a run that is killed."""
    if sys.platform == "linux":
        import ctypes

        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
