"""`merge`: several iterables, each in a thread of its own, as one."""

from __future__ import annotations

import math
import threading
import time
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Generic, Literal, TypeAlias, TypeVar

from pipeline.threads.ending import POLL_S, Stop, heard_by, join, stuck

T = TypeVar("T")

Activity = Literal["produce", "full", "empty"]
"""What a thread spent time on: a producer on an item, a producer waiting because the channel was full (what comes
behind it is the slower part), the consumer waiting because it was empty (what comes before it is)."""

Watch: TypeAlias = Callable[[Activity, int | None, float, float, T | None], None]
"""Told of a stretch of time: activity, number of the producer (None: the consumer), from, to (`time.perf_counter`), and
the item that was produced, if any. Called from the thread that it tells of."""

LOOK_S = 5.0  # between two looks for threads that are late, at most: longer ones count as that


@dataclass
class _Clock:
    """When a producer was heard of last; inf while nothing is expected of it."""

    heard_s: float

    def hear(self) -> None:
        self.heard_s = time.monotonic()


@dataclass(frozen=True)
class _Failure:
    error: BaseException


class _Channel(Generic[T]):
    """A bounded queue that either end can close. Of a producer that is given up nothing is taken any more."""

    def __init__(self, depth: int, watch: Watch[T] | None, limit_s: float = math.inf) -> None:
        self._items: deque[T | _Failure] = deque()
        self._depth = depth
        self._condition = threading.Condition()
        self._closed = False
        self._watch = watch
        self._limit_s = limit_s
        self._clocks: dict[int, _Clock] = {}  # of the producers that have not left
        self._looked_s = time.monotonic()

    @contextmanager
    def producer(self, number: int) -> Generator[None]:
        """Counts one producer; the channel ends when the last has left."""
        heard_by(self._clocks[number].hear)
        try:
            yield
        except BaseException as error:
            self._put(_Failure(error), number)
        finally:
            heard_by(None)
            with self._condition:
                self._clocks.pop(number, None)
                self._condition.notify_all()

    def expect(self, number: int) -> None:
        """A producer will come."""
        with self._condition:
            self._clocks[number] = _Clock(time.monotonic())

    def give_up(self, number: int) -> bool:
        """Goes on without a producer; False if it has left meanwhile, or was heard of."""
        with self._condition:
            clock = self._clocks.get(number)
            if clock is None or time.monotonic() - clock.heard_s <= self._limit_s:
                return False
            del self._clocks[number]
            return True

    def forgive(self, number: int) -> None:
        """Nothing is expected of a producer until it puts something."""
        with self._condition:
            if number in self._clocks:
                self._clocks[number].heard_s = math.inf

    def _late(self) -> list[int]:
        """Producers that are at work and were not heard of for `limit_s`. Called by the consumer, now and then."""
        now_s = time.monotonic()
        if self._limit_s == math.inf or now_s - self._looked_s < POLL_S:
            return []
        with self._condition:
            # While nobody looked, nobody may have been able to work: a process can be stopped as a whole.
            asleep_s = max(0.0, now_s - self._looked_s - min(LOOK_S, self._limit_s / 2))
            self._looked_s = now_s
            for clock in self._clocks.values():
                clock.heard_s += asleep_s
            return [number for number, clock in self._clocks.items() if now_s - clock.heard_s > self._limit_s]

    def put(self, item: T, number: int, *, since: float) -> bool:
        """Waits for room; False when nobody wants the item any more. The producer worked on it `since` then."""
        self.tell("produce", number, since, item)
        return self._put(item, number)

    def tell(self, activity: Activity, number: int | None, since: float, item: T | None = None) -> None:
        if self._watch is not None:
            self._watch(activity, number, since, time.perf_counter(), item)

    def _put(self, item: T | _Failure, number: int) -> bool:
        began = time.perf_counter()
        with self._condition:
            full = len(self._items) >= self._depth
            clock = self._clocks.get(number)
            if clock is not None:
                clock.heard_s = math.inf  # waiting is no work
            while len(self._items) >= self._depth and not self._closed:
                self._condition.wait()
            if clock is not None:
                clock.hear()
            wanted = not self._closed and number in self._clocks
            if wanted:
                self._items.append(item)
                self._condition.notify_all()
        if full:
            self.tell("full", number, began)
        return wanted

    def items(self, stop: Stop | None, grace_s: float, late: Callable[[int], None]) -> Iterator[T]:
        """What the producers put, until all have left, one failed, or after a stop nothing came for so long. `late` is
        called for each that is not heard of in time."""
        while True:
            until_s = math.inf

            def stopped() -> bool:
                nonlocal until_s
                if stop and until_s == math.inf:
                    until_s = time.monotonic() + grace_s
                return time.monotonic() >= until_s

            began = time.perf_counter()
            overdue = self._late()
            with self._condition:
                empty = not self._items
                while not self._items and self._clocks and not stopped() and not overdue:
                    self._condition.wait(POLL_S)
                    overdue = self._late()
                over = stopped() or not (self._items or overdue)
                there = not over and bool(self._items)
                if there:
                    item = self._items.popleft()
                    self._condition.notify_all()
            if empty:
                self.tell("empty", None, began)
            if over:
                return
            for number in overdue:
                late(number)
            if not there:
                continue
            if isinstance(item, _Failure):
                raise item.error
            yield item

    def close(self) -> None:
        with self._condition:
            self._closed = True
            self._items.clear()
            self._condition.notify_all()


def merge(
    iterables: Sequence[Iterable[T]],
    *,
    depth: int = 4,
    stop: Stop | None = None,
    grace_s: float = 0.0,
    watch: Watch[T] | None = None,
    limit_s: float = math.inf,
    instead: Callable[[int], Callable[[], Iterable[T]] | None] = lambda number: None,
    name: str = "merge",
) -> Generator[T]:
    """Runs each iterable in a thread of its own and yields what they give as it comes.

    The items of one iterable keep their order. An exception in one of them is raised here. The generator ends when all
    have ended or `stop` is set; closing it ends the threads.

    Args:
        iterables: What to run; each is iterated and closed by its thread alone.
        depth: How many items may wait, over all iterables.
        stop: Ends the iteration from outside, a signal handler say.
        grace_s: How long it waits for something to come then, from iterables that know of the stop and end themselves.
        watch: Told what each end spends its time on.
        limit_s: After which a thread that gave nothing, and was not `alive`, is left alone.
        instead: What makes the iterable that then runs in its place, by its number: that of its own iterable, or of a
            replacement, which are numbered on as they come. None: it is waited for after all.
        name: Prefix of the threads' names.
    """
    if depth < 1:
        raise ValueError(f"depth must be at least 1, got {depth}")
    channel: _Channel[T] = _Channel(depth, watch, limit_s)

    def produce(iterable: Iterable[T], number: int) -> None:
        with channel.producer(number):
            began = time.perf_counter()
            iterator = iter(iterable)
            try:
                for item in iterator:
                    if not channel.put(item, number, since=began):
                        break
                    began = time.perf_counter()
            finally:
                close = getattr(iterator, "close", None)
                if close is not None:
                    close()

    def consume() -> Generator[T]:
        started: list[threading.Thread] = []
        n = len(iterables)

        def start(iterable: Iterable[T], number: int) -> None:
            thread = threading.Thread(target=produce, args=(iterable, number), name=f"{name}-{number}")
            thread.start()
            started.append(thread)

        def late(number: int) -> None:
            nonlocal n
            if (make := instead(number)) is None:
                channel.forgive(number)
            elif channel.give_up(number):
                stuck.append(started[number])
                channel.expect(n)
                start(make(), n)
                n += 1

        for number in range(n):  # all of them first: the channel ends when the last one known has left
            channel.expect(number)
        try:
            for number, iterable in enumerate(iterables):
                start(iterable, number)
            yield from channel.items(stop, grace_s, late)
        finally:
            channel.close()
            join([thread for thread in started if thread not in stuck])

    return consume()
