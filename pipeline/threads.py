"""Every thread of the program: `merge`, `Lanes`, `every`, `beside`, `within` and `Worker`, and what they share.

A thread owns the iterator that it runs: it alone advances it and it closes it. A consumer that stops early closes the
channel, the threads notice at their next batch, close their iterators and end. A thread that sits in a native call
cannot be interrupted; it is given `JOIN_S` seconds and then remembered in `stuck_threads`, so that the program can
leave by force after its last commit. Who waits for it may have it replaced: a thread that works for long without giving
anything says `alive` now and then.
"""

from __future__ import annotations

import math
import threading
import time
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Generic, Literal, TypeAlias, TypeVar

__all__ = [
    "Activity",
    "Answer",
    "Exclusive",
    "Lanes",
    "Request",
    "Shared",
    "Stop",
    "Watch",
    "Worker",
    "alive",
    "beside",
    "every",
    "hang",
    "heard_by",
    "merge",
    "stuck_threads",
    "within",
]

S = TypeVar("S")
T = TypeVar("T")

Activity = Literal["produce", "full", "empty"]
"""What a thread spent time on: a producer on an item, a producer waiting because the channel was full (what comes
behind it is the slower part), the consumer waiting because it was empty (what comes before it is)."""

Watch: TypeAlias = Callable[[Activity, int | None, float, float, T | None], None]
"""Told of a stretch of time: activity, number of the producer (None: the consumer), from, to (`time.perf_counter`), and
the item that was produced, if any. Called from the thread that it tells of."""

JOIN_S = 2.0
LOOK_S = 5.0  # between two looks for threads that are late, at most: longer ones count as that
POLL_S = 0.2  # how long a wait lasts before it looks at `stop`: signal handlers run between two of them

_stuck: list[threading.Thread] = []
_here = threading.local()  # `heard`: what `alive` calls in this thread


def alive() -> None:
    """This thread is getting on: says so to whoever would give it up otherwise."""
    heard: Callable[[], None] | None = getattr(_here, "heard", None)
    if heard is not None:
        heard()


def heard_by(heard: Callable[[], None] | None) -> None:
    """From now on `alive` calls this, in this thread."""
    _here.heard = heard


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
                _stuck.append(started[number])
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
            _join([thread for thread in started if thread not in _stuck])

    return consume()


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
        self._threads: list[threading.Thread] = []
        self._started = 0

    def start(self, iterable: Iterable[T], name: str) -> int:
        """Runs an iterable in a thread, which alone iterates and closes it. Returns the number of its lane."""
        number, self._started = self._started, self._started + 1
        with self._condition:
            self._lanes[number] = deque()
        thread = threading.Thread(target=self._produce, args=(number, iterable), name=f"{self._name}-{name}")
        self._threads = [*(thread for thread in self._threads if thread.is_alive()), thread]
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

    def leave(self, number: int) -> list[T]:
        """What waits in a lane, of which nothing more is taken: its thread ends with its next item."""
        with self._condition:
            return list(self._lanes.pop(number))

    def close(self) -> None:
        """Leaves all lanes, and waits a while for their threads."""
        with self._condition:
            self._lanes.clear()
        _join(self._threads)

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
        _join([self._thread], grace_s)
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

    An exception in `call` ends the calls and is raised when the block is left, unless the block itself failed.
    """
    over = threading.Event()
    failure: list[Exception] = []

    def loop() -> None:
        try:
            call()
            while not over.wait(interval_s):
                call()
            call()
        except Exception as error:
            failure.append(error)

    thread = threading.Thread(target=loop, name=name)
    thread.start()
    try:
        yield
    finally:
        over.set()
        _join([thread])
    if failure:
        raise failure[0]


@contextmanager
def beside(work: Callable[[], None], *, end: Callable[[], None], name: str = "beside") -> Generator[None]:
    """Runs `work` in a thread of its own beside the block; at its end `end` is called, which makes `work` return."""
    thread = threading.Thread(target=work, name=name)
    thread.start()
    try:
        yield
    finally:
        end()
        _join([thread])


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
        _join([timer])


def hang() -> None:
    """Does nothing until the program ends: what a thread in a native call may do, made on purpose."""
    while threading.main_thread().is_alive():
        time.sleep(POLL_S)


def stuck_threads() -> list[str]:
    """Names of the threads that did not end when they were asked to and still run."""
    return [thread.name for thread in _stuck if thread.is_alive()]


def _join(threads: Sequence[threading.Thread], grace_s: float = JOIN_S) -> None:
    deadline = time.monotonic() + grace_s
    for thread in threads:
        thread.join(max(0.0, deadline - time.monotonic()))
    _stuck.extend(thread for thread in threads if thread.is_alive() and thread not in _stuck)
