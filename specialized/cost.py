"""Cost of a model: FLOPs, bytes and their ratio, counted and not timed.

Over all convolutions and linear layers (Kosaian et al., ICML 2021):

    FLOPs = 2 · multiply-accumulates + one addition per output element that has a bias
    bytes = bytes per element · (weights without bias + inputs + outputs)

Weights are read once per batch, so the intensity (FLOP per byte) depends on the batch; other layers are not counted.
"""

from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn

# Each output element of these costs one product with each weight of its filter ...
_PER_OUTPUT = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.Linear)
# ... and of these, each input element.
_PER_INPUT = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)


@dataclass(frozen=True, slots=True, kw_only=True)
class Cost:
    """What a model costs. Rates are per picture, not per group."""

    parameters: int
    flops_per_picture: float
    bytes_per_picture: float  # traffic of the batch over its pictures
    intensity: float  # FLOP per byte; 0 for a model without convolution or linear layer


def cost(
    module: nn.Module,
    *,
    fold: int,
    input: tuple[int, int],
    channels: int = 3,
    pictures: int = 1024,
    bytes_per_element: int = 2,
) -> Cost:
    """Counts one forward of `pictures // fold` groups, by running a forward of one group.

    Args:
        module: maps (B, fold·channels, H, W) to anything; run in evaluation mode, then put back.
        fold: f, pictures in a group.
        input: (H, W) of a picture.
        channels: C of a picture.
        pictures: pictures in the batch over which the weights are shared.
        bytes_per_element: 2 for the 16-bit types.
    """
    groups = pictures // fold
    if groups < 1:
        raise ValueError(f"cost: pictures must be at least fold, got {pictures=}, {fold=}")
    flops = weights = moved = 0

    def count(layer: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        nonlocal flops, weights, moved
        weight, bias = cast(Tensor, layer.weight), layer.bias
        swept = inputs[0] if isinstance(layer, _PER_INPUT) else output
        flops += 2 * swept.numel() * weight[0].numel() + (0 if bias is None else output.numel())
        weights += weight.numel()
        moved += inputs[0].numel() + output.numel()

    like = next(module.parameters(), torch.empty(0))
    x = torch.zeros(1, fold * channels, *input, device=like.device, dtype=like.dtype)
    counted = (layer for layer in module.modules() if isinstance(layer, (*_PER_OUTPUT, *_PER_INPUT)))
    hooks = [layer.register_forward_hook(count) for layer in counted]
    training = module.training
    try:
        with torch.inference_mode():
            module.eval()(x)
    finally:
        module.train(training)
        for hook in hooks:
            hook.remove()
    traffic = bytes_per_element * (weights + groups * moved)
    return Cost(
        parameters=sum(p.numel() for p in module.parameters()),
        flops_per_picture=flops / fold,
        bytes_per_picture=traffic / (groups * fold),
        intensity=groups * flops / traffic if traffic else 0.0,
    )
