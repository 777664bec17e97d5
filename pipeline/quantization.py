"""`vpipe quantize`: a model file whose layers are computed in 8 bits, made of one that is trained."""

from __future__ import annotations

import dataclasses
import tempfile
from pathlib import Path

import numpy as np

from pipeline.accuracy import measure, table
from pipeline.errors import ConfigError, ModelError
from pipeline.evaluation import fitting_card
from pipeline.labelled import clips_of, division_of, footage_of, split_of, told, where_of
from pipeline.trainschema import TrainConfig
from specialized.modelfile import file_hash, load_model, save_model
from specialized.quantize import ranges_of

__all__ = ["quantize"]


def quantize(model: str | Path, config: TrainConfig, output: str | Path) -> str:
    """Writes a quantized model file: the same weights, and the ranges of its layers' inputs on the validation part.

    Temperature and thresholds stay those of the model: but for rounding it is the same function. The accuracy is
    measured on the test part, if there is one. The file appears at the end, whole.

    Args:
        model: A model file that answers the questions of `config`.
        config: Clips, classes and split, best those of its training.
        output: The file to write; what is there is replaced.

    Returns:
        A table of its accuracy, with that of the model before.

    Raises:
        ConfigError: the model answers other classes or is quantized already, or there is no validation part.
        ModelError: the model file cannot be used, or has no layer to quantize.
        SourceError: a clip cannot be read as a whole.
    """
    model, output = Path(model), Path(output)
    if fitting_card(model, config).ranges:
        raise ConfigError([f"{model}: must not be quantized yet, got one that is; take the file that it was made of"])
    card, module = load_model(model)
    footage = footage_of(config, card)
    parts = split_of(config, footage)
    if not len(parts["validation"]):
        raise ConfigError(
            [config.problem("must leave frames for validation, whose ranges are taken, got none", "split")]
        )
    try:
        ranges = ranges_of(card, module, parts["validation"])
    except ModelError as exc:
        raise ModelError(f"{model}: {exc}") from exc
    if output.exists() and output.samefile(model):
        raise ConfigError([f"{output}: must not be the model itself, which is wanted again; choose another --out"])
    made_of = {"model_sha256": file_hash(model), "clips": clips_of(config), "split": division_of(config)}
    card = dataclasses.replace(
        card, ranges=dict(ranges), accuracy=None, training={**card.training, "quantized": made_of}
    )
    if not len(parts["test"]):
        save_model(output, card, module.state_dict())
        return f"{output.name}: accuracy not measured, since split.test names no block"
    with tempfile.TemporaryDirectory(prefix="vpipe-") as folder:
        quantized = Path(folder) / "model.safetensors"
        save_model(quantized, card, module.state_dict())
        before, after = (measure(path, parts["test"], block_frames=footage.block_frames) for path in (model, quantized))
    where = where_of(config, "test")
    save_model(output, dataclasses.replace(card, accuracy={**where, **after.as_dict()}), module.state_dict())
    differ = int(np.count_nonzero((before.scored.answers != after.scored.answers).any(axis=1)))
    furthest = float(np.abs(before.scored.scores - after.scored.scores).max())
    notes = [
        f"before, {model.name}: accuracy {before.evaluation.accuracy:.4f}; "
        f"{differ:,} of {after.evaluation.n:,} answers differ, scores by {furthest:.3f} at most"
    ]
    return table(output.name, told(where), after, notes)
