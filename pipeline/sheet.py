"""A contact sheet: frames of a clip with the boxes that were found in them, to check labels by eye.

Half of the frames are spread evenly over the clip. The others are those where the labels change: there a detector errs.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from pipeline.autolabel import Found
from pipeline.batch import Pixels
from pipeline.colours import PALETTE
from pipeline.drawing import FAINT, INK, drawn
from pipeline.sources.stills import read_stills
from pipeline.text import printable

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["chosen", "draw_sheet"]

COLUMNS, ROWS = 5, 6
PICTURE_WIDTH = 400  # pixels
MOST_NAMES = len(PALETTE)  # in the legend
NAMED_WIDTH = 36  # pixels of a box that has its name at it: in a crowd they would hide what they name

# Inches.
WIDTH, EDGE, HEAD, CAPTION, GAP = 16.0, 0.2, 0.75, 0.24, 0.08
CELL = (WIDTH - 2 * EDGE + GAP) / COLUMNS - GAP


def draw_sheet(found: Found, out: Path) -> None:
    """Draws the sheet of a clip.

    Args:
        found: What was found in it.
        out: The PNG to write.

    Raises:
        SourceError: the clip cannot be read any more.
        VpipeError: the file cannot be written.
    """
    from matplotlib.patches import Patch

    marked = chosen(found)
    stills = dict(read_stills(found.clip, marked, width=PICTURE_WIDTH))
    shape: tuple[int, ...] = next(iter(stills.values())).shape
    tall = CELL * shape[0] / shape[1] + CAPTION
    height = HEAD + -(-len(stills) // COLUMNS) * (tall + GAP) + EDGE
    colours = _colours(found.object_name)
    with drawn(out, (WIDTH, height), given_by="--sheet", dpi=100) as figure:
        left = EDGE / WIDTH
        name = printable(found.clip.name)
        figure.text(left, 1 - 0.14 / height, name, size=15, weight="bold", color=INK, va="top")
        note = f"{found.summary()}; the labels change at the frames in bold"
        figure.text(left, 1 - 0.45 / height, printable(note), size=9.5, color=FAINT, va="top")
        figure.legend(
            handles=[Patch(facecolor=colour, label=printable(name)) for name, colour in colours.items()][:MOST_NAMES],
            loc="upper right",
            bbox_to_anchor=(1 - EDGE / WIDTH, 1),
            ncols=MOST_NAMES,
            frameon=False,
            handlelength=0.9,
            handleheight=0.9,
            columnspacing=1.4,
            borderaxespad=0.3,
        )
        for place, number in enumerate(sorted(stills)):
            row, column = divmod(place, COLUMNS)
            left, top = (EDGE + column * (CELL + GAP)) / WIDTH, HEAD + row * (tall + GAP)
            axes = figure.add_axes((left, 1 - (top + tall) / height, CELL / WIDTH, (tall - CAPTION) / height))
            _draw_cell(axes, found, number, stills[number], colours)
            caption = f"frame {number:,}  {_told(found, number)}"
            weight = "bold" if marked[number] else "normal"
            axes.set_title(printable(caption), loc="left", size=8.5, weight=weight, color=INK, pad=3)


def chosen(found: Found) -> dict[int, bool]:
    """The frames to show, and of each whether its labels are others than those of the frame before."""
    changes = _changes(found)
    half = COLUMNS * ROWS // 2
    shown = {*_spread(changes, half), *_spread(found.numbers, half)}
    rest = found.numbers[~np.isin(found.numbers, list(shown))]  # where labels change rarely, or just where one looks
    shown |= {*_spread(rest, min(len(rest), COLUMNS * ROWS - len(shown)))}
    at = set(changes.tolist())
    return {number: number in at for number in sorted(shown)}


def _changes(found: Found) -> NDArray[np.int64]:
    """Frames in which there are others, or more or fewer, than in the frame before."""
    names = sorted(set(found.object_name))
    counts = np.zeros((len(found.numbers), len(names)), np.int64)
    kind = np.array([names.index(name) for name in found.object_name], np.int64)
    np.add.at(counts, (np.searchsorted(found.numbers, found.frame), kind), 1)
    return np.asarray(found.numbers[1:][(np.diff(counts, axis=0) != 0).any(axis=1)])


def _spread(numbers: NDArray[np.int64], n: int) -> list[int]:
    """At most n of them, as evenly as can be, from the middle of n stretches."""
    n = min(n, len(numbers))
    return [int(numbers[int((k + 0.5) * len(numbers) / n)]) for k in range(n)]


def _colours(names: Sequence[str]) -> dict[str, str]:
    """The commonest names first; a sheet with more names than colours uses some twice."""
    return {name: PALETTE[k % len(PALETTE)] for k, (name, _) in enumerate(Counter(names).most_common())}


def _told(found: Found, number: int) -> str:
    counts = Counter(found.object_name[k] for k in np.flatnonzero(found.frame == number))
    return ", ".join(name if count == 1 else f"{count} {name}" for name, count in counts.most_common()) or "nothing"


def _draw_cell(axes: Axes, found: Found, number: int, still: Pixels, colours: dict[str, str]) -> None:
    from matplotlib.patches import Rectangle

    height, width = still.shape[:2]
    axes.imshow(still, extent=(0, width, height, 0), interpolation="antialiased")
    axes.axis("off")
    for k in np.flatnonzero(found.frame == number):
        name, share = found.object_name[k], found.confidence[k]
        left, top, right, bottom = (found.corners[k] * [width, height, width, height]).tolist()
        axes.add_patch(Rectangle((left, top), right - left, bottom - top, fill=False, lw=1.4, ec=colours[name]))
        if right - left < NAMED_WIDTH:
            continue
        box = {"facecolor": colours[name], "edgecolor": "none", "pad": 0.8, "alpha": 0.85}
        text = printable(f"{name} {share:.2f}")
        axes.text(left + 2, max(top, 15), text, size=6.5, color="white", va="bottom", bbox=box, clip_on=True)
    axes.set(xlim=(0, width), ylim=(height, 0))
