import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from specialized.events import Events, Windows, events, windows
from specialized.examples import tracks


def mask(text: str) -> np.ndarray:
    return np.array([letter == "x" for letter in text])


@pytest.mark.parametrize(
    ("present", "answered", "expected"),
    [
        ("..xx..xxx.x", "..xx..xxx.x", Events(total=3, found=3, false=0)),
        ("..xx..xxx.x", "...x......x", Events(total=3, found=2, false=0)),  # one frame is enough
        ("..xx.......", "xx...x.xx..", Events(total=1, found=0, false=3)),
        (".xx.xx.....", ".xxxxx.....", Events(total=2, found=2, false=0)),  # an answer that meets one is not false
        ("...........", "...........", Events(total=0, found=0, false=0)),
        ("xxxxxxxxxxx", "xxxxxxxxxxx", Events(total=1, found=1, false=0)),
    ],
)
def test_appearances_are_counted_by_hand(present, answered, expected) -> None:
    assert events(mask(present), mask(answered), tracks(((0, 11),), None)) == expected


def test_an_appearance_ends_with_its_run() -> None:
    assert events(mask("xxxx"), mask("xx.."), tracks(((0, 2), (2, 4)), None)) == Events(total=2, found=1, false=0)


def test_a_window_needs_28_of_its_30_frames() -> None:
    present = np.zeros((4, 30), bool)
    present[0, :28] = present[1, :27] = True
    answered = np.zeros((4, 30), bool)
    answered[1, 1:] = answered[2, :10] = True
    found = windows(present.ravel(), answered.ravel(), tracks(((0, 120),), None))
    assert found == Windows(total=4, present=1, missed=1, false=1)


def test_frames_that_fill_no_window_are_left_out_of_each_run() -> None:
    found = windows(np.ones(100, bool), np.zeros(100, bool), tracks(((0, 29), (29, 100)), None))
    assert found == Windows(total=2, present=2, missed=2, false=0)
    assert windows(np.ones(29, bool), np.ones(29, bool), tracks(((0, 29),), None)) == Windows(
        total=0, present=0, missed=0, false=0
    )


@given(st.lists(st.booleans(), min_size=1, max_size=100))
def test_a_perfect_answer_finds_all_and_the_opposite_finds_none(labels) -> None:
    present, runs = np.array(labels), tracks(((0, len(labels)),), None)
    perfect = events(present, present, runs)
    assert (perfect.found, perfect.false) == (perfect.total, 0)
    opposite = events(present, ~present, runs)
    assert (opposite.total, opposite.found) == (perfect.total, 0)
    right = windows(present, present, runs)
    assert (right.missed, right.false) == (0, 0)


def test_an_appearance_is_in_one_region() -> None:
    region = np.tile(np.array([0, 1], np.int16), 4)
    there = mask("x.xx.xxx")  # of region 0: x x . x, of region 1: . x x x
    assert events(there, there, tracks(((0, 8),), region)) == Events(total=3, found=3, false=0)
