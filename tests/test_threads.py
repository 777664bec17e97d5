import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from pipeline.threads import Answer, Stop, Worker, beside, every, merge, share, stuck_threads


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


def test_shared_iterator_gives_each_item_to_one_thread():
    shared = share(iter(range(1000)))
    got = list(merge([shared_part(shared) for _ in range(4)]))
    assert sorted(got) == list(range(1000))


def shared_part(shared):
    yield from shared


def test_every_calls_at_the_start_and_at_the_end():
    calls = []
    with every(60, lambda: calls.append(1)):
        pass
    assert len(calls) == 2


def test_every_raises_what_the_call_raised():
    def fails():
        raise OSError("gone")

    with pytest.raises(OSError, match="gone"), every(0.01, fails):
        pass


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
