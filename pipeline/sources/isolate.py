"""Decoders in processes of their own: what crashes, hangs or eats up memory there is ended, and the run goes on.

Isolated ──── files, segments ───▶ process: `pipeline.sources.child`
         ◀─── batches, ends ──────    pictures in memory that both share, in two halves: one is filled while the
                                      other is copied
"""

from __future__ import annotations

import contextlib
import io
import logging
import mmap
import os
import pickle
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from multiprocessing.connection import Pipe
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt

from pipeline.batch import FrameBatch
from pipeline.sources.child import HALVES, OWN_END
from pipeline.sources.decode import SegmentTask
from pipeline.sources.file import FileSource, Refusal
from pipeline.sources.index import Index
from pipeline.sources.pool import Decoder
from pipeline.threads import Stop, alive

__all__ = ["Isolated"]

log = logging.getLogger(__name__)

POLL_S = 0.2  # between two looks at `stop`
END_S = 2.0  # for a process to end by itself
CRASHES = {signal.SIGSEGV, signal.SIGABRT, signal.SIGBUS, signal.SIGILL, signal.SIGFPE}  # what code ends itself by
PROGRAM = "import sys; from pipeline.sources.child import serve; serve(*map(int, sys.argv[1:]))"


class Died(Exception):  # noqa: N818 (named as what it says of the process)
    """The process gave nothing, and has ended.

    Attributes:
        is_crash: What it was at made it crash, and would again. Else what was wrong may be over the next time: its disk
            stood still, it could not be started, or the system took its memory.
    """

    def __init__(self, why: str, *, is_crash: bool) -> None:
        super().__init__(why)
        self.is_crash = is_crash


class Isolated:
    """See `Decoder`. What its process dies of is tried again in a new one.

    A segment goes on behind the batches that came of it: decoding gives the same ones each time. After so many tries it
    ends with what came, for good if its process crashed each time. A file that cannot be indexed is refused.

    Args:
        limit_s: After which a process that shows no sign of life is ended.
        tries: Of a segment or a file.
        memory_mb: What a process may take beyond what it begins with.
        stop: Ends the wait for a process.
    """

    def __init__(self, *, limit_s: float, tries: int, memory_mb: int, stop: Stop) -> None:
        self._limit_s, self._tries, self._memory_mb, self._stop = limit_s, tries, memory_mb, stop
        self._process: _Process | None = None

    def segments(self, file: FileSource, *, whole: bool = False) -> Sequence[SegmentTask | Refusal]:
        for attempt in range(self._tries):
            try:
                process = self._opened(HALVES * file.batch_bytes)
                process.send(("segments", file, whole))
                found: Sequence[SegmentTask | Refusal] = process.answer()
                return found
            except Died as death:
                self.close()
                if self._stop:
                    return []
                self._tell(death, file.name, "while it was indexed", attempt)
                why = death
        return [file.refusal(f"cannot be indexed: {self._told(why)}")]

    def frames(self, task: SegmentTask | Refusal) -> Iterator[FrameBatch]:
        if isinstance(task, Refusal):
            yield task.batch
            return
        came: list[npt.NDArray[np.int64]] = []
        is_poison = True
        for attempt in range(self._tries):
            try:
                batches = self._frames(task)
                for number, batch in enumerate(batches if len(task.views) == 1 else _in_full(batches)):
                    if number >= len(came):
                        came.append(batch.index)
                        yield batch
                    elif batch.end is not None or not np.array_equal(batch.index, came[number]):
                        self.close()
                        error = None if batch.end is None else batch.end.error
                        yield task.broken(came, error or "it gave other frames the second time", retry=True)
                        return
                return
            except Died as death:
                self.close()
                if self._stop:
                    return
                self._tell(death, task.source, f"at the segment from frame {task.first_frame} on", attempt)
                why = death
                is_poison = is_poison and death.is_crash
        told = f"quarantined: {self._told(why)}" if is_poison else self._told(why)
        yield task.broken(came, told, retry=not is_poison)

    def another(self) -> Decoder:
        return Isolated(limit_s=self._limit_s, tries=self._tries, memory_mb=self._memory_mb, stop=self._stop)

    def close(self) -> None:
        if self._process is not None:
            self._process.close()
            self._process = None

    def _told(self, why: Died) -> str:
        return f"its decoder was tried {self._tries} times and {why}"

    def _frames(self, task: SegmentTask) -> Iterator[FrameBatch]:
        process = self._opened(HALVES * task.batch_bytes)
        done = False
        try:
            process.send(("frames", task, None))
            while not done:
                batch = process.batch()
                done = batch.end is not None
                yield batch
        finally:
            if not done:  # in the middle of a segment, which nobody wants any more
                self.close()

    def _opened(self, least_bytes: int) -> _Process:
        """The process, with so much memory shared with it."""
        if self._process is not None and self._process.n_bytes < least_bytes:
            self.close()
        if self._process is None:
            self._process = _Process(least_bytes, self._limit_s, self._memory_mb, self._stop)
        return self._process

    def _tell(self, why: Died, source: str, where: str, attempt: int) -> None:
        if attempt + 1 < self._tries:
            log.warning("%s: a decoder %s %s; a new one is started", source, why, where)


def _in_full(batches: Iterator[FrameBatch]) -> Iterator[FrameBatch]:
    """The same, but of frames that are shown in several views all batches or none."""
    held: list[FrameBatch] = []
    for batch in batches:
        # Of the frames, and not of the pictures: a view may show several regions of each, another one.
        if held and not np.array_equal(np.unique(batch.index), np.unique(held[0].index)):
            yield from held
            held.clear()
        held.append(batch)
        if batch.end is not None:
            yield from held
            return


class _Process:
    """The parent's end."""

    def __init__(self, n_bytes: int, limit_s: float, memory_mb: int, stop: Stop) -> None:
        self.n_bytes = n_bytes
        self._limit_s, self._stop = limit_s, stop
        self._index: Index | None = None  # the one that both have
        self._is_ready = self._is_at_work = False
        self._memory: mmap.mmap | None = None
        try:
            with contextlib.ExitStack() as held, contextlib.ExitStack() as passed:
                self._line, theirs = Pipe()
                held.callback(self._line.close)
                passed.callback(theirs.close)
                shared = passed.enter_context(_shared_file(n_bytes))
                if n_bytes:
                    self._memory = held.enter_context(mmap.mmap(shared.fileno(), n_bytes))
                self._said = held.enter_context(tempfile.TemporaryFile())
                descriptors = (theirs.fileno(), shared.fileno())
                self._process = subprocess.Popen(
                    [sys.executable, "-c", PROGRAM, *map(str, (*descriptors, n_bytes, memory_mb))],
                    env=os.environ | {"PYTHONPATH": os.pathsep.join(path or os.getcwd() for path in sys.path)},
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,
                    stderr=self._said,
                    pass_fds=descriptors,
                )
                self._held = held.pop_all()
        except OSError as error:  # too many open files, no folder for temporary ones
            raise Died(f"could not be started ({error.strerror or error})", is_crash=False) from None

    def send(self, message: object) -> None:
        """Sends a message. An index is sent once, and then named: that of a long film has many megabytes."""
        self._is_at_work = False
        if not self._is_ready:  # a large message would wait for one that hangs
            self.answer()
            self._is_ready = True
        text = io.BytesIO()
        pickler = pickle.Pickler(text)
        pickler.persistent_id = self._name  # type: ignore[method-assign]
        new = _index_in(message)
        try:
            if new is not None and new is not self._index:
                self._line.send_bytes(pickle.dumps(("index", new, None)))
                self._index = new
            pickler.dump(message)
            self._line.send_bytes(text.getbuffer())
        except ConnectionError:
            raise self._death() from None
        self._is_at_work = True

    def answer(self) -> Any:
        """What the process answers. Raises Died."""
        while True:
            try:
                self._wait()
                kind, content = self._line.recv()
            except (EOFError, OSError):
                raise self._death() from None
            except (pickle.PickleError, AttributeError, ImportError, TypeError, ValueError) as error:  # of other code
                told = f"{type(error).__name__}: {error}"
                raise Died(f"answered what cannot be read ({told})", is_crash=False) from None
            alive()
            if kind == "failed":
                raise Died(f"failed ({content})", is_crash=False)
            if kind != "alive":
                return content

    def batch(self) -> FrameBatch:
        """The next batch. Raises Died."""
        fields, shape, at = self.answer()
        frames = np.empty(shape, np.uint8)
        if frames.size:
            assert self._memory is not None
            frames[:] = np.frombuffer(self._memory, np.uint8, frames.size, at).reshape(shape)
        with contextlib.suppress(ConnectionError):  # what it ended with shows at the next answer
            self._line.send_bytes(b"")  # that half is free again
        return FrameBatch(frames=frames, **fields)

    def close(self) -> None:
        self._process.kill()  # it has nothing to save
        self._process.wait()
        self._held.close()

    def _name(self, thing: object) -> str | None:
        return "index" if thing is self._index and thing is not None else None

    def _wait(self) -> None:
        polls = 0  # and not seconds of a clock: while this process was stopped, so was the other
        while not self._line.poll(POLL_S):
            polls += 1
            if self._stop:
                raise Died("was stopped", is_crash=False)
            if polls * POLL_S > self._limit_s:
                raise Died(f"gave no sign of life for {self._limit_s:g} s", is_crash=False)
            alive()

    def _death(self) -> Died:
        """What the process has ended with, of which nothing comes any more.

        That is held against what it was at where the process was ready, had been given it, and ended by an error of
        the code that ran: a signal that says so, or an exit, which no code of this package makes. SIGKILL is the
        system's, for want of memory, and others may come from anywhere.
        """
        try:
            code = self._process.wait(END_S)
        except subprocess.TimeoutExpired:
            return Died("gave nothing more", is_crash=False)
        if code < 0:
            why = " (for want of memory?)" if -code == signal.SIGKILL else ""
            is_crash = self._is_at_work and -code in CRASHES
            return Died(f"was ended by {_signal_name(-code)}{why}", is_crash=is_crash)
        self._said.seek(0)
        last = self._said.read().decode(errors="replace").strip().rpartition("\n")[2]
        is_crash = self._is_at_work and code != OWN_END
        return Died(f"ended with code {code}" + (f" ({last})" if last else ""), is_crash=is_crash)


def _index_in(message: object) -> Index | None:
    content = message[1] if isinstance(message, tuple) else None
    return content.index if isinstance(content, SegmentTask) else None


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:  # one of those for real time
        return f"signal {number}"


def _shared_file(n_bytes: int) -> BinaryIO:
    """Memory without a name, which ends with those who have it open."""
    if hasattr(os, "memfd_create"):
        descriptor = os.memfd_create("vpipe")
    else:
        with tempfile.TemporaryFile() as made:
            descriptor = os.dup(made.fileno())
    file = os.fdopen(descriptor, "r+b")
    try:
        file.truncate(n_bytes)
    except OSError:
        file.close()
        raise
    return file
