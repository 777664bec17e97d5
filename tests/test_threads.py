import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from pipeline.threads import (
    Answer,
    Shared,
    Stop,
    Worker,
    alive,
    beside,
    every,
    merge,
    merging,
    stuck_threads,
    within,
)


def names() -> set[str]:
    return {thread.name for thread in threading.enumerate()}


def test_merge_yields_everything_and_keeps_the_order_of_each():
    got = list(merge([[(k, i) for i in range(50)] for k in range(3)]))
    assert len(got) == 150
    for k in range(3):
        assert [i for which, i in got if which == k] == list(range(50))


def test_merge_raises_the_failure_of_one_iterable():
    def fails():
        yield 1
        raise OSError("disk")

    with pytest.raises(OSError, match="disk"):
        list(merge([fails(), range(3)]))
    assert not any(name.startswith("merge") for name in names())


def test_closing_the_consumer_closes_every_iterator_in_its_own_thread():
    closed = []

    def endless(k):
        try:
            while True:
                yield k
        finally:
            closed.append((k, threading.current_thread().name))

    stream = merge([endless(0), endless(1)], name="m")
    next(stream)
    stream.close()
    assert sorted(closed) == [(0, "m-0"), (1, "m-1")]
    assert stuck_threads() == []


def test_a_full_channel_holds_the_producer_back():
    made = []

    def produce():
        for i in range(100):
            made.append(i)
            yield i

    stream = merge([produce()], depth=2)
    assert next(stream) == 0
    deadline = time.monotonic() + 5
    while len(made) < 4 and time.monotonic() < deadline:
        time.sleep(0.001)
    assert len(made) <= 4  # one taken, two waiting, one in hand
    stream.close()


def test_stop_ends_a_wait_for_a_silent_producer():
    release = threading.Event()

    def silent():
        release.wait(10)
        yield 1

    stop = Stop()
    stream = merge([silent()], stop=stop)
    timer = threading.Timer(0.05, stop.set)
    timer.start()
    release_later = threading.Timer(0.5, release.set)
    release_later.start()
    started = time.monotonic()
    assert list(stream) == []
    assert time.monotonic() - started < 5
    timer.join()
    release_later.join()


def test_the_watch_is_told_which_end_was_slower():
    def watched(iterable, *, pause_s=0.0, **options):
        """What each activity took in total, and what was produced by whom."""
        seconds, produced = {"produce": 0.0, "full": 0.0, "empty": 0.0}, []

        def watch(activity, producer, began, ended, item):
            seconds[activity] += ended - began
            assert (producer is None) == (activity == "empty")
            if activity == "produce":
                produced.append((producer, item))

        for _ in merge([iterable], watch=watch, **options):
            time.sleep(pause_s)
        return seconds, produced

    def slow():
        for i in range(4):
            time.sleep(0.02)
            yield i

    starved, produced = watched(slow())
    assert starved["produce"] >= 0.08
    assert starved["empty"] > 0.04 > starved["full"]
    assert produced == [(0, i) for i in range(4)]

    held, _ = watched(range(6), depth=1, pause_s=0.02)
    assert held["full"] > 0.04 > held["empty"]


def taken(shared, who, seconds=0.0):
    while (task := shared.take(who)) is not None:
        time.sleep(seconds)
        yield task


def test_shared_tasks_go_to_one_thread_each_and_are_made_in_order_when_they_are_needed():
    made = []

    def expand(origin, who):
        made.append((origin, who))
        return [(origin, k) for k in range(origin % 4)]

    shared = Shared(range(300), expand)
    got = list(merge([taken(shared, who) for who in range(4)]))
    assert sorted(got) == [(origin, k) for origin in range(300) for k in range(origin % 4)]
    assert [origin for origin, _ in made] == list(range(300))
    late = Shared(range(9), expand)
    made.clear()
    assert late.take("a") == (1, 0)
    assert [origin for origin, _ in made] == [0, 1]


def test_who_left_gets_nothing_and_what_it_was_at_is_told():
    gate = threading.Event()

    def expand(origin, who):
        if origin == "stuck":
            gate.wait(20)
        return [origin.upper()]

    shared = Shared(["a", "stuck", "b"], expand)
    assert shared.take("one") == "A"
    assert shared.leave("one") == (None, "A")
    assert shared.take("one") is None
    with ThreadPoolExecutor() as pool:
        stuck = pool.submit(shared.take, "two")
        while shared._expanding is None:
            time.sleep(0.01)
        waits = pool.submit(shared.take, "three")
        assert shared.leave("two") == ("stuck", None)
        assert waits.result(20) == "B"
        gate.set()
        assert stuck.result(20) is None
    assert shared.take("three") is None
    assert shared.leave("three") == (None, None)


def test_a_thread_that_gives_nothing_is_left_alone_and_another_goes_on():
    gate = threading.Event()

    def stuck():
        yield "first"
        gate.wait(20)
        yield "too late"

    def lively():
        for k in range(8):
            for _ in range(4):
                time.sleep(0.05)
                alive()  # else it were late, too
            yield k

    asked = []

    def instead(number):
        asked.append(number)
        return (lambda: ["in its place"]) if number == 0 else None

    stream = merge([stuck(), lively()], limit_s=0.5, instead=instead, name="late")
    got = list(stream)
    assert got[0] == "first" or got[1] == "first"
    assert [item for item in got if isinstance(item, int)] == list(range(8))
    assert [item for item in got if isinstance(item, str)] == ["first", "in its place"]
    assert asked == [0]
    gate.set()
    while "late-0" in names():
        time.sleep(0.01)


def test_who_waits_for_room_is_not_late_and_neither_is_who_cannot_be_replaced():
    asked = []

    def slow():
        time.sleep(1.5)
        yield "slow"

    def instead(number):
        asked.append(number)

    got = []
    for item in merge([range(6), slow()], depth=1, limit_s=0.5, instead=instead):
        got.append(item)
        time.sleep(0.3)
    assert sorted(map(str, got)) == ["0", "1", "2", "3", "4", "5", "slow"]
    assert asked in ([], [1])


def test_a_consumer_that_slept_finds_nobody_late(monkeypatch):
    monkeypatch.setattr(merging, "LOOK_S", 0.2)
    asked = []
    gate = threading.Event()

    def waits():
        yield 0
        gate.wait(1.0)  # well within the limit, but for the sleep of the consumer
        yield 1

    got = []
    for item in merge([waits()], limit_s=0.8, instead=asked.append):
        got.append(item)
        if item == 0:
            time.sleep(1.0)
    assert (got, asked) == ([0, 1], [])


def test_every_calls_at_the_start_and_at_the_end():
    calls = []
    with every(60, lambda: calls.append(1)):
        pass
    assert len(calls) == 2


def test_every_tells_once_what_a_call_fails_with_and_goes_on(caplog):
    calls = iter([OSError("gone"), OSError("gone"), ValueError("odd"), None])
    over = threading.Event()

    def fails():
        if error := next(calls, None):
            raise error
        over.set()

    with every(0.01, fails, name="looking"):
        assert over.wait(5)
    assert caplog.messages == [
        "looking: OSError: gone; it is tried again",
        "looking: ValueError: odd; it is tried again",
    ]


def test_depth_is_checked_before_the_first_item():
    with pytest.raises(ValueError, match="depth"):
        merge([], depth=0)


def test_an_answer_is_found_once_by_who_asks_first():
    asked = []

    def find():
        asked.append(threading.get_ident())
        time.sleep(0.05)
        return len(asked)

    answer = Answer(find)
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(lambda _: answer.get(), range(8))) == [1] * 8
    answer.put(7)
    assert answer.get() == 7
    assert len(asked) == 1


def test_an_answer_that_could_not_be_found_is_looked_for_again():
    answers = iter([ValueError("not now"), 3])

    def find():
        found = next(answers)
        if isinstance(found, Exception):
            raise found
        return found

    answer = Answer(find)
    with pytest.raises(ValueError, match="not now"):
        answer.get()
    assert answer.get() == 3


def test_work_beside_a_block_is_made_to_return_at_its_end_whatever_happens():
    begun, over = threading.Event(), threading.Event()

    def work():
        begun.set()
        over.wait(10)

    def block():
        with beside(work, end=over.set, name="aside"):
            assert begun.wait(5)
            assert "aside" in names()
            raise KeyError

    with pytest.raises(KeyError):
        block()
    assert "aside" not in names()


def test_a_worker_works_when_it_is_woken_and_when_it_asked_to():
    calls, again = [], iter([None, 0.01, None])
    worked = threading.Semaphore(0)

    def work():
        calls.append(1)
        worked.release()
        return next(again, None)

    worker = Worker(work, name="worker")
    assert worked.acquire(timeout=5)
    worker.wake()
    assert worked.acquire(timeout=5)
    assert worked.acquire(timeout=5)  # a hundredth of a second later
    assert worker.close(2)
    assert len(calls) == 4  # once more at the end


def test_a_worker_that_fails_says_so_when_it_is_woken():
    def fails():
        raise OSError("gone")

    worker = Worker(fails, name="worker")
    worker.close(5)
    with pytest.raises(OSError, match="gone"):
        worker.wake()


def test_a_worker_that_hangs_is_left_alone():
    release = threading.Event()
    worker = Worker(lambda: release.wait(20) and None, name="hanging worker")
    assert not worker.close(0.05)
    assert "hanging worker" in stuck_threads()
    release.set()
    assert worker.close(5)


def test_a_worker_tries_until_the_grace_is_over():
    calls = []
    worker = Worker(lambda: calls.append(1) or 0.01, name="worker")
    assert worker.close(0.2) or worker.close(1)
    assert len(calls) > 3


def test_within_gives_up_in_time_and_only_then():
    given_up = []
    with within(0.05, lambda: given_up.append(1), name="limit"):
        while not given_up:
            time.sleep(0.01)
    with within(20.0, lambda: given_up.append(2), name="limit"):
        pass
    assert given_up == [1]
    assert "limit" not in names()
