"""Folds any CNN: the same layers, wider, for f pictures as the channels of one input.

tracing     runs the network's own forward on stand-ins
functions   what functions of torch do to a stand-in's axes
layers      what layers do, and how each takes its new widths
traced      the stand-ins
widths      which widths must be the same, and how they grow
"""

import copy

import torch
from torch import nn

from specialized.errors import ModelError
from specialized.foldcnn.tracing import Bare, Tracing
from specialized.foldcnn.widths import Channels, Folding, UnfoldableError
from specialized.objects import one_line

__all__ = ["fold_cnn"]


def fold_cnn(model: nn.Module, f: int, *, multiple_of: int = 1) -> nn.Module:
    """Returns a folded copy of a CNN: it maps (B, f·C, H, W) to (B, f·K) where the model maps (B, C, H, W) to (B, K).

    Layers that see the pictures take f·C channels, the last one gives f·K, widths between grow with sqrt(f). Layers
    keep everything else (strides, bias, training mode, device, dtype), the copy keeps the class, the code and the
    names of the model. Weights are new, drawn from torch's global generator as each layer does by default, for folding
    is learned; constants of `forward` along the channels of a picture are repeated for each picture.

    Widths that meet in an addition or product stay equal; a concatenation is as wide as its parts. Depthwise
    convolutions stay depthwise; others keep their number of groups, and widths become multiples of it.

    Args:
        model: Made of layers and functions of torch, with sizes taken from tensors. It is left as it is.
        f: Pictures in a group.
        multiple_of: Inner widths become multiples of it, see `specialized.folding.folded_width`.

    Raises:
        ModelError: the model cannot be folded; names the layer and says why.
        TypeError: the model is not a module, or f or multiple_of not an int.
        ValueError: f or multiple_of is less than 1.
    """
    if not isinstance(model, nn.Module):
        raise TypeError(
            "fold_cnn: model must be an instance of torch.nn.Module, got "
            + (f"the class {model.__name__}; make one" if isinstance(model, type) else type(model).__name__)
        )
    for name, value in (("f", f), ("multiple_of", multiple_of)):
        if not isinstance(value, int) or isinstance(value, bool):  # True is 1 to Python, and a mistake here
            raise TypeError(f"fold_cnn: {name} must be an int, got {value!r}; pass a whole number, 1 or more")
    if f < 1 or multiple_of < 1:
        raise ValueError(f"fold_cnn: f and multiple_of must be at least 1, got {f=}, {multiple_of=}")
    try:
        folded = copy.deepcopy(model)
    except Exception as exc:  # the user's modules may hold anything
        raise ModelError(
            f"{type(model).__name__}: must be a module that can be copied, got {one_line(exc)}; make it anew"
        ) from exc
    tracing = Tracing(folded)
    tracing.run()
    folding = Folding(f, multiple_of)
    for where, use in tracing.uses.values():
        try:
            use.resize(folding)
        except UnfoldableError as exc:
            raise ModelError(f"{where}: {exc}") from exc
    for where, bare in tracing.bare.values():
        _resize(where, bare, folding)
    return folded


def _resize(where: str, bare: Bare, folding: Folding) -> None:
    """Repeats a tensor along the channels of pictures; elsewhere only one that is the same everywhere can grow."""
    old: torch.Tensor = getattr(bare.owner, bare.attribute)
    new = old.detach()
    for dim, axis in enumerate(bare.axes):
        if not isinstance(axis, Channels) or folding.width(axis) == old.shape[dim]:
            continue
        if all(atom.kind == "picture" for atom in axis.atoms()):
            new = torch.cat([new] * folding.f, dim)
        elif bool((new == new.flatten()[0]).all()):
            new = new.flatten()[:1].expand([folding.width(axis) if n > 1 else 1 for n in old.shape]).clone()
        else:
            raise ModelError(
                f"{where}: must be one value or lie along the channels of pictures, got {tuple(old.shape)} values on "
                "inner channels; use a layer of torch.nn"
            )
    parameter = isinstance(old, nn.Parameter)
    setattr(bare.owner, bare.attribute, nn.Parameter(new, old.requires_grad) if parameter else new)
