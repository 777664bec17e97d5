"""A source of one's own: what it does against its contract is named, and costs its own segment alone."""

from dataclasses import replace

import numpy as np
import pytest

from pipeline.batch import Counts, FrameBatch, Segment, SegmentEnd
from pipeline.ledger import Ledger
from pipeline.sources.own import OwnSource
from pipeline.testing import check_source, numbered_batches
from tests.test_regions import region_batches

SIZE = (2, 3)


class Given:
    """Gives what it was given, and raises what it was given to raise."""

    name = "mine"

    def __init__(self, *batches):
        self.batches = batches

    def __iter__(self):
        for batch in self.batches:
            if isinstance(batch, Exception):
                raise batch
            yield batch


def of(*batches):
    return list(OwnSource(Given(*batches), SIZE))


def numbered(*lengths, segment=0, first_frame=0):
    return numbered_batches("mine", lengths, segment=segment, first_frame=first_frame)


def test_what_keeps_the_contract_is_passed_on_as_it_is():
    batches = [*numbered(3, 0, 2), *numbered(4, segment=1, first_frame=5), FrameBatch.tick(Segment("mine", 2, 9))]
    assert of(*batches[:-1]) == batches[:-1]
    check_source(OwnSource(Given(*batches), SIZE))


first, last = numbered(3, 2)
lying = replace(last, end=replace(last.end, counts=replace(last.end.counts, decoded=4)))
shuffled = replace(first, index=first.index[::-1].copy())


@pytest.mark.parametrize(
    ("batches", "passed", "error"),
    [
        ([first, RuntimeError("no more")], 1, "no more"),
        ([first], 1, "the source ended in the middle of a segment"),
        ([first, 7], 1, "a source must give FrameBatches, got int"),
        ([first, lying], 1, "segment 0: its end must tell of 5 frames decoded, got 4"),
        ([first, first], 1, "segment 0: frame numbers must ascend from 3, got 0..2"),
        ([shuffled], 0, "segment 0: frame numbers must ascend from 0, got 2..0"),
        ([*numbered_batches("mine", [2], size=(4, 5))], 0, "segment 0: pictures must be 3x2 as the model takes them"),
        ([*numbered_batches("yours", [2])], 0, "batches must be of the source 'mine', got 'yours'"),
        ([*region_batches("mine", [3], [2])], 0, "batches must be of whole frames, got regions"),
    ],
)  # fmt: skip
def test_what_breaks_the_contract_ends_its_segment_to_be_tried_again(batches, passed, error):
    *came, end = of(*batches)
    assert came == batches[:passed]
    assert end.end.retry
    assert error in end.end.error


def test_a_segment_that_a_source_gives_up_is_passed_on_with_its_reason_and_the_next_one_comes():
    given_up = replace(last, end=SegmentEnd(last.segment, error="the recorder is away", retry=True))
    batches = [first, given_up, *numbered(2, segment=1, first_frame=5)]
    assert of(*batches) == batches


def test_nothing_comes_behind_the_end_of_a_segment():
    *came, refused = of(first, last, first)
    assert came == [first, last]
    assert "segment 0: must have nothing behind its end" in refused.end.error


def test_the_error_after_a_whole_segment_is_that_of_the_next_one():
    *came, refused = of(first, last, RuntimeError("no more"))
    assert refused.segment == Segment("mine", 1, 5)
    ends = [SegmentEnd(last.segment, last.end.counts), refused.end]
    assert not [problem for problem in Ledger(ends).check() if "must be segment" in problem]
    assert np.concatenate([batch.index for batch in came]).tolist() == list(range(5))


def test_a_source_that_ends_before_its_last_segment_is_not_complete():
    segment = Segment("mine", end_s=1.0)
    counts = Counts(indexed=3, decoded=3)
    (batch,) = numbered(3)
    *_, end = of(replace(batch, segment=segment, end=SegmentEnd(segment, counts)))
    assert (end.segment, end.end.retry) == (Segment("mine", 1, 3), True)
    assert "the source ended without a last segment" in end.end.error
