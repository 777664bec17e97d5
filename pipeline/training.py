"""`vpipe train` and `vpipe eval`: from a configuration to a model file with its measured accuracy.

configuration ──▶ footage ──split──▶ training, validation ──▶ weights ──as a file──▶ 16 bits ──┐
                                     test ──────────────────────────────▶ accuracy ◀───────────┘ ──▶ the model file
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import tempfile
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from pipeline.accuracy import measure, table
from pipeline.errors import ConfigError, ModelError, VpipeError
from pipeline.footage import Footage, LabelledClip, read_footage
from pipeline.runs import make_folder, versions
from pipeline.schema import ClipSection, TrainConfig
from pipeline.sources.scaler import PictureFormat
from pipeline.sources.selection import Selection
from specialized.examples import Examples
from specialized.modelfile import Ask, ModelCard, file_hash, load_model, read_card, save_model
from specialized.models import MODELS, build
from specialized.orders import ORDERS, Order
from specialized.train import Epoch, Trained
from specialized.train import train as fit

__all__ = ["evaluate", "footage_of", "new_card", "stored", "train"]

Document = dict[str, object]


def train(config: TrainConfig, *, overwrite: bool = False, say: Callable[[str], None] = lambda line: None) -> str:
    """Trains a model and writes it, with the accuracy of the stored weights on the test blocks.

    The file appears at the end, whole: interrupting leaves what was there.

    Args:
        config: What to train, on what.
        overwrite: Whether a file may be at `output` already; it is replaced.
        say: Takes lines of progress and warnings.

    Returns:
        A table of the accuracy.

    Raises:
        ConfigError: the labels or the split cannot be used, or `output` exists; before training.
        SourceError: a clip cannot be read as a whole.
        ModelError: the network cannot be built, or does not learn.
    """
    output = Path(config.output)
    if output.exists() and not overwrite:
        raise ConfigError([config.problem(f"must not exist yet, got {output}; --overwrite replaces it", "output")])
    card = new_card(config)
    footage = footage_of(config, card)
    parts = _split(config, footage)
    for line in _check_examples(config, card, parts):
        say(line)
    sizes = ", ".join(f"{part} {_counted(card, examples)}" for part, examples in parts.items())
    say(f"{card.architecture}, f = {card.fold}, {card.order}; {sizes}")

    def report(epoch: Epoch) -> None:
        say(
            f"epoch {epoch.number + 1} of {config.train.epochs}: loss {epoch.loss:.4f}, "
            f"validation accuracy {epoch.validation_accuracy:.4f}, loss {epoch.validation_loss:.4f}, "
            f"{epoch.seconds:.1f} s"
        )

    trained = fit(card, parts["training"], parts["validation"], config.train, progress=report)
    say(f"kept epoch {trained.best_epoch + 1}")
    card = dataclasses.replace(card, step_s=footage.step_s, training=_provenance(config, trained))
    where, accuracy = _where(config, "test"), None
    with stored(card, trained) as path:
        if len(parts["test"]):
            accuracy = measure(path, parts["test"])
        card, module = load_model(path)  # its weights are rounded by now, and stay as they are when saved again
    if accuracy is not None:
        card = dataclasses.replace(card, accuracy={**where, **accuracy.as_dict()})
    try:
        make_folder(output.parent)
        save_model(output, card, module.state_dict())
    except OSError as exc:
        raise VpipeError(f"{output}: must be a file that can be written, got {exc.strerror or exc}") from exc
    say(f"wrote {output}, {output.stat().st_size:,} bytes")
    if accuracy is None:
        return f"{output.name}: accuracy not measured, since split.test names no block"
    return table(output.name, _told(where), accuracy)


def evaluate(
    model: str | Path, config: TrainConfig, *, part: str = "test", order: str | None = None, as_json: bool = False
) -> str:
    """Measures a model file on labelled footage.

    Args:
        model: A model file that answers the questions of `config`; pictures are made as it says.
        config: Clips, classes and split; its network and recipe do not matter.
        part: "training", "validation", "test" or "all", by the split of `config`.
        order: How to form groups; None: as in the model's training.
        as_json: One JSON document instead of a table.

    Raises:
        ConfigError: the model answers other classes, the order is not known, or the part is empty.
        ModelError: the model file cannot be used.
        SourceError: a clip cannot be read as a whole.
    """
    known: dict[str, Order] = {name: name for name in ORDERS}
    if order is not None and order not in known:
        raise ConfigError([f"--order: must be one of {', '.join(known)}, got {order!r}"])
    card = read_card(model)
    expected = (config.task, _classes(config))
    if (card.task, card.classes) != expected:
        theirs, ours = (f"{task} of {', '.join(names)}" for task, names in ((card.task, card.classes), expected))
        raise ConfigError([config.problem(f"must be those of {model}, {theirs}, got {ours}", "classes")])
    footage = footage_of(config, card)
    parts = {**_split(config, footage), "all": footage.examples}
    if part not in parts:
        raise ConfigError([f"--part: must be one of {', '.join(parts)}, got {part!r}"])
    if not len(parts[part]):
        raise ConfigError([config.problem(f"must leave frames for {part}, got none; choose another --part", "split")])
    where, warnings = _where(config, part), _warnings(config, card, part)
    accuracy = measure(Path(model), parts[part], order=known[order] if order else None)
    if as_json:
        head: Document = {"model": Path(model).name, "sha256": file_hash(model), "warnings": warnings}
        return json.dumps(head | where | {"clips": _clips(config)} | accuracy.as_dict())
    return table(Path(model).name, _told(where), accuracy, [f"warning: {warning}" for warning in warnings])


# ------------------------------------------------------------------------------- what a configuration asks for


def new_card(config: TrainConfig) -> ModelCard:
    """The card of a model to be trained: all but what training finds out.

    Raises:
        ModelError: the network cannot be built.
    """
    model = config.model
    classes = _classes(config)
    size = model.input or MODELS[model.architecture].input
    build(model.architecture, args=model.args, classes=len(classes), fold=model.fold, input=size)
    return ModelCard(
        architecture=model.architecture,
        args=dict(model.args),
        fold=model.fold,
        order=model.order,
        input=size,
        classes=classes,
        task=config.task,
        thresholds=(0.5,) * len(classes) if config.task == "any_of" else (),
        resize=model.resize,
        fit=model.fit,
        mean=model.mean,
        std=model.std,
        asks=_asks(config),
    )


def footage_of(config: TrainConfig, card: ModelCard) -> Footage:
    """The clips with their labels, as pictures for the card's model. Raises as `read_footage` does."""
    return read_footage(
        [LabelledClip(Path(clip.video), Path(clip.labels), _selection(clip)) for clip in config.clips],
        picture=PictureFormat(*card.input, card.resize, card.fit),
        asks=_asks(config),
        task=config.task,
    )


def _classes(config: TrainConfig) -> tuple[str, ...]:
    names = tuple(asked.name for asked in config.classes)
    return (*names, "none") if config.task == "one_of" else names


def _asks(config: TrainConfig) -> tuple[Ask, ...]:
    return tuple(
        Ask(name=one.name, object=one.object, at_least=one.at_least, min_confidence=one.min_confidence)
        for one in config.classes
    )


def _selection(clip: ClipSection) -> Selection:
    return Selection(every=clip.every, fps=clip.fps, from_s=clip.from_, to_s=clip.to)


def _split(config: TrainConfig, footage: Footage) -> dict[str, Examples]:
    split = config.split
    return footage.split(blocks=split.blocks, validation=split.validation, test=split.test, gap_s=split.gap_s)


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


def _where(config: TrainConfig, part: str) -> Document:
    """On which footage something was measured."""
    split = config.split
    numbers: Mapping[str, Collection[int]] = {
        "test": split.test,
        "validation": split.validation,
        "training": set(range(split.blocks)) - {*split.test, *split.validation},
        "all": range(split.blocks),
    }
    return {"part": part, "blocks": sorted(numbers[part]), "of_blocks": split.blocks}


def _told(where: Document) -> str:
    return f"part {where['part']}: blocks {where['blocks']} of {where['of_blocks']}, from 0"


def _provenance(config: TrainConfig, trained: Trained) -> Document:
    """Where the weights come from, without a word about this machine's folders."""
    best = trained.history[trained.best_epoch]
    return {
        "recipe": config.train.model_dump(mode="json"),
        "clips": _clips(config),
        "split": config.split.model_dump(mode="json"),
        "best_epoch": best.number,
        "validation_accuracy": best.validation_accuracy,
        "versions": versions(),
    }


def _clips(config: TrainConfig) -> list[Document]:
    return [
        {
            "video": Path(clip.video).name,
            "video_sha256": _sha256(clip.video),
            "labels": Path(clip.labels).name,
            "labels_sha256": _sha256(clip.labels),
            **clip.model_dump(mode="json", by_alias=True, exclude={"video", "labels"}, exclude_defaults=True),
        }
        for clip in config.clips
    ]


def _sha256(path: str) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _warnings(config: TrainConfig, card: ModelCard, part: str) -> list[str]:
    """What makes the figures say less than they seem to."""
    found = []
    if card.asks and card.asks != _asks(config):
        found.append("the model was trained for other questions than the classes of this configuration ask")
    then, now = card.training.get("clips"), _clips(config)
    known = {clip.get("video_sha256") for clip in then} if isinstance(then, list) else set()
    if known & {clip["video_sha256"] for clip in now}:
        if part != "test":
            found.append("the model was trained or chosen on this footage")
        elif (then, card.training.get("split")) != (now, config.split.model_dump(mode="json")):
            found.append("the model was trained on other parts of these clips, perhaps on frames that are tested here")
    return found
