"""The weights that training starts from."""

from torch import nn


def initialize(module: nn.Module) -> None:
    """Draws weights from torch's global generator: Xavier for convolutions before a ReLU, N(0, 0.01) for linear layers.

    Biases are 0. As the authors of folding train all of their models (Kosaian et al., ICML 2021).
    """
    for layer in module.modules():
        if isinstance(layer, nn.Conv2d):
            nn.init.xavier_uniform_(layer.weight, gain=nn.init.calculate_gain("relu"))
        elif isinstance(layer, nn.Linear):
            nn.init.normal_(layer.weight, std=0.01)
        else:
            continue
        if layer.bias is not None:
            nn.init.zeros_(layer.bias)
