"""Do networks that folding was not tuned for learn, folded, what they learn unfolded? Eight, on rendered digits.

    python -m benchmarks.fold_any                 goes on where it was stopped; a quarter of an hour on two cores
    python -m benchmarks.fold_any --only vgg
    python -m benchmarks.fold_any --report        only sums up what is there

A *cell* is a network, an f and a seed. Each network is trained unfolded and folded, f = 4, by one recipe, on a sequence
of digits over backgrounds that move (`benchmarks.displays`); training, validation and test are other scenes. A folded
one starts as f copies of a slot (`fold_epochs`), and sees the pictures as often as the unfolded one, slot included.

A digit stays for 8 to 24 frames and groups are consecutive, as in footage, so most groups hold one digit alone. A
network that gives one answer for the whole group is right there and wrong where the digit changes: those pictures, a
fifth, are told apart.

The three families fold themselves, to the very layers that `specialized.fold_cnn` makes of them (a test compares), and
begin with weights of their own; the others know nothing of folding.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import numpy as np
from numpy.typing import NDArray

from benchmarks.displays import Display
from benchmarks.facts import ROOT
from benchmarks.part import chosen
from benchmarks.study import (
    Result,
    counts,
    do,
    head_of,
    options,
    origin,
    rendered,
    results,
    settings_of,
    trained_and_scored,
    write_summary,
)
from pipeline.text import aligned
from specialized.evaluate import Scored
from specialized.examples import Examples
from specialized.modelfile import ModelCard
from specialized.recipe import Recipe

RESULTS = ROOT / "benchmarks/results/fold-any"
FOLDS = (1, 4)
SEEDS = 2
DIGIT = Display(size=(20, 20), values=10, text=lambda value, _: str(value), none=False, hold=(8, 24))
FRAMES = {"training": 8000, "validation": 1000, "test": 4000}
BLOCKS = 10
# From random weights (fold_epochs=0) folded networks came no further than one answer per group: vgg was right, after 12
# epochs, in 0.91 of all pictures and in 0.62 of those where the digit changes.
RECIPE = Recipe(epochs=10, fold_epochs=6, lr=0.002, shift=1)
# Folded or not. It has no normalization and learns slowly from its small first weights: at 0.002 the folded one was
# still getting better on validation at its last epoch, and 1.0 and 4.3 points behind the unfolded one in the two seeds.
LR = {"squeezenet": 0.005}

VERSION = 1  # of training, measuring and rendering: cells of another one are done again

# Architecture and arguments: narrow, to be quick.
NETWORKS: Mapping[str, tuple[str, dict[str, object]]] = {
    "noscope": ("coral", {}),
    "game": ("goldnumber-fraction", {}),
    "resnet18": ("resnet18", {"width": 8}),
    "mobilenet": ("benchmarks.architectures:MobileNet", {"width": 16}),
    "squeezenet": ("benchmarks.architectures:SqueezeNet", {"width": 16}),
    "densenet": ("benchmarks.architectures:DenseNet", {"growth": 8}),
    "vgg": ("benchmarks.architectures:Vgg", {"width": 8}),
    "resnet-bottleneck": ("benchmarks.architectures:ResNet", {"width": 12}),
}


@dataclass(frozen=True, slots=True)
class Cell:
    """What is trained and measured once."""

    network: str
    f: int
    seed: int

    @property
    def name(self) -> str:
        return f"{self.network}-f{self.f}-seed{self.seed}"

    @property
    def path(self) -> Path:
        return RESULTS / f"{self.name}.json"

    @property
    def card(self) -> ModelCard:
        architecture, args = NETWORKS[self.network]
        return ModelCard(
            architecture=architecture,
            args=args,
            fold=self.f,
            order="consecutive",
            input=DIGIT.size,
            classes=DIGIT.classes,
        )

    @property
    def recipe(self) -> Recipe:
        """As many epochs for an unfolded network as a folded one and the slot that it starts from have together."""
        epochs = RECIPE.epochs + (RECIPE.fold_epochs or 0) if self.f == 1 else RECIPE.epochs
        lr = LR.get(self.network, RECIPE.lr)
        return RECIPE.model_copy(update={"seed": self.seed, "epochs": epochs, "lr": lr})

    @property
    def settings(self) -> Result:
        return settings_of(self.card, self.recipe, frames=FRAMES, hold=DIGIT.hold, version=VERSION)


def cells() -> Iterator[Cell]:
    """All cells, seed by seed, so that a study that is cut short has something of every network."""
    for seed in range(SEEDS):
        yield from (Cell(network, f, seed) for network in NETWORKS for f in FOLDS)


@functools.cache
def parts() -> dict[str, Examples]:
    return rendered(DIGIT, FRAMES, blocks=BLOCKS)


def run_cell(cell: Cell) -> Result:
    """Trains, stores and measures."""
    began = time.perf_counter()
    trained, engine, scored = trained_and_scored(cell.card, parts(), cell.recipe)
    changing = of_change(scored)
    return head_of(cell, engine, began) | {
        "best_epoch": trained.best_epoch,
        "validation_accuracy": [round(epoch.validation_accuracy, 4) for epoch in trained.history],
        "blocks": [counts(scored, slice(start, stop)) for start, stop in scored.runs],
        "changing": {"n": int(changing.sum()), "right": float(scored.right[changing].sum())},
    }


def of_change(scored: Scored, f: int = max(FOLDS)) -> NDArray[np.bool_]:
    """Which pictures lie in groups of f that show more than one answer, (n,), whatever the model's own f."""
    changing = np.zeros(len(scored.truth), bool)
    answers = scored.truth.argmax(axis=1)
    for start, stop in scored.runs:
        for group in range(start, stop, f):
            several = answers[group : min(group + f, stop)]
            changing[group : group + len(several)] = (several != several[0]).any()
    return changing


def report(done: Sequence[Mapping[str, Any]]) -> tuple[Result, str]:
    """Accuracy of each network, unfolded and folded by the seeds that both have, for JSON and for reading."""
    by_cell = {(one["cell"]["network"], one["cell"]["f"], one["cell"]["seed"]): one for one in done}
    networks = [figures for name in NETWORKS if (figures := _compared(name, by_cell))]
    rows = [("network", "f = 1", "f = 4", "points", "of seeds", "where it changes", "FLOPs", "parameters")]
    for one in networks:
        unfolded, folded = one["accuracy"]
        points = [100 * difference for difference in one["difference_of_seeds"]]
        rows.append(
            (
                one["network"],
                f"{unfolded:.4f}",
                f"{folded:.4f}",
                f"{100 * one['difference']:+.2f}",
                f"{min(points):+.2f} to {max(points):+.2f}",
                " to ".join(f"{accuracy:.3f}" for accuracy in one["accuracy_where_it_changes"]),
                f"x{one['flops_ratio']:.2f}",
                f"x{one['parameters_ratio']:.2f}",
            )
        )
    return {"networks": networks, **origin(done)}, "\n".join(aligned(rows))


def _compared(network: str, by_cell: Mapping[tuple[str, int, int], Mapping[str, Any]]) -> Result | None:
    pairs = [
        (by_cell[network, 1, seed], by_cell[network, 4, seed])
        for seed in range(SEEDS)
        if {(network, 1, seed), (network, 4, seed)} <= by_cell.keys()
    ]
    if not pairs:
        return None
    accuracy = np.array([[_accuracy(one["blocks"]) for one in pair] for pair in pairs])  # (seeds, 2)
    changing = [_accuracy([pair[at]["changing"] for pair in pairs]) for at in range(2)]
    return {
        "network": network,
        "seeds": len(pairs),
        "accuracy": accuracy.mean(axis=0).tolist(),
        "accuracy_of_seeds": accuracy.tolist(),
        "difference": float((accuracy[:, 1] - accuracy[:, 0]).mean()),
        "difference_of_seeds": (accuracy[:, 1] - accuracy[:, 0]).tolist(),
        "accuracy_where_it_changes": changing,
        **{
            f"{key.removesuffix('_per_picture')}_ratio": pairs[0][1][key] / pairs[0][0][key]
            for key in ("flops_per_picture", "parameters")
        },
    }


def _accuracy(counted: Sequence[Mapping[str, float]]) -> float:
    return sum(one["right"] for one in counted) / max(1, sum(one["n"] for one in counted))


@click.command()
@options
def main(only: str, workers: int, minutes: float, only_report: bool) -> None:
    """Train eight networks unfolded and folded on rendered digits, and compare."""
    if not only_report:
        do(chosen({cell.name: cell for cell in cells()}, only).values(), run_cell, workers=workers, minutes=minutes)
    summary, told = report(results(cells()))
    write_summary(RESULTS.with_suffix(".json"), cells(), summary, of="benchmarks.fold_any")
    click.echo(told)


if __name__ == "__main__":
    main()
