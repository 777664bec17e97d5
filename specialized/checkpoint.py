"""The state of a training on disk, so that one that was killed goes on to the very weights it would have come to."""

import dataclasses
import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from specialized.errors import ModelError
from specialized.examples import Examples
from specialized.modelfile import ModelCard
from specialized.recipe import Recipe


def training_id(
    card: ModelCard, recipe: Recipe, parts: Sequence[Examples], teacher: Mapping[str, Tensor] | None
) -> str:
    """A hash of all that decides the weights of a training: network, recipe, pictures, labels, teacher and torch."""
    facts = [dataclasses.asdict(card), recipe.model_dump(), [part.runs for part in parts], torch.__version__]
    found = hashlib.sha256(json.dumps(facts, sort_keys=True).encode())
    for part in parts:
        for start, stop in part.runs:
            found.update(part.pictures[start:stop].tobytes())
            found.update(part.labels[start:stop].tobytes())
    for name, tensor in sorted((teacher or {}).items()):
        found.update(name.encode() + tensor.detach().contiguous().numpy().tobytes())
    return found.hexdigest()


def write_checkpoint(path: Path, id: str, plain: object, tensors: Mapping[str, object]) -> None:
    """Replaces the checkpoint at `path` by a whole new one.

    Args:
        path: the file.
        id: of the training.
        plain: what JSON can hold.
        tensors: state dicts and tensors.
    """
    temporary = path.with_name(f".{path.name}.tmp")
    with open(temporary, "wb") as file:
        torch.save({"id": id, "plain": json.dumps(plain), "tensors": dict(tensors)}, file)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)


def read_checkpoint(path: Path, id: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """What `write_checkpoint` wrote. Read with weights_only: it can hold no code.

    Raises:
        ModelError: it cannot be read, or it is of another training.
    """
    try:
        found = torch.load(path, weights_only=True)
        known, plain, tensors = found["id"], json.loads(found["plain"]), found["tensors"]
    except Exception as exc:  # unpickling a damaged file raises anything
        cause = str(exc).partition("\n")[0]
        raise ModelError(f"{path}: must be a checkpoint of a training, got {cause}; remove it to start anew") from exc
    if known != id:
        raise ModelError(
            f"{path}: must be of the training to go on with, got one of another network, recipe, footage or torch; "
            "--overwrite starts anew"
        )
    return plain, tensors
