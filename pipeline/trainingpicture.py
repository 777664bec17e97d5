"""The pictures of a training: how it went, and what is taken for what.

curves.png     ╲          │      ┌────     confusion.png   true
   loss         ╲___      │ ____╱                          person │ 98   2
   accuracy         ‾‾‾   │╱    ● kept                     none   │  1  99
                 epoch           epoch                              answered
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from pipeline.colours import NONE, PALETTE
from pipeline.drawing import FAINT, INK, drawn

if TYPE_CHECKING:
    from specialized.train import Epoch

__all__ = ["draw_confusion", "draw_curves"]

MOST_NUMBERS = 20  # classes for which the shares are written into their cells


def draw_curves(title: str, history: Sequence[Epoch], best_epoch: int, out: Path) -> None:
    """Draws loss and validation accuracy over the epochs.

    Raises:
        VpipeError: the file cannot be written.
    """
    epochs = [epoch.number + 1 for epoch in history]
    with drawn(out, (10.0, 3.6), given_by="run.dir", constrained=True) as figure:
        figure.suptitle(title, color=INK, size=10)
        losses, accuracy = figure.subplots(1, 2)
        losses.plot(epochs, [epoch.loss for epoch in history], color=PALETTE[0], label="training, varied pictures")
        losses.plot(epochs, [epoch.validation_loss for epoch in history], color=PALETTE[1], label="validation")
        losses.legend(frameon=False, labelcolor=FAINT)
        losses.set_title(
            "loss" if history[0].fold == history[-1].fold else "loss: one slot, then all",
            loc="left",
            size=9,
            color=FAINT,
        )
        shares = [epoch.validation_accuracy for epoch in history]
        accuracy.plot(epochs, shares, color=PALETTE[1])
        accuracy.plot(best_epoch + 1, shares[best_epoch], color=PALETTE[1], marker="o")
        accuracy.set_title(
            f"validation accuracy; kept: epoch {best_epoch + 1}, {shares[best_epoch]:.4f}",
            loc="left",
            size=9,
            color=FAINT,
        )
        begins = next((e.number + 1 for e in history if e.fold == history[-1].fold), 1)  # the network as a whole
        for axes in (losses, accuracy):
            if begins > 1:
                axes.axvline(begins - 0.5, color=FAINT, linewidth=0.8, linestyle=":")
            axes.set_xlabel("epoch")
            axes.xaxis.get_major_locator().set_params(integer=True)
            axes.grid(color=NONE, linewidth=0.6)
            axes.spines[["top", "right"]].set_visible(False)


def draw_confusion(title: str, classes: Sequence[str], confusion: Sequence[Sequence[int]], out: Path) -> None:
    """Draws which share of each class is answered as which.

    Args:
        title: What was measured where.
        classes: K names.
        confusion: pictures, [true class][answered class].
        out: The PNG to write.

    Raises:
        VpipeError: the file cannot be written.
    """
    counts = np.array(confusion)
    shares = counts / np.maximum(1, counts.sum(axis=1, keepdims=True))
    k = len(classes)
    side = min(12.0, 2.2 + 0.42 * k)
    with drawn(out, (side + 1, side), given_by="run.dir", constrained=True) as figure:
        figure.suptitle(title, color=INK, size=9)
        axes = figure.subplots()
        axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
        step = 1 + (k - 1) // 40
        names = [f"{name} ({total:,})" for name, total in zip(classes, counts.sum(axis=1), strict=True)]
        axes.set_xticks(range(0, k, step), classes[::step], rotation=90 if k > 6 else 0)
        axes.set_yticks(range(0, k, step), names[::step])
        axes.set_xlabel("answered")
        axes.set_ylabel("true (pictures)")
        axes.spines[:].set_visible(False)
        for (row, column), share in np.ndenumerate(shares) if k <= MOST_NUMBERS else ():
            text = "0" if not counts[row, column] else f"{share:.3f}".lstrip("0") if k > 4 else f"{share:.4f}"
            color = FAINT if not counts[row, column] else "white" if share > 0.5 else INK
            axes.text(column, row, text, ha="center", va="center", size=8 if k <= 8 else 6, color=color)
