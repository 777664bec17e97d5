"""The roofline picture of a benchmark: what each model reaches at each f, under what the device can do.

FLOP/s │      ____________  peak      a panel per model, on the same axes;
       │    ╱     ·4              a point per f, joined in the order of f,
       │  ╱    ·2                     a diamond for the tuned f = 1
       │╱   ◇1
       └────────────────── FLOP/B
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.benchtable import amount, medians
from pipeline.colours import NONE, PALETTE
from pipeline.drawing import FAINT, INK, drawn
from pipeline.errors import VpipeError

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["roofline"]

Row = Mapping[str, Any]

# Inches.
PANELS = {1: (8.6, 5.0), 2: (5.2, 4.2), 3: (4.0, 3.6), 4: (3.2, 3.1), 5: (2.75, 2.9)}  # by their number side by side
LEFT, RIGHT, HEAD, FOOT, BETWEEN, ABOVE = 0.85, 0.25, 0.95, 0.95, 0.2, 0.62
COLOURS = (PALETTE[1], PALETTE[0], PALETTE[2])  # of the dtypes


def roofline(document: Mapping[str, Any], out: Path) -> None:
    """Draws the document of a benchmark.

    Args:
        document: As `pipeline.bench.document` makes it, with at least one row.
        out: The PNG to write.

    Raises:
        VpipeError: There is nothing to draw, or the file cannot be written.
    """
    rows = [row for row in document["models"] if row["achieved_flops"] and row["intensity_as_run"]]
    if not rows:
        raise VpipeError(f"{out}: needs a model with FLOPs to draw, got none; name others, or leave --out away")
    names = list(dict.fromkeys(row["name"] for row in rows))
    columns = min(max(PANELS), len(names))
    lines = math.ceil(len(names) / columns)
    cell_width, cell_height = PANELS[columns]
    width = LEFT + columns * cell_width + (columns - 1) * BETWEEN + RIGHT
    height = HEAD + lines * (cell_height + ABOVE) + FOOT
    dtypes = document["settings"]["dtypes"]
    tuned = {record["name"]: record for record in document["tuned_f1"]}
    limits = _limits(document, rows, [tuned[name] for name in names if name in tuned])
    with drawn(out, (width, height), given_by="--out") as figure:
        figure.text(LEFT / width, 1 - 0.2 / height, _title(document), size=15, weight="bold", va="top")
        figure.text(LEFT / width, 1 - 0.56 / height, _subtitle(document), size=9.5, color=FAINT, va="top")
        for at, name in enumerate(names):
            line, column = divmod(at, columns)
            x = LEFT + column * (cell_width + BETWEEN)
            y = height - HEAD - (line + 1) * (cell_height + ABOVE)
            axes = figure.add_axes((x / width, y / height, cell_width / width, cell_height / height))
            of_this = [row for row in rows if row["name"] == name]
            _draw_panel(axes, document, of_this, tuned.get(name), limits)
            axes.set_title(name, loc="left", size=11, weight="bold", color=INK, pad=20)
            verdict = axes.annotate(
                _verdict(of_this), (0, 1), (0, 7), xycoords="axes fraction", textcoords="offset points"
            )
            verdict.set(size=9, color=FAINT)
            axes.tick_params(labelleft=column == 0, labelbottom=line == lines - 1 or at + columns >= len(names))
        x = LEFT
        for text, colour in _caption(dtypes):
            figure.text(x / width, 0.5 / height, text, size=9, color=colour, va="top")
            x += 0.065 * len(text) + 0.25  # a letter of this size is about so wide
        figure.supxlabel("arithmetic intensity, FLOP per byte", size=9.5, color=INK, y=0.58 / height, va="bottom")
        figure.supylabel("FLOP/s", size=9.5, color=INK, x=0.2 / width)


def _draw_panel(
    axes: Axes,
    document: Mapping[str, Any],
    rows: Sequence[Row],
    tuned: Row | None,
    limits: tuple[tuple[float, float], tuple[float, float]],
) -> None:
    from matplotlib.patheffects import withStroke
    from matplotlib.ticker import LogLocator

    axes.set(xscale="log", yscale="log", xlim=limits[0], ylim=limits[1])
    axes.grid(color=NONE, linewidth=0.5)
    axes.set_axisbelow(True)
    axes.minorticks_off()
    for axis, (low, high) in ((axes.xaxis, limits[0]), (axes.yaxis, limits[1])):
        axis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0) if high < 300 * low else (1.0,)))
    axes.yaxis.set_major_formatter(lambda value, _: amount(value, ""))
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
    axes.tick_params(length=0)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    dtypes = document["settings"]["dtypes"]
    labelled: set[tuple[int, float]] = set()
    for dtype, colour in zip(dtypes, COLOURS, strict=False):
        _draw_roof(axes, document, dtype, colour if len(dtypes) > 1 else FAINT, limits[0])
        path = sorted((row for row in rows if row["dtype"] == dtype), key=lambda row: row["fold"])
        points = [(row["intensity_as_run"], row["achieved_flops"]) for row in path]
        if not points:
            continue
        axes.plot(*zip(*points, strict=True), color=colour, linewidth=1.4, marker="o", markersize=5, label=dtype)
        for row, point in zip(path, points, strict=True):
            if (row["fold"], point[0]) in labelled:  # the other 16-bit type is right above or below
                continue
            labelled.add((row["fold"], point[0]))
            below = row["fold"] == 1  # above it is often the diamond
            told = axes.annotate(str(row["fold"]), point, (0, -12.5 if below else 6), textcoords="offset points")
            told.set(ha="center", size=8, color=colour, path_effects=[withStroke(linewidth=2, foreground="white")])
    if tuned is not None:
        point = (tuned["intensity_as_run"], tuned["achieved_flops"])
        axes.plot(*point, marker="D", markersize=7.5, markerfacecolor="none", markeredgecolor=INK, markeredgewidth=1.3)
        axes.axhline(point[1], color=INK, linewidth=0.7, linestyle=(0, (2, 3)))


def _draw_roof(axes: Axes, document: Mapping[str, Any], dtype: str, colour: str, span: tuple[float, float]) -> None:
    peak, bandwidth = document["peak"].get(dtype), document["bandwidth"]
    if peak is None:
        return
    top = peak["flops_per_s"]
    if bandwidth is None:
        axes.plot(span, (top, top), color=colour, linewidth=1)
        return
    ridge = document["ridge"][dtype]
    xs = (min(span[0], ridge), ridge, max(span[1], ridge))
    roof = [min(top, x * bandwidth["bytes_per_s"]) for x in xs]
    axes.plot(xs, roof, color=colour, linewidth=1.2, zorder=1)
    axes.fill_between(xs, roof, axes.get_ylim()[1], color=NONE, alpha=0.25, linewidth=0, zorder=0)  # out of reach


def _limits(
    document: Mapping[str, Any], rows: Sequence[Row], tuned: Sequence[Row]
) -> tuple[tuple[float, float], tuple[float, float]]:
    """Of the axes, the same for all panels: every point, the ridges and the peaks are inside."""
    xs = [row["intensity_as_run"] for row in (*rows, *tuned)] + list(document["ridge"].values())
    ys = [row["achieved_flops"] for row in (*rows, *tuned)] + [
        roof["flops_per_s"] for roof in document["peak"].values()
    ]
    return (min(xs) / 2, max(xs) * 2), (min(ys) / 2, max(ys) * 1.8)


def _title(document: Mapping[str, Any]) -> str:
    facts = document["machine"]
    return f"Roofline of {facts['device_name'] or facts['cpu'] or 'the CPU'}"


def _subtitle(document: Mapping[str, Any]) -> str:
    told = [f"{dtype} {amount(roof['flops_per_s'], 'FLOP/s')}" for dtype, roof in document["peak"].items()]
    if document["bandwidth"]:
        told.append(amount(document["bandwidth"]["bytes_per_s"], "B/s"))
    told += [f"ridge at {ridge:.0f} FLOP/B" for ridge in list(document["ridge"].values())[:1]]
    settings = document["settings"]
    return (
        f"measured roofs: {', '.join(told)}; the models alone, {settings['pictures']:,} images a batch, "
        f"{medians(settings['rounds'])}"
    )


def _verdict(rows: Sequence[Row]) -> str:
    """What the best f comes to, gain or loss."""
    compared = [row for row in rows if row["against_tuned_f1"] is not None and row["fold"] > 1]
    if not compared:
        return "not compared with a tuned f = 1"
    best = max(compared, key=lambda row: row["against_tuned_f1"])
    share = best["share_of_peak"]
    of_peak = "" if share is None else f", {100 * share:.0f} % of peak"
    return f"f = {best['fold']}: {best['against_tuned_f1']:.2f} x tuned f = 1{of_peak}"


def _caption(dtypes: Sequence[str]) -> list[tuple[str, str]]:
    """Words and their colours."""
    several = [(dtype, colour) for dtype, colour in zip(dtypes, COLOURS, strict=False)] if len(dtypes) > 1 else []
    return [
        *several,
        ("points: f, joined in its order", FAINT),
        ("◇ and dotted line: the tuned f = 1, the fastest of all settings tried", FAINT),
    ]
