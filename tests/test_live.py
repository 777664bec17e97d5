"""Cameras: what cannot be labelled in time is dropped and counted, windows end by the clock, nothing else is lost."""

import itertools
import threading
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.batch import Counts, FrameBatch, Lost, Segment, SegmentEnd
from pipeline.filter import Filter, folded_filter
from pipeline.fold import Grouping, fold
from pipeline.running import KEPT_ENDS, KEPT_LOST, Running, _Order
from pipeline.sources.camera import Cap, Received, joined
from pipeline.sources.live import APART_S, LANE, Cameras
from pipeline.sources.scaler import PictureFormat, View
from pipeline.testing import MeanEngine, numbers_in
from pipeline.threads import Lanes, Stop

SIZE = (2, 3)


def shown(number):
    """A picture of frame `number`, as `pipeline.testing` reads it."""
    picture = np.zeros((1, *SIZE, 3), np.uint8)
    picture[..., 0], picture[..., 1] = number % 256, number // 256
    return picture


def received(number, *, skipped=0, corrupt=0, by="arrival"):
    lost = (Lost(number - corrupt, number - 1, "corrupt"),) if corrupt else ()
    counts = Counts(indexed=1 + skipped + corrupt, skipped=skipped, corrupt=corrupt, decoded=1)
    return Received(number, number / 10, 1e9 + number / 10, by, [shown(number)], counts, lost)


class Scripted:
    """A camera that gives what is told, and then is silent until it is stopped."""

    def __init__(self, name, script, *, first_frame=0):
        self.name, self.next_frame = name, first_frame
        self.views, self.regions = (View(PictureFormat(*SIZE)),), ()
        self.stop = Stop()
        self.state, self.why, self.spent_s = "live", "", {}
        self._script = script
        self.closed = threading.Event()

    def __iter__(self):
        try:
            yield from self._script
            while not self.stop:
                threading.Event().wait(0.005)
        finally:
            self.closed.set()


def test_a_lane_that_is_full_drops_its_oldest_and_the_others_are_not_kept_waiting():
    lanes = Lanes(depth=3, drop=lambda older, newer: f"{older}+{newer}", name="test")
    done = threading.Event()

    def quick():
        yield from "abcdef"
        done.set()

    quick_lane = lanes.start(quick(), "quick")
    assert done.wait(5)
    slow_lane = lanes.start(iter("z"), "slow")
    taken = {}
    while set(taken) != {quick_lane, slow_lane}:
        taken |= lanes.take(5)
    lanes.close()
    assert taken == {quick_lane: ["a+b+c+d", "e", "f"], slow_lane: ["z"]}


def test_a_lane_that_nobody_wants_ends_its_thread_and_closes_what_it_ran():
    stop, closed = Stop(), threading.Event()

    def endless():
        try:
            while not stop:
                yield 0
        finally:
            closed.set()

    lanes = Lanes(depth=1, drop=lambda older, newer: newer, name="test")
    lane = lanes.start(endless(), "a")
    lanes.take(5)
    lanes.leave(lane)
    assert closed.wait(5)
    assert lanes.take(0) == {}
    lanes.close()


def test_what_a_thread_of_a_lane_fails_with_is_raised_where_its_items_are_taken():
    def broken():
        yield 1
        raise KeyError("lens")

    lanes = Lanes(depth=2, drop=lambda older, newer: newer, name="test")
    lanes.start(broken(), "a")
    with pytest.raises(KeyError, match="lens"):
        [lanes.take(0.1) for _ in range(100)]
    lanes.close()


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3)), min_size=1, max_size=12), st.data())
def test_whatever_is_dropped_the_counts_say_what_became_of_every_frame(steps, data):
    came, number = [], 0
    for skipped, corrupt in steps:
        number += skipped + corrupt
        came.append(received(number, skipped=skipped, corrupt=corrupt))
        number += 1
    while len(came) > 1 and data.draw(st.booleans()):
        k = data.draw(st.integers(0, len(came) - 2))
        came[k : k + 2] = [came[k + 1].dropping(came[k])]
    counts = sum((one.counts for one in came), Counts())
    assert counts.indexed == number
    assert counts.decoded == len(came)
    assert counts.indexed == counts.skipped + counts.corrupt + counts.dropped + counts.decoded
    lost = [n for one in came for range_ in one.lost for n in range(range_.first, range_.last + 1)]
    assert len(lost) == len(set(lost)) == counts.corrupt + counts.dropped
    assert not {one.number for one in came} & set(lost)


def test_ranges_that_follow_on_each_other_become_one():
    one, two, three = Lost(0, 3, "corrupt"), Lost(4, 4, "corrupt"), Lost(5, 5, "dropped")
    assert joined((one,), (two, three)) == (Lost(0, 4, "corrupt"), three)
    assert joined((one,), (three,)) == (one, three)
    assert joined((), (two,)) == (two,)


@pytest.mark.parametrize(
    ("rate", "fps", "kept"), [(25, 10, 10), (25, 25, 25), (10, 30, 10), (30, 1, 1), (15, 7.5, 7.5)]
)
def test_a_cap_lets_so_many_frames_a_second_pass(rate, fps, kept):
    cap, seconds = Cap(fps), 20
    jitter = np.random.default_rng(0).uniform(-0.05, 0.05, rate * seconds) / rate
    times = np.arange(rate * seconds) / rate + jitter
    assert sum(map(cap.lets_pass, times.tolist())) / seconds == pytest.approx(kept, rel=0.06)


def test_a_cap_begins_anew_where_the_clock_jumps():
    cap = Cap(1.0)
    assert [cap.lets_pass(t) for t in (100.0, 100.5, 3.0, 3.5, 4.0, 900.0, 900.5)] == [
        True, False, True, False, True, True, False,
    ]  # fmt: skip


def run_until(cameras, stop, enough, *, clock=None, window_s=1e6):
    """The batches of Cameras, stopped once `enough` says so of what came."""
    batches = []
    arguments = {} if clock is None else {"clock": clock}
    for batch in Cameras(cameras, window_s=window_s, **arguments).batches(stop=stop):
        batches.append(batch)
        if enough(batches):
            stop.set()
    return batches


def frames_of(batches, name):
    return [n for batch in batches if batch.source == name for n in batch.index.tolist()]


def test_when_it_is_stopped_all_that_came_is_handed_on_and_every_window_ends():
    stop = Stop()
    cameras = [Scripted(f"c{k}", [received(n) for n in range(5 + k)]) for k in range(3)]
    batches = run_until(cameras, stop, lambda found: sum(map(len, found)) == 18)
    for k, camera in enumerate(cameras):
        ends = [batch.end for batch in batches if batch.source == camera.name and batch.end is not None]
        assert len(ends) == 1
        assert ends[0].counts.decoded == len(frames_of(batches, camera.name)) == 5 + k
        assert camera.taken == ends[0].counts
        assert camera.closed.wait(5)


def test_a_camera_that_comes_too_fast_drops_and_the_end_of_its_window_says_which():
    stop = Stop()
    camera = Scripted("c", [received(n) for n in range(100)])
    cameras = iter(Cameras([camera], window_s=1e6).batches(stop=stop))
    first = next(cameras)
    while not camera._script or not camera.closed.is_set():  # it ends while nobody takes what it gives
        camera.stop.set()
        camera.closed.wait(5)
    stop.set()
    batches = [first, *cameras]
    came = frames_of(batches, "c")
    (end,) = [batch.end for batch in batches if batch.end is not None]
    assert end.counts == camera.taken == Counts(indexed=100, decoded=len(came), dropped=100 - len(came))
    assert len(came) <= len(first) + LANE
    lost = {n for one in end.lost for n in range(one.first, one.last + 1)}
    assert lost == set(range(100)) - set(came)
    assert {one.why for one in end.lost} == {"dropped"}
    assert came[-1] == 99


def test_rows_say_what_their_time_is_by():
    script = [received(k, by="camera" if k in (3, 4) else "arrival") for k in range(6)]
    batches = run_until([Scripted("a", script)], Stop(), lambda found: sum(map(len, found)) == 6)
    told = [(number, batch.captured_by) for batch in batches for number in batch.index.tolist()]
    assert told == [(k, "camera" if k in (3, 4) else "arrival") for k in range(6)]


def test_a_window_ends_by_the_clock_though_its_camera_is_silent():
    now_s = 1_000.0
    stop = Stop()

    def script():
        yield received(0)
        yield received(1)

    def enough(found):
        nonlocal now_s
        if sum(map(len, found)) == 2:
            now_s = 1_260.0
        return any(batch.end is not None for batch in found)

    batches = run_until([Scripted("c", script())], stop, enough, clock=lambda: now_s, window_s=60)
    end, nothing = [batch.end for batch in batches if batch.end is not None]
    assert (end.segment.window_utc_s, end.counts.decoded) == (960.0, 2)
    assert (nothing.retry, nothing.error, nothing.counts) == (True, None, Counts())


def test_each_window_tells_how_long_its_camera_was_in_which_state():
    now_s, camera = 1_000.0, Scripted("c", [received(0)])

    def enough(found):
        nonlocal now_s
        ends = sum(batch.end is not None for batch in found)
        if len(frames_of(found, "c")) == 1 and not ends:
            camera.spent_s, now_s = {"connecting": 0.25, "live": 9.75}, 1_100.0
        if ends:
            camera.spent_s = {"connecting": 0.25, "live": 12.0, "down": 47.5}
        return ends == 1

    batches = run_until([camera], Stop(), enough, clock=lambda: now_s, window_s=60)
    window, silence = [batch.end for batch in batches if batch.end is not None]
    assert window.states == {"connecting": 0.25, "live": 9.75}
    assert silence.states == {"connecting": 0.0, "live": 2.25, "down": 47.5}


def test_windows_of_several_cameras_end_one_after_the_other():
    now_s = 1_000.0
    cameras = [Scripted(f"c{k}", [received(0)]) for k in range(4)]
    ended_s = {}

    def enough(found):
        nonlocal now_s
        if len({batch.source for batch in found if len(batch)}) == 4:
            for batch in found:
                if batch.end is not None:
                    ended_s.setdefault(batch.source, now_s)
            now_s = max(1_019.9, now_s) + 0.01
        return len(ended_s) == 4

    batches = run_until(cameras, Stop(), enough, clock=lambda: now_s, window_s=60)
    ends = [batch.end for batch in batches if batch.end is not None and not batch.end.retry]
    assert {end.segment.window_utc_s for end in ends} == {960.0}
    assert sorted(ended_s) == ["c0", "c1", "c2", "c3"]
    assert np.allclose(np.diff(sorted(ended_s.values())), APART_S, atol=0.02)
    assert min(ended_s.values()) >= 1_020.0


def test_what_was_taken_of_a_camera_counts_over_all_its_windows():
    stop, first_came = Stop(), threading.Event()

    def script():
        yield received(0)
        first_came.wait(5)
        yield received(3, skipped=2)

    def enough(found):
        if sum(map(len, found)):
            first_came.set()
        return camera.taken.indexed == 4

    camera = Scripted("c", script())
    batches = run_until([camera], stop, enough, clock=itertools.count().__next__, window_s=1)  # a window at each look
    ends = [batch.end.counts for batch in batches if batch.end is not None and not batch.end.retry]
    assert ends == [Counts(indexed=1, decoded=1), Counts(indexed=3, skipped=2, decoded=1)]
    assert camera.taken == ends[0] + ends[1]


def test_numbers_go_on_where_an_earlier_run_ended():
    stop = Stop()
    before = SegmentEnd(Segment("c", number=6, first_frame=40), Counts(indexed=10, decoded=10))
    camera = Scripted("c", [])
    camera._script = [received(50), received(51)]
    batches = []
    for batch in Cameras([camera], window_s=1e6, clock=lambda: 5.0).batches(stop=stop, last={"c": before}):
        batches.append(batch)
        if sum(map(len, batches)) == 2:
            stop.set()
    assert batches[-1].segment == Segment("c", 7, 50, window_utc_s=0.0)


def test_cameras_come_and_go_and_nothing_of_them_is_lost():
    stop = Stop()
    first, other, again = Scripted("a", [received(n) for n in range(3)]), Scripted("b", [received(0)]), None
    cameras = Cameras([first], window_s=1e6)
    batches = []
    for batch in cameras.batches(stop=stop):
        batches.append(batch)
        came = {name: frames_of(batches, name) for name in "ab"}
        if again is None and len(came["a"]) == 3:
            again = Scripted("a", [received(n) for n in (3, 4)])  # as one whose address has changed
            cameras.change([again, other])
        if len(came["a"]) == 5 and came["b"]:
            stop.set()
    assert again.taken == Counts(indexed=5, decoded=5)  # counters go on
    assert first.closed.wait(5)
    assert frames_of(batches, "a") == [0, 1, 2, 3, 4]
    ends = {(end.segment.source, end.segment.number): end for batch in batches if (end := batch.end) is not None}
    assert {key: (end.segment.first_frame, end.counts.decoded) for key, end in ends.items()} == {
        ("a", 0): (0, 3), ("a", 1): (3, 2), ("b", 0): (0, 1),
    }  # fmt: skip


def test_frames_that_are_under_way_keep_the_regions_of_their_camera_as_it_was():
    stop = Stop()
    first, again = Scripted("a", [received(0)]), Scripted("a", [received(1)])
    first.regions, again.regions = ("door", "gate"), ("bay",)
    cameras = Cameras([first], window_s=1e6)
    seen = {}
    for batch in cameras.batches(stop=stop):
        if len(batch) and batch.segment.number == 0:
            cameras.change([again])
        elif len(batch):
            stop.set()
        if len(batch):
            seen[batch.segment.number] = batch.segment
        told = {number: cameras.regions(segment) for number, segment in seen.items()}
        assert told in ({}, {0: ("door", "gate")}, {0: ("door", "gate"), 1: ("bay",)})
    assert len(seen) == 2


def test_a_clock_that_is_set_back_ends_the_window():
    now_s = 10_000.0

    def enough(found):
        nonlocal now_s
        if sum(map(len, found)) == 1:
            now_s = 400.0
        return any(batch.end is not None for batch in found)

    batches = run_until([Scripted("c", [received(0)])], Stop(), enough, clock=lambda: now_s, window_s=60)
    assert next(batch.end.segment.window_utc_s for batch in batches if batch.end is not None) == 9_960.0


def test_a_time_in_which_nothing_came_holds_up_no_later_window():
    def end(number, *, retry=False):
        return SegmentEnd(Segment("c", number, 10 * number, window_utc_s=0.0), retry=retry)

    order = _Order([end(4)], live=True)
    for one in (end(5), end(6, retry=True), end(6, retry=True), end(6), end(7)):
        assert list(order.ready(one)) == [one]
    assert list(order.rest()) == []


def test_what_is_kept_of_a_camera_for_the_ledger_is_bounded():
    kept = SimpleNamespace(tails={}, earlier={})
    for number in range(3 * KEPT_ENDS):
        lost = tuple(Lost(2 * n, 2 * n, "dropped") for n in range(KEPT_LOST // 2)) if number > 2 * KEPT_ENDS else ()
        window = Segment("c", number, 10 * number, window_utc_s=0.0)
        Running._remember(kept, SegmentEnd(window, Counts(indexed=10, decoded=10), lost, states={"live": 1.0}))
        assert len(kept.tails["c"]) <= KEPT_ENDS
        assert sum(len(end.lost) for end in kept.tails["c"]) <= KEPT_LOST
    assert len(kept.tails["c"]) == 2
    assert kept.earlier["c"].counts.indexed == 10 * (3 * KEPT_ENDS - 2)
    assert kept.earlier["c"].states == {"live": 3 * KEPT_ENDS - 2}


def test_a_thread_that_is_left_may_tell_what_came_last():
    stop = Stop()

    def counts():
        yield 1
        while not stop:
            threading.Event().wait(0.005)
        yield 2

    lanes = Lanes(depth=8, drop=lambda older, newer: newer)
    lane = lanes.start(counts(), "c")
    stop.set()
    assert lanes.leave(lane, 5.0)[-1] == 2
    lanes.close()


# ------------------------------------------------------------------------------------- folding live


class Clock:
    def __init__(self):
        self.now_s = 0.0

    def __call__(self):
        return self.now_s


def frame(source, number, *, end=False):
    segment = Segment(source)
    index = np.array([number], np.int64)
    over = SegmentEnd(segment, Counts(indexed=number + 1, decoded=number + 1)) if end else None
    return FrameBatch(segment, shown(number), index, index / 10, end=over)


@pytest.mark.parametrize("order", ["consecutive", "strided", "regions", "streams"])
def test_a_group_that_has_waited_for_long_enough_is_padded_and_goes(order):
    clock = Clock()
    steps = [(0.00, frame("a", 0)), (0.05, frame("a", 1)), (0.11, FrameBatch.tick(Segment("a"))), (0.2, frame("a", 2))]

    def coming():
        for now_s, batch in steps:
            clock.now_s = now_s
            yield batch

    out = [
        (clock.now_s, [n for part in folded.parts for n in part.index.tolist()], folded.padded)
        for folded in fold(Grouping(4, order), max_wait_s=0.1, clock=clock)(coming())
    ]
    waiting = [(when, numbers, padded) for when, numbers, padded in out if numbers]
    if order == "streams":  # a camera has one frame in a group
        assert waiting == [(0.11, [0], 3), (0.2, [1], 3)]
    else:
        assert waiting == [(0.11, [0, 1], 2)]


def test_across_cameras_a_group_takes_the_oldest_frame_of_each():
    clock = Clock()
    steps = [frame("a", 0), frame("a", 1), frame("b", 0), frame("c", 0), frame("c", 1), frame("b", 1)]

    def coming():
        for batch in steps:
            clock.now_s += 0.01
            yield batch

    groups = [
        [(part.source, n) for part in folded.parts for n in part.index.tolist()]
        for folded in fold(Grouping(2, "streams"), max_wait_s=1.0, clock=clock)(coming())
    ]
    assert groups == [[("a", 0), ("b", 0)], [("a", 1), ("c", 0)], [("c", 1), ("b", 1)]]


@settings(max_examples=60, deadline=None)
@given(
    f=st.integers(1, 5),
    order=st.sampled_from(["consecutive", "strided", "streams", "regions"]),
    coming=st.lists(st.tuples(st.integers(0, 3), st.sampled_from(["frame", "frame", "frames", "tick", "end"]),
                              st.floats(0, 0.2)), max_size=60),
)  # fmt: skip
def test_whatever_comes_when_every_label_is_that_of_its_camera_and_frame(f, order, coming):
    clock, number, opened = Clock(), [0] * 4, [0] * 4
    sent: dict[Segment, int] = {}

    def batches():
        for camera, what, pause_s in coming:
            clock.now_s += pause_s
            segment = Segment(f"c{camera}", opened[camera])
            n = {"frame": 1, "frames": 3}.get(what, 0)
            index = np.arange(number[camera], number[camera] + n, dtype=np.int64)
            pictures = np.concatenate([shown(4 * k + camera) for k in index] or [np.empty((0, *SIZE, 3), np.uint8)])
            number[camera] += n
            sent[segment] = sent.get(segment, 0) + n
            end = None
            if what == "end":
                end = SegmentEnd(segment, Counts(indexed=sent[segment], decoded=sent[segment]))
                opened[camera] += 1
            yield FrameBatch(segment, pictures, index, index / 10, end=end)
        for camera in range(4):
            segment = Segment(f"c{camera}", opened[camera])
            if segment in sent and opened[camera] == segment.number:
                counts = Counts(indexed=sent[segment], decoded=sent[segment])
                yield FrameBatch.tick(segment, size=SIZE, end=SegmentEnd(segment, counts))

    filters = [Filter("mean", MeanEngine(3))]
    folded = fold(Grouping(f, order), max_wait_s=0.1, clock=clock)(batches())
    labelled, ended = {}, {}
    for batch in folded_filter(filters, longest_wait_s=0.1, clock=clock)(folded):
        assert batch.segment not in ended
        for n, value in zip(batch.index.tolist(), numbers_in(batch.scores).tolist(), strict=True):
            assert (batch.source, n) not in labelled
            labelled[batch.source, n] = value
        if batch.end is not None:
            ended[batch.segment] = batch.end
    assert labelled == {(f"c{c}", n): 4 * n + c for c in range(4) for n in range(number[c])}
    assert set(ended) == set(sent)
    assert all(end.counts.imbalance() is None for end in ended.values())
