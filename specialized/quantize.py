"""8-bit models: the inputs and weights of 2D convolutions and linear layers are rounded to 256 steps.

    network, pictures ──ranges_of──▶ ranges (they go into the model file) ──quantized──▶ the same network, rounding

The rounding is part of the network, in float32, so every engine that runs it gives nearly the same scores; one that
knows how to multiply bytes (OpenVINO) does so instead, in about 0.6 of the time of 16 bits.

Activations have 256 steps between the least and the greatest that was seen, widened to hold 0, which is a step; weights
have steps of a 127th of the largest of each output channel.
"""

import copy
import math
from collections.abc import Iterable, Mapping
from typing import cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from specialized.errors import ModelError
from specialized.examples import Examples, grouped, padded
from specialized.folding import Normalize
from specialized.modelfile import ModelCard, Ranges

__all__ = ["quantized", "ranges_of"]

_STEPS = 255  # between the least and the greatest
_GROUPS = 64  # of a forward, when ranges are looked for


def ranges_of(card: ModelCard, module: nn.Module, examples: Examples) -> Ranges:
    """The least and the greatest input of every convolution and linear layer, by its name in the network.

    Args:
        card: what the module expects; it must not be quantized yet.
        module: in float32 on the CPU, in evaluation mode.
        examples: pictures like those it will label; groups are formed as in its training.

    Raises:
        ModelError: it has no such layer, or an input of one is not finite.
    """
    layers = dict(_layers(module))
    found: dict[str, tuple[float, float]] = {}

    def hook(name: str) -> RemovableHandle:
        def widen(layer: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            low, high = map(float, inputs[0].aminmax())
            if not math.isfinite(high - low):
                raise ModelError(f"{card.architecture}: inputs of {name} must be finite, got {low:g} to {high:g}")
            before = found.get(name, (0.0, 0.0))
            found[name] = min(low, before[0]), max(high, before[1])

        return layers[name].register_forward_pre_hook(widen)

    normalize = Normalize(f=card.fold, size=card.input, mean=card.mean, std=card.std, device=torch.device("cpu"))
    hooks = [hook(name) for name in layers]
    try:
        with torch.inference_mode():
            for groups in _portions(padded(grouped(examples.tracks(card.order), card.fold, card.order))):
                module(normalize(torch.from_numpy(examples.pictures[groups]), torch.float32))
    finally:
        for each in hooks:
            each.remove()
    if not found:
        raise ModelError(f"{card.architecture}: must have convolutions or linear layers to be quantized, got none")
    return found


def _portions(groups: NDArray[np.int32]) -> Iterable[NDArray[np.int32]]:
    return (groups[first : first + _GROUPS] for first in range(0, len(groups), _GROUPS))


def quantized(module: nn.Module, ranges: Ranges) -> nn.Module:
    """A copy of a network with rounding layers; its state dict has the same entries. The weights must be loaded.

    Raises:
        ModelError: a range is of no layer of the network.
    """
    module = copy.deepcopy(module)
    layers = dict(_layers(module))
    if unknown := sorted(ranges.keys() - layers.keys()):
        raise ModelError(f"ranges must be of convolutions and linear layers of the network, got {unknown[0]!r}")
    for name, ends in ranges.items():
        rounding = copy.copy(layers[name])
        rounding.__class__ = _ROUNDING[type(layers[name])]
        cast(_Rounding, rounding).prepare(ends)
        parent, _, own = name.rpartition(".")
        setattr(module.get_submodule(parent), own, rounding)
    return module


class _Rounding(nn.Module):
    """A layer that rounds its input and its weights."""

    weight: Tensor
    weight_step: Tensor
    weight_zero: Tensor

    def prepare(self, ends: tuple[float, float]) -> None:
        low, high = ends
        self.step = max((high - low) / _STEPS, float(np.finfo(np.float32).tiny))
        self.zero = round(-low / self.step)
        largest = self.weight.detach().abs().flatten(1).amax(1)
        self.register_buffer("weight_step", (largest / 127).clamp(min=torch.finfo().tiny), persistent=False)
        self.register_buffer("weight_zero", torch.zeros(len(largest), dtype=torch.int32), persistent=False)

    def rounded(self, x: Tensor) -> Tensor:
        return torch.fake_quantize_per_tensor_affine(x, self.step, self.zero, 0, _STEPS)

    def rounded_weight(self) -> Tensor:
        return torch.fake_quantize_per_channel_affine(self.weight, self.weight_step, self.weight_zero, 0, -128, 127)


class _Conv2d(_Rounding, nn.Conv2d):
    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self._conv_forward(self.rounded(x), self.rounded_weight(), self.bias)
        return y


class _Linear(_Rounding, nn.Linear):
    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.linear(self.rounded(x), self.rounded_weight(), self.bias)


_ROUNDING: Mapping[type[nn.Module], type[_Rounding]] = {nn.Conv2d: _Conv2d, nn.Linear: _Linear}


def _layers(module: nn.Module) -> Iterable[tuple[str, nn.Module]]:
    """The layers that can round, by name. Those of a class of one's own may do more than the class they extend."""
    return ((name, layer) for name, layer in module.named_modules() if name and type(layer) in _ROUNDING)
