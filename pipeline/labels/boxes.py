"""The one form that all label files are read into, and the labels that are made of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from pipeline.regions import Region
from specialized.modelfile import Ask, Task

__all__ = ["LONGEST_NAME", "Boxes", "Inside", "answers", "as_number"]

Inside = Literal["centre"] | float

Labels = NDArray[np.int64] | NDArray[np.float32]

STEPS = (np.arange(16) + 0.5) / 16  # where a box is looked at, along each side

LONGEST_NAME = 200  # characters: all names of a file lie in one array, as wide as the longest


@dataclass(frozen=True, slots=True, eq=False)
class Boxes:
    """The M boxes of a label file, which speaks of L frames; or M names that it gives to regions of frames."""

    path: Path
    frame: NDArray[np.int64]  # (M,) number of the frame, from 0
    object_name: NDArray[np.str_]  # (M,)
    confidence: NDArray[np.float64]  # (M,) 0..1
    told: NDArray[np.int64]  # (L,) frames that the file speaks of, in its order
    place: NDArray[np.str_]  # (L,) where it does, to be read behind the path: `:7` in line 7, `: images[6]`
    complete: bool  # a frame that the file does not speak of: shows nothing (True), or nobody knows (False)
    corners: NDArray[np.float64] | None = None  # (M, 4) xmin, ymin, xmax, ymax in fractions of the frame; NaN: unknown
    region: NDArray[np.int64] | None = None  # (L,) which of `regions` is told of; M = L then, an empty name: nothing
    regions: tuple[str, ...] = ()  # names

    def __len__(self) -> int:
        return len(self.frame)


def answers(
    boxes: Boxes,
    numbers: NDArray[np.int64],
    asks: Sequence[Ask],
    task: Task,
    *,
    regions: Sequence[Region] | None = None,
    size: tuple[int, int] = (1, 1),
    inside: Inside = "centre",
) -> Labels:
    """What a model should answer for each frame or each region of it, by the boxes in it.

    Args:
        boxes: of the clip.
        numbers: int64 (N,), the frames.
        asks: one question per class.
        task: one_of: the first class whose question holds, else the class after the last, `none`; any_of: each for
            itself.
        regions: R of them; None: the frame is one.
        size: (H, W) of the clip's pictures.
        inside: When a box counts in a region: its centre lies in it, or so large a share of its area.

    Returns:
        one_of: int64 (N·R,), class numbers; any_of: float32 (N·R, K), 0 or 1; the regions of a frame one behind the
        other.
    """
    masks = [np.ones(len(boxes), np.bool_)] if regions is None else [_in(boxes, one, size, inside) for one in regions]
    holds = np.ones((len(numbers), len(masks), len(asks) + 1), np.bool_)  # the last column: none
    for k, ask in enumerate(asks):
        asked = (boxes.object_name == ask.object) & (boxes.confidence >= ask.min_confidence)
        for place, mask in enumerate(masks):
            counted = np.sort(boxes.frame[asked & mask])
            found = np.searchsorted(counted, numbers, side="right") - np.searchsorted(counted, numbers, side="left")
            holds[:, place, k] = found >= ask.at_least
    flat = holds.reshape(-1, len(asks) + 1)
    if task == "one_of":
        return np.asarray(flat.argmax(axis=1), np.int64)
    return np.asarray(flat[:, : len(asks)], np.float32)


def _in(boxes: Boxes, region: Region, size: tuple[int, int], inside: Inside) -> NDArray[np.bool_]:
    """Which boxes count in a region."""
    if boxes.region is not None:
        told = boxes.regions.index(region.name) if region.name in boxes.regions else -1
        return np.asarray(boxes.region == told, np.bool_)
    assert boxes.corners is not None
    height, width = (1, 1) if not region.in_pixels else size
    xmin, ymin, xmax, ymax = boxes.corners.T * np.array([width, height, width, height])[:, None]
    if inside == "centre":
        return region.holds((xmin + xmax) / 2, (ymin + ymax) / 2)
    if region.polygon:  # by points of the box
        x, y = (low + np.multiply.outer(STEPS, high - low) for low, high in ((xmin, xmax), (ymin, ymax)))  # (S, M)
        held = region.holds(*np.broadcast_arrays(x[:, None], y))  # (S, S, M)
        return np.asarray(held.mean(axis=(0, 1)) >= inside, np.bool_)
    across = np.minimum(xmax, region.x + region.w) - np.maximum(xmin, region.x)
    down = np.minimum(ymax, region.y + region.h) - np.maximum(ymin, region.y)
    shared = np.maximum(across, 0) * np.maximum(down, 0)
    area = (xmax - xmin) * (ymax - ymin)
    return np.asarray((shared >= inside * area) & (area > 0), np.bool_)


def as_number(digits: str) -> int | None:
    """The number of a frame, or None: ASCII digits that fit in 64 bits."""
    return int(digits) if digits.isascii() and digits.isdecimal() and len(digits) <= 18 else None
