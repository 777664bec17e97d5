"""Colours for the classes of a filter in a picture: the same for every source, few enough to be told apart."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from pipeline.timeline import Band, Float64s, Timeline

__all__ = ["NONE", "Look", "looks_of"]

MOST_CLASSES = 7  # that get a colour of their own
MOST_CURVES = 4

# Colours of Okabe and Ito, told apart with any eyesight (https://jfly.uni-koeln.de/color/), in an order of our own.
PALETTE = ("#D55E00", "#0072B2", "#009E73", "#E69F00", "#CC79A7", "#56B4E9", "#F0E442")
NONE, OTHERS, UNLABELLED = "#D3D9DF", "#6B7680", "#F4F6F8"


@dataclass(frozen=True, slots=True)
class Look:
    """The colours of one filter, the same for all sources.

    Attributes:
        names, colours: Of what is told apart: classes, then others, `none` and no label, as far as they occur.
        of: Per label, K + 1, its place among them.
        curves: Classes whose scores are drawn.
    """

    names: tuple[str, ...]
    colours: tuple[str, ...]
    of: tuple[int, ...]
    curves: tuple[int, ...]

    def grouped(self, labels: Float64s) -> Float64s:
        """Amounts per label (N, K + 1) as amounts per colour."""
        amounts = np.zeros((len(labels), len(self.colours)))
        for label, place in enumerate(self.of):
            amounts[:, place] += labels[:, label]
        return amounts


def looks_of(timelines: Sequence[Timeline]) -> dict[str, Look]:
    bands: dict[str, list[Band]] = {}
    for timeline in timelines:
        for band in timeline.bands:
            bands.setdefault(band.labelling.name, []).append(band)
    return {name: _look(of_filter) for name, of_filter in bands.items()}


def _look(bands: Sequence[Band]) -> Look:
    classes = bands[0].labelling.classes
    rows = np.sum([band.rows for band in bands], axis=0)
    present = [at for at, name in enumerate(classes) if name != "none"]
    by_rows = sorted(present, key=lambda at: -rows[at])
    told_apart = sorted(by_rows[:MOST_CLASSES])
    names, colours = [classes[at] for at in told_apart], list(PALETTE[: len(told_apart)])
    of = {at: place for place, at in enumerate(told_apart)}
    for members, name, colour in (
        (by_rows[MOST_CLASSES:], "others", OTHERS),
        ([at for at, name in enumerate(classes) if name == "none"], "none", NONE),
        ([len(classes)] if rows[-1] else [], "no label", UNLABELLED),
    ):
        if members:
            of |= dict.fromkeys(members, len(names))
            names.append(name)
            colours.append(colour)
    of.setdefault(len(classes), 0)  # of no rows
    curves = tuple(at for at in by_rows[:MOST_CURVES])
    return Look(tuple(names), tuple(colours), tuple(of[at] for at in range(len(classes) + 1)), curves)
