"""`Lanes`: threads that never wait for who takes what they make."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterable
from typing import Generic, TypeVar

from pipeline.threads.ending import join

T = TypeVar("T")


class Lanes(Generic[T]):
    """Threads that never wait for who takes what they make: a lane that is full drops its oldest item.

    Args:
        depth: How many items may wait in a lane.
        drop: What becomes of the two oldest items of a lane that is full: the one that stands for both.
        name: Prefix of the threads' names.
    """

    def __init__(self, *, depth: int, drop: Callable[[T, T], T], name: str = "lanes") -> None:
        if depth < 1:
            raise ValueError(f"depth must be at least 1, got {depth}")
        self._depth, self._drop, self._name = depth, drop, name
        self._condition = threading.Condition()
        self._lanes: dict[int, deque[T]] = {}
        self._failures: list[BaseException] = []
        self._threads: dict[int, threading.Thread] = {}
        self._started = 0

    def start(self, iterable: Iterable[T], name: str) -> int:
        """Runs an iterable in a thread, which alone iterates and closes it. Returns the number of its lane."""
        number, self._started = self._started, self._started + 1
        with self._condition:
            self._lanes[number] = deque()
        thread = threading.Thread(target=self._produce, args=(number, iterable), name=f"{self._name}-{name}")
        running = {key: one for key, one in self._threads.items() if key in self._lanes or one.is_alive()}
        self._threads = {**running, number: thread}
        thread.start()
        return number

    def take(self, timeout_s: float) -> dict[int, list[T]]:
        """All that waits, by lane; nothing where nothing came for so long. Raises what a thread failed with."""
        with self._condition:
            if not any(self._lanes.values()) and not self._failures:
                self._condition.wait(timeout_s)
            if self._failures:
                raise self._failures[0]
            taken = {key: list(lane) for key, lane in self._lanes.items() if lane}
            for key in taken:
                self._lanes[key].clear()
        return taken

    def leave(self, number: int, grace_s: float = 0.0) -> list[T]:
        """What waits in a lane, of which nothing more is taken: its thread ends with its next item.

        A thread that is about to end by itself has so long for its last items.
        """
        self._threads[number].join(max(0.0, grace_s))
        with self._condition:
            return list(self._lanes.pop(number))

    def close(self) -> None:
        """Leaves all lanes, and waits a while for their threads."""
        with self._condition:
            self._lanes.clear()
        join([*self._threads.values()])

    def _produce(self, key: int, iterable: Iterable[T]) -> None:
        iterator = iter(iterable)
        try:
            for item in iterator:
                if not self._put(key, item):
                    break
        except BaseException as error:
            with self._condition:
                self._failures.append(error)
                self._condition.notify_all()
        finally:
            close = getattr(iterator, "close", None)
            if close is not None:
                close()

    def _put(self, key: int, item: T) -> bool:
        with self._condition:
            lane = self._lanes.get(key)
            if lane is None:
                return False
            lane.append(item)
            if len(lane) > self._depth:
                oldest = lane.popleft()
                lane[0] = self._drop(oldest, lane[0])
            self._condition.notify_all()
            return True
