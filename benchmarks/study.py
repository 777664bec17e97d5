"""Studies of many trainings: each is a cell whose result is a JSON file of its own, and a finished cell stays.

A finished cell is known by its settings, which are all that decides its result but the code. Those of a study have a
version, to be raised when the code changes what comes out.
"""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from multiprocessing import get_context
from pathlib import Path
from typing import Any, Protocol, TypeVar, cast

import click

from benchmarks.displays import Display, sequence
from benchmarks.facts import commit
from pipeline.files import make_folder, write_json
from pipeline.machine import machine, versions
from pipeline.training import stored
from specialized.engines import Engine, open_engine
from specialized.evaluate import Scored, score
from specialized.examples import Examples
from specialized.modelfile import ModelCard, load_model
from specialized.recipe import Recipe
from specialized.train import Teacher, Trained, train

# What of a card decides what is learned.
CARD = (
    "architecture",
    "args",
    "fold",
    "multiple_of",
    "order",
    "input",
    "classes",
    "task",
    "thresholds",
    "resize",
    "fit",
    "mean",
    "std",
)
COPIES = 4  # version of the start as copies of a slot: cells that started as another one's are done again
OF_FOLDING = {"scale_lr", "fold_epochs"}  # keys of a recipe that an unfolded network does not know

Result = dict[str, Any]  # as it is written and read


class Cell(Protocol):
    """What is trained and measured once."""

    @property
    def name(self) -> str: ...

    @property
    def path(self) -> Path: ...

    @property
    def settings(self) -> Result: ...


C = TypeVar("C", bound=Cell)


def settings_of(card: ModelCard, recipe: Recipe, **others: object) -> Result:
    """All that decides a result, as it comes out of a file."""
    of_card = {name: getattr(card, name) for name in CARD}
    of_recipe = recipe.model_dump(mode="json", exclude=OF_FOLDING if card.fold == 1 else None)
    start = {"copies": COPIES} if card.fold > 1 and recipe.fold_epochs else {}
    asks = [dataclasses.asdict(ask) for ask in card.asks]
    plain: Result = json.loads(json.dumps({"card": of_card | {"asks": asks}, "recipe": of_recipe, **start, **others}))
    return plain


def is_done(cell: Cell) -> bool:
    return cell.path.is_file() and json.loads(cell.path.read_bytes())["settings"] == cell.settings


def head_of(cell: Cell, engine: Engine, began_s: float) -> Result:
    """What every result of a cell begins with.

    Args:
        cell: A dataclass.
        engine: That measured it.
        began_s: By `time.perf_counter`, when it was begun.
    """
    return {
        "settings": cell.settings,
        "cell": dataclasses.asdict(cast(Any, cell)),
        "dtype": engine.dtype,
        "parameters": engine.cost.parameters,
        "flops_per_picture": engine.cost.flops_per_picture,
        "seconds": round(time.perf_counter() - began_s, 1),
    }


def results(cells: Iterable[Cell]) -> list[Result]:
    """Of the cells that are done."""
    return [json.loads(cell.path.read_bytes()) for cell in cells if is_done(cell)]


def options(command: Callable[..., None]) -> Callable[..., None]:
    """What the command of a study can be told."""
    for option in (
        click.option("--report", "only_report", is_flag=True, help="Do no cell, sum up those that are there."),
        click.option("--minutes", default=180.0, show_default=True, help="Begin no cell after so long."),
        click.option(
            "--workers", default=2, show_default=True, type=click.IntRange(min=1), help="Cells done side by side."
        ),
        click.option("--only", default="", metavar="TEXT", help="Only cells whose name holds this."),
    ):
        command = option(command)
    return command


def do(cells: Iterable[C], run_cell: Callable[[C], Result], *, workers: int, minutes: float) -> None:
    """Does what is not done yet, some cells side by side, and begins none after so long.

    Args:
        cells: in this order.
        run_cell: a function of a module, since it is called in other processes. Its result has `seconds` and `blocks`.
        workers: processes.
        minutes: how long cells are begun.
    """
    stop = time.monotonic() + 60 * minutes
    facts = {"commit": commit(), "cpu": machine()["cpu"], "versions": versions()}
    waiting = [cell for cell in cells if not is_done(cell)]
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        under_way: dict[Future[Result], C] = {}
        while waiting or under_way:
            while waiting and len(under_way) < workers and time.monotonic() <= stop:
                cell = waiting.pop(0)
                under_way[pool.submit(run_cell, cell)] = cell
            if not under_way:
                break
            finished = next(as_completed(under_way))
            cell, result = under_way.pop(finished), finished.result()
            make_folder(cell.path.parent)
            write_json(cell.path, result | facts, indent=None)
            right, n = (sum(block[key] for block in result["blocks"]) for key in ("right", "n"))
            click.echo(f"{cell.name}: {right / n:.4f}, {result['seconds']} s; {len(waiting)} to go", err=True)


def write_summary(path: Path, cells: Iterable[Cell], summary: Mapping[str, object], *, of: str) -> None:
    """Writes the sums of all cells with the command of the module `of` that makes them, and what is missing yet."""
    every = list(cells)
    missing = [cell.name for cell in every if not is_done(cell)]
    write_json(path, {"command": f"python -m {of}", "missing_cells": missing, **summary})
    if missing:
        click.echo(f"{len(missing)} cells are missing, of {len(every)}; call again to go on", err=True)


def origin(results: Sequence[Mapping[str, Any]]) -> Result:
    """The code and the machines that results come from, and how long they took."""
    return {
        "seconds": round(sum(result["seconds"] for result in results)),
        "commits": sorted({result["commit"] for result in results}),
        "cpus": sorted({str(result["cpu"]) for result in results}),
        "versions": [dict(one) for one in sorted({tuple(sorted(result["versions"].items())) for result in results})],
    }


def rendered(shown: Display, frames: Mapping[str, int], *, blocks: int) -> dict[str, Examples]:
    """Parts of so many frames of a display, each of other scenes; the test is cut into blocks."""
    parts = {}
    for number, (part, n) in enumerate(frames.items()):
        pictures, labels = sequence(shown, n, seed=number)
        runs = [*range(0, n, n // blocks)] if part == "test" else [0]
        parts[part] = Examples(pictures, labels, tuple(zip(runs, [*runs[1:], n], strict=True)))
    return parts


def trained_and_scored(
    card: ModelCard, parts: Mapping[str, Examples], recipe: Recipe, *, teacher: Teacher | None = None
) -> tuple[Trained, Engine, Scored]:
    """Trains, stores, loads again and measures on the test part: a model as it would be run."""
    trained = train(card, parts["training"], parts["validation"], recipe, teacher=teacher)
    with stored(card, trained) as path:
        engine = open_engine(*load_model(path), threads=1)
    return trained, engine, score(engine, parts["test"])


def counts(scored: Scored, of: slice) -> Result:
    """What figures of any kind are made of, in pictures: sums over blocks and seeds are sums of these."""
    answers, truth, right, slot = (x[of] for x in (scored.answers, scored.truth, scored.right, scored.slot))
    slots = range(scored.card.fold)
    return {
        "n": len(truth),
        "right": round(float(right.sum()), 6),
        "found": (answers & truth).sum(axis=0).tolist(),
        "said": answers.sum(axis=0).tolist(),
        "support": truth.sum(axis=0).tolist(),
        "in_slot": [int((slot == i).sum()) for i in slots],
        "right_in_slot": [round(float(right[slot == i].sum()), 6) for i in slots],
    }
