"""The weights that training starts from."""

from math import sqrt

from torch import nn


def initialize(module: nn.Module, *, gain: float = sqrt(2), zero_biases: bool = True) -> None:
    """Draws weights from torch's global generator: Xavier for convolutions, N(0, 0.01) for linear layers.

    The authors of folding train all of their models from these weights, with the gain of a ReLU and biases 0 (Kosaian
    et al., ICML 2021). The deep networks of the game family need that gain: with 1 they may not get beyond chance.

    Args:
        module: changed in place.
        gain: of Xavier; sqrt(2) keeps the variance of activations through a ReLU.
        zero_biases: else biases stay as torch drew them.
    """
    for layer in module.modules():
        if isinstance(layer, nn.Conv2d):
            nn.init.xavier_uniform_(layer.weight, gain=gain)
        elif isinstance(layer, nn.Linear):
            nn.init.normal_(layer.weight, std=0.01)
        else:
            continue
        if zero_biases and layer.bias is not None:
            nn.init.zeros_(layer.bias)
