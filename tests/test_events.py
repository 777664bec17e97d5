import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from specialized.events import Events, Windows, events, windows


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
    assert events(mask(present), mask(answered), ((0, 11),)) == expected


def test_an_appearance_ends_with_its_run() -> None:
    assert events(mask("xxxx"), mask("xx.."), ((0, 2), (2, 4))) == Events(total=2, found=1, false=0)


def test_a_window_needs_28_of_its_30_frames() -> None:
    present = np.zeros((4, 30), bool)
    present[0, :28] = present[1, :27] = True
    answered = np.zeros((4, 30), bool)
    answered[1, 1:] = answered[2, :10] = True
    found = windows(present.ravel(), answered.ravel(), ((0, 120),))
    assert found == Windows(total=4, present=1, missed=1, false=1)


def test_frames_that_fill_no_window_are_left_out_of_each_run() -> None:
    found = windows(np.ones(100, bool), np.zeros(100, bool), ((0, 29), (29, 100)))
    assert found == Windows(total=2, present=2, missed=2, false=0)
    assert windows(np.ones(29, bool), np.ones(29, bool), ((0, 29),)) == Windows(total=0, present=0, missed=0, false=0)


@given(st.lists(st.booleans(), min_size=1, max_size=100))
def test_a_perfect_answer_finds_all_and_the_opposite_finds_none(labels) -> None:
    present, runs = np.array(labels), ((0, len(labels)),)
    perfect = events(present, present, runs)
    assert (perfect.found, perfect.false) == (perfect.total, 0)
    opposite = events(present, ~present, runs)
    assert (opposite.total, opposite.found) == (perfect.total, 0)
    right = windows(present, present, runs)
    assert (right.missed, right.false) == (0, 0)
