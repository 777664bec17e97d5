import dataclasses
from collections.abc import Mapping

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from pipeline.calibration import Calibration
from specialized.calibration import Rates, fit_temperature, rates_at, threshold_for
from specialized.metrics import log_loss

pictures = st.lists(st.tuples(st.booleans(), st.floats(0, 1, width=32)), min_size=1, max_size=60)
targets = st.sampled_from([0.0, 0.01, 0.05, 0.1, 0.25, 0.5, 1.0])


def softmax(logits: np.ndarray) -> np.ndarray:
    raised = np.exp(logits - logits.max(axis=1, keepdims=True))
    return (raised / raised.sum(axis=1, keepdims=True)).astype(np.float32)


def sigmoid(logits: np.ndarray) -> np.ndarray:
    return (1 / (1 + np.exp(-logits))).astype(np.float32)


def drawn(logits: np.ndarray, seed: int = 1) -> np.ndarray:
    """Labels that are as likely as the softmax of these logits says, (N, K)."""
    chances = softmax(logits).astype(np.float64).cumsum(axis=1)
    chosen = (np.random.default_rng(seed).random((len(logits), 1)) > chances).sum(axis=1)
    return chosen.clip(max=logits.shape[1] - 1)[:, None] == np.arange(logits.shape[1])


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0, 4.0])
@pytest.mark.parametrize("one_of", [True, False])
def test_the_temperature_that_made_scores_overconfident_is_found(temperature, one_of) -> None:
    honest = 2 * np.random.default_rng(0).standard_normal((20_000, 3))
    truth = drawn(honest) if one_of else np.random.default_rng(1).random(honest.shape) < sigmoid(honest)
    scores = (softmax if one_of else sigmoid)(honest * temperature)
    assert fit_temperature(scores, truth, one_of=one_of) == pytest.approx(temperature, rel=0.05)


@given(st.integers(0, 1000), st.integers(2, 4), st.floats(0.2, 5), st.booleans())
def test_a_fitted_temperature_never_raises_the_loss_it_was_fitted_to(seed, k, scale, one_of) -> None:
    rng = np.random.default_rng(seed)
    logits = scale * rng.standard_normal((30, k))
    truth = drawn(rng.standard_normal((30, k)), seed) if one_of else rng.random((30, k)) < 0.5
    told = softmax if one_of else sigmoid
    temperature = fit_temperature(told(logits), truth, one_of=one_of)
    assert 0.1 <= temperature <= 10
    columns = truth.any(axis=0) & ~truth.all(axis=0) if not one_of else np.full(k, True)
    assume(columns.any())
    before, after = (
        log_loss(told(x)[:, columns], truth[:, columns], one_of=one_of) for x in (logits, logits / temperature)
    )
    assert after <= before + 1e-5


@pytest.mark.parametrize("one_of", [True, False])
def test_pictures_that_do_not_settle_a_temperature_leave_it_at_1(one_of) -> None:
    right = np.array([[0.9, 0.1], [0.2, 0.8]], np.float32)
    assert fit_temperature(right, right > 0.5, one_of=one_of) == 1.0  # all answers right
    same = np.array([[True, False], [True, False]])
    assert fit_temperature(right, same, one_of=one_of) == 1.0  # one class only


def test_scores_at_0_and_1_can_be_wrong() -> None:
    scores = np.array([[1, 0], [1, 0], [0, 1], [1, 0]], np.float32)
    truth = np.array([[True, False], [True, False], [False, True], [False, True]])
    for one_of in (True, False):
        assert 1 < fit_temperature(scores, truth, one_of=one_of) <= 10


@given(pictures, targets)
def test_a_threshold_meets_its_target_on_the_pictures_it_was_chosen_on(pairs, target) -> None:
    present, scores = np.array([p for p, _ in pairs]), np.array([s for _, s in pairs], np.float32)
    for kind in ("false_negative_rate", "false_positive_rate"):
        threshold = threshold_for(target, kind, present, scores)
        if threshold is None:
            continue
        assert 0 <= threshold <= 1
        rate = getattr(rates_at(threshold, present, scores), kind)
        assert rate <= target + 1e-9


@given(pictures, targets)
def test_no_other_threshold_meets_the_target_with_fewer_errors_of_the_other_kind(pairs, target) -> None:
    present, scores = np.array([p for p, _ in pairs]), np.array([s for _, s in pairs], np.float32)
    for kind, other in (
        ("false_negative_rate", "false_positive_rate"),
        ("false_positive_rate", "false_negative_rate"),
    ):
        threshold = threshold_for(target, kind, present, scores)
        candidates = [rates_at(float(t), present, scores) for t in [*scores, 0.0, 1.0]]
        fit = [r for r in candidates if getattr(r, kind) is not None and getattr(r, kind) <= target + 1e-9]
        if threshold is None:
            assert not present.any() or present.all() or all(r.false_positive_rate > target for r in candidates)
            continue
        chosen = getattr(rates_at(threshold, present, scores), other)
        assert chosen is None or chosen <= min(getattr(r, other) for r in fit)


@given(st.floats(0, 1, width=32), st.floats(0, 1, width=32))
def test_a_threshold_parts_two_scores_however_close_they_are(low, high) -> None:
    assume(low < high)
    present, scores = np.array([False, True]), np.array([low, high], np.float32)
    for kind in ("false_negative_rate", "false_positive_rate"):
        threshold = threshold_for(0.0, kind, present, scores)
        assert rates_at(threshold, present, scores) == Rates(
            threshold=threshold, false_negative_rate=0.0, false_positive_rate=0.0, positives=1, negatives=1
        )


def test_a_threshold_lies_in_the_middle_and_is_short_to_read() -> None:
    present, scores = np.array([False, True, True]), np.array([0.2, 0.6, 0.9], np.float32)
    assert threshold_for(0.0, "false_negative_rate", present, scores) == 0.4
    assert threshold_for(0.5, "false_negative_rate", present, scores) == 0.75  # one of two may be missed
    assert threshold_for(0.49, "false_negative_rate", present, scores) == 0.4


def test_a_target_that_cannot_be_tested_or_reached_gives_no_threshold() -> None:
    none, both, all_ = np.array([False, False]), np.array([False, True]), np.array([True, True])
    scores = np.array([1.0, 0.5], np.float32)
    assert threshold_for(0.01, "false_negative_rate", none, scores) is None
    assert threshold_for(0.01, "false_positive_rate", none, scores) is None
    assert threshold_for(0.01, "false_positive_rate", all_, scores) is None
    assert threshold_for(0.01, "false_positive_rate", both, scores) is None  # the false one scores 1
    assert threshold_for(0.01, "false_negative_rate", all_, scores) == 0.25


def settled(rates: Mapping[str, Rates], temperature: float = 1.5, **changes: object) -> Calibration:
    calibration = Calibration(
        temperature=temperature,
        log_loss=(0.5, 0.4),
        target=("false_negative_rate", 0.01),
        rates=rates,
        without={},
    )
    return dataclasses.replace(calibration, **changes)  # type: ignore[arg-type]


def rates(present: list[int], scores: list[float], threshold: float) -> Rates:
    return rates_at(threshold, np.array(present, bool), np.array(scores, np.float32))


def test_a_threshold_that_takes_or_misses_nearly_all_is_a_warning_with_its_price() -> None:
    half = rates([1, 1, 0, 0], [0.9, 0.8, 0.7, 0.1], 0.5)
    all_ = rates([1, 1, 0, 0], [0.9, 0.1, 0.7, 0.6], 0.1)
    none = rates([1, 1, 0, 0], [0.9, 0.1, 0.7, 0.6], 1.0)
    alone = rates([1, 1], [0.9, 0.8], 0.5)  # of false positives there is nothing to say
    assert settled({"person": half, "dog": alone}).warnings == []
    takes, misses = settled({"person": half, "car": all_, "bus": none}).warnings
    assert takes.startswith("keep: auto takes 100 % of the validation pictures without car, the price of false_negat")
    assert misses.startswith("keep: auto misses 100 % of the validation pictures with bus, the price of false_negati")
    assert "ask for another rate (operating)" in takes
    (unknown,) = settled({}, without={"person": "no validation picture shows it"}).warnings
    assert unknown == "keep: auto will not know person, since no validation picture shows it"


@pytest.mark.parametrize(
    ("scale", "limit", "told"),
    [(30.0, 10.0, "tell hardly anything"), (0.05, 0.1, "are far less sure than the answers are right")],
)
def test_a_temperature_at_its_limit_is_a_warning(scale, limit, told) -> None:
    honest = np.random.default_rng(0).standard_normal((20_000, 2))
    temperature = fit_temperature(softmax(scale * honest), drawn(honest), one_of=True)
    assert temperature == limit
    (warning,) = settled({}, temperature).warnings
    assert f"ended at its limit, {limit:g}: on validation its scores {told}" in warning
