"""All that stands between the configuration of a training and its first epoch: what `vpipe check` does of it, and
`vpipe train` before it begins.

configuration ──▶ network, built and folded ──▶ teacher ──▶ footage with its labels ──split──▶ parts to learn from
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from pipeline.errors import ConfigError, ModelError, VpipeError
from pipeline.footage import Footage
from pipeline.images import Images
from pipeline.labelled import asks_of, classes_of, clips_of, division_of, footage_of, seen_elsewhere, split_of
from pipeline.trainschema import TrainConfig
from pipeline.values import UNFOLDED
from specialized.examples import Examples
from specialized.modelfile import ModelCard, load_model, network
from specialized.models import MODELS, build
from specialized.objects import close_to
from specialized.recipe import Recipe
from specialized.train import Teacher, check_teacher, settled, slots_of

__all__ = ["Prepared", "new_card", "prepare"]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Prepared:
    """What a training begins with."""

    card: ModelCard
    recipe: Recipe  # nothing is left open
    teacher: Teacher | None  # the model file that the configuration names; None for one that is yet to be trained
    footage: Footage | Images
    parts: Mapping[str, Examples]  # "training", "validation" and "test"
    warnings: tuple[str, ...]  # of the configuration, too

    @property
    def told(self) -> str:
        """What is trained on what, in a line."""
        sizes = ", ".join(f"{part} {_counted(self.card, examples)}" for part, examples in self.parts.items())
        return f"{self.card.architecture}, f = {self.card.fold}, {self.card.order}; {sizes}"


def prepare(config: TrainConfig, *, outline: bool = False) -> Prepared:
    """Builds the network, loads the teacher, reads the footage and its labels, and cuts it into parts.

    Args:
        config: What to train, on what.
        outline: To see whether it would go through: all the same, but the frames of clips are left black rather than
            decoded, where their files tell how many there are; see `pipeline.footage.outline_clip`.

    Raises:
        ConfigError: network, teacher, labels or split cannot be used.
        SourceError: a clip cannot be read as a whole.
        VpipeError: a file cannot be read.
    """
    try:
        card = new_card(config)
        recipe = settled(card, config.train)
        slots_of(card, recipe)
        if config.teacher == UNFOLDED:
            network(dataclasses.replace(card, fold=1))
    except ModelError as exc:
        raise ConfigError([config.problem(str(exc), "model", "architecture")]) from exc
    try:
        warnings = [*config.warnings]
        teacher = _given_teacher(config, card, warnings)
        footage = footage_of(config, card, outline=outline)
        parts = split_of(config, footage)
    except OSError as exc:
        raise VpipeError(f"{exc.filename or config.path}: must be readable, got {exc.strerror or exc}") from exc
    _refuse_unlearnable(config, card, footage, parts)
    warnings += footage.warnings
    warnings += _blown_up(config, card, footage)
    warnings += _missed(card, parts)
    return Prepared(card=card, recipe=recipe, teacher=teacher, footage=footage, parts=parts, warnings=tuple(warnings))


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


def _given_teacher(config: TrainConfig, card: ModelCard, warnings: list[str]) -> Teacher | None:
    """The model file that the configuration names as a teacher."""
    if config.teacher is None or config.teacher == UNFOLDED:
        return None
    try:
        teacher = Teacher(*load_model(config.teacher))
        check_teacher(card, teacher.card)
    except ModelError as exc:
        raise ConfigError([config.problem(str(exc).removeprefix("teacher: "), "teacher")]) from exc
    if seen_elsewhere(teacher.card, clips_of(config), division_of(config)):
        warnings.append(
            "teacher: was trained on other parts of this footage, perhaps on frames that are tested here; "
            "`teacher: unfolded` trains one on the same parts"
        )
    return teacher


def _refuse_unlearnable(
    config: TrainConfig, card: ModelCard, footage: Footage | Images, parts: Mapping[str, Examples]
) -> None:
    """Refuses parts that nothing can be learned from."""
    for part in ("training", "validation"):
        if not len(parts[part]):
            text = f"must leave frames for {part}, got none; lower gap_s, or name other blocks"
            raise ConfigError([config.problem(text, "split")])
    problems = []
    for number, asked in enumerate(asks_of(config)):
        if asked.object not in footage.objects:
            there = ", ".join(footage.objects) or "no box at all"
            text = (
                f"must be the object of boxes, got {asked.object!r}, of which the labels have none; they have {there}"
            )
            hint = close_to(asked.object, footage.objects)
            problems.append(config.problem(f"{text}{hint and '; '}{hint}", "classes", number, "object"))
    if problems:
        raise ConfigError(problems)
    for name in _missing(card, parts["training"]):
        steps = ("classes", card.classes.index(name)) if card.classes.index(name) < len(config.classes) else ("split",)
        text = f"must have an example of {name!r} to train on, got none outside of validation, test and gaps"
        problems.append(config.problem(f"{text}; check `object` and `split`", *steps))
    if problems:
        raise ConfigError(problems)


def _blown_up(config: TrainConfig, card: ModelCard, footage: Footage | Images) -> Iterator[str]:
    """Warns of pictures that are larger than the frames they are made of: they cost more and show no more."""
    if isinstance(footage, Images) or footage.examples.regions:  # many a region is small, and made larger on purpose
        return
    for video, size in zip(footage.videos, footage.sizes, strict=True):
        if card.input[0] > size[0] or card.input[1] > size[1]:
            wanted, got = "{}x{}".format(*size), "{}x{}".format(*card.input)
            text = f"should not be larger than the frames of {video.name}, {wanted} (height x width), got {got}"
            yield config.problem(text, "model", "input")


def _missed(card: ModelCard, parts: Mapping[str, Examples]) -> Iterator[str]:
    """Warns of parts that lack a class, or pictures for a group."""
    for part, examples in parts.items():
        if len(examples) and (missing := _missing(card, examples)):
            yield f"{part}: has no example of {' or '.join(missing)}, so it says nothing about that"
        if 0 < len(examples) < card.fold:
            yield f"{part}: has {len(examples)} pictures, fewer than a group of {card.fold}, which they are to fill"


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
