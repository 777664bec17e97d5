"""`vpipe eval`: a model file measured on labelled footage."""

from __future__ import annotations

import json
from pathlib import Path

from pipeline.accuracy import Accuracy, measure, table
from pipeline.errors import ConfigError
from pipeline.labelled import Document, asks_of, classes_of, clips_of, footage_of, split_of, told, where_of
from pipeline.schema import TrainConfig
from specialized.intervals import block_length
from specialized.metrics import thinned_curve
from specialized.modelfile import ModelCard, file_hash, read_card
from specialized.orders import ORDERS, Order

__all__ = ["curves", "evaluate"]


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
    expected = (config.task, classes_of(config))
    if (card.task, card.classes) != expected:
        theirs, ours = (f"{task} of {', '.join(names)}" for task, names in ((card.task, card.classes), expected))
        raise ConfigError([config.problem(f"must be those of {model}, {theirs}, got {ours}", "classes")])
    footage = footage_of(config, card)
    parts = {**split_of(config, footage), "all": footage.examples}
    if part not in parts:
        raise ConfigError([f"--part: must be one of {', '.join(parts)}, got {part!r}"])
    if not len(parts[part]):
        raise ConfigError([config.problem(f"must leave frames for {part}, got none; choose another --part", "split")])
    where, warnings = where_of(config, part), _warnings(config, card, part)
    block_frames = block_length(footage.step_s)
    accuracy = measure(Path(model), parts[part], order=known[order] if order else None, block_frames=block_frames)
    if as_json:
        head: Document = {"model": Path(model).name, "sha256": file_hash(model), "warnings": warnings}
        tail: Document = {"curves": curves(accuracy)}
        return json.dumps(head | where | {"clips": clips_of(config)} | accuracy.as_dict() | tail)
    return table(Path(model).name, told(where), accuracy, [f"warning: {warning}" for warning in warnings])


def curves(accuracy: Accuracy) -> dict[str, list[tuple[float, float, float]]]:
    """Points (recall, precision, threshold) of each class's curve, few enough to be drawn and sent."""
    scored = accuracy.scored
    return {name: thinned_curve(scored.truth[:, k], scored.scores[:, k]) for k, name in enumerate(scored.card.classes)}


def _warnings(config: TrainConfig, card: ModelCard, part: str) -> list[str]:
    """What makes the figures say less than they seem to."""
    found = []
    if card.asks and card.asks != asks_of(config):
        found.append("the model was trained for other questions than the classes of this configuration ask")
    then, now = card.training.get("clips"), clips_of(config)
    known = {clip.get("video_sha256") for clip in then} if isinstance(then, list) else set()
    if known & {clip["video_sha256"] for clip in now}:
        if part != "test":
            found.append("the model was trained or chosen on this footage")
        elif (then, card.training.get("split")) != (now, config.split.model_dump(mode="json")):
            found.append("the model was trained on other parts of these clips, perhaps on frames that are tested here")
    return found
