"""What several threads use together: tasks, an answer, a value."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from typing import Generic, TypeVar

from pipeline.threads.ending import POLL_S, alive

S = TypeVar("S")
T = TypeVar("T")


class Shared(Generic[S, T]):
    """Tasks that several threads take, each of them one thread.

    Args:
        origins: What tasks are made of. Their tasks are taken in order.
        expand: Makes the tasks of one. Called in the thread that wants a task when there is none, while others that do
            wait; one at a time.
    """

    def __init__(self, origins: Iterable[S], expand: Callable[[S, object], Iterable[T]]) -> None:
        self._origins = iter(origins)
        self._expand = expand
        self._condition = threading.Condition()
        self._ready: deque[T] = deque()
        self._expanding: tuple[object, S] | None = None  # by whom, and what
        self._at: dict[object, T] = {}
        self._left: set[object] = set()

    def take(self, who: object) -> T | None:
        """The next task for `who`, whose last one is done; None: there is no more."""
        with self._condition:
            self._at.pop(who, None)
            while True:
                if who in self._left:
                    return None
                if self._ready:
                    self._at[who] = self._ready.popleft()
                    return self._at[who]
                if self._expanding is None:
                    try:
                        origin = next(self._origins)
                    except StopIteration:
                        return None
                    self._expanding = who, origin
                    self._expand_apart(who, origin)
                else:
                    self._condition.wait(POLL_S)
                    alive()

    def _expand_apart(self, who: object, origin: S) -> None:
        """Called with the condition held, which is given back meanwhile."""
        self._condition.release()
        made: Sequence[T] = ()
        try:
            made = list(self._expand(origin, who))
        finally:
            self._condition.acquire()
            if who not in self._left:
                self._ready.extend(made)
                self._expanding = None
                self._condition.notify_all()

    def leave(self, who: object) -> tuple[S | None, T | None]:
        """`who` is stuck and gets nothing any more. Returns what it was expanding, or the task that it was at."""
        with self._condition:
            self._left.add(who)
            if self._expanding is not None and self._expanding[0] is who:
                (_, origin), self._expanding = self._expanding, None
                self._condition.notify_all()
                return origin, None
            return None, self._at.pop(who, None)


class Answer(Generic[T]):
    """A value that several threads share: the first to ask finds it out, while the others wait for it."""

    def __init__(self, find: Callable[[], T]) -> None:
        self._find = find
        self._found: list[T] = []
        self._lock = threading.Lock()

    def get(self) -> T:
        """The value. What `find` raises goes to who asked; the next to ask tries again."""
        with self._lock:
            if not self._found:
                self._found.append(self._find())
            return self._found[0]

    def put(self, value: T) -> None:
        """From now on it is this."""
        with self._lock:
            self._found[:] = [value]


class Exclusive(Generic[T]):
    """A value that several threads use, one at a time: `with exclusive as value`."""

    def __init__(self, value: T) -> None:
        self._value = value
        self._lock = threading.Lock()

    def __enter__(self) -> T:
        self._lock.acquire()
        return self._value

    def __exit__(self, *_: object) -> None:
        self._lock.release()
