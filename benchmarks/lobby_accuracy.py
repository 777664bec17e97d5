"""Does folding cost accuracy? Cross-validation in time on the lobby clip, of models as they are stored and run.

    python -m benchmarks.lobby_accuracy                            about 50 trainings, half a minute each on one core
    python -m benchmarks.lobby_accuracy --folds 1,4 --seeds 5

The clip is cut into 10 blocks of time. In each of 5 rotations two blocks that lie half the clip apart are the test, one
other chooses the epoch, and the rest trains; the gaps between the parts are taken from training and validation. So over
the rotations every frame is tested exactly once, by a model that saw nothing near it:

    rotation 0   T . v . . T . . . .        T test   v validation   . training
    rotation 1   . T v . . . T . . .
    ...

A cell is one training: of a fold, a seed and a rotation. Finished cells are kept and not done again, so the benchmark
can be stopped and gone on with; processes with other --folds fill the same folder side by side. Frames of a clip
resemble each other: what the interval of a difference rests on is the number of blocks, not the number of frames.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import click
import numpy as np

from pipeline.accuracy import measure
from pipeline.config import load_train_config
from pipeline.footage import Footage
from pipeline.labelled import footage_of
from pipeline.runs import machine, make_folder, versions, write_json
from pipeline.training import new_card, stored
from pipeline.trainschema import TrainConfig
from specialized.examples import grouped
from specialized.modelfile import ModelCard, file_hash
from specialized.train import train

ROOT = Path(__file__).parents[1]
BLOCKS, ROTATIONS = 10, 5
RESAMPLES = 10_000

Cell = Mapping[str, Any]  # as read from its JSON file


def blocks_of(rotation: int, footage: Footage, classes: int) -> dict[str, list[int]]:
    """The test blocks of a rotation, and the first block after them that shows every class, for validation."""
    test = [rotation, rotation + ROTATIONS]
    of_frame = np.arange(len(footage.examples.labels)) * BLOCKS // len(footage.examples.labels)
    for step in range(1, BLOCKS):
        block = (rotation + step) % BLOCKS
        if block not in test and len(np.unique(footage.examples.labels[of_frame == block])) == classes:
            return {"test": test, "validation": [block]}
    raise SystemExit("no block outside of the test shows every class")


def settings_of(config: TrainConfig, card: ModelCard, footage: Footage, seed: int, rotation: int) -> dict[str, Any]:
    """All that decides the result of a cell, for a finished one to be known again."""
    settings = {
        "model": config.model.model_dump(mode="json"),
        "recipe": config.train.model_copy(update={"seed": seed}).model_dump(mode="json"),
        "rotation": rotation,
        "split": {"blocks": BLOCKS, **blocks_of(rotation, footage, len(card.classes)), "gap_s": config.split.gap_s},
        "classes": [asked.model_dump(mode="json") for asked in config.classes],
        "clips": [[file_hash(clip.video), file_hash(clip.labels)] for clip in config.clips],
        "versions": versions(),
        "cpu": machine()["cpu"],
        "code": code_hash(),
    }
    plain: dict[str, Any] = json.loads(json.dumps(settings))
    return plain


@functools.cache
def code_hash() -> str:
    """Of all code that a cell goes through."""
    modules = [*(ROOT / "specialized").rglob("*.py"), *(ROOT / "pipeline").rglob("*.py")]
    return hashlib.sha256(b"\0".join(path.read_bytes() for path in sorted(modules))).hexdigest()[:16]


def run_cell(config: TrainConfig, card: ModelCard, footage: Footage, settings: dict[str, Any]) -> Cell:
    """Trains one model, stores it, and measures the stored one on each test block."""
    began = time.perf_counter()
    parts = footage.split(**settings["split"])
    recipe = config.train.model_copy(update={"seed": settings["recipe"]["seed"]})
    trained = train(card, parts["training"], parts["validation"], recipe)
    blocks = []
    with stored(card, trained) as path:
        # Test blocks are not neighbours, so each is a run of its own, and its groups are those of the whole test.
        for block, run in zip(settings["split"]["test"], parts["test"].runs, strict=True):
            found = measure(path, parts["test"].only((run,)))
            in_slot = (grouped((run,), card.fold, card.order) >= 0).sum(axis=0).tolist()
            blocks.append({"block": block, "in_slot": in_slot, **found.as_dict()})
    return {
        "settings": settings,
        "best_epoch": trained.best_epoch,
        "validation_accuracy": trained.history[trained.best_epoch].validation_accuracy,
        "trained_on": len(parts["training"]),
        "seconds": round(time.perf_counter() - began, 1),
        "blocks": blocks,
    }


def accuracy_of(cells: Sequence[Cell], key: str = "accuracy") -> float:
    """Share of right pictures over all test blocks of the cells."""
    blocks = [block for cell in cells for block in cell["blocks"]]
    return float(np.average([block[key] for block in blocks], weights=[block["n"] for block in blocks]))


def by_block(cells: Sequence[Cell]) -> list[float]:
    """Mean accuracy of each block over the seeds."""
    found: dict[int, list[float]] = {}
    for block in (block for cell in cells for block in cell["blocks"]):
        found.setdefault(block["block"], []).append(block["accuracy"])
    return [statistics.fmean(found[block]) for block in sorted(found)]


def summary_of(cells: Sequence[Cell], classes: Sequence[str]) -> dict[str, Any]:
    """What all cells of one fold come to."""
    seeds = sorted({cell["settings"]["recipe"]["seed"] for cell in cells})
    of_seed = [accuracy_of([cell for cell in cells if cell["settings"]["recipe"]["seed"] == seed]) for seed in seeds]
    blocks = [block for cell in cells for block in cell["blocks"]]
    confusion = np.sum([block["confusion"] for block in blocks], axis=0)  # [true][answered]
    in_slot = np.array([block["in_slot"] for block in blocks])
    right = np.array([[share or 0.0 for share in block["slots"]] for block in blocks]) * in_slot
    return {
        "accuracy": accuracy_of(cells),
        "accuracy_float32": accuracy_of(cells, "accuracy_float32"),
        "seeds": dict(zip(map(str, seeds), of_seed, strict=True)),
        "sd_over_seeds": statistics.stdev(of_seed) if len(of_seed) > 1 else None,
        "slots": (right.sum(axis=0) / in_slot.sum(axis=0)).tolist(),
        "blocks": by_block(cells),
        "majority": float(confusion.sum(axis=1).max() / confusion.sum()),
        "frames_per_seed": int(confusion.sum()) // len(seeds),
        "classes": {
            name: {
                "precision": float(confusion[k, k] / max(1, confusion[:, k].sum())),
                "recall": float(confusion[k, k] / max(1, confusion[k].sum())),
            }
            for k, name in enumerate(classes)
        },
        "dtype": sorted({block["dtype"] for block in blocks}),
        "device": sorted({block["device"] for block in blocks}),
    }


def difference(one: Mapping[str, Any], other: Mapping[str, Any]) -> dict[str, Any]:
    """How much more accurate `one` is than `other` on the same blocks, with an interval over blocks of time.

    The interval is a bootstrap: 95 % of the means of as many blocks, drawn with replacement.
    """
    per_block = np.subtract(one["blocks"], other["blocks"])
    rng = np.random.default_rng(0)
    means = per_block[rng.integers(len(per_block), size=(RESAMPLES, len(per_block)))].mean(axis=1)
    low, high = np.quantile(means, [0.025, 0.975]).tolist()
    seeds = sorted(one["seeds"].keys() & other["seeds"].keys(), key=int)
    return {
        "mean": float(per_block.mean()),
        "low": low,
        "high": high,
        "blocks": per_block.tolist(),
        "seeds": {seed: one["seeds"][seed] - other["seeds"][seed] for seed in seeds},
    }


def table(summaries: Mapping[int, Mapping[str, Any]], differences: Mapping[str, Mapping[str, Any]]) -> str:
    first = next(iter(summaries.values()))
    lines = [
        f"lobby, {first['frames_per_seed']} frames, each tested once per seed; commoner answer {first['majority']:.4f}"
    ]
    lines.append("  f  accuracy  float32   sd over seeds  lowest  highest  by slot")
    for f, found in summaries.items():
        sd = "     -" if found["sd_over_seeds"] is None else f"{found['sd_over_seeds']:.4f}"
        seeds = found["seeds"].values()
        slots = " ".join(f"{share:.4f}" for share in found["slots"])
        lines.append(
            f"{f:>3}  {found['accuracy']:>8.4f}  {found['accuracy_float32']:>7.4f}  {sd:>14}  {min(seeds):.4f}"
            f"   {max(seeds):.4f}  {slots}"
        )
    for f, found in summaries.items():
        blocks = " ".join(f"{share:.3f}" for share in found["blocks"])
        told = ", ".join(
            f"{name} precision {one['precision']:.4f} recall {one['recall']:.4f}"
            for name, one in found["classes"].items()
        )
        lines += [f"f = {f}: {told}", f"       by block {blocks}"]
    lines += [
        f"{name}: {found['mean']:+.4f}, 95 % over blocks {found['low']:+.4f} to {found['high']:+.4f}; "
        f"by seed {' '.join(f'{value:+.4f}' for value in found['seeds'].values())}"
        for name, found in differences.items()
    ]
    return "\n".join(lines)


def commit() -> str:
    """The commit of the code, marked where files differ from it."""
    git = ["git", "-C", str(ROOT), "describe", "--always", "--abbrev=40", "--dirty", "--exclude=*"]
    return subprocess.run(git, capture_output=True, text=True, check=False).stdout.strip() or "unknown"


@click.command()
@click.option("--folds", default="1,4", show_default=True, help="f of the models; differences are to the first.")
@click.option("--seeds", default=5, show_default=True, type=click.IntRange(min=1))
@click.option("--config", default=ROOT / "configs/train-lobby-f4.yaml", type=click.Path(path_type=Path))
@click.option("--set", "overrides", multiple=True, metavar="KEY=VALUE", help="Override a key, as train.epochs=20.")
@click.option("--cells", default=ROOT / "runs/lobby-accuracy", type=click.Path(path_type=Path), help="Finished cells.")
@click.option("--out", default=ROOT / "benchmarks/results/lobby-accuracy.json", type=click.Path(path_type=Path))
def main(folds: str, seeds: int, config: Path, overrides: tuple[str, ...], cells: Path, out: Path) -> None:
    """Measure the accuracy of folded models on held-out blocks of time."""
    make_folder(cells.absolute())
    done: dict[int, list[Cell]] = {}
    classes: tuple[str, ...] = ()
    for f in map(int, folds.split(",")):
        loaded = load_train_config(config, overrides=[*overrides, f"model.fold={f}"])
        card = new_card(loaded)
        footage = footage_of(loaded, card)
        card, classes = dataclasses.replace(card, step_s=footage.step_s), card.classes
        done[f] = []
        for seed in range(seeds):
            for rotation in range(ROTATIONS):
                settings = settings_of(loaded, card, footage, seed, rotation)
                path = cells / f"f{f}-seed{seed}-rotation{rotation}.json"
                cell = json.loads(path.read_bytes()) if path.is_file() else None
                if cell is None or cell["settings"] != settings:
                    cell = run_cell(loaded, card, footage, settings)
                    write_json(path, cell)
                click.echo(f"{path.stem}: {accuracy_of([cell]):.4f}, {cell['seconds']} s", err=True)
                done[f].append(cell)
    summaries = {f: summary_of(found, classes) for f, found in done.items()}
    first, *others = summaries
    differences = {f"f={f} minus f={first}": difference(summaries[f], summaries[first]) for f in others}
    click.echo(table(summaries, differences))
    write_json(
        out,
        {
            "command": " ".join(["python -m benchmarks.lobby_accuracy", *sys.argv[1:]]),
            "commit": commit(),
            "machine": machine(),
            "versions": versions(),
            "folds": {str(f): found for f, found in summaries.items()},
            "differences": differences,
            "cells": [cell for found in done.values() for cell in found],
        },
    )


if __name__ == "__main__":
    main()
