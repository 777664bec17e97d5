"""`vpipe train`: from a configuration to a model file with its measured accuracy.

configuration ──preparation──▶ training, validation ──▶ weights ──as a file──▶ 16 bits ──┐
                               validation ──▶ temperature, thresholds ◀──────────────────┤
                               test ──────────────────────────────▶ accuracy ◀───────────┘ ──▶ the model file
"""

from __future__ import annotations

import dataclasses
import json
import math
import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Literal

from pipeline.accuracy import Accuracy, kept, measure, table
from pipeline.calibration import Calibration, calibrate
from pipeline.errors import ConfigError, ModelError, VpipeError
from pipeline.files import make_folder, write_json
from pipeline.identity import differences
from pipeline.labelled import Document, clips_of, division_of, told, where_of
from pipeline.machine import versions
from pipeline.preparation import Prepared, prepare
from pipeline.runs import RunFolder
from pipeline.trainingpicture import draw_confusion, draw_curves
from pipeline.trainschema import TrainConfig
from pipeline.values import UNFOLDED
from specialized.modelfile import ModelCard, file_hash, load_model, save_model
from specialized.objects import code_hash
from specialized.train import Epoch, Teacher, Trained
from specialized.train import train as fit

__all__ = ["refuse_taken", "stored", "train"]

MOST_CONFUSED = 100  # classes whose confusion matrix, which grows with their square, is kept in a model file

Mode = Literal["new", "overwrite", "resume"]


def train(config: TrainConfig, *, mode: Mode = "new", say: Callable[[str], None] = lambda line: None) -> str:
    """Trains a model and writes it, with the accuracy of the stored weights on the test blocks.

    The file appears at the end, whole: interrupting leaves what was there. What the training came to lies in its run
    folder, see `pipeline.runs`.

    Args:
        config: What to train, on what.
        mode: "new" refuses a file at `output` and an earlier training of this name, "overwrite" replaces both,
            "resume" goes on with that training, to the weights that it would have come to. It refuses a file at
            `output`, too, unless that training was to write there.
        say: Takes lines of progress and warnings.

    Returns:
        A table of the accuracy; of a training to resume that is finished, a line that says so.

    Raises:
        ConfigError: the network, the teacher, the labels or the split cannot be used, `output` exists, or there is
            nothing to resume, or something that was begun otherwise.
        SourceError: a clip cannot be read as a whole.
        ModelError: the network fails in training or does not learn; the checkpoint is torn or of another training.
    """
    since = None if mode == "resume" else _folder(config).begun_ns
    try:
        return _train(config, Path(config.output), mode, say)
    except OSError as exc:
        place = exc.filename or config.output
        raise VpipeError(
            f"{place}: must be readable and writable, got {exc.strerror or exc}; {_folder(config).way_on(since=since)}"
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
    with ExitStack() as held:
        return _train_held(config, output, mode, say, held)


def _train_held(config: TrainConfig, output: Path, mode: Mode, say: Callable[[str], None], held: ExitStack) -> str:
    """Trains; takes the folder when there is something to be written in it."""
    if mode == "resume":
        RunFolder.resume(Path(config.run.dir), config.run.name, kind="training")  # refuses where there is none
        held.enter_context(_folder(config).held())
    else:
        refuse_taken(config, overwrite=mode == "overwrite")
    provenance = _provenance(config)  # before training: files may change while it goes on
    identity = _identity(config, provenance)
    if mode == "resume":
        folder = _folder_to_resume(config, identity)
        then = _output_then(config, folder)
        if folder.training.exists():
            return _told_finished(folder, then)
        if output != then and os.path.lexists(output):
            text = f"must not exist yet, or be {then}, where the training to resume writes, got {output}"
            raise ConfigError([config.problem(f"{text}; --set output=FILE writes another", "output")])
    ready = prepare(config)
    for warning in ready.warnings:
        say(f"warning: {warning}")
    if mode != "resume":
        held.enter_context(_folder(config).held())
        folder = RunFolder.create(Path(config.run.dir), config.run.name, overwrite=mode == "overwrite", kind="training")
    elif not (folder.checkpoint.exists() or folder.teacher.exists()):
        say("no epoch was finished before: beginning anew")
    folder.write_run_json(config.resolved(), identity, kind="training")
    say(ready.told)
    trained = _fitted(config, ready, folder, say)
    card, accuracy = _write_model(config, ready, trained, provenance, say)
    _write_record(folder, card, trained)
    for path in (folder.checkpoint, folder.teacher):
        path.unlink(missing_ok=True)
    say(f"wrote {output}, {output.stat().st_size:,} bytes; its curves lie in {folder.path}")
    if accuracy is None:
        return f"{output.name}: accuracy not measured, since split.test names no block"
    return table(output.name, told(where_of(config, "test")), accuracy)


def _fitted(config: TrainConfig, ready: Prepared, folder: RunFolder, say: Callable[[str], None]) -> Trained:
    """The epochs, of the teacher first where one is to be trained."""

    def fitted(card: ModelCard, teacher: Teacher | None, checkpoint: Path) -> Trained:
        return fit(
            card,
            ready.parts["training"],
            ready.parts["validation"],
            ready.recipe,
            teacher=teacher,
            checkpoint=checkpoint,
            progress=_reporter(card, say),
            resumed=lambda done: say(f"going on after epoch {done.number + 1} of {done.planned}"),
        )

    teacher = ready.teacher
    if config.teacher == UNFOLDED:
        say("first the teacher: the same network, unfolded")
        unfolded = dataclasses.replace(ready.card, fold=1)
        with stored(unfolded, fitted(unfolded, None, folder.teacher)) as path:
            teacher = Teacher(*load_model(path))
    return fitted(ready.card, teacher, folder.checkpoint)


def _write_model(
    config: TrainConfig, ready: Prepared, trained: Trained, provenance: Document, say: Callable[[str], None]
) -> tuple[ModelCard, Accuracy | None]:
    """Writes the model: its weights in 16 bits, its card with what validation settles and test measures of these."""
    best = trained.history[trained.best_epoch]
    say(f"kept epoch {best.number + 1}")
    if not math.isfinite((last := trained.history[-1]).loss + last.validation_loss):
        say(f"warning: training diverged in epoch {last.number + 1} and was stopped; lower train.lr")
    found = {
        "recipe": ready.recipe.model_dump(mode="json"),
        "best_epoch": best.number + 1,
        "validation_accuracy": best.validation_accuracy,
    }
    card = dataclasses.replace(ready.card, step_s=ready.footage.step_s, training=provenance | found)
    with stored(card, trained) as path:
        settled = calibrate(path, ready.parts["validation"], config.operating.target)
    for line in _told_of(settled):
        say(line)
    card = dataclasses.replace(
        card,
        temperature=settled.temperature,
        keep=settled.keep,
        training={**card.training, "calibration": settled.as_dict()},
    )
    accuracy = None
    with stored(card, trained) as path:
        if len(ready.parts["test"]):
            accuracy = measure(path, ready.parts["test"], block_frames=ready.footage.block_frames)
        card, module = load_model(path)  # its weights are rounded by now, and stay as they are when saved again
    if accuracy is not None:
        card = dataclasses.replace(card, accuracy={**where_of(config, "test"), **accuracy.as_dict()})
    make_folder(Path(config.output).parent)
    save_model(config.output, _without_large(card), module.state_dict())
    return card, accuracy


def _without_large(card: ModelCard) -> ModelCard:
    """The card for the file, which is small; what is left out stays in training.json."""
    if card.accuracy is None or len(card.classes) <= MOST_CONFUSED:
        return card
    return dataclasses.replace(card, accuracy={**card.accuracy, "confusion": None})


def _folder(config: TrainConfig) -> RunFolder:
    return RunFolder(Path(config.run.dir) / config.run.name)


def _folder_to_resume(config: TrainConfig, identity: Document) -> RunFolder:
    folder = RunFolder.resume(Path(config.run.dir), config.run.name, kind="training")
    changes = differences(folder.read_identity(), identity, kind="training")
    advice = "--overwrite trains anew, --set run.name=NAME elsewhere"
    if problems := [f"{folder.path}: another training: {change}; {advice}" for change in changes]:
        raise ConfigError(problems)
    return folder


def _output_then(config: TrainConfig, folder: RunFolder) -> Path:
    """Where the training of a folder was to write its model. A path that was given by a variable is still there."""
    then, now = folder.read_config().get("output"), config.resolved()["output"]
    return Path(config.output if then == now else str(then))


def _told_finished(folder: RunFolder, output: Path) -> str:
    if not output.is_file():
        text = "this training is finished, its model must be a file, got none; --overwrite trains anew"
        raise ConfigError([f"{folder.path}: {output}: {text}"])
    return f"{folder.path}: this training is finished, its model is {output}; --overwrite trains anew"


def _reporter(card: ModelCard, say: Callable[[str], None]) -> Callable[[Epoch], None]:
    told = False

    def report(epoch: Epoch) -> None:
        nonlocal told
        if epoch.anew and not told:
            say("one slot has learned no more than the commonest answer: the network starts from random weights")
            told = True
        of_what = "" if epoch.fold == card.fold else ", one slot"
        say(
            f"epoch {epoch.number + 1} of {epoch.planned}{of_what}: loss {epoch.loss:.4f}, "
            f"validation accuracy {epoch.validation_accuracy:.4f}, loss {epoch.validation_loss:.4f}, "
            f"{epoch.seconds:.1f} s"
        )

    return report


def _write_record(folder: RunFolder, card: ModelCard, trained: Trained) -> None:
    """What the epochs came to and what is taken for what, in pictures and numbers."""
    name = f"{card.architecture}, f = {card.fold}, {card.order}"
    draw_curves(f"Training {folder.path.name}: {name}", trained.history, trained.best_epoch, folder.curves)
    confusion = (card.accuracy or {}).get("confusion")
    if confusion is not None:  # any_of: each class is an answer of its own
        draw_confusion(f"{folder.path.name}, {name}: test", card.classes, confusion, folder.confusion)  # type: ignore[arg-type]
    epochs = [_told_epoch(epoch) for epoch in trained.history]
    record = {"epochs": epochs, "best_epoch": trained.best_epoch + 1, "accuracy": card.accuracy}
    write_json(folder.training, record)  # last: it says that the training is finished


def _told_epoch(epoch: Epoch) -> Document:
    """An epoch for JSON, counted from 1. There is no NaN: what diverged is null."""
    told = dataclasses.asdict(epoch) | {"number": epoch.number + 1}
    del told["planned"], told["anew"]
    return {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in told.items()}


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
    for warning in settled.warnings:
        yield f"warning: {warning}"


def _identity(config: TrainConfig, provenance: Document) -> Document:
    """What decides the model, by its keys in the configuration: a training may only be resumed with the same."""
    asked = config.model_dump(mode="json", by_alias=True, include={"model", "task", "classes", "operating"})
    if ":" in config.model.architecture:
        asked["model"]["code_sha256"] = code_hash(config.model.architecture)
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
