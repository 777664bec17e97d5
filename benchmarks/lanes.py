"""Is there a car in this stretch of a lane? 14 regions of one picture, unfolded, folded in time and across regions.

    python -m benchmarks.lanes                    goes on where it was stopped; half an hour on two cores
    python -m benchmarks.lanes --only regions-f4
    python -m benchmarks.lanes --report           only sums up what is there

A *cell* is an order, an f and a seed; what is trained on what stands in `configs/train-intersection-f1.yaml` and
`-f4.yaml`. The clip, of 20 seconds, is cut into 10 blocks, and in each of 5 rotations two blocks that lie half the clip
apart are the test, one other chooses the epoch, the rest trains, with a second left out between the parts. Every frame
is tested once. `random` starts from random weights where the recipe of f = 4 starts as copies of one slot.

Cars drive on from one stretch to the next: one that is tested in a region may have been trained on in another, or in
the same before the gap. What an interval rests on are 10 blocks of 2 seconds, which some cars outlast.
"""

from __future__ import annotations

import dataclasses
import functools
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import click
import numpy as np
from numpy.typing import NDArray

from benchmarks.facts import ROOT
from benchmarks.study import (
    Result,
    counts,
    do,
    head_of,
    options,
    origin,
    results,
    settings_of,
    trained_and_scored,
    write_summary,
)
from pipeline.config import load_train_config
from pipeline.footage import Footage
from pipeline.labelled import footage_of
from pipeline.preparation import new_card
from pipeline.text import aligned
from pipeline.trainschema import TrainConfig
from specialized.intervals import Interval, interval, resampled
from specialized.modelfile import ModelCard, file_hash
from specialized.orders import Order
from specialized.recipe import Recipe
from specialized.train import settled

RESULTS = ROOT / "benchmarks/results/lanes"
REGIONS = ROOT / "configs/intersection-lanes.csv"
BLOCKS, ROTATIONS, GAP_S = 10, 5, 1.0
MODELS: Sequence[tuple[Order, int, str]] = (
    ("consecutive", 1, ""),
    ("consecutive", 4, ""),
    ("regions", 4, ""),
    ("consecutive", 4, "random"),
    ("regions", 4, "random"),
)
SEEDS = 2
VERSION = 1  # of training and measuring: cells of another one are done again

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Cell:
    """What is trained and measured once."""

    order: Order
    f: int
    variant: str  # of the recipe: "" (as it is) or random
    seed: int

    @property
    def model(self) -> str:
        return named(self.order, self.f, self.variant)

    @property
    def name(self) -> str:
        return f"{self.model}-seed{self.seed}"

    @property
    def path(self) -> Path:
        return RESULTS / f"{self.name}.json"

    @property
    def config(self) -> TrainConfig:
        return load_train_config(ROOT / f"configs/train-intersection-f{self.f}.yaml")

    @property
    def card(self) -> ModelCard:
        return dataclasses.replace(new_card(self.config), order=self.order)

    @property
    def recipe(self) -> Recipe:
        changed: dict[str, int] = {"seed": self.seed} | ({"fold_epochs": 0} if self.variant == "random" else {})
        return settled(self.card, self.config.train.model_copy(update=changed))

    @property
    def settings(self) -> Result:
        [clip] = self.config.clips
        return settings_of(
            self.card,
            self.recipe,
            files=[file_hash(path) for path in (clip.video, clip.labels, REGIONS)],
            splits=[split(rotation) for rotation in range(ROTATIONS)],
            gap_s=GAP_S,
            version=VERSION,
        )


def named(order: Order, f: int, variant: str) -> str:
    return "-".join(part for part in (order, variant, f"f{f}") if part)


def cells() -> Iterator[Cell]:
    """All cells, seed by seed, so that a study that is cut short has something of every model."""
    for seed in range(SEEDS):
        yield from (Cell(*model, seed) for model in MODELS)


def split(rotation: int) -> dict[str, tuple[int, ...]]:
    """Which blocks test and which choose the epoch."""
    return {"test": (rotation, rotation + ROTATIONS), "validation": ((rotation + 2) % BLOCKS,)}


@functools.cache
def footage() -> Footage:
    cell = next(cells())
    found = footage_of(cell.config, cell.card)
    assert isinstance(found, Footage)
    return found


def run_cell(cell: Cell) -> Result:
    """Trains, stores and measures, in all rotations."""
    began = time.perf_counter()
    blocks, epochs = {}, []
    for rotation in range(ROTATIONS):
        of_use = split(rotation)
        parts = footage().split(blocks=BLOCKS, gap_s=GAP_S, **of_use)
        trained, engine, scored = trained_and_scored(cell.card, parts, cell.recipe)
        epochs.append(trained.best_epoch)
        names = scored.regions
        for block, (start, stop) in zip(of_use["test"], scored.runs, strict=True):
            of_region = {
                name: counts(scored, slice(start + place, stop, len(names))) for place, name in enumerate(names)
            }
            regions = {
                name: {"n": one["n"], "right": one["right"], "cars": one["support"][0]}
                for name, one in of_region.items()
            }
            blocks[block] = counts(scored, slice(start, stop)) | {"regions": regions}
    return head_of(cell, engine, began) | {
        "best_epochs": epochs,
        "blocks": [blocks[block] for block in sorted(blocks)],
    }


# ------------------------------------------------------------------------------------------------------------- report


def report(done: Sequence[Result]) -> tuple[Result, str]:
    """Accuracy of each model, in each region and over all, for JSON and for reading."""
    groups: dict[str, list[Result]] = {}
    for one in done:
        groups.setdefault(Cell(**one["cell"]).model, []).append(one)
    names = [name for model in MODELS if (name := named(*model)) in groups]
    models = {name: _figures(groups[name]) for name in names}
    first = named(*MODELS[0])
    differences = {
        name: _difference(groups[name], groups[first]) for name in names if name != first and first in groups
    }
    answers = _answers(done[0]) if done else {}
    summary = {"regions": answers, "models": models, "points_to_f1": differences, **origin(done)}
    return summary, _told(summary) if done else "nothing is there yet"


def _sums(cells: Sequence[Result]) -> tuple[list[str], Floats]:
    """Names of the regions, and (blocks, 2, 1 + R): pictures and right ones, of all regions and of each."""
    names = list(cells[0]["blocks"][0]["regions"])
    sums = [
        [[[block[key], *(block["regions"][name][key] for name in names)] for key in ("n", "right")] for block in blocks]
        for blocks in (cell["blocks"] for cell in cells)
    ]
    return names, np.sum(np.array(sums, np.float64), axis=0)


def _figures(cells: Sequence[Result]) -> Result:
    names, sums = _sums(cells)
    blocks, _, columns = sums.shape
    drawn = resampled(sums.reshape(blocks, -1), seed=0).reshape(-1, 2, columns)
    shares, total = drawn[:, 1] / drawn[:, 0], sums.sum(axis=0)
    figures = [
        {"accuracy": float(total[1, k] / total[0, k]), "interval": interval(shares[:, k], blocks)}
        for k in range(columns)
    ]
    rotations = [sums[rotation::ROTATIONS, :, 0].sum(axis=0) for rotation in range(ROTATIONS)]
    return {
        "seeds": len(cells),
        "pictures": int(total[0, 0]) // len(cells),
        **figures[0],
        "of_rotations": [float(right / n) for n, right in rotations],
        "of_seeds": [float(one[:, 1, 0].sum() / one[:, 0, 0].sum()) for one in (_sums([cell])[1] for cell in cells)],
        "regions": dict(zip(names, figures[1:], strict=True)),
        "parameters": cells[0]["parameters"],
        "flops_per_picture": cells[0]["flops_per_picture"],
    }


def _difference(cells: Sequence[Result], base: Sequence[Result]) -> Result:
    """In points, of the seeds that both have, over the same resamples of blocks."""
    both = {one["cell"]["seed"] for one in cells} & {one["cell"]["seed"] for one in base}
    mine, theirs = (_sums([one for one in some if one["cell"]["seed"] in both])[1][:, :, 0] for some in (cells, base))
    columns = np.column_stack([mine[:, 0], 100 * (mine[:, 1] - theirs[:, 1])])
    drawn, total = resampled(columns, seed=0), columns.sum(axis=0)
    return {
        "seeds": len(both),
        "points": float(total[1] / total[0]),
        "interval": interval(drawn[:, 1] / drawn[:, 0], len(columns)),
    }


def _answers(cell: Result) -> dict[str, Result]:
    """How often each region shows a car, and how often its commoner answer is right."""
    shares = {
        name: sum(block["regions"][name]["cars"] for block in cell["blocks"])
        / sum(block["regions"][name]["n"] for block in cell["blocks"])
        for name in cell["blocks"][0]["regions"]
    }
    return {name: {"cars": share, "commoner_answer": max(share, 1 - share)} for name, share in shares.items()}


def _told(summary: Mapping[str, Result]) -> str:
    regions, models = summary["regions"], summary["models"]
    rows = [["region", "a car", "commoner answer", *models]]
    for name, one in regions.items():
        found = [_with_interval(model["regions"][name]) for model in models.values()]
        rows.append([name, f"{one['cars']:.3f}", f"{one['commoner_answer']:.3f}", *found])
    cars, own = (float(np.mean([one[key] for one in regions.values()])) for key in ("cars", "commoner_answer"))
    rows.append(["all", f"{cars:.3f}", f"{own:.3f}", *(_with_interval(model) for model in models.values())])
    spread = [f"{min(model['of_rotations']):.3f} to {max(model['of_rotations']):.3f}" for model in models.values()]
    rows.append(["of rotations", "", "", *spread])
    rows.append(["seeds", "", "", *(str(model["seeds"]) for model in models.values())])
    lines = aligned(rows)
    for name, one in summary["points_to_f1"].items():
        low, high = one["interval"] or (float("nan"), float("nan"))
        lines.append(
            f"{name} against f1: {one['points']:+.2f} ({low:+.2f} to {high:+.2f}) points, {one['seeds']} seeds"
        )
    return "\n".join(lines)


def _with_interval(one: Mapping[str, float | Interval | None]) -> str:
    low, high = one["interval"] or (float("nan"), float("nan"))  # type: ignore[misc]
    return f"{one['accuracy']:.3f} [{low:.3f} {high:.3f}]"


# ------------------------------------------------------------------------------------------------------------ command


@click.command()
@options
def main(only: str, workers: int, minutes: float, only_report: bool) -> None:
    """Measure folding across the regions of a picture beside folding in time."""
    if not only_report:
        do((cell for cell in cells() if only in cell.name), run_cell, workers=workers, minutes=minutes)
    summary, told = report(results(cells()))
    write_summary(RESULTS.with_suffix(".json"), cells(), summary, of="benchmarks.lanes")
    click.echo(told)


if __name__ == "__main__":
    main()
