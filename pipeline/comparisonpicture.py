"""The picture of a comparison: how right each model is and within what, its curve, and its slots.

model a  ├──●──┤   │‾‾‾‾‾‾‾‾╲   │●
model b     ├●┤    │         │  │  ●──●──●
accuracy           precision    accuracy by slot
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.accuracy import Accuracy
from pipeline.colours import NONE, PALETTE
from pipeline.drawing import FAINT, INK, drawn
from pipeline.text import printable
from specialized.metrics import precision_recall

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["draw"]

Named = Sequence[tuple[str, Accuracy]]

WIDTH, HEIGHT, PER_MODEL = 13.0, 3.9, 0.22  # inches; the last for each model beyond a few
FEW_MODELS = 6


def draw(models: Named, where: str, out: Path) -> None:
    """Draws models that were measured on the same pictures.

    Args:
        models: Names and accuracies, in the order in which they are drawn.
        where: On which footage.
        out: The PNG to write.

    Raises:
        VpipeError: the file cannot be written.
    """
    height = HEIGHT + PER_MODEL * max(0, len(models) - FEW_MODELS)
    colours = [PALETTE[k % len(PALETTE)] for k in range(len(models))]
    with drawn(out, (WIDTH, height), given_by="--out", constrained=True) as figure:
        figure.suptitle(f"{len(models)} models, {models[0][1].evaluation.n:,} pictures, {where}", color=INK, size=10)
        accuracy, curve, slots = figure.subplots(1, 3, width_ratios=(1.2, 1, 1))
        _draw_accuracy(accuracy, models, colours)
        _draw_curves(curve, models, colours)
        _draw_slots(slots, models, colours)
        for axes in (accuracy, curve, slots):
            axes.grid(color=NONE, linewidth=0.6)
            axes.set_axisbelow(True)
            axes.spines[["top", "right"]].set_visible(False)


def _draw_accuracy(axes: Axes, models: Named, colours: Sequence[str]) -> None:
    """A dot for each model with its interval, from the top down, and the line of always the commoner answer."""
    for row, ((_, accuracy), colour) in enumerate(zip(models, colours, strict=True)):
        found = accuracy.evaluation
        if found.accuracy_interval is not None:
            axes.plot(found.accuracy_interval, (row, row), color=colour, linewidth=2, solid_capstyle="butt", marker="|")
        axes.plot(found.accuracy, row, color=colour, marker="o", markersize=6)
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


def _draw_curves(axes: Axes, models: Named, colours: Sequence[str]) -> None:
    """Precision over recall of all classes that are looked for, taken together."""
    for (_, accuracy), colour in zip(models, colours, strict=True):
        scored = accuracy.scored
        columns = [scored.card.classes.index(name) for name in scored.card.sought]
        truth, scores = scored.truth[:, columns].ravel(), scored.scores[:, columns].ravel()
        if truth.any():
            precision, recall, _ = precision_recall(truth, scores)
            # Up to a recall the precision is that of the next point: nothing is interpolated.
            axes.step([0, *recall], [precision[0], *precision], color=colour, linewidth=1.4, where="pre")
    axes.set(xlim=(0, 1.02), ylim=(0, 1.02), xlabel="recall", ylabel="precision")
    axes.set_title("precision over recall", loc="left", size=9, color=FAINT)


def _draw_slots(axes: Axes, models: Named, colours: Sequence[str]) -> None:
    most, least = max(len(accuracy.evaluation.slots) for _, accuracy in models), 0.95
    for (_, accuracy), colour in zip(models, colours, strict=True):
        known = [(slot, right) for slot, right in enumerate(accuracy.evaluation.slots) if right is not None]
        axes.plot(*zip(*known, strict=True), color=colour, marker="o", markersize=4, linewidth=1.2)
        least = min(least, *(right for _, right in known))
    axes.set(xlabel="slot of the group", xlim=(-0.5, most - 0.5), xticks=range(most), ylim=(least - 0.01, 1.005))
    axes.set_title("accuracy by slot", loc="left", size=9, color=FAINT)
