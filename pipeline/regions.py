"""Regions: parts of a frame that are labelled each on its own, as bays, lanes, doors, the numbers on a display."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import lru_cache

import numpy as np
import numpy.typing as npt

__all__ = ["OF_FRAMES", "Column", "Point", "Region", "chosen", "columns_of", "nearest", "outside", "pictures_of"]

Point = tuple[float, float]
Column = tuple[str, str | None]  # name of a filter, and of a region that it labels, or None: the whole frame

OF_FRAMES = ("source", "frame", "pts_s", "captured")  # columns that stand before those of labels


@dataclass(frozen=True, slots=True)
class Region:
    """A rectangle of a picture, or what a polygon encloses in the rectangle around it.

    Attributes:
        name: Carried by the rows.
        x, y: Its left upper corner.
        w, h: Its width and height.
        in_pixels: Whether those are pixels; else fractions of the picture's width and height.
        polygon: Corners (x, y), in the same unit; empty: all of the rectangle.
    """

    name: str
    x: float
    y: float
    w: float
    h: float
    in_pixels: bool = False
    polygon: tuple[Point, ...] = ()

    def box(self, width: int, height: int) -> tuple[int, int, int, int]:
        """Its pixels in a picture of this size: left, top, and behind them right and bottom.

        Raises:
            ValueError: it is not inside of the picture.
        """
        across, down = (1, 1) if self.in_pixels else (width, height)
        left, top = nearest(self.x * across), nearest(self.y * down)
        right, bottom = nearest((self.x + self.w) * across), nearest((self.y + self.h) * down)
        if not self.in_pixels:  # never without a pixel
            left, top = min(left, width - 1), min(top, height - 1)
            right, bottom = max(right, left + 1), max(bottom, top + 1)
        if right > width or bottom > height:
            rule = f"region {self.name!r}: must lie in the picture of {width}x{height}"
            raise ValueError(f"{rule}, got {self.told()}; change it under regions_px")
        return left, top, right, bottom

    def mask(self, size: tuple[int, int], width: int, height: int) -> npt.NDArray[np.bool_]:
        """Which pixels of its box, resized to this size (H, W), the polygon encloses: bool (H, W).

        Args:
            size: Of what the box became.
            width, height: Of the picture.
        """
        left, top, right, bottom = self.box(width, height)
        x = left + (np.arange(size[1]) + 0.5) / size[1] * (right - left)
        y = top + (np.arange(size[0]) + 0.5) / size[0] * (bottom - top)
        if not self.in_pixels:
            x, y = x / width, y / height
        down, across = np.meshgrid(y, x, indexing="ij")
        return self.holds(across, down)

    def holds(self, x: npt.NDArray[np.float64], y: npt.NDArray[np.float64]) -> npt.NDArray[np.bool_]:
        """Which points, in the region's own unit, lie in it."""
        if not self.polygon:
            inside: npt.NDArray[np.bool_] = (
                (x >= self.x) & (x < self.x + self.w) & (y >= self.y) & (y < self.y + self.h)
            )
            return inside
        inside = np.zeros(x.shape, np.bool_)
        for (ax, ay), (bx, by) in zip(self.polygon, self.polygon[1:] + self.polygon[:1], strict=True):
            if ay != by:  # a ray to the right crosses this edge or does not
                inside ^= ((y < ay) != (y < by)) & (x < ax + (y - ay) * (bx - ax) / (by - ay))
        return inside

    def told(self) -> str:
        """Its rectangle, for messages."""
        return f"[{self.x:g}, {self.y:g}, {self.w:g}, {self.h:g}]"


def outside(regions: Iterable[Region], width: int, height: int) -> list[str]:
    """What is wrong with those that do not lie in a picture of this size, a line each."""
    problems = []
    for region in dict.fromkeys(regions):
        try:
            left, top, right, bottom = region.box(width, height)
        except ValueError as error:
            problems.append(str(error))
            continue
        if region.polygon and not region.mask((bottom - top, right - left), width, height).any():
            rule = f"region {region.name!r}: its polygon must enclose the middle of a pixel"
            problems.append(f"{rule} in a picture of {width}x{height}, got none; widen it")
    return problems


def nearest(length: float) -> int:
    """The whole number nearest to it; of two, the upper."""
    return math.floor(length + 0.5)


@lru_cache(maxsize=1024)
def chosen(patterns: tuple[str, ...], names: tuple[str, ...]) -> tuple[int, ...]:
    """Positions of the names that are one of the patterns, or that one (`bay-*`) fits; no patterns fit all."""
    if not patterns:
        return tuple(range(len(names)))
    return tuple(
        k for k, name in enumerate(names) if any(name == pattern or fnmatchcase(name, pattern) for pattern in patterns)
    )


def pictures_of(patterns: tuple[str, ...], names: tuple[str, ...]) -> int:
    """How many pictures of a frame with these regions are seen by what asks for regions by these patterns: of a frame
    without any it is the frame, unless some are asked for."""
    return len(chosen(patterns, names)) if names else 0 if patterns else 1


def columns_of(filters: Mapping[str, tuple[str, ...]], sources: Sequence[tuple[str, ...]]) -> dict[Column, str]:
    """A column for each region of each filter, in their order, and its name: that of the region, of the filter where it
    labels whole frames, or `<filter>.<region>` where another column would have the same.

    Args:
        filters: By name, the patterns of the regions that they label; none: all, and whole frames.
        sources: The names of the regions of each; none: whole frames.

    Raises:
        ValueError: two columns have one name nevertheless.
    """
    columns: dict[Column, str] = {}
    for filter, patterns in filters.items():
        for names in sources:
            for region in [names[k] for k in chosen(patterns, names)] if names else [] if patterns else [None]:
                columns[filter, region] = filter if region is None else region
    short = Counter([*OF_FRAMES, *columns.values()])
    for (filter, region), name in columns.items():
        if region is not None and short[name] > 1:
            columns[filter, region] = f"{filter}.{region}"
    twice = [name for name, times in Counter([*OF_FRAMES, *columns.values()]).items() if times > 1]
    if twice:
        raise ValueError(f"must give columns of different names, got {twice[0]!r} twice; rename the filter or region")
    return columns
