import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from specialized.metrics import average_precision, calibration_error, log_loss, precision_recall, thinned_curve

scored = st.lists(st.tuples(st.booleans(), st.integers(0, 8)), min_size=1, max_size=40)


def arrays(pairs: list[tuple[bool, int]]) -> tuple[np.ndarray, np.ndarray]:
    present, scores = zip(*pairs, strict=True)
    return np.array(present), np.array(scores, np.float32) / 8


def test_the_curve_is_that_counted_by_hand_with_a_point_per_score() -> None:
    present = np.array([True, False, True, False, True])
    precision, recall, thresholds = precision_recall(present, np.array([0.9, 0.8, 0.8, 0.4, 0.1], np.float32))
    assert thresholds == pytest.approx([0.9, 0.8, 0.4, 0.1])
    assert precision == pytest.approx([1 / 1, 2 / 3, 2 / 4, 3 / 5])
    assert recall == pytest.approx([1 / 3, 2 / 3, 2 / 3, 3 / 3])


def test_average_precision_is_the_area_under_the_steps() -> None:
    # The example of scikit-learn's documentation: 0.83 = (1/2 - 0) · 1 + (1 - 1/2) · 2/3.
    present, scores = np.array([False, False, True, True]), np.array([0.1, 0.4, 0.35, 0.8])
    assert average_precision(present, scores) == pytest.approx(1 / 2 + 1 / 2 * 2 / 3)


def test_without_a_picture_of_the_class_there_is_no_precision_to_average() -> None:
    assert average_precision(np.zeros(3, bool), np.zeros(3)) is None
    assert thinned_curve(np.zeros(3, bool), np.zeros(3)) == []


@given(scored)
def test_average_precision_does_not_depend_on_the_order_of_pictures_that_tie(pairs) -> None:
    present, scores = arrays(pairs)
    reverse = average_precision(present[::-1], scores[::-1])
    assert average_precision(present, scores) == (None if reverse is None else pytest.approx(reverse))


@given(st.lists(st.booleans(), min_size=1, max_size=40))
def test_perfect_scores_have_precision_1_and_scores_that_tell_nothing_the_share_of_the_class(labels) -> None:
    present = np.array(labels)
    if present.any():
        assert average_precision(present, present.astype(np.float32)) == 1.0
        assert average_precision(present, np.full(len(present), 0.5)) == pytest.approx(present.mean())


def test_a_curve_of_any_number_of_pictures_is_thinned_to_what_can_be_drawn() -> None:
    rng = np.random.default_rng(0)
    scores = rng.random(5000).astype(np.float32)
    curve = thinned_curve(rng.random(5000) < scores, scores, points=50)
    assert 40 <= len(curve) <= 50
    assert curve[-1][0] == 1.0
    assert [point[0] for point in curve] == sorted(point[0] for point in curve)


def test_calibration_error_is_that_counted_by_hand() -> None:
    confidence = np.array([0.95, 0.95, 0.55, 0.55, 1.0])
    right = np.array([True, False, True, True, True])
    # bins of 1/15: (14/15, 1] holds 0.95, 0.95, 1.0 with 2 of 3 right; (8/15, 9/15] holds 0.55, 0.55, both right
    expected = 3 / 5 * abs(2 / 3 - 2.9 / 3) + 2 / 5 * abs(1 - 0.55)
    assert calibration_error(confidence, right) == pytest.approx(expected)


@pytest.mark.parametrize(("confidence", "right", "error"), [(1.0, True, 0.0), (1.0, False, 1.0), (0.0, False, 0.0)])
def test_certainty_is_judged_as_it_deserves(confidence, right, error) -> None:
    assert calibration_error(np.full(7, confidence, np.float32), np.full(7, right)) == error


@given(scored)
def test_calibration_error_is_a_share(pairs) -> None:
    right, confidence = arrays(pairs)
    assert 0 <= calibration_error(confidence, right) <= 1


def test_log_loss_is_that_of_the_class_or_of_each_answer() -> None:
    scores = np.array([[0.8, 0.2], [0.5, 0.5]], np.float32)
    truth = np.array([[True, False], [False, True]])
    assert log_loss(scores, truth, one_of=True) == pytest.approx(-(np.log(0.8) + np.log(0.5)) / 2)
    assert log_loss(scores, truth, one_of=False) == pytest.approx(-(2 * np.log(0.8) + 2 * np.log(0.5)) / 4)


def test_a_score_that_was_rounded_to_0_costs_much_and_not_all() -> None:
    assert 80 < log_loss(np.array([[1.0, 0.0]]), np.array([[False, True]]), one_of=True) < 100


def test_certainty_costs_nothing_and_not_less() -> None:
    truth = np.array([[True, False], [False, True]])
    for scores in (truth.astype(np.float32), np.nextafter(truth.astype(np.float32), np.float32(2))):
        assert [f"{log_loss(scores, truth, one_of=one_of):.4f}" for one_of in (True, False)] == ["0.0000"] * 2
