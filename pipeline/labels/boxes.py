"""The one form that all label files are read into, and the labels that are made of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from specialized.modelfile import Ask, Task

__all__ = ["LONGEST_NAME", "Boxes", "answers", "as_number"]

Labels = NDArray[np.int64] | NDArray[np.float32]

LONGEST_NAME = 200  # characters: all names of a file lie in one array, as wide as the longest


@dataclass(frozen=True, slots=True, eq=False)
class Boxes:
    """The M boxes of a label file, which speaks of L frames. Where in the picture they are does not matter here."""

    path: Path
    frame: NDArray[np.int64]  # (M,) number of the frame, from 0
    object_name: NDArray[np.str_]  # (M,)
    confidence: NDArray[np.float64]  # (M,) 0..1
    told: NDArray[np.int64]  # (L,) frames that the file speaks of, in its order
    place: NDArray[np.str_]  # (L,) where it does, to be read behind the path: `:7` in line 7, `: images[6]`
    complete: bool  # a frame that the file does not speak of: shows nothing (True), or nobody knows (False)

    def __len__(self) -> int:
        return len(self.frame)


def answers(boxes: Boxes, numbers: NDArray[np.int64], asks: Sequence[Ask], task: Task) -> Labels:
    """What a model should answer for each frame, by the boxes in it.

    Args:
        boxes: of the clip.
        numbers: int64 (N,), the frames.
        asks: one question per class.
        task: one_of: the first class whose question holds, else the class after the last, `none`; any_of: each for
            itself.

    Returns:
        one_of: int64 (N,), class numbers; any_of: float32 (N, K), 0 or 1.
    """
    holds = np.ones((len(numbers), len(asks) + 1), np.bool_)  # the last column: none
    for k, ask in enumerate(asks):
        counted = boxes.frame[(boxes.object_name == ask.object) & (boxes.confidence >= ask.min_confidence)]
        counted.sort()
        found = np.searchsorted(counted, numbers, side="right") - np.searchsorted(counted, numbers, side="left")
        holds[:, k] = found >= ask.at_least
    if task == "one_of":
        return np.asarray(holds.argmax(axis=1), np.int64)
    return np.asarray(holds[:, : len(asks)], np.float32)


def as_number(digits: str) -> int | None:
    """The number of a frame, or None: ASCII digits that fit in 64 bits."""
    return int(digits) if digits.isascii() and digits.isdecimal() and len(digits) <= 18 else None
