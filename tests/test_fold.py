from typing import NamedTuple
from unittest import mock

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline import filter as filter_module
from pipeline.batch import Counts, FrameBatch, Lost, Segment, SegmentEnd
from pipeline.errors import ForwardError
from pipeline.filter import Filter, folded_filter
from pipeline.fold import Grouping, fold
from pipeline.ledger import Ledger
from pipeline.testing import MeanEngine, check_fold, numbered_batches, numbers_in
from specialized.examples import grouped, padded, tracks
from specialized.orders import WINDOW_GROUPS

ALONG = ("consecutive", "strided", "shuffled")


def label(batches, f, order, *, groups=4, keep=(), filters=1):
    """Labels batches with engines that read the frame number back; the labelled batches and the engines."""
    engines = [MeanEngine(groups + 2 * k) for k in range(filters)]
    named = [Filter(f"mean{k}", engine, keep) for k, engine in enumerate(engines)]
    return list(folded_filter(named, clock=lambda: 0.0)(fold(Grouping(f, order))(iter(batches)))), engines


def interleaved(segments, choices):
    """The batches of several segments in an order made from a list of choices; each segment keeps its own order."""
    queues = [list(batches) for batches in segments if batches]
    mixed = []
    while queues:
        queue = queues[(choices.pop() if choices else 0) % len(queues)]
        mixed.append(queue.pop(0))
        queues = [queue for queue in queues if queue]
    return mixed


lengths = st.lists(st.integers(0, 9), min_size=1, max_size=6)


@settings(max_examples=60, deadline=None)
@given(
    f=st.integers(1, 8),
    order=st.sampled_from(ALONG),
    segments=st.lists(lengths, min_size=1, max_size=4),
    choices=st.lists(st.integers(0, 3), max_size=30),
    groups=st.integers(1, 7),
    filters=st.integers(1, 3),
)
def test_every_label_is_its_own_frames(f, order, segments, choices, groups, filters):
    parts = [numbered_batches(f"s{k}", n, segment=k, first_frame=100 * k) for k, n in enumerate(segments)]
    batches = interleaved(parts, choices)
    check_fold(fold(Grouping(f, order)), batches)
    labelled, _ = label(batches, f, order, groups=groups, filters=filters)
    for filter in range(filters):
        for k, n in enumerate(segments):
            own = [batch for batch in labelled if batch.source == f"s{k}" and batch.filter == f"mean{filter}"]
            numbers = [int(i) for batch in own for i in batch.index]
            assert numbers == list(range(100 * k, 100 * k + sum(n)))
            assert [int(i) for batch in own for i in numbers_in(batch.scores)] == numbers
    ends = [batch.end for batch in labelled if batch.end]
    assert len(ends) == len(segments)
    for end in ends:
        assert end.counts.imbalance() is None
        assert end.filters == dict.fromkeys((f"mean{k}" for k in range(filters)), end.counts.decoded)


@settings(max_examples=60, deadline=None)
@given(
    f=st.integers(1, 5),
    order=st.sampled_from(ALONG),
    lengths=st.lists(st.integers(0, 3 * WINDOW_GROUPS), max_size=8),
    last=st.integers(1, 3 * WINDOW_GROUPS),
    seed=st.integers(0, 3),
)
def test_training_forms_and_pads_the_groups_that_running_forms_and_pads(f, order, lengths, last, seed):
    batches = numbered_batches("a", [*lengths, last])
    folded = list(fold(Grouping(f, order), seed=seed)(iter(batches)))
    pictures = np.concatenate([batch.frames for batch in batches])
    trained_on = grouped(tracks(((0, len(pictures)),), None), f, order, seed=seed)
    assert sum(batch.padded for batch in folded) == np.count_nonzero(trained_on < 0)
    running = np.concatenate([batch.frames for batch in folded])
    assert np.array_equal(running, pictures[padded(trained_on)])


def test_consecutive_groups_are_a_view_of_the_decoded_memory():
    (batch,) = numbered_batches("a", [12])
    (folded,) = fold(Grouping(4, "consecutive"))(iter([batch]))
    assert np.shares_memory(folded.frames, batch.frames)
    assert folded.frames.shape == (3, 4, 2, 3, 3)


def test_tail_is_padded_and_pad_scores_are_dropped():
    labelled, (engine,) = label(numbered_batches("a", [10]), 4, "consecutive")
    assert [int(n) for batch in labelled for n in numbers_in(batch.scores)] == list(range(10))
    assert engine.passes == 1
    (folded,) = fold(Grouping(4, "consecutive"))(iter(numbered_batches("a", [10])))
    assert folded.padded == 2
    assert folded.frames[2, :, 0, 0, 0].tolist() == [8, 9, 9, 9]  # the last picture again


def test_a_remainder_waits_for_the_next_batch_of_its_segment():
    folded = list(fold(Grouping(4, "consecutive"))(iter(numbered_batches("a", [6, 6]))))
    assert [len(batch.frames) for batch in folded] == [1, 2]
    assert all(batch.padded == 0 for batch in folded)


def test_groups_never_span_two_segments():
    batches = [*numbered_batches("a", [3]), *numbered_batches("a", [3], segment=1, first_frame=3)]
    for folded in fold(Grouping(2, "consecutive"))(iter(batches)):
        assert {part.segment.number for part in folded.parts} in ({0}, {1})


def test_strided_groups_take_one_picture_from_each_part_of_the_window():
    (folded,) = fold(Grouping(2, "strided"))(iter(numbered_batches("a", [2 * WINDOW_GROUPS])))
    assert folded.slot[:4].tolist() == [0, WINDOW_GROUPS, 1, WINDOW_GROUPS + 1]


def test_shuffled_groups_do_not_depend_on_how_the_pictures_arrive():
    n = 5 * WINDOW_GROUPS
    groups = []
    for lengths in ([n], [7] * (n // 7) + [n % 7], [100, n - 100]):
        seen = []
        for folded in fold(Grouping(2, "shuffled"), seed=3)(iter(numbered_batches("a", lengths))):
            numbers = folded.frames[..., 0, 0, :2].astype(int) @ [1, 256]
            seen += numbers.tolist()
        groups.append(seen)
    assert groups[0] == groups[1] == groups[2]


def test_full_batches_need_one_forward_pass_each():
    _, (engine,) = label(numbered_batches("a", [16] * 5), 4, "consecutive", groups=4)
    assert engine.passes == 5


def test_keep_passes_only_rows_over_its_threshold_and_counts_the_others():
    labelled, _ = label(numbered_batches("a", [10]), 2, "consecutive", keep=((0, 7.0),))
    (batch,) = labelled
    assert batch.index.tolist() == [7, 8, 9]
    assert (batch.end.counts.labelled, batch.end.counts.filtered, batch.end.counts.written) == (10, 7, 3)
    assert batch.end.filters == {"mean0": 3}


def test_keep_by_any_class_takes_a_segment_without_pictures():
    labelled, _ = label(numbered_batches("a", [0]), 2, "consecutive", keep=((1, 0.5),))
    assert [len(batch) for batch in labelled] == [0]


def bundle(lengths, *, size=(2, 3), rounds=4):
    """Rounds of batches of a bundle: member k has lengths[k] frames."""
    members = tuple(f"s{k}" for k in range(len(lengths)))
    left = list(lengths)
    over = [False] * len(lengths)
    done = [0] * len(lengths)
    while not all(over):
        for k, member in enumerate(members):
            if over[k]:
                continue
            n = min(left[k], rounds)
            segment = Segment(member, bundle=members, slot=k)
            index = np.arange(done[k], done[k] + n, dtype=np.int64)
            frames = np.zeros((n, *size, 3), np.uint8)
            frames[..., 0] = (index + 50 * k)[:, None, None]
            left[k] -= n
            done[k] += n
            over[k] = n < rounds
            end = SegmentEnd(segment, Counts(indexed=lengths[k], decoded=lengths[k])) if over[k] else None
            yield FrameBatch(segment, frames, index, index / 25, end=end)


@settings(max_examples=60, deadline=None)
@given(lengths=st.lists(st.integers(0, 20), min_size=1, max_size=5), more=st.integers(0, 3), rounds=st.integers(1, 6))
def test_folding_across_streams_keeps_each_label_with_its_stream(lengths, more, rounds):
    f = len(lengths) + more
    batches = list(bundle(lengths, rounds=rounds))
    check_fold(fold(Grouping(f, "streams")), batches)
    labelled, _ = label(batches, f, "streams")
    for k, n in enumerate(lengths):
        own = [batch for batch in labelled if batch.source == f"s{k}"]
        assert [int(i) for batch in own for i in batch.index] == list(range(n))
        assert [round(float(s)) for batch in own for s in batch.scores[:, 0]] == [50 * k + i for i in range(n)]
        assert all((batch.fold_slot == k).all() for batch in own)
    assert sum(batch.end is not None for batch in labelled) == len(lengths)


def test_group_k_holds_the_kth_frame_of_each_stream():
    folded = next(fold(Grouping(3, "streams"))(bundle([4, 2, 4])))
    shown = folded.frames[..., 0, 0, 0].tolist()
    assert shown[:2] == [[0, 50, 100], [1, 51, 101]]
    assert [row[::2] for row in shown[2:]] == [[2, 102], [3, 103]]
    assert folded.padded == 2  # the second stream has ended


@pytest.mark.parametrize(("f", "order", "message"), [(0, "consecutive", "f must be"), (2, "sideways", "order must be")])
def test_arguments_are_checked_before_the_first_batch(f, order, message):
    with pytest.raises(ValueError, match=message):
        fold(Grouping(f, order))


def test_slots_are_counted_in_groups_of_any_size():
    labelled, _ = label(numbered_batches("a", [300]), 300, "consecutive")
    assert np.concatenate([batch.fold_slot for batch in labelled]).tolist() == list(range(300))


def test_one_batch_is_in_flight():
    seen = []

    def watched(batches):
        for n, batch in enumerate(batches):
            seen.append(("folded", n))
            yield batch

    stage = folded_filter([Filter("mean", MeanEngine(4))])
    for n, _ in enumerate(stage(watched(fold(Grouping(4, "consecutive"))(iter(numbered_batches("a", [16] * 3)))))):
        seen.append(("labelled", n))
    assert seen == [("folded", 0), ("folded", 1), ("labelled", 0), ("folded", 2), ("labelled", 1), ("labelled", 2)]


@settings(max_examples=60, deadline=None)
@given(lengths=st.lists(st.integers(0, 40), min_size=1, max_size=12), f=st.integers(1, 4), groups=st.integers(1, 9))
def test_short_segments_share_forwards(lengths, f, groups):
    batches = [batch for k, n in enumerate(lengths) for batch in numbered_batches("a", [n], segment=k)]
    labelled, (engine,) = label(batches, f, "consecutive", groups=groups)
    assert [batch.segment.number for batch in labelled] == list(range(len(lengths)))
    assert [numbers_in(batch.scores).tolist() for batch in labelled] == [list(range(n)) for n in lengths]
    formed = sum(-(-n // f) for n in lengths)
    assert engine.passes == -(-formed // groups)


class Faulty(MeanEngine):
    """Gives no scores for the groups in which a frame of `frames` is, or fails whole forwards, by their number."""

    def __init__(self, groups, *, frames=(), forwards=(), final=False):
        super().__init__(groups)
        self.frames, self.forwards, self.final = set(frames), set(forwards), final

    def submit(self, frames):
        scores = super().submit(frames).scores
        bad = np.isin(numbers_in(scores.reshape(-1, 2)), [*self.frames]).reshape(scores.shape[:2]).any(axis=1)
        if self.passes - 1 in self.forwards:
            raise ForwardError(f"out of paper {self.passes - 1}", np.full_like(scores, np.nan), is_final=self.final)
        scores[bad] = np.nan
        return Failing(scores) if bad.any() else Scored(scores)


class Scored(NamedTuple):
    scores: np.ndarray

    def result(self):
        return self.scores


class Failing(Scored):
    def result(self):
        raise ForwardError("a blot", self.scores)


@settings(max_examples=80, deadline=None)
@given(
    f=st.integers(1, 5),
    order=st.sampled_from(ALONG),
    segments=st.lists(lengths, min_size=1, max_size=3),
    groups=st.integers(1, 4),
    frames=st.lists(st.sets(st.integers(0, 30), max_size=4), min_size=1, max_size=3),
    keep=st.sampled_from([(), ((0, 5.0),)]),
)
def test_pictures_without_a_score_are_named_and_all_others_labelled(f, order, segments, groups, frames, keep):
    batches = [batch for k, lengths in enumerate(segments) for batch in numbered_batches("a", lengths, segment=k)]
    filters = [Filter(f"mean{k}", Faulty(groups + k, frames=bad), keep) for k, bad in enumerate(frames)]
    formed = list(fold(Grouping(f, order))(iter(batches)))
    with mock.patch.object(filter_module, "MOST_FAILURES", 10**9):
        labelled = list(folded_filter(filters, clock=lambda: 0.0)(iter(formed)))
    wanted = {}  # by filter and segment, the frames in whose group none is bad
    for folded in formed:
        numbers = np.concatenate([part.index for part in folded.parts])
        owners = np.concatenate([np.full(len(part), part.segment.number) for part in folded.parts])
        red, green = np.moveaxis(folded.frames[:, :, 0, 0, :2].astype(int), -1, 0)
        shown = red + 256 * green  # padding shows one, too
        for group, seen in zip(folded.slot.reshape(-1, f), shown, strict=True):
            for k, bad in enumerate(frames):
                if not bad & set(seen.tolist()):
                    for slot in group[group >= 0]:
                        wanted.setdefault((k, int(owners[slot])), set()).add(int(numbers[slot]))
    for number, lengths_ in enumerate(segments):
        everyone = set(range(sum(lengths_)))
        got = [wanted.get((k, number), set()) for k in range(len(frames))]
        for k, there in enumerate(got):
            rows = [batch for batch in labelled if batch.segment.number == number and batch.filter == f"mean{k}"]
            assert np.concatenate([batch.index for batch in rows]).tolist() == sorted(
                n for n in there if not keep or n >= 5
            )
            for batch in rows:
                np.testing.assert_array_equal(numbers_in(batch.scores), batch.index)
        whole = set.intersection(*got)
        (end,) = [batch.end for batch in labelled if batch.end is not None and batch.segment.number == number]
        assert end.counts.imbalance() is None
        assert (end.counts.labelled, end.counts.failed) == (len(whole), len(everyone - whole))
        assert {n for lost in end.lost for n in range(lost.first, lost.last + 1)} == everyone - whole
        assert (end.error is None) == (whole == everyone)
        equations = [told for told in Ledger([end]).check() if "must follow on segment 0" not in told]
        assert equations == []


def test_a_forward_that_fails_costs_its_own_pictures_alone():
    engine = Faulty(2, forwards={1, 3, 4})
    labelled = list(
        folded_filter([Filter("mean", engine)])(fold(Grouping(2, "consecutive"))(iter(numbered_batches("a", [24]))))
    )
    assert np.concatenate([batch.index for batch in labelled]).tolist() == [*range(4), *range(8, 12), *range(20, 24)]
    end = labelled[-1].end
    assert end.lost == (Lost(4, 7, "failed"), Lost(12, 19, "failed"))
    assert end.error == "filter mean: out of paper 1"


def test_a_segment_tells_what_its_own_forward_failed_with():
    engine = Faulty(2, forwards={0, 1})
    batches = [*numbered_batches("a", [1]), *numbered_batches("b", [6])]  # a and the first of b, two of b, ...
    labelled = list(folded_filter([Filter("mean", engine)])(fold(Grouping(1, "consecutive"))(iter(batches))))
    told = {batch.source: (batch.end.error, batch.end.counts.failed) for batch in labelled if batch.end is not None}
    assert told == {"a": ("filter mean: out of paper 0", 1), "b": ("filter mean: out of paper 0", 3)}


@pytest.mark.parametrize(("forwards", "final"), [({3, 4, 5}, False), ({3}, True)])
def test_a_model_that_goes_on_failing_or_a_lost_device_is_the_end(forwards, final):
    engine = Faulty(1, forwards=forwards, final=final)
    stage = folded_filter([Filter("mean", engine)])(
        fold(Grouping(1, "consecutive"))(iter(numbered_batches("a", [1] * 9)))
    )
    labelled = []

    def kept():
        for batch in stage:
            labelled.extend(batch.index.tolist())

    with pytest.raises(ForwardError, match="out of paper"):
        kept()
    assert labelled == [0, 1, 2]


def labelled_as_it_comes(batches, *, now_s=lambda n: 0.0):
    """What the filter has given after each batch, in forwards of 4 groups; at last after the end."""
    given, labelled, n = [], [], 0

    def watched():
        nonlocal n
        for n, batch in enumerate(batches):
            if n:
                given.append(len(labelled))
            yield batch

    stage = folded_filter([Filter("mean", MeanEngine(4))], clock=lambda: now_s(n))
    labelled += stage(fold(Grouping(1, "consecutive"))(watched()))
    return [*given, len(labelled)]


def test_groups_that_wait_too_long_are_sent_off_as_they_are():
    batches = [batch for k in range(4) for batch in numbered_batches("a", [1], segment=k)]
    assert labelled_as_it_comes(batches) == [0, 0, 0, 4]
    assert labelled_as_it_comes(batches, now_s=lambda n: 0.3 * n) == [0, 0, 3, 4]  # the first had waited for 0.6 s
    assert labelled_as_it_comes(batches, now_s=lambda n: 2.0 * n) == [0, 2, 2, 4]


def test_a_tick_sends_off_what_waits():
    first, second = (batch for k in range(2) for batch in numbered_batches("a", [1], segment=k))
    tick = FrameBatch.tick(Segment("b"), size=(2, 3))
    assert labelled_as_it_comes([first, tick, second]) == [0, 2, 3]
    ended = FrameBatch.tick(Segment("b"), size=(2, 3), end=SegmentEnd(Segment("b")))
    assert labelled_as_it_comes([first, ended, second]) == [0, 0, 3]
