"""Appearances rather than frames: what was found of what came and went, and NoScope's windows."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from specialized.examples import Tracks, stretches
from specialized.metrics import Bools

WINDOW, WINDOW_LEAST = 30, 28  # frames; see `Windows`


@dataclass(frozen=True, slots=True, kw_only=True)
class Events:
    """Appearances of a class: stretches of successive frames, as long as they get, in which it is present.

    One is found if the answer names the class in at least one of its frames: who looks there, sees it. A false one is
    a stretch of such answers that meets no appearance. A model that always names the class finds all and has no false
    ones; its `Windows` tell.
    """

    total: int
    found: int
    false: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Windows:
    """NoScope's unit of accuracy: 30 successive frames, about a second, one after the other.

    The class is present in a window if it is in at least 28 of its frames, by label and by answer alike: a flicker of
    either is forgiven (Kang et al., NoScope, VLDB 2017; the numbers are those of their published code,
    optimizer/noscope_accuracy.py). Frames that fill no window at the end of a run are left out.
    """

    total: int
    present: int  # by label
    missed: int  # present by label alone
    false: int  # present by answer alone


def events(present: Bools, answered: Bools, tracks: Tracks) -> Events:
    """Counts the appearances of one class.

    Args:
        present: (N,), by label, in order of time.
        answered: (N,), by the model.
        tracks: positions of successive frames, or of one region of them; an event never leaves its track.
    """
    total = found = false = 0
    for track in tracks:
        there, said = present[track], answered[track]
        appearances = stretches(there)
        total += len(appearances)
        found += sum(bool(said[a:b].any()) for a, b in appearances)
        false += sum(not there[a:b].any() for a, b in stretches(said))
    return Events(total=total, found=found, false=false)


def windows(present: Bools, answered: Bools, tracks: Tracks) -> Windows:
    """Judges the windows of one class; arguments as for `events`."""
    by_label, by_answer = _windowed(present, tracks), _windowed(answered, tracks)
    return Windows(
        total=len(by_label),
        present=int(by_label.sum()),
        missed=int((by_label & ~by_answer).sum()),
        false=int((by_answer & ~by_label).sum()),
    )


def _windowed(mask: Bools, tracks: Tracks) -> Bools:
    """Whether each window has the class."""
    full = [mask[track[: len(track) - len(track) % WINDOW]].reshape(-1, WINDOW) for track in tracks]
    counts: NDArray[np.int64] = np.concatenate([np.empty((0, WINDOW), np.bool_), *full]).sum(axis=1)
    return counts >= WINDOW_LEAST
