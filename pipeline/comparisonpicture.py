"""The picture of a comparison: how right each model is and within what, its curve, and its slots.

model a  ├──●──┤   │‾‾‾‾‾‾‾‾╲   │●
model b     ├●┤    │         │  │  ●──●──●
accuracy           precision    accuracy by slot
               ● model a  ● model b
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.accuracy import Accuracy
from pipeline.colours import NONE, PALETTE
from pipeline.drawing import FAINT, INK, drawn
from pipeline.text import printable
from specialized.metrics import precision_recall

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["draw"]

Named = Sequence[tuple[str, Accuracy]]
Look = Mapping[str, Any]  # of a model's lines, as matplotlib's keyword arguments

WIDTH, HEIGHT, PER_MODEL = 13.0, 3.9, 0.22  # inches; the last for each model beyond a few
FEW_MODELS = 6
LETTER, MARK, LINE = 0.075, 0.6, 0.2  # inches: of the legend a letter, what stands before and behind a name, a row
STYLES = ("-", "--", ":")  # of the first models, and of those whose colours come again


def draw(models: Named, where: str, out: Path) -> None:
    """Draws models that were measured on the same pictures.

    Args:
        models: Names and accuracies, in the order in which they are drawn.
        where: On which footage.
        out: The PNG to write.

    Raises:
        VpipeError: the file cannot be written.
    """
    from matplotlib.lines import Line2D

    names = [printable(name) for name, _ in models]
    columns = max(1, min(len(names), int(WIDTH / (MARK + LETTER * max(map(len, names))))))
    height = HEIGHT + PER_MODEL * max(0, len(models) - FEW_MODELS) + LINE * -(-len(names) // columns)
    looks: list[Look] = [
        {"color": PALETTE[k % len(PALETTE)], "linestyle": STYLES[k // len(PALETTE) % len(STYLES)]}
        for k in range(len(models))
    ]
    with drawn(out, (WIDTH, height), given_by="--out", constrained=True) as figure:
        figure.suptitle(f"{len(models)} models, {models[0][1].evaluation.n:,} pictures, {where}", color=INK, size=10)
        figure.legend(
            handles=[Line2D([], [], marker="o", markersize=5, **look) for look in looks],
            labels=names,
            loc="outside lower center",
            ncols=columns,
            frameon=False,
            fontsize=8,
        )
        accuracy, curve, slots = figure.subplots(1, 3, width_ratios=(1.2, 1, 1))
        _draw_accuracy(accuracy, models, looks)
        _draw_curves(curve, models, looks)
        _draw_slots(slots, models, looks)
        for axes in (accuracy, curve, slots):
            axes.grid(color=NONE, linewidth=0.6)
            axes.set_axisbelow(True)
            axes.spines[["top", "right"]].set_visible(False)


def _draw_accuracy(axes: Axes, models: Named, looks: Sequence[Look]) -> None:
    """A dot for each model with its interval, from the top down, and the line of always the commoner answer."""
    for row, ((_, accuracy), look) in enumerate(zip(models, looks, strict=True)):
        found = accuracy.evaluation
        if found.accuracy_interval is not None:
            axes.plot(found.accuracy_interval, (row, row), linewidth=2, solid_capstyle="butt", marker="|", **look)
        axes.plot(found.accuracy, row, marker="o", markersize=6, **look)
    majority = models[0][1].evaluation.majority
    axes.axvline(majority, color=FAINT, linewidth=1, linestyle=":")
    axes.annotate(
        "commoner answer", (majority, 0), xycoords=("data", "axes fraction"), xytext=(3, 3), textcoords="offset points",
        color=FAINT, size=7,
    )  # fmt: skip
    axes.set(ylim=(len(models) - 0.5, -0.5), yticks=range(len(models)))
    axes.set_yticklabels([printable(name) for name, _ in models], color=INK)
    over = "blocks of time" if models[0][1].evaluation.in_time else "images"
    axes.set_title(f"accuracy, 95 % over {over}", loc="left", size=9, color=FAINT)


def _draw_curves(axes: Axes, models: Named, looks: Sequence[Look]) -> None:
    """Precision over recall of all classes that are looked for, taken together."""
    for (_, accuracy), look in zip(models, looks, strict=True):
        scored = accuracy.scored
        columns = [scored.card.classes.index(name) for name in scored.card.sought]
        truth, scores = scored.truth[:, columns].ravel(), scored.scores[:, columns].ravel()
        if truth.any():
            precision, recall, _ = precision_recall(truth, scores)
            # Up to a recall the precision is that of the next point: nothing is interpolated.
            axes.step([0, *recall], [precision[0], *precision], linewidth=1.4, where="pre", **look)
    axes.set(xlim=(0, 1.02), ylim=(0, 1.02), xlabel="recall", ylabel="precision")
    axes.set_title("precision over recall", loc="left", size=9, color=FAINT)


def _draw_slots(axes: Axes, models: Named, looks: Sequence[Look]) -> None:
    most, least = max(len(accuracy.evaluation.slots) for _, accuracy in models), 0.95
    for (_, accuracy), look in zip(models, looks, strict=True):
        known = [(slot, right) for slot, right in enumerate(accuracy.evaluation.slots) if right is not None]
        axes.plot(*zip(*known, strict=True), marker="o", markersize=4, linewidth=1.2, **look)
        least = min(least, *(right for _, right in known))
    axes.set(xlabel="slot of the group", xlim=(-0.5, most - 0.5), xticks=range(most), ylim=(least - 0.01, 1.005))
    axes.set_title("accuracy by slot", loc="left", size=9, color=FAINT)
