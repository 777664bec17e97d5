"""One thread beside the one that starts it: a worker, a clock, a limit."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager

from pipeline.threads.ending import join

log = logging.getLogger(__name__)


class Worker:
    """A thread that works off what others leave for it.

    Args:
        work: Called in the thread: once, then whenever the worker is woken, and unless woken, after as many seconds as
            it returned. None: only when woken.
        name: Of the thread.
    """

    def __init__(self, work: Callable[[], float | None], *, name: str) -> None:
        self._work = work
        self._condition = threading.Condition()
        self._woken = False
        self._ends_s: float | None = None
        self._failure: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name=name)
        self._thread.start()

    def wake(self) -> None:
        """There is something to do. Raises what the thread failed with."""
        with self._condition:
            if self._failure is not None:
                raise self._failure
            self._woken = True
            self._condition.notify_all()

    def close(self, grace_s: float) -> bool:
        """Works off what is there: until there is nothing (None was returned) or so many seconds have passed.

        A call of `work` that lasts longer is left alone, and its thread is among the `stuck_threads`.

        Returns:
            Whether the thread has ended.
        """
        with self._condition:
            self._ends_s = time.monotonic() + grace_s
            self._condition.notify_all()
        join([self._thread], grace_s)
        return not self._thread.is_alive()

    def _run(self) -> None:
        try:
            while True:
                with self._condition:
                    ends_s, self._woken = self._ends_s, False
                again_s = self._work()
                if ends_s is not None and (again_s is None or time.monotonic() + again_s >= ends_s):
                    return
                with self._condition:
                    if not self._woken and self._ends_s == ends_s:
                        self._condition.wait(again_s)  # waking early is harmless: the work looks at what there is
        except BaseException as error:
            with self._condition:
                self._failure = error


@contextmanager
def every(interval_s: float, call: Callable[[], None], *, name: str = "every") -> Generator[None]:
    """Calls `call` at once, then every `interval_s` seconds in a thread of its own, and once more at the end.

    What `call` fails with is logged, once for as long as it is the same, and is no reason to end: what is done every
    so often beside a run is not worth the run.
    """
    over = threading.Event()
    told = ""

    def one() -> None:
        nonlocal told
        try:
            call()
        except Exception as error:
            if (text := f"{type(error).__name__}: {error}") != told:
                told = text
                log.error("%s: %s; it is tried again", name, text, exc_info=log.isEnabledFor(logging.DEBUG))

    def loop() -> None:
        one()
        while not over.wait(interval_s):
            one()
        one()

    thread = threading.Thread(target=loop, name=name)
    thread.start()
    try:
        yield
    finally:
        over.set()
        join([thread])


@contextmanager
def beside(work: Callable[[], None], *, end: Callable[[], None], name: str = "beside") -> Generator[None]:
    """Runs `work` in a thread of its own beside the block; at its end `end` is called, which makes `work` return."""
    thread = threading.Thread(target=work, name=name)
    thread.start()
    try:
        yield
    finally:
        end()
        join([thread])


@contextmanager
def within(limit_s: float, give_up: Callable[[], None], *, name: str = "within") -> Generator[None]:
    """Calls `give_up` in a thread of its own, unless the block has ended by then."""
    timer = threading.Timer(limit_s, give_up)
    timer.name = name
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
        join([timer])
