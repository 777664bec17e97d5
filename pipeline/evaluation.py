"""`vpipe eval`: model files measured on labelled footage."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pipeline.accuracy import Accuracy, measure, table
from pipeline.errors import ConfigError
from pipeline.footage import Footage
from pipeline.images import Images
from pipeline.labelled import (
    Document,
    asks_of,
    classes_of,
    clips_of,
    division_of,
    footage_of,
    made_of,
    other_regions,
    seen_elsewhere,
    shown_to,
    split_of,
    told,
    where_of,
)
from pipeline.trainschema import TrainConfig
from specialized.examples import Examples
from specialized.metrics import thinned_curve
from specialized.modelfile import ModelCard, file_hash, read_card
from specialized.orders import ORDERS, Order

__all__ = ["Measured", "evaluate", "fitting_card", "measured"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """A model file and how often it is right."""

    model: Path
    card: ModelCard
    accuracy: Accuracy
    block_frames: int  # of the blocks that its intervals rest on
    warnings: Sequence[str]  # what makes its figures say less than they seem to

    def as_dict(self) -> Document:
        """Plain values for JSON."""
        head: Document = {"model": self.model.name, "sha256": file_hash(self.model), "warnings": list(self.warnings)}
        return head | self.accuracy.as_dict() | {"curves": _curves(self.accuracy)}


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
    [found] = measured([Path(model)], config, part=part, order=order)
    where = where_of(config, part)
    if as_json:
        return json.dumps(where | {"clips": clips_of(config)} | found.as_dict())
    notes = [f"warning: {warning}" for warning in found.warnings]
    return table(found.model.name, told(where), found.accuracy, notes)


def measured(models: Sequence[Path], config: TrainConfig, *, part: str, order: str | None) -> list[Measured]:
    """Measures each model on the same frames, as pictures of its own kind. Arguments and errors as for `evaluate`."""
    known: dict[str, Order] = {name: name for name in ORDERS}
    if order is not None and order not in known:
        raise ConfigError([f"--order: must be one of {', '.join(known)}, got {order!r}"])
    cards = [fitting_card(model, config) for model in models]
    found: dict[int, Measured] = {}
    kinds = [(card.input, card.resize, card.fit) for card in cards]
    for kind in dict.fromkeys(kinds):  # footage is read once for all models that see it alike
        footage = footage_of(config, cards[kinds.index(kind)])
        examples, block_frames = _examples(config, footage, part), footage.block_frames
        for k in (k for k, other in enumerate(kinds) if other == kind):
            found[k] = Measured(
                model=models[k],
                card=cards[k],
                accuracy=measure(models[k], examples, order=known[order] if order else None, block_frames=block_frames),
                block_frames=block_frames,
                warnings=[*footage.warnings, *_warnings(config, cards[k], part)],
            )
    return [found[k] for k in range(len(models))]


def fitting_card(model: Path, config: TrainConfig) -> ModelCard:
    """The card of a model. Raises ConfigError unless it answers what the configuration asks."""
    card = read_card(model)
    expected = (config.task, classes_of(config))
    if (card.task, card.classes) != expected:
        theirs, ours = (f"{task} of {', '.join(names)}" for task, names in ((card.task, card.classes), expected))
        raise ConfigError([config.problem(f"must be those of {model}, {theirs}, got {ours}", "classes")])
    return card


def _examples(config: TrainConfig, footage: Footage | Images, part: str) -> Examples:
    """The pictures of the part."""
    parts = {**split_of(config, footage), "all": footage.examples}
    if part not in parts:
        raise ConfigError([f"--part: must be one of {', '.join(parts)}, got {part!r}"])
    if not len(parts[part]):
        raise ConfigError([config.problem(f"must leave frames for {part}, got none; choose another --part", "split")])
    return parts[part]


def _curves(accuracy: Accuracy) -> dict[str, list[tuple[float, float, float]]]:
    """Points (recall, precision, threshold) of each class's curve, few enough to be drawn and sent."""
    scored = accuracy.scored
    return {name: thinned_curve(scored.truth[:, k], scored.scores[:, k]) for k, name in enumerate(scored.card.classes)}


def _warnings(config: TrainConfig, card: ModelCard, part: str) -> list[str]:
    """What makes the figures say less than they seem to."""
    found = []
    if card.asks and card.asks != asks_of(config):
        found.append("the model was trained for other questions than the classes of this configuration ask")
    now, division = clips_of(config), division_of(config)
    found += other_regions(card, now)
    if part != "test" and shown_to(card) & made_of(now, division, part):
        found.append("the model was trained or chosen on this footage")
    elif part == "test" and seen_elsewhere(card, now, division):
        found.append("the model was trained on other parts of this footage, perhaps on frames that are tested here")
    return found
