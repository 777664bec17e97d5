"""Networks as people write them, of one function each, for the tests of folding."""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import Conv2d, Linear


class Net(nn.Module):
    """A network of one function and the layers it uses."""

    def __init__(self, code: Callable[[nn.Module, Tensor], Tensor], **parts: nn.Module | Tensor) -> None:
        super().__init__()
        self.code = code
        for name, part in parts.items():
            if isinstance(part, Tensor) and not isinstance(part, nn.Parameter):
                self.register_buffer(name, part)
            else:
                setattr(self, name, part)

    def forward(self, x: Tensor) -> Tensor:
        return self.code(self, x)


def pooled(between: Callable[[nn.Module, Tensor], Tensor], width: int = 8, **parts: nn.Module | Tensor) -> Net:
    """A convolution of 8, what is tried, the mean over the map, and a dense layer from `width`."""
    parts = {"conv": Conv2d(3, 8, 3, padding=1), "fc": Linear(width, 5), **parts}
    return Net(lambda s, x: s.fc(between(s, s.conv(x)).mean((2, 3))), **parts)


def headed(head: Callable[[nn.Module, Tensor], Tensor], inputs: int = 8, **parts: nn.Module | Tensor) -> Net:
    """A convolution of 8, what is tried instead of a pooling, and a dense layer."""
    parts = {"conv": Conv2d(3, 8, 3, padding=1), "fc": Linear(inputs, 5), **parts}
    return Net(lambda s, x: s.fc(head(s, s.conv(x))), **parts)


class DropPath(nn.Module):
    """Stochastic depth, as it is passed from repository to repository."""

    def __init__(self, *, old: bool) -> None:
        super().__init__()
        self.old, self.drop_prob = old, 0.5

    def forward(self, x: Tensor) -> Tensor:
        if self.drop_prob == 0.0 or not self.training:
            return x
        keep_prob = 1 - self.drop_prob
        shape = (x.shape[0],) + (1,) * (x.ndim - 1)
        if self.old:
            mask = keep_prob + torch.rand(shape, dtype=x.dtype, device=x.device)
            return x.div(keep_prob) * mask.floor_()
        return x.div(keep_prob) * x.new_empty(shape).bernoulli_(keep_prob)
