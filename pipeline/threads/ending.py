"""What all threads share: how one is asked to stop, says that it is getting on, and is waited for and left."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence

JOIN_S = 2.0
POLL_S = 0.2  # how long a wait lasts before it looks at `stop`: signal handlers run between two of them

stuck: list[threading.Thread] = []
"""Threads that did not end when they were asked to."""

_here = threading.local()  # `heard`: what `alive` calls in this thread


class Stop:
    """A request to stop, shared by all that waits; setting it from a signal handler is safe."""

    def __init__(self) -> None:
        self._set = False

    def set(self) -> None:
        # A plain attribute, not an Event: a handler runs in the main thread, which may hold an Event's lock just then.
        self._set = True

    def __bool__(self) -> bool:
        return self._set


class Request:
    """Something that is asked for from outside, by a signal handler say, until it is taken."""

    def __init__(self) -> None:
        self._set = False

    def set(self) -> None:
        self._set = True

    def taken(self) -> bool:
        """Whether it was asked for since it was taken last."""
        was, self._set = self._set, False
        return was


def alive() -> None:
    """This thread is getting on: says so to whoever would give it up otherwise."""
    heard: Callable[[], None] | None = getattr(_here, "heard", None)
    if heard is not None:
        heard()


def heard_by(heard: Callable[[], None] | None) -> None:
    """From now on `alive` calls this, in this thread."""
    _here.heard = heard


def hang() -> None:
    """Does nothing until the program ends: what a thread in a native call may do, made on purpose."""
    while threading.main_thread().is_alive():
        time.sleep(POLL_S)


def stuck_threads() -> list[str]:
    """Names of the threads that did not end when they were asked to and still run."""
    return [thread.name for thread in stuck if thread.is_alive()]


def join(threads: Sequence[threading.Thread], grace_s: float = JOIN_S) -> None:
    """Waits for threads, and remembers those that do not end in time."""
    deadline = time.monotonic() + grace_s
    for thread in threads:
        thread.join(max(0.0, deadline - time.monotonic()))
    stuck.extend(thread for thread in threads if thread.is_alive() and thread not in stuck)
