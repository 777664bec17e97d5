"""What does folding cost in accuracy? A study on real clips and rendered displays, of models as stored and run.

    python -m benchmarks.accuracy                       goes on where it was stopped; hours on two cores
    python -m benchmarks.accuracy --only lobby/consecutive-f4
    python -m benchmarks.accuracy --report              only sums up what is there

A *cell* is a task, an order, an f and a seed; its result is one JSON file under `benchmarks/results/accuracy/`, written
when the cell is done. A cell whose file is there, of the same settings, is not done again.

*Real tasks* are cross-validated in time. A clip is cut into 10 blocks; in each of 5 rotations two blocks that lie half
the clip apart are the test, one other chooses the epoch, the rest trains, and gaps of a quarter of a block between the
parts are taken from training and validation. So every frame is tested exactly once, by a model that saw nothing near:

    rotation 0   T . v . . T . . . .        T test   v validation   . training
    rotation 1   . T v . . . T . . .
    ...

*Displays* are rendered (`benchmarks.displays`): training, validation and test are other scenes, drawn from other seeds.

The recipe is the default one, the same for every f. *Variants* of it are tried on some tasks: `random` starts from
random weights where the default is copies of one slot (`fold_epochs: 0`), `copies` does the opposite
(`fold_epochs: 10`), `longer` gives f = 1 the ten epochs more that the start as copies takes, `picture` varies each
picture of a group by itself, `taught` learns from the unfolded model of the same seed too (`teacher: unfolded`).
`fast_bilinear` and `point` train and test on frames that are resized so; `fast` trains as the recipe does and tests on
frames that are decoded with `decode.fast`.

Frames of a clip resemble each other: what an interval rests on is the number of blocks.
"""

from __future__ import annotations

import dataclasses
import functools
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import click
import numpy as np

from benchmarks.accuracy_report import report
from benchmarks.displays import DISPLAYS
from benchmarks.facts import ROOT
from benchmarks.part import chosen
from benchmarks.study import (
    Result,
    counts,
    do,
    head_of,
    options,
    rendered,
    results,
    settings_of,
    trained_and_scored,
    write_summary,
)
from pipeline.footage import Footage, LabelledClip, read_clip, read_footage
from pipeline.sources.scaler import PictureFormat, View
from pipeline.training import stored
from specialized.examples import Examples
from specialized.modelfile import Ask, ModelCard, Resize, Task, file_hash, load_model
from specialized.models import MODELS
from specialized.orders import Order
from specialized.recipe import Recipe
from specialized.train import Teacher, settled, train

RESULTS = ROOT / "benchmarks/results/accuracy"
BLOCKS, ROTATIONS = 10, 5
FOLDS = (1, 4, 8, 2, 3)  # in the order in which cells are done: what matters most comes first
SEEDS: Mapping[int, int] = {1: 5, 4: 5}  # of real tasks; others: 3
DISPLAY_SEEDS: Mapping[int, int] = {2: 1, 3: 1}  # others: 3
DISPLAY_FRAMES = {"training": 3000, "validation": 600, "test": 1500}

RESIZES: tuple[Resize, ...] = ("fast_bilinear", "point")  # that cost less than the default
VERSION = 1  # of training, measuring and rendering: cells of another one are done again


@dataclass(frozen=True, slots=True, kw_only=True)
class RealTask:
    """A question about a clip."""

    clip: str
    asks: tuple[Ask, ...]
    task: Task = "one_of"
    epochs: int = 30

    @property
    def files(self) -> tuple[Path, Path]:
        return ROOT / f"videos/{self.clip}.mp4", ROOT / f"videos/labels/{self.clip}.csv"


def _ask(name: str, object: str | None = None, at_least: int = 1) -> tuple[Ask, ...]:
    return (Ask(name=name, object=object or name, at_least=at_least),)


REAL: Mapping[str, RealTask] = {
    "lobby": RealTask(clip="lobby-person", asks=_ask("person")),
    "truck": RealTask(clip="intersection", asks=_ask("truck")),
    "arm": RealTask(clip="table-bottles", asks=_ask("arm", "person"), epochs=20),
    "three-bottles": RealTask(clip="table-bottles", asks=_ask("three", "bottle", 3), epochs=20),
    "parking-mixed": RealTask(
        clip="parking-mixed", asks=(*_ask("car"), *_ask("person"), *_ask("bicycle")), task="any_of"
    ),
    "parking-car": RealTask(clip="parking-car", asks=_ask("car")),
}


@dataclass(frozen=True, slots=True, order=True)
class Cell:
    """What is trained and measured once."""

    task: str
    order: Order
    f: int
    seed: int
    variant: str = ""  # of the recipe: "" (as it is), random, copies, longer, picture, taught; or of pictures

    @property
    def name(self) -> str:
        how = "-".join(part for part in (self.order, self.variant) if part)
        return f"{self.task}/{how}-f{self.f}-seed{self.seed}"

    @property
    def path(self) -> Path:
        return RESULTS / f"{self.name}.json"

    @property
    def settings(self) -> Result:
        of_task: Result = {"frames": DISPLAY_FRAMES}
        if self.task in REAL:
            of_task = {
                "clip": [file_hash(path) for path in REAL[self.task].files],
                "split": {"blocks": BLOCKS, "rotations": ROTATIONS},
            }
        teacher = "unfolded" if self.variant == "taught" else None
        tested: Result = {"tested": "fast"} if self.variant == "fast" else {}
        return settings_of(card_of(self), recipe_of(self), teacher=teacher, version=VERSION, **of_task, **tested)


def cells() -> Iterator[Cell]:
    """All cells, seed by seed, so that a study that is cut short has something of everything."""
    for tasks in (REAL, DISPLAYS):
        for seed in range(max(SEEDS.values())):
            for f in FOLDS:
                if seed < (SEEDS if tasks is REAL else DISPLAY_SEEDS).get(f, 3):
                    yield from (Cell(task, "consecutive", f, seed) for task in tasks)
            yield from _tried(seed) if tasks is REAL else _tried_on_displays(seed)


def _tried(seed: int) -> Iterator[Cell]:
    """Other orders than consecutive, and variants of the recipe."""
    solved, orders = ("lobby", "arm", "three-bottles"), ("lobby", "parking-mixed")
    yield from (Cell(task, "consecutive", 4, seed, "random") for task in solved)
    if seed < 3:
        for variant in (*RESIZES, "fast"):
            yield from (Cell(task, "consecutive", 4, seed, variant) for task in solved)
        for f in (2, 4):
            for order in ("strided", "shuffled", "streams"):
                yield from (Cell(task, order, f, seed) for task in orders)
            yield from (Cell(task, "streams", f, seed, "random") for task in orders)
    if seed == 0:
        yield from (Cell(task, "consecutive", 1, seed, "longer") for task in solved)
        yield from (Cell(task, "consecutive", 8, seed, "copies") for task in solved)
        for variant in ("picture", "taught"):
            yield from (Cell(task, "consecutive", 4, seed, variant) for task in ("lobby", "three-bottles"))


def _tried_on_displays(seed: int) -> Iterator[Cell]:
    if seed == 0:
        for f, variant in ((1, "longer"), (4, "random"), (8, "copies")):
            yield from (Cell(task, "consecutive", f, seed, variant) for task in DISPLAYS)


def recipe_of(cell: Cell) -> Recipe:
    """The default recipe; the clip of bottles, at 30 frames/s, repeats itself and needs fewer passes."""
    start: Mapping[str, int] = {"random": 0, "copies": 10}
    epochs = REAL[cell.task].epochs if cell.task in REAL else 20
    recipe = Recipe(
        epochs=epochs + 10 if cell.variant == "longer" else epochs,
        seed=cell.seed,
        vary="picture" if cell.variant == "picture" else "group",
        fold_epochs=start.get(cell.variant),
    )
    return settled(card_of(cell), recipe)


def resize_of(cell: Cell) -> Resize:
    return next((resize for resize in RESIZES if resize == cell.variant), "area")


def card_of(cell: Cell) -> ModelCard:
    """The model to train: coral for real tasks, the display's own network."""
    if cell.task in REAL:
        real = REAL[cell.task]
        names = tuple(ask.name for ask in real.asks)
        return ModelCard(
            architecture="coral",
            fold=cell.f,
            order=cell.order,
            input=MODELS["coral"].input,
            classes=names if real.task == "any_of" else (*names, "none"),
            task=real.task,
            thresholds=(0.5,) * len(names) if real.task == "any_of" else (),
            resize=resize_of(cell),
            asks=real.asks,
        )
    shown = DISPLAYS[cell.task]
    return ModelCard(architecture=cell.task, fold=cell.f, order=cell.order, input=shown.size, classes=shown.classes)


# ---------------------------------------------------------------------------------------------- what a cell is made of


@functools.lru_cache(maxsize=3)
def footage(task: str, resize: Resize = "area", fast: bool = False) -> Footage:
    real = REAL[task]
    video, labels = real.files
    picture = PictureFormat(*MODELS["coral"].input, resize=resize)
    film = read_footage([LabelledClip(video, labels)], picture=picture, asks=real.asks, task=real.task)
    if not fast:
        return film
    pictures = read_clip(video, View(picture), fast=True).pictures
    return dataclasses.replace(film, examples=dataclasses.replace(film.examples, pictures=pictures))


@functools.lru_cache(maxsize=2)
def shown(task: str) -> dict[str, Examples]:
    return rendered(DISPLAYS[task], DISPLAY_FRAMES, blocks=BLOCKS)


def splits(cell: Cell) -> Iterator[tuple[tuple[int, ...], dict[str, Examples]]]:
    """The numbers of the test blocks and the parts, for each rotation."""
    if cell.task not in REAL:
        yield tuple(range(BLOCKS)), shown(cell.task)
        return
    film = footage(cell.task, resize_of(cell))
    tested = footage(cell.task, resize_of(cell), fast=True) if cell.variant == "fast" else film
    for rotation in range(ROTATIONS):
        test = (rotation, rotation + ROTATIONS)
        gap_s = round(float(film.pts_s[-1] - film.pts_s[0]) / BLOCKS / 4, 2)
        split = {"blocks": BLOCKS, "validation": [_validation(film, rotation, test)], "test": test, "gap_s": gap_s}
        parts = film.split(**split)
        yield test, parts if tested is film else parts | {"test": tested.split(**split)["test"]}


def _validation(film: Footage, rotation: int, test: tuple[int, ...]) -> int:
    """The block that shows most of every answer, the first after the test where several do."""
    labels = film.examples.labels
    answers = (
        labels[:, None] == np.arange(labels.max() + 1) if labels.ndim == 1 else np.column_stack([labels, 1 - labels])
    )
    of_frame = np.arange(len(labels)) * BLOCKS // len(labels)

    def shows(block: int) -> float:
        return float(np.minimum(answers[of_frame == block].sum(axis=0), 5).sum())

    return max(
        ((rotation + step) % BLOCKS for step in range(BLOCKS) if (rotation + step) % BLOCKS not in test), key=shows
    )


def run_cell(cell: Cell) -> Result:
    """Trains, stores and measures."""
    began = time.perf_counter()
    card, recipe, blocks, epochs = card_of(cell), recipe_of(cell), {}, []
    for test, parts in splits(cell):
        teacher = _teacher(cell, parts) if cell.variant == "taught" else None
        trained, engine, found = trained_and_scored(card, parts, recipe, teacher=teacher)
        epochs.append(trained.best_epoch)
        for block, (start, stop) in zip(test, found.runs, strict=True):
            blocks[block] = counts(found, slice(start, stop))
    return head_of(cell, engine, began) | {
        "best_epochs": epochs,
        "blocks": [blocks[block] for block in sorted(blocks)],
    }


def _teacher(cell: Cell, parts: Mapping[str, Examples]) -> Teacher:
    """The unfolded model of the same seed and parts."""
    unfolded = dataclasses.replace(cell, f=1, variant="")
    card = card_of(unfolded)
    with stored(card, train(card, parts["training"], parts["validation"], recipe_of(unfolded))) as path:
        return Teacher(*load_model(path))


# ------------------------------------------------------------------------------------------------------------ command


@click.command()
@options
def main(only: str, workers: int, minutes: float, only_report: bool) -> None:
    """Measure the accuracy of folded models beside unfolded ones."""
    if not only_report:
        do(chosen({cell.name: cell for cell in cells()}, only).values(), run_cell, workers=workers, minutes=minutes)
    clips = {task: real.clip for task, real in REAL.items()} | {task: task for task in DISPLAYS}
    summary, told = report(results(cells()), real=list(REAL), displays=list(DISPLAYS), clips=clips)
    write_summary(RESULTS.with_suffix(".json"), cells(), summary, of="benchmarks.accuracy")
    click.echo(told)


if __name__ == "__main__":
    main()
