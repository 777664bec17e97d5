"""The curriculum over classes: training starts with some of them and adds others step by step.

As Kosaian et al. (ICML 2021) train the networks that read numbers: at first max(K · share, f) classes, and K · share
more every so many epochs.
"""

import numpy as np
from numpy.typing import NDArray

from specialized.examples import Examples, Runs, stretches
from specialized.modelfile import ModelCard
from specialized.recipe import Recipe


def learned(recipe: Recipe, card: ModelCard, training: Examples, epoch: int) -> tuple[NDArray[np.int32], Runs]:
    """What an epoch learns from: all pictures in the runs, or those of the classes that have their turn.

    Returns:
        int32 (n,), positions in the pictures, and runs of successive ones within the n.
    """
    inside = np.zeros(len(training.labels), np.bool_)
    for start, stop in training.runs:
        inside[start:stop] = True
    if recipe.curriculum_share:
        inside &= training.labels < _classes(recipe, card, epoch)
    taken = np.flatnonzero(inside).astype(np.int32)
    if card.order in ("consecutive", "strided"):  # neighbours in time: not across what is left out
        bounds = [(start + a, start + b) for start, stop in training.runs for a, b in stretches(inside[start:stop])]
    else:
        bounds = list(training.runs)
    ends = np.searchsorted(taken, np.array(bounds).reshape(-1, 2))
    return taken, tuple((int(a), int(b)) for a, b in ends if a < b)


def all_classes_from(recipe: Recipe, card: ModelCard) -> int:
    """The first epoch that learns from all classes."""
    epoch = 0
    while recipe.curriculum_share and _classes(recipe, card, epoch) < len(card.classes):
        epoch += recipe.curriculum_epochs
    return epoch


def _classes(recipe: Recipe, card: ModelCard, epoch: int) -> int:
    step = max(1, int(len(card.classes) * recipe.curriculum_share))
    return max(step, card.fold) + step * (epoch // recipe.curriculum_epochs)
