"""The picture of a run: frames of the footage, and under them what each filter said, over time.

┌──┐┌──┐┌──┐┌──┐   frames, each above its own time, with an edge in the colour of its label
▇▇▇▇░░░░▇▇▇▇▇▇▇▇   labels; a column that stands for many frames is divided as they are
╱╲__╱‾‾╲____╱‾╲_   scores of the classes
0 s    20 s   40 s
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from pipeline.colours import NONE, Look, looks_of
from pipeline.drawing import FAINT, INK, drawn
from pipeline.errors import VpipeError
from pipeline.runs import RunFolder
from pipeline.sinks.parts import committed
from pipeline.text import printable
from pipeline.timeline import CELLS, COLUMNS, Band, Clock, Float64s, Timeline, read_timelines

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["strip"]

MOST_SOURCES = 4  # that are drawn unless they are asked for by name

# Inches.
WIDTH, LEFT, RIGHT = 13.0, 0.6, 0.3
HEAD, NAME, LEGEND, LABELS, SCORES, AXIS, GAP = 0.62, 0.32, 0.3, 0.2, 0.72, 0.42, 0.06
CELL = (WIDTH - LEFT - RIGHT) / CELLS
TALLEST = 1.3 * CELL  # of a frame


def strip(folder: Path, out: Path, *, sources: Sequence[str] = ()) -> list[str]:
    """Draws the picture of a run.

    Args:
        folder: The run's folder.
        out: The PNG to write.
        sources: Names of the sources to draw; empty: the first few.

    Returns:
        What is missing in the picture and why, one line each.

    Raises:
        VpipeError: There is no run with rows, a source is not one of it, or the file cannot be written.
    """
    run = RunFolder(folder)
    if not run.run_json.is_file():
        raise VpipeError(f"{folder}: must be the folder of a run, got no run.json in it; see `vpipe run`")
    there = list(dict.fromkeys(end.segment.source for end in committed(folder)))
    strangers = [name for name in sources if name not in there]
    if strangers:
        known = ", ".join(there[:10]) + (", ..." if len(there) > 10 else "")
        raise VpipeError(f"{folder}: source must be one of {known or 'none yet'}, got {', '.join(strangers)}")
    timelines = read_timelines(run, sources or there[:MOST_SOURCES])
    if not timelines:
        raise VpipeError(f"{folder}: must hold rows to draw, got none; look at its summary.json, and at `keep`")
    _draw(timelines, folder.resolve().name, _facts(run), out)
    notes = [f"{line.source}: drawn without frames, {line.absent}" for line in timelines if line.absent is not None]
    if not sources and len(there) > MOST_SOURCES:
        notes.append(f"{MOST_SOURCES} of {len(there)} sources are drawn; name others with --source")
    return notes


def _facts(run: RunFolder) -> Mapping[str, str]:
    """What is said of each filter: its model, how frames were folded and whether all of them have a row."""
    document = json.loads(run.run_json.read_bytes())
    fold = document["identity"]["fold"]
    # Nothing where filters differ in it.
    unlike = {1: ", not folded", None: ""}
    folded = unlike.get(fold["frames"], f", {fold['frames']} frames folded, {fold['order']}")
    return {
        section["name"]: f"{Path(section['model']).name}{folded}"
        + (", only rows that `keep` lets pass" if section.get("keep") else "")
        for section in document["config"]["filters"]
    }


def _draw(timelines: Sequence[Timeline], title: str, facts: Mapping[str, str], out: Path) -> None:
    height = HEAD + sum(map(_height, timelines))
    with drawn(out, (WIDTH, height), given_by="--out") as figure:
        page = _Page(figure, height)
        page.text(f"Run {title}", size=15, weight="bold", drop=0.12)
        page.down(HEAD - 0.12)
        looks = looks_of(timelines)
        for timeline in timelines:
            _draw_source(page, timeline, facts, looks)


class _Page:
    """A figure that is filled from the top down, measured in inches."""

    def __init__(self, figure: Figure, height: float) -> None:
        self._figure = figure
        self._height = height
        self._y = height

    def down(self, by: float) -> None:
        self._y -= by

    def axes(self, height: float) -> Axes:
        """Axes over the whole width; the next ones come below."""
        self._y -= height
        span = (WIDTH - LEFT - RIGHT) / WIDTH
        return self._figure.add_axes((LEFT / WIDTH, self._y / self._height, span, height / self._height))

    def text(self, text: str, *, size: float, weight: str = "normal", color: str = INK, drop: float = 0.0) -> None:
        """A line whose top is `drop` below where the page is filled to; it takes no room."""
        y = (self._y - drop) / self._height
        self._figure.text(LEFT / WIDTH, y, text, size=size, weight=weight, color=color, va="top")


def _height(timeline: Timeline) -> float:
    return NAME + _frames_height(timeline) + len(timeline.bands) * (LEGEND + LABELS + SCORES + GAP) + AXIS


def _frames_height(timeline: Timeline) -> float:
    """Frames are as wide as a cell, unless they would be too tall; without frames a line of text says why."""
    if not timeline.pictures:
        return 0.3
    shape: tuple[int, ...] = next(iter(timeline.pictures.values())).shape
    return min(TALLEST, CELL * shape[0] / shape[1])


def _draw_source(page: _Page, timeline: Timeline, facts: Mapping[str, str], looks: Mapping[str, Look]) -> None:
    rows = max(int(band.rows.sum()) for band in timeline.bands)
    began = ""
    if timeline.clock == "captured":
        began = f", from {datetime.fromtimestamp(timeline.first, UTC):%Y-%m-%d %H:%M:%S} UTC"
    page.text(f"{printable(timeline.source)}: {rows:,} labels{began}", size=10.5, weight="bold")
    page.down(NAME)
    _draw_frames(page.axes(_frames_height(timeline)), timeline, looks[timeline.bands[0].labelling.name])
    for band in timeline.bands:
        name = band.labelling.name
        page.down(LEGEND)
        _draw_labels(page.axes(LABELS), timeline, band, looks[name], f"{name}: {facts.get(name, '')}")
        page.down(GAP)
        scores = page.axes(SCORES)
        _draw_scores(scores, timeline, band, looks[name])
        scores.tick_params(labelbottom=band is timeline.bands[-1])
    page.down(AXIS)


def _draw_frames(axes: Axes, timeline: Timeline, look: Look) -> None:
    axes.set(xlim=(0, CELLS), ylim=(0, 1))
    axes.axis("off")
    if not timeline.pictures:
        axes.text(0, 0.6, printable(f"no frames: {timeline.absent}"), color=FAINT, va="center")
        return
    inches = _frames_height(timeline)
    for cell, picture in timeline.pictures.items():
        height, width = picture.shape[:2]
        half = 0.485 * min(1.0, inches * width / height / CELL)
        left, right = cell + 0.5 - half, cell + 0.5 + half
        axes.imshow(picture, extent=(left, right, 0.0, 1.0), aspect="auto", interpolation="antialiased")
        edge = 0.055 / inches
        axes.fill_between([left, right], 0, edge, color=look.colours[look.of[timeline.chosen[cell][1]]], linewidth=0)
    axes.set(xlim=(0, CELLS), ylim=(0, 1))


def _draw_labels(axes: Axes, timeline: Timeline, band: Band, look: Look, title: str) -> None:
    """Per column the shares of the labels, from the top down."""
    from matplotlib.patches import Patch

    amounts = look.grouped(band.labels)
    total = amounts.sum(axis=1, keepdims=True)
    shares = np.divide(amounts, total, out=np.zeros_like(amounts), where=total > 0)
    edges = _edges(timeline)
    below = np.ones(COLUMNS)
    for share, colour in zip(shares.T, look.colours, strict=True):
        axes.stairs(below, edges, baseline=below - share, fill=True, color=colour, linewidth=0)
        below = below - share
    axes.set(xlim=(edges[0], edges[-1]), ylim=(0, 1), xticks=[], yticks=[], facecolor="white")
    rows = look.grouped(band.rows[None].astype(np.float64))[0]
    patches = [
        Patch(facecolor=colour, edgecolor=NONE, linewidth=0.5, label=f"{name} {_percent(count / rows.sum())}")
        for name, colour, count in zip(look.names, look.colours, rows, strict=True)
        if count or name in band.labelling.classes
    ]
    axes.set_title(printable(title), loc="left", size=9, color=FAINT, pad=5)
    axes.legend(
        handles=patches,
        loc="lower right",
        bbox_to_anchor=(1.004, 0.82),
        ncols=len(patches),
        frameon=False,
        handlelength=0.9,
        handleheight=0.9,
        columnspacing=1.4,
    )


def _draw_scores(axes: Axes, timeline: Timeline, band: Band, look: Look) -> None:
    """Curves of the commonest classes: the mean score of the rows in each column."""
    rows = band.labels.sum(axis=1)
    edges = _edges(timeline)
    middles = (edges[:-1] + edges[1:]) / 2
    for position in look.curves:
        colour = look.colours[look.of[position]]
        mean = np.divide(band.scores[:, position], rows, out=np.full(COLUMNS, np.nan), where=rows > 0)
        axes.plot(middles, mean, color=colour, linewidth=1.1, solid_joinstyle="round")
        if len(look.curves) == 1:
            axes.fill_between(middles, mean, color=colour, alpha=0.13, linewidth=0)
    axes.set(xlim=(edges[0], edges[-1]), ylim=(-0.04, 1.04), yticks=[0, 0.5, 1], yticklabels=["0", "score", "1"])
    axes.grid(axis="y", color=NONE, linewidth=0.6)
    axes.set_axisbelow(True)
    axes.tick_params(length=0, axis="y")
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    _set_time(axes, timeline.clock, timeline.last - timeline.first)


# ------------------------------------------------------------------------------------------------- time


def _edges(timeline: Timeline) -> Float64s:
    """Borders of the columns, in the unit of the axis: days since 1970, seconds, or frames."""
    unit = 86400.0 if timeline.clock == "captured" else 1.0
    return np.linspace(timeline.first / unit, timeline.last / unit, COLUMNS + 1)


def _set_time(axes: Axes, clock: Clock, length: float) -> None:
    if clock == "captured":
        from matplotlib.dates import AutoDateLocator, ConciseDateFormatter

        locator = AutoDateLocator(maxticks=12)  # type: ignore[no-untyped-call]
        axes.xaxis.set_major_locator(locator)
        dates = ConciseDateFormatter(locator, tz="UTC")  # type: ignore[no-untyped-call]
        axes.xaxis.set_major_formatter(dates)
        return
    if clock == "frame":
        axes.xaxis.set_major_formatter(lambda value, _: f"frame {value:,.0f}" if value == 0 else f"{value:,.0f}")
        return
    from matplotlib.ticker import MultipleLocator

    steps = (0.1, 0.2, 0.5, 1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 10800, 21600, 43200, 86400)
    step = next((step for step in steps if length / step <= CELLS), 86400.0 * math.ceil(length / 86400 / CELLS))
    axes.xaxis.set_major_locator(MultipleLocator(step))
    axes.xaxis.set_major_formatter(lambda value, _: _time(value, step, long=length >= 120))


def _time(seconds: float, step: float, *, long: bool) -> str:
    if not long:
        return f"{seconds:.1f} s" if step < 1 else f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02}:{rest:02}"


def _percent(share: float) -> str:
    return f"{100 * share:.3g} %" if 0 < share < 0.01 else f"{100 * share:.0f} %"
