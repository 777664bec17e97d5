"""What is settled on validation footage once the weights are: a temperature and thresholds for an error target."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from specialized.metrics import Bools, Floats, share

ErrorRate = Literal["false_negative_rate", "false_positive_rate"]

TEMPERATURES = 0.1, 10.0  # the least and the most that a temperature may be
_TOP = 1 - 2.0**-24  # float32 knows no score between this and 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Rates:
    """How a class is told apart by "its score is at least the threshold". None where there was nothing to miss."""

    threshold: float
    false_negative_rate: float | None  # of the pictures that show it, the share below
    false_positive_rate: float | None  # of the others, the share at or over it
    positives: int  # pictures that show it
    negatives: int


def rates_at(threshold: float, present: Bools, scores: Floats) -> Rates:
    """The rates of a threshold on (N,) pictures."""
    reached = scores >= np.float32(threshold)  # as a run compares
    positives, negatives = int(present.sum()), int((~present).sum())
    return Rates(
        threshold=threshold,
        false_negative_rate=share(int((present & ~reached).sum()), positives),
        false_positive_rate=share(int((~present & reached).sum()), negatives),
        positives=positives,
        negatives=negatives,
    )


def threshold_for(target: float, kind: ErrorRate, present: Bools, scores: NDArray[np.float32]) -> float | None:
    """The threshold that keeps an error rate at or below its target, and makes as few errors of the other kind as that
    allows, on these pictures.

    It lies between two scores that occur, for what comes will not score the very same.

    Args:
        target: the most of the rate, 0..1. Of n pictures floor(target · n) may be wrong: with less than 1 / target of
            them none may be.
        kind: which rate.
        present: (N,), true where the class is.
        scores: (N,) of the class.

    Returns:
        A number in 0..1; None where the target cannot be tested, as no picture shows the class or, for false
        positives, all do; and where even a score of 1 is too common among false positives.
    """
    positives, negatives = np.sort(scores[present]), np.sort(scores[~present])[::-1]
    if not len(positives) or (kind == "false_positive_rate" and not len(negatives)):
        return None
    if kind == "false_negative_rate":
        spared = _floor(target * len(positives))
        if spared == len(positives):
            return 1.0
        upper = positives[spared]  # the first that must be kept
        lower = scores[scores < upper].max(initial=0.0)
        return _between(lower, upper)
    let_through = _floor(target * len(negatives))
    if let_through == len(negatives):
        return 0.0
    lower = negatives[let_through]  # the first that must not be kept
    upper = scores[scores > lower].min(initial=1.0)
    return _between(lower, upper) if lower < upper else None


def _floor(product: float) -> int:
    return math.floor(product + 1e-9)  # 0.07 · 100 is 7


def _between(lower: np.float32, upper: np.float32) -> float:
    """A number over lower and at most upper, near their middle, with as few digits as float32 needs to agree."""
    middle = (float(lower) + float(upper)) / 2
    for digits in range(2, 10):
        number = round(middle, digits)
        if lower < np.float32(number) <= upper:
            return number
    return float(upper)


def fit_temperature(scores: NDArray[np.float32], truth: Bools, *, one_of: bool) -> float:
    """The temperature by which logits are divided for scores that are as likely as they say (Guo et al., ICML 2017).

    It minimizes the negative log likelihood, which is convex in 1 / temperature, within 0.1..10. It is 1 where the
    pictures do not settle it: where all of them show the same, where every answer is right (the likelihood then rises
    for ever as the temperature falls), or where nothing is gained.

    Args:
        scores: (N, K), of a model with temperature 1.
        truth: (N, K), true where a class is present.
        one_of: softmax, else a sigmoid each, of which only classes that are present here and absent there count.
    """
    exact = scores.astype(np.float64).clip(np.finfo(np.float32).tiny, _TOP)
    if one_of:
        logits = np.log(exact)  # up to a constant per picture, which softmax does not see
        settled = bool(np.count_nonzero(truth.any(axis=0)) >= 2)
        margin = logits[truth] - np.where(truth, -np.inf, logits).max(axis=1)
    else:
        told_apart = truth.any(axis=0) & ~truth.all(axis=0)
        logits = (np.log(exact) - np.log1p(-exact))[:, told_apart]
        settled = bool(told_apart.any())
        margin = np.where(truth[:, told_apart], logits, -logits)
    if not settled or (margin > 0).all():
        return 1.0

    def loss(log_temperature: float) -> float:
        scaled = logits / math.exp(log_temperature)
        if one_of:
            return float((_log_sum_exp(scaled) - scaled[truth]).mean())
        return float(np.logaddexp(0.0, -margin / math.exp(log_temperature)).mean())

    best = _minimum(loss, *map(math.log, TEMPERATURES))
    return round(math.exp(best), 4) if loss(best) < loss(0.0) - 1e-6 else 1.0


def _log_sum_exp(x: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.asarray(np.logaddexp.reduce(x, axis=1))


def _minimum(function: Callable[[float], float], low: float, high: float) -> float:
    """Where a function with one valley is lowest, by golden-section search."""
    ratio = (math.sqrt(5) - 1) / 2
    while high - low > 1e-6:
        left, right = high - ratio * (high - low), low + ratio * (high - low)
        if function(left) < function(right):
            high = right
        else:
            low = left
    return (low + high) / 2
