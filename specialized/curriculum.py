"""The curriculum over classes: training starts with some of them and adds others step by step.

As Kosaian et al. (ICML 2021) train the networks that read numbers: at first max(K · share, f) classes, and K · share
more every so many epochs.
"""

import numpy as np
from numpy.typing import NDArray

from specialized.examples import Examples, Tracks, stretches
from specialized.modelfile import ModelCard
from specialized.recipe import Recipe


def learned(recipe: Recipe, card: ModelCard, training: Examples, epoch: int) -> Tracks:
    """What an epoch forms groups of: all pictures in the runs, or those of the classes that have their turn."""
    tracks = training.tracks(card.order)
    if not recipe.curriculum_share:
        return tracks
    first = _classes(recipe, card, epoch)
    taken: list[NDArray[np.int32]] = []
    for track in tracks:
        inside = training.labels[track] < first
        if card.order in ("consecutive", "strided"):  # neighbours in time: not across what is left out
            taken += [track[start:stop] for start, stop in stretches(inside)]
        elif inside.any():
            taken.append(track[inside])
    return tuple(taken)


def all_classes_from(recipe: Recipe, card: ModelCard) -> int:
    """The first epoch that learns from all classes."""
    epoch = 0
    while recipe.curriculum_share and _classes(recipe, card, epoch) < len(card.classes):
        epoch += recipe.curriculum_epochs
    return epoch


def _classes(recipe: Recipe, card: ModelCard, epoch: int) -> int:
    step = max(1, int(len(card.classes) * recipe.curriculum_share))
    return max(step, card.fold) + step * (epoch // recipe.curriculum_epochs)
