"""The regions of a configuration drawn on a frame, to check by eye where they lie."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from pipeline.colours import PALETTE
from pipeline.config import FileSource, TrainConfig, load_config
from pipeline.drawing import INK, drawn
from pipeline.errors import ConfigError, refuse
from pipeline.regionfile import is_region_file, regions_in, regions_of
from pipeline.regions import Region, outside
from pipeline.sources.paths import find_videos
from pipeline.sources.stills import read_still
from pipeline.text import printable

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["draw_regions", "regions_for"]

Box = tuple[float, float, float, float]  # left, top, right, bottom

# Pixels of the picture that is drawn.
LONG, LONGEST = 1280, 4096  # a frame whose longer side is shorter than the one is enlarged, and never beyond the other
SMALL, LARGE = 11.0, 20.0  # a name's letters: as large as its region is wide enough for, between these
ADVANCE, LINE = 0.62, 1.5  # of a monospaced letter, and of the line that it stands on, for each pixel of its size

DPI = 64  # so many pixels make an inch, and a whole number of them divided by 64 is exact
POINT = 72 / DPI  # points in a pixel


def regions_for(config: str, video: Path, *, in_pixels: bool = False) -> tuple[Region, ...]:
    """The regions of a video by the configuration of a run or a training, and of a video that it does not name, the
    common ones; or those of a file of regions, which are pixels or fractions.

    Raises:
        ConfigError: the file is wrong, or has no regions there.
    """
    if is_region_file(Path(config)):
        return regions_in(Path(config), in_pixels=in_pixels)
    if in_pixels:
        raise ConfigError([f"{config}: must be a file of regions where --px is given, got a configuration"])
    loaded = load_config(config)
    regions = regions_of(loaded)
    named = os.path.realpath(video)
    if isinstance(loaded, TrainConfig):
        own = [regions_of(clip) for clip in loaded.clips if os.path.realpath(clip.video) == named]
    else:
        files = [source for source in loaded.sources if isinstance(source, FileSource)]
        own = [
            regions_of(source)
            for source in files
            if any(os.path.realpath(path) == named for _, path in find_videos(source.path, source.name).videos)
        ]
    regions = next((some for some in own if some is not None), regions)
    if regions is None:
        raise ConfigError([f"{config}: must have regions of {video}, got none; describe them under `regions`"])
    return regions


def draw_regions(video: Path, regions: Sequence[Region], out: Path, *, at_s: float | None = None) -> None:
    """Draws regions on a frame of a video, with their names.

    Args:
        video: The file.
        regions: One or more.
        out: The PNG to write.
        at_s: The frame's time, in seconds from the file's first frame on; None: in the middle of the file.

    Raises:
        SourceError: there is no such frame.
        ConfigError: some regions do not lie in the picture.
        VpipeError: the picture cannot be written.
    """
    from matplotlib import patheffects
    from matplotlib.patches import Polygon

    still = read_still(video, from_s=at_s)
    height, width = still.shape[:2]
    refuse(video, [f"{video}: {problem}" for problem in outside(regions, width, height)])
    boxes = [region.box(width, height) for region in regions]
    scale = _scale(regions, boxes, width, height)
    casing: Any = [patheffects.Stroke(linewidth=4 * POINT, foreground=INK), patheffects.Normal()]
    with drawn(out, (scale * width / DPI, scale * height / DPI), given_by="--picture", dpi=DPI) as figure:
        axes = figure.add_axes((0, 0, 1, 1))
        axes.imshow(still, extent=(0, scale * width, scale * height, 0), interpolation="nearest")
        axes.axis("off")
        for k, (region, box) in enumerate(zip(regions, boxes, strict=True)):
            corners = scale * _corners(region, box, width, height)
            colour = PALETTE[k % len(PALETTE)]
            axes.add_patch(Polygon(corners, fill=False, lw=2 * POINT, ec=colour, path_effects=casing, zorder=2))
        _draw_names(axes, regions, scale * np.array(boxes, np.float64), (scale * width, scale * height))
        axes.set(xlim=(0, scale * width), ylim=(scale * height, 0))


def _corners(region: Region, box: Box, width: int, height: int) -> NDArray[np.float64]:
    """Of the polygon, or of the very pixels that are cut out: (n, 2)."""
    if region.polygon:
        return np.array(region.polygon) * ((1, 1) if region.in_pixels else (width, height))
    left, top, right, bottom = box
    return np.array([(left, top), (right, top), (right, bottom), (left, bottom)], np.float64)


def _scale(regions: Sequence[Region], boxes: Sequence[Box], width: int, height: int) -> int:
    """How much the frame is enlarged: till it is large enough, and most regions are as wide as their names."""
    longer = max(width, height)
    lacking = median(_width(region, SMALL) / (box[2] - box[0]) for region, box in zip(regions, boxes, strict=True))
    return min(math.ceil(max(LONG / longer, lacking)), max(1, LONGEST // longer))


def _width(region: Region, size: float) -> float:
    """Of the box around its name."""
    return ADVANCE * size * (len(printable(region.name)) + 1)


def _draw_names(axes: Axes, regions: Sequence[Region], boxes: NDArray[np.float64], shape: tuple[int, int]) -> None:
    """Puts each name where it hides least: in its region's upper corner, above it, or below it.

    In another region it would mislead, and hide as much as in its own.

    Args:
        axes: Pixels of the picture.
        regions: Whose names.
        boxes: Their places, (n, 4).
        shape: Width and height of the picture.
    """
    taken = boxes.copy()  # by the regions, and then by names too
    for k, region in enumerate(regions):
        left, top, right, bottom = boxes[k]
        size = min(max((right - left) / _width(region, 1), SMALL), LARGE)
        width, height = _width(region, size), LINE * size
        x = max(0.0, min(left, shape[0] - width))
        places = [(x, max(0.0, min(y, shape[1] - height))) for y in (top, top - height, bottom)]
        x, y = min(places, key=lambda place: _shared(taken, place, (width, height)))
        taken = np.vstack([taken, (x, y, x + width, y + height)])
        axes.text(
            x + width / 2,
            y + height / 2,
            printable(region.name),
            size=size * POINT,
            family="monospace",
            color="white",
            ha="center",
            va="center",
            bbox={"facecolor": INK, "edgecolor": PALETTE[k % len(PALETTE)], "pad": 0.15 * size * POINT},
            zorder=3,
        )


def _shared(taken: NDArray[np.float64], place: tuple[float, float], size: tuple[float, float]) -> float:
    """The area that a box with this left upper corner and this width and height shares with others."""
    least, most = np.array(place), np.add(place, size)
    across, down = (np.minimum(taken[:, 2:], most) - np.maximum(taken[:, :2], least)).T
    return float((across.clip(0) * down.clip(0)).sum())
