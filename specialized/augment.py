"""Variations of training pictures: what a fixed camera sees is moved, mirrored and lit a little differently.

Each variation is drawn once per group or once per picture, as the recipe says: a group in time shares its light and its
camera.
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
    (height, width), drawn = pictures.shape[1:3], _drawn(groups.shape, recipe)
    down, right = rng.integers(-recipe.shift, recipe.shift + 1, (2, *drawn))
    mirrored = rng.integers(2, size=drawn) * recipe.flip
    zoom = 1 + recipe.zoom * rng.uniform(-1, 1, drawn)
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
    drawn = _drawn((b, fold), recipe)
    added = rng.uniform(-1, 1, (*drawn, 1)) * recipe.brightness / std
    factor = 1 + rng.uniform(-1, 1, (*drawn, 1)) * recipe.contrast
    factor = factor * (1 + rng.uniform(-1, 1, (*drawn, 3)) * recipe.colour)

    def per_channel(values: NDArray[np.float64]) -> Tensor:
        full = np.broadcast_to(values, (b, fold, channels // fold)).reshape(b, channels, 1, 1)
        return torch.from_numpy(full.astype(np.float32))

    return x * per_channel(factor) + per_channel(added)


def _drawn(shape: tuple[int, ...], recipe: Recipe) -> tuple[int, int]:
    """The shape (B, f) in which variations are drawn: (B, 1) is one draw per group."""
    b, f = shape
    return b, f if recipe.vary == "picture" else 1


def _taken(side: int, zoom: NDArray[np.float64], shift: NDArray[np.int64]) -> NDArray[np.int64]:
    """Which rows (or columns) of a picture its varied form shows."""
    middle = (side - 1) / 2
    taken = (np.arange(side) - middle) / zoom[..., None] + middle + shift[..., None]
    return np.rint(taken).astype(np.int64).clip(0, side - 1)
