"""`vpipe train`: from a configuration to a model file with its measured accuracy.

configuration ──▶ footage ──split──▶ training, validation ──▶ weights ──as a file──▶ 16 bits ──┐
                                     validation ──▶ temperature, thresholds ◀──────────────────┤
                                     test ──────────────────────────────▶ accuracy ◀───────────┘ ──▶ the model file
"""

from __future__ import annotations

import dataclasses
import json
import math
import os
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

import numpy as np

from pipeline.accuracy import kept, measure, table
from pipeline.calibration import Calibration, calibrate
from pipeline.errors import ConfigError, ModelError, VpipeError
from pipeline.identity import differences
from pipeline.labelled import (
    Document,
    asks_of,
    classes_of,
    clips_of,
    division_of,
    footage_of,
    seen_elsewhere,
    split_of,
    told,
    where_of,
)
from pipeline.runs import RunFolder, make_folder, versions, write_json
from pipeline.trainingpicture import draw_confusion, draw_curves
from pipeline.trainschema import TrainConfig
from pipeline.values import UNFOLDED
from specialized.examples import Examples
from specialized.modelfile import ModelCard, file_hash, load_model, save_model
from specialized.models import MODELS, build
from specialized.train import Epoch, Teacher, Trained, check_teacher
from specialized.train import train as fit

__all__ = ["new_card", "refuse_taken", "stored", "train"]

Mode = Literal["new", "overwrite", "resume"]


def train(config: TrainConfig, *, mode: Mode = "new", say: Callable[[str], None] = lambda line: None) -> str:
    """Trains a model and writes it, with the accuracy of the stored weights on the test blocks.

    The file appears at the end, whole: interrupting leaves what was there. What the training came to lies in its run
    folder, see `pipeline.runs`.

    Args:
        config: What to train, on what.
        mode: "new" refuses a file at `output` and an earlier training of this name, "overwrite" replaces both,
            "resume" goes on with that training, to the weights that it would have come to.
        say: Takes lines of progress and warnings.

    Returns:
        A table of the accuracy; of a training to resume that is finished, a line that says so.

    Raises:
        ConfigError: the labels or the split cannot be used, `output` exists, or there is nothing to resume, or
            something that was begun otherwise.
        SourceError: a clip cannot be read as a whole.
        ModelError: the network cannot be built, or does not learn; the checkpoint is of another training.
    """
    try:
        return _train(config, Path(config.output), mode, say)
    except OSError as exc:
        place = exc.filename or config.output
        raise VpipeError(
            f"{place}: must be readable and writable, got {exc.strerror or exc}; {_folder(config).way_on}"
        ) from exc


def refuse_taken(config: TrainConfig, *, overwrite: bool) -> None:
    """Refuses to train where there is a model or a training already, unless they are to be replaced.

    Raises:
        ConfigError: names what is there and the ways on.
    """
    _folder(config).refuse_taken(overwrite=overwrite, kind="training")
    if not overwrite and os.path.exists(config.output):
        text = f"must not exist yet, got {config.output}; --overwrite replaces it, --set output=FILE writes another"
        raise ConfigError([config.problem(text, "output")])


def _train(config: TrainConfig, output: Path, mode: Mode, say: Callable[[str], None]) -> str:
    if mode != "resume":
        refuse_taken(config, overwrite=mode == "overwrite")
    provenance = _provenance(config)  # before training: files may change while it goes on
    identity = _identity(config, provenance)
    if mode == "resume":
        folder = _folder_to_resume(config, identity)
        if folder.training.exists():
            return _told_finished(folder, output)
    for warning in config.warnings:
        say(f"warning: {warning}")
    card = new_card(config)
    given = _given_teacher(config, card, say)
    footage = footage_of(config, card)
    parts = split_of(config, footage)
    for line in _check_examples(config, card, parts):
        say(line)
    if mode != "resume":
        folder = RunFolder.create(Path(config.run.dir), config.run.name, overwrite=mode == "overwrite", kind="training")
    elif not (folder.checkpoint.exists() or folder.teacher.exists()):
        say("no epoch was finished before: beginning anew")
    folder.write_run_json(config.resolved(), identity, kind="training")
    sizes = ", ".join(f"{part} {_counted(card, examples)}" for part, examples in parts.items())
    say(f"{card.architecture}, f = {card.fold}, {card.order}; {sizes}")
    trained = fit(
        card,
        parts["training"],
        parts["validation"],
        config.train,
        teacher=given or _unfolded_teacher(config, card, parts, folder, say),
        checkpoint=folder.checkpoint,
        progress=_reporter(config, say),
        resumed=_resumption(config, say),
    )
    best = trained.history[trained.best_epoch]
    say(f"kept epoch {trained.best_epoch + 1}")
    found = {"best_epoch": best.number + 1, "validation_accuracy": best.validation_accuracy}
    card = dataclasses.replace(card, step_s=footage.step_s, training=provenance | found)
    with stored(card, trained) as path:
        settled = calibrate(path, parts["validation"], config.operating.target)
    for line in _told_of(settled):
        say(line)
    card = dataclasses.replace(
        card,
        temperature=settled.temperature,
        keep=settled.keep,
        training={**card.training, "calibration": settled.as_dict()},
    )
    where, accuracy = where_of(config, "test"), None
    with stored(card, trained) as path:
        if len(parts["test"]):
            accuracy = measure(path, parts["test"], block_frames=footage.block_frames)
        card, module = load_model(path)  # its weights are rounded by now, and stay as they are when saved again
    if accuracy is not None:
        card = dataclasses.replace(card, accuracy={**where, **accuracy.as_dict()})
    make_folder(output.parent)
    save_model(output, card, module.state_dict())
    _write_record(folder, card, trained)
    for path in (folder.checkpoint, folder.teacher):
        path.unlink(missing_ok=True)
    say(f"wrote {output}, {output.stat().st_size:,} bytes; its curves lie in {folder.path}")
    if accuracy is None:
        return f"{output.name}: accuracy not measured, since split.test names no block"
    return table(output.name, told(where), accuracy)


def _folder(config: TrainConfig) -> RunFolder:
    return RunFolder(Path(config.run.dir) / config.run.name)


def _folder_to_resume(config: TrainConfig, identity: Document) -> RunFolder:
    folder = RunFolder.resume(Path(config.run.dir), config.run.name, kind="training")
    changes = differences(folder.read_identity(), identity, kind="training")
    advice = "--overwrite trains anew, --set run.name=NAME elsewhere"
    if problems := [f"{folder.path}: another training: {change}; {advice}" for change in changes]:
        raise ConfigError(problems)
    return folder


def _told_finished(folder: RunFolder, output: Path) -> str:
    if not output.is_file():
        text = "this training is finished, its model must be a file, got none; --overwrite trains anew"
        raise ConfigError([f"{folder.path}: {output}: {text}"])
    return f"{folder.path}: this training is finished, its model is {output}; --overwrite trains anew"


def _given_teacher(config: TrainConfig, card: ModelCard, say: Callable[[str], None]) -> Teacher | None:
    """The model file that the configuration names as a teacher."""
    if config.teacher is None or config.teacher == UNFOLDED:
        return None
    teacher = Teacher(*load_model(config.teacher))
    check_teacher(card, teacher.card)
    if seen_elsewhere(teacher.card, clips_of(config), division_of(config)):
        say(
            "warning: teacher: was trained on other parts of this footage, perhaps on frames that are tested here; "
            "`teacher: unfolded` trains one on the same parts"
        )
    return teacher


def _unfolded_teacher(
    config: TrainConfig,
    card: ModelCard,
    parts: Mapping[str, Examples],
    folder: RunFolder,
    say: Callable[[str], None],
) -> Teacher | None:
    """The same network unfolded, trained now, where the configuration asks for that."""
    if config.teacher != UNFOLDED:
        return None
    say("first the teacher: the same network, unfolded")
    unfolded = dataclasses.replace(card, fold=1)
    trained = fit(
        unfolded,
        parts["training"],
        parts["validation"],
        config.train,
        checkpoint=folder.teacher,
        progress=_reporter(config, say),
        resumed=_resumption(config, say),
    )
    with stored(unfolded, trained) as path:
        return Teacher(*load_model(path))


def _reporter(config: TrainConfig, say: Callable[[str], None]) -> Callable[[Epoch], None]:
    def report(epoch: Epoch) -> None:
        say(
            f"epoch {epoch.number + 1} of {config.train.epochs}: loss {epoch.loss:.4f}, "
            f"validation accuracy {epoch.validation_accuracy:.4f}, loss {epoch.validation_loss:.4f}, "
            f"{epoch.seconds:.1f} s"
        )

    return report


def _resumption(config: TrainConfig, say: Callable[[str], None]) -> Callable[[int], None]:
    return lambda done: say(f"going on after epoch {done} of {config.train.epochs}")


def _write_record(folder: RunFolder, card: ModelCard, trained: Trained) -> None:
    """What the epochs, counted from 1, came to and what is taken for what, in numbers and pictures."""
    write_json(
        folder.training,
        {
            "epochs": [_told_epoch(epoch) for epoch in trained.history],
            "best_epoch": trained.best_epoch + 1,
            "accuracy": card.accuracy,
        },
    )
    name = f"{card.architecture}, f = {card.fold}, {card.order}"
    draw_curves(f"Training {folder.path.name}: {name}", trained.history, trained.best_epoch, folder.curves)
    confusion = (card.accuracy or {}).get("confusion")
    if confusion is not None:  # any_of: each class is an answer of its own
        draw_confusion(f"{folder.path.name}, {name}: test", card.classes, confusion, folder.confusion)  # type: ignore[arg-type]


def _told_epoch(epoch: Epoch) -> Document:
    """An epoch for JSON, which has no NaN: what diverged is null."""
    told = dataclasses.asdict(epoch) | {"number": epoch.number + 1}
    return {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in told.items()}


# ------------------------------------------------------------------------------- what a configuration asks for


def new_card(config: TrainConfig) -> ModelCard:
    """The card of a model to be trained: all but what training finds out.

    Raises:
        ModelError: the network cannot be built.
    """
    model = config.model
    classes = classes_of(config)
    size = model.input or MODELS[model.architecture].input
    build(
        model.architecture,
        args=model.args,
        classes=len(classes),
        fold=model.fold,
        input=size,
        multiple_of=model.multiple_of,
    )
    return ModelCard(
        architecture=model.architecture,
        args=dict(model.args),
        fold=model.fold,
        multiple_of=model.multiple_of,
        order=model.order,
        input=size,
        classes=classes,
        task=config.task,
        thresholds=(0.5,) * len(classes) if config.task == "any_of" else (),
        resize=model.resize,
        fit=model.fit,
        mean=model.mean,
        std=model.std,
        asks=asks_of(config),
    )


def _check_examples(config: TrainConfig, card: ModelCard, parts: Mapping[str, Examples]) -> list[str]:
    """Refuses parts that nothing can be learned from; returns warnings."""
    for part in ("training", "validation"):
        if not len(parts[part]):
            text = f"must leave frames for {part}, got none; lower gap_s, or name other blocks"
            raise ConfigError([config.problem(text, "split")])
    problems = []
    for name in _missing(card, parts["training"]):
        steps = ("classes", card.classes.index(name)) if card.classes.index(name) < len(config.classes) else ("split",)
        text = f"must have an example of {name!r} to train on, got none outside of validation, test and gaps"
        problems.append(config.problem(f"{text}; check `object` and `split`", *steps))
    if problems:
        raise ConfigError(problems)
    return [
        f"warning: {part}: has no example of {' or '.join(missing)}, so it says nothing about that"
        for part, examples in parts.items()
        if len(examples) and (missing := _missing(card, examples))
    ]


def _missing(card: ModelCard, examples: Examples) -> list[str]:
    """The classes that no picture shows."""
    return [name for name, count in zip(card.classes, _support(card, examples), strict=True) if not count]


def _support(card: ModelCard, examples: Examples) -> Sequence[int]:
    """Pictures of each class."""
    labels = examples.labels_in_runs()
    if card.task == "one_of":
        return [int(np.count_nonzero(labels == k)) for k in range(len(card.classes))]
    return [int(n) for n in np.count_nonzero(labels, axis=0)]


def _counted(card: ModelCard, examples: Examples) -> str:
    if not len(examples):
        return "none"
    support = zip(card.classes, _support(card, examples), strict=True)
    return f"{len(examples)} ({', '.join(f'{name} {count}' for name, count in support)})"


# ------------------------------------------------------------------------------------ what was found


@contextmanager
def stored(card: ModelCard, trained: Trained) -> Iterator[Path]:
    """A model file for as long as the context lasts: what is measured is what will be used, in 16 bits."""
    with tempfile.TemporaryDirectory(prefix="vpipe-") as folder:
        path = Path(folder) / "model.safetensors"
        try:
            save_model(path, card, trained.state_dict)
        except ValueError as exc:
            raise ModelError(f"training: must end in finite weights, got: {exc}; lower train.lr") from exc
        yield path


def _told_teacher(config: TrainConfig) -> object:
    if config.teacher is None or config.teacher == UNFOLDED:
        return config.teacher
    return {"file": Path(config.teacher).name, "sha256": file_hash(config.teacher)}


def _told_of(settled: Calibration) -> Iterator[str]:
    before, after = settled.log_loss
    yield f"temperature {settled.temperature:g}: log loss on validation {before:.4f} before, {after:.4f} with it"
    for name, rates in settled.rates.items():
        yield f"validation: {kept(name, rates)}"
    for name, why in settled.without.items():
        yield f"warning: keep: auto will not know {name}, since {why}"


def _identity(config: TrainConfig, provenance: Document) -> Document:
    """What decides the model, by its keys in the configuration: a training may only be resumed with the same."""
    asked = config.model_dump(mode="json", by_alias=True, include={"model", "task", "classes", "operating"})
    made_of = {key: provenance[key] for key in ("clips", "split", "teacher")}
    document: Document = json.loads(json.dumps({**asked, **made_of, "train": provenance["recipe"]}))  # as it is read
    return document


def _provenance(config: TrainConfig) -> Document:
    """What the weights are made of, without a word about this machine's folders."""
    return {
        "recipe": config.train.model_dump(mode="json"),
        "clips": clips_of(config),
        "split": division_of(config),
        "teacher": _told_teacher(config),
        "versions": versions(),
    }
