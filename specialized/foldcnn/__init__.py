"""Folds any CNN: the same layers, wider, for f pictures as the channels of one input.

tracing     runs the network's own forward on stand-ins
functions   what functions of torch do to a stand-in's axes
layers      what layers do, and how each takes its new widths
traced      the stand-ins
widths      which widths must be the same, and how they grow
slots       which channels of a folded network belong to which slot
"""

from torch import nn

from specialized.foldcnn.slots import Slots
from specialized.foldcnn.tracing import Tracing
from specialized.foldcnn.widths import Folding

__all__ = ["Slots", "fold_cnn"]


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
    tracing = Tracing(model)
    tracing.resize(Folding(f, multiple_of))
    return tracing.network
