"""Cost of a model: FLOPs, bytes and their ratio, counted and not timed.

Over all convolutions and linear layers (Kosaian et al., ICML 2021):

    FLOPs = 2 · multiply-accumulates + one addition per output element that has a bias
    bytes = bytes per element · (weights without bias + inputs + outputs)

Weights are read once per batch, so the intensity (FLOP per byte) depends on the batch. A layer counts whether it is a
module or a call of `torch.nn.functional`. Other layers do not count; those that multiply matrices are named.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from specialized.errors import ModelError
from specialized.objects import OWN_CODE, one_line

_RUN = 2  # groups that are run: some networks squeeze the axis of a single one away
# Each output element of these costs one product with each weight of its filter ...
_PER_OUTPUT = (F.conv1d, F.conv2d, F.conv3d, F.linear)
# ... and of these, each input element.
_PER_INPUT = (F.conv_transpose1d, F.conv_transpose2d, F.conv_transpose3d)
_UNCOUNTED = frozenset(
    {
        *("matmul", "mm", "bmm", "addmm", "addbmm", "baddbmm", "mv", "einsum", "tensordot", "bilinear"),
        *("lstm", "lstm_cell", "gru", "gru_cell", "rnn_tanh", "rnn_tanh_cell", "rnn_relu", "rnn_relu_cell"),
        *("multi_head_attention_forward", "scaled_dot_product_attention"),
    }
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Cost:
    """What a model costs. Rates are per picture, not per group."""

    parameters: int
    flops_per_picture: float
    bytes_per_picture: float  # traffic of the batch over its pictures
    intensity: float  # FLOP per byte; 0 for a model without convolution or linear layer
    uncounted: tuple[str, ...] = ()  # functions of torch that the model calls and that should count, as "matmul"


def cost(
    module: nn.Module,
    *,
    fold: int,
    input: tuple[int, int],
    channels: int = 3,
    pictures: int = 1024,
    bytes_per_element: int = 2,
) -> Cost:
    """Counts one forward of `pictures // fold` groups, by running a forward of two.

    Args:
        module: maps (B, fold·channels, H, W) to anything; run in evaluation mode, then put back. May be on the meta
            device, where nothing is computed.
        fold: f, pictures in a group.
        input: (H, W) of a picture.
        channels: C of a picture.
        pictures: pictures in the batch over which the weights are shared.
        bytes_per_element: 2 for the 16-bit types.
    """
    groups = pictures // fold
    if groups < 1:
        raise ValueError(f"cost: pictures must be at least fold, got {pictures=}, {fold=}")
    like = next(module.parameters(), torch.empty(0))
    x = torch.zeros(_RUN, fold * channels, *input, device=like.device, dtype=like.dtype)
    modes = [(part, part.training) for part in module.modules()]
    try:
        with torch.inference_mode(), _Counter() as counted:
            module.eval()(x)
    except OWN_CODE as exc:  # the user's forward may raise anything
        raise ModelError(
            f"{type(module).__name__}: must run on {tuple(x.shape)}, (groups, fold·{channels}, H, W), "
            f"got {one_line(exc)}; change its forward"
        ) from exc
    finally:
        for part, mode in modes:
            part.training = mode
    traffic = bytes_per_element * (counted.weights + groups * counted.moved / _RUN)
    return Cost(
        parameters=sum(p.numel() for p in module.parameters()),
        flops_per_picture=counted.flops / _RUN / fold,
        bytes_per_picture=traffic / (groups * fold),
        intensity=groups * counted.flops / _RUN / traffic if traffic else 0.0,
        uncounted=tuple(sorted(counted.uncounted)),
    )


class _Counter(TorchFunctionMode):
    """Sees every call of torch's functions. Numbers are of all groups."""

    def __init__(self) -> None:
        super().__init__()
        self.flops = self.weights = self.moved = 0
        self.uncounted: set[str] = set()

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: object,
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        if func in _PER_OUTPUT or func in _PER_INPUT:
            self._count(result, func in _PER_INPUT, *args, **(kwargs or {}))
        elif getattr(func, "__name__", "") in _UNCOUNTED:
            self.uncounted.add(func.__name__)
        return result

    def _count(
        self,
        output: Tensor,
        per_input: bool,
        input: Tensor,
        weight: Tensor,
        bias: Tensor | None = None,
        *_: Any,
        **__: Any,
    ) -> None:
        swept = input if per_input else output
        self.flops += 2 * swept.numel() * weight[0].numel() + (0 if bias is None else output.numel())
        self.weights += weight.numel()
        self.moved += input.numel() + output.numel()
