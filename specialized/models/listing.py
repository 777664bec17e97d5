"""What the named architectures cost, counted without computing anything."""

from dataclasses import dataclass

import torch

from specialized.cost import cost
from specialized.models import MODELS, build


@dataclass(frozen=True, slots=True, kw_only=True)
class Listed:
    """A named architecture at one fold, with the classes and the input of its publication."""

    name: str
    fold: int  # f, pictures in a group
    input: tuple[int, int]  # (H, W) of a picture
    classes: int  # K
    parameters: int
    flops_per_image: float
    intensity: float  # FLOP per byte, at 1024 pictures of 2 bytes per element


def listing(fold: int = 1) -> list[Listed]:
    """Counts all of `MODELS` at one fold, by the rule of `specialized.cost`, in a second or two.

    Args:
        fold: f, pictures in a group, 1..1024.
    """
    rows = []
    for spec in MODELS.values():
        with torch.device("meta"):  # shapes without memory: neither weights are drawn nor products taken
            module = build(spec.name, args={}, classes=spec.classes, fold=fold, input=spec.input)
            counted = cost(module, fold=fold, input=spec.input)
        rows.append(
            Listed(
                name=spec.name,
                fold=fold,
                input=spec.input,
                classes=spec.classes,
                parameters=counted.parameters,
                flops_per_image=counted.flops_per_picture,
                intensity=counted.intensity,
            )
        )
    return rows
