"""The state of a training on disk, so that one that was killed goes on to the very weights it would have come to."""

import dataclasses
import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from specialized.errors import ModelError
from specialized.examples import Examples
from specialized.modelfile import ModelCard
from specialized.recipe import Recipe


def training_id(
    card: ModelCard,
    recipe: Recipe,
    parts: Sequence[Examples],
    teacher: Mapping[str, Tensor] | None,
    *,
    shapes: Mapping[str, Sequence[int]],
    dtype: str,
) -> str:
    """A hash of what decides the weights of a training.

    Args:
        card: of the model.
        recipe: of the training.
        parts: what it sees.
        teacher: the state dict of what teaches it.
        shapes: of the network's state dict: a class of the user's own may have changed under its name.
        dtype: of the arithmetic, which "auto" leaves to the machine.
    """
    facts = [dataclasses.asdict(card), recipe.model_dump(), [part.runs for part in parts]]
    facts += [shapes, dtype, torch.__version__]
    found = hashlib.sha256(json.dumps(facts, sort_keys=True).encode())
    for part in parts:
        for start, stop in part.runs:
            found.update(np.ascontiguousarray(part.pictures[start:stop]).data)
            found.update(np.ascontiguousarray(part.labels[start:stop]).data)
            found.update(b"" if part.region is None else np.ascontiguousarray(part.region[start:stop]).data)
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
    try:
        with open(temporary, "wb") as file:
            torch.save({"id": id, "plain": json.dumps(plain), "tensors": dict(tensors)}, file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def read_checkpoint(path: Path, *ids: str) -> tuple[str, dict[str, Any], dict[str, Any]]:
    """What `write_checkpoint` wrote: which of the ids, and the rest. Read with weights_only: it can hold no code.

    Raises:
        ModelError: it cannot be read, or it is of another training.
    """
    try:
        found = torch.load(path, weights_only=True)
        known, plain, tensors = found["id"], json.loads(found["plain"]), found["tensors"]
    except Exception as exc:  # unpickling a damaged file raises anything
        cause = str(exc).partition("\n")[0]
        raise ModelError(f"{path}: must be a checkpoint of a training, got {cause}; remove it to start anew") from exc
    if known not in ids:
        raise ModelError(
            f"{path}: must be of the training to go on with, got one of another network, recipe, footage or torch; "
            "--overwrite starts anew"
        )
    return known, plain, tensors
