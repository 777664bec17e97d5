"""Variations of training pictures: what a fixed camera sees is moved, mirrored and lit a little differently.

Variations are drawn for each group as one, since a group in time shares its light and its camera, or for each picture
by itself, so that no slot can lean on the others.
"""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from specialized.recipe import Recipe


def moved(
    pictures: NDArray[np.uint8], groups: NDArray[np.int32], recipe: Recipe, rng: np.random.Generator
) -> NDArray[np.uint8]:
    """Gathers groups of pictures: shifted, zoomed and mirrored; what lies beyond the edge repeats it.

    Args:
        pictures: (N, H, W, 3).
        groups: (B, f) positions in the pictures, without padding.
        recipe: how far.
        rng: draws.

    Returns:
        uint8 (B, f, H, W, 3), a copy.
    """
    (height, width), shape = pictures.shape[1:3], groups.shape
    shift = rng.integers(-recipe.shift, recipe.shift + 1, (*shape, 2))
    mirrored = rng.integers(2, size=(*shape, 1)) * recipe.flip
    zoom = 1 + recipe.zoom * rng.uniform(-1, 1, (*shape, 1))
    drawn = _shared(np.concatenate([shift, mirrored, zoom], axis=2), recipe)
    down, right, mirrored, zoom = np.moveaxis(drawn, 2, 0)
    rows = _taken(height, zoom, down)  # (B, f or 1, H)
    columns = _taken(width, zoom, right)
    columns = np.where(mirrored[..., None] > 0, columns[..., ::-1], columns)
    gathered: NDArray[np.uint8] = pictures[groups[..., None, None], rows[..., :, None], columns[..., None, :]]
    return gathered


def lit(x: Tensor, fold: int, std: float, recipe: Recipe, rng: np.random.Generator) -> Tensor:
    """Changes brightness, contrast and colour.

    Args:
        x: normalized (B, f·3, H, W).
        fold: f.
        std: that the pictures were divided by, for brightness to count in their own range.
        recipe: how much.
        rng: draws.
    """
    b, channels = x.shape[:2]
    light = rng.uniform(-1, 1, (b, fold, 5)) * [recipe.brightness / std, recipe.contrast, *[recipe.colour] * 3]
    light = _shared(light, recipe)
    added, factor = light[..., :1], (1 + light[..., 1:2]) * (1 + light[..., 2:])

    def per_channel(values: NDArray[np.float64]) -> Tensor:
        full = np.broadcast_to(values, (b, fold, channels // fold)).reshape(b, channels, 1, 1)
        return torch.from_numpy(full.astype(np.float32))

    return x * per_channel(factor) + per_channel(added)


def _shared(drawn: NDArray[np.float64], recipe: Recipe) -> NDArray[np.float64]:
    """What each picture of (B, f, n) draws is varied by: what the first of its group drew, or its own."""
    return np.broadcast_to(drawn[:, :1], drawn.shape) if recipe.vary == "group" else drawn


def _taken(side: int, zoom: NDArray[np.float64], shift: NDArray[np.float64]) -> NDArray[np.int64]:
    """Which rows (or columns) of a picture its varied form shows."""
    middle = (side - 1) / 2
    taken = (np.arange(side) - middle) / zoom[..., None] + middle + shift[..., None]
    return np.rint(taken).astype(np.int64).clip(0, side - 1)
