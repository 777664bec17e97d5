"""The specialized CNNs of NoScope (Kang et al., VLDB 2017), folded."""

from torch import Tensor, nn

from specialized.folding import folded_width
from specialized.models.initial import initialize


class NoScope(nn.Module):
    """Two or four 3x3 convolutions and two dense layers.

        (B, f·3, H, W) conv conv pool [conv conv pool] flatten linear linear (B, f·K)

    Args:
        filters: width of the first two convolutions before folding; the next two are twice as wide.
        dense: width of the hidden dense layer before folding; 0 leaves it out.
        layers: convolutions, 2 or 4.
        classes: K, classes per picture.
        fold: f, pictures in a group.
        input: (H, W) of a picture.
        multiple_of: folded widths are multiples of this.
    """

    def __init__(
        self,
        filters: int,
        dense: int,
        layers: int,
        classes: int,
        *,
        fold: int = 1,
        input: tuple[int, int] = (50, 50),
        multiple_of: int = 1,
    ) -> None:
        super().__init__()
        pools = layers // 2
        height, width = (side >> pools for side in input)
        if layers not in (2, 4):
            raise ValueError(f"NoScope: layers must be 2 or 4, got {layers}")
        if min(filters, classes, fold, multiple_of, height, width) < 1 or dense < 0:
            raise ValueError(
                "NoScope: filters, classes, fold and multiple_of must be at least 1, dense at least 0 and input at "
                f"least {2**pools} a side, got {filters=}, {dense=}, {classes=}, {fold=}, {input=}, {multiple_of=}"
            )
        blocks: list[nn.Module] = []
        inputs = 3 * fold
        for pool in range(pools):
            outputs = folded_width(filters * (pool + 1), fold, multiple_of)
            blocks += [nn.Conv2d(inputs, outputs, 3, padding=1), nn.ReLU()]
            # Pooling first gives the same values, and the ReLU a quarter of the work.
            blocks += [nn.Conv2d(outputs, outputs, 3, padding=1), nn.MaxPool2d(2, 2), nn.ReLU()]
            inputs = outputs
        self.features = nn.Sequential(*blocks)
        inputs *= height * width
        hidden: list[nn.Module] = []
        if dense:
            hidden = [nn.Linear(inputs, folded_width(dense, fold, multiple_of)), nn.ReLU()]
            inputs = folded_width(dense, fold, multiple_of)
        self.classifier = nn.Sequential(nn.Flatten(), *hidden, nn.Linear(inputs, fold * classes))
        # Few layers learn without the gain of a ReLU too; the accuracies of this family were measured from this start.
        initialize(self, gain=1.0, zero_biases=False)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.classifier(self.features(x))
        return logits
