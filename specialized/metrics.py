"""Figures of merit of scores against labels: pure functions of numpy arrays."""

import numpy as np
from numpy.typing import NDArray

Bools = NDArray[np.bool_]
Floats = NDArray[np.float32] | NDArray[np.float64]

BINS = 15  # of confidence, as in Guo et al., On Calibration of Modern Neural Networks, ICML 2017

_LEAST = float(np.finfo(np.float32).tiny)  # a score that was rounded to 0 was at least not more likely than this


def share(part: float, whole: float) -> float | None:
    """part / whole, None where there is no whole."""
    return float(part / whole) if whole else None


def precision_recall(
    present: Bools, scores: Floats
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Precision and recall of "the score is at least t" for every t that makes a difference.

    Args:
        present: (N,), true where the class is there; somewhere it must be.
        scores: (N,) of the class.

    Returns:
        Precision, recall and thresholds, each (T,), one point per distinct score, from the highest down: recall rises
        to 1.
    """
    falling = np.argsort(-scores, kind="stable")
    thresholds = scores[falling].astype(np.float64)
    last = np.append(np.flatnonzero(np.diff(thresholds)), len(thresholds) - 1)  # of those that tie
    found = np.cumsum(present[falling])[last]
    return found / (last + 1), found / np.count_nonzero(present), thresholds[last]


def average_precision(present: Bools, scores: Floats) -> float | None:
    """The area under the steps of precision over recall: sum of (R_i - R_i-1) P_i. None where the class never is there.

    Nothing is interpolated, and scores that tie are one step, whatever order they come in.
    """
    if not present.any():
        return None
    precision, recall, _ = precision_recall(present, scores)
    return float(np.sum(np.diff(recall, prepend=0.0) * precision))


def thinned_curve(present: Bools, scores: Floats, points: int = 50) -> list[tuple[float, float, float]]:
    """(recall, precision, threshold) at `points` recalls at most, the first and the last among them."""
    if not present.any():
        return []
    precision, recall, thresholds = precision_recall(present, scores)
    at = np.unique(np.searchsorted(recall, np.linspace(0, 1, points)).clip(max=len(recall) - 1))
    return [(round(float(recall[i]), 4), round(float(precision[i]), 4), float(thresholds[i])) for i in at]


def calibration_error(confidence: Floats, right: Bools, bins: int = BINS) -> float:
    """The expected calibration error: how far confidence and share of the right are apart, mean over bins by pictures.

    Args:
        confidence: (N,) in 0..1; N >= 1.
        right: (N,), what was said with that confidence is so.
        bins: equally wide bins (0, 1/bins], ...; 0 falls in the first.
    """
    of_bin = np.ceil(confidence.astype(np.float64) * bins).astype(np.int64).clip(1, bins) - 1
    apart = np.bincount(of_bin, weights=right - confidence.astype(np.float64), minlength=bins)
    return float(np.abs(apart).sum() / len(confidence))


def log_loss(scores: Floats, truth: Bools, *, one_of: bool) -> float:
    """Mean negative log likelihood in nats: per picture for one_of, per answer for any_of.

    Args:
        scores: (N, K), probabilities.
        truth: (N, K), true where a class is present.
        one_of: exactly one class is, else each by itself.
    """
    exact = scores.astype(np.float64)
    likelihood = exact[truth] if one_of else np.where(truth, exact, 1 - exact)
    return float(np.abs(np.log(likelihood.clip(_LEAST, 1))).mean())  # a minus would make -0.0 of certainty
