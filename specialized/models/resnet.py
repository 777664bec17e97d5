"""ResNet-18 (He et al., CVPR 2016) for small pictures, folded: the general-purpose network beside the specialized."""

from torch import Tensor, nn

from specialized.folding import folded_width
from specialized.models.initial import initialize


class ResNet18(nn.Module):
    """Four stages of two residual blocks, as for pictures of 32x32: nothing shrinks before the second stage.

        (B, f·3, H, W) conv [block block]·4 mean over H and W, linear (B, f·K)

    Args:
        classes: K, classes per picture.
        width: of the first stage before folding; each stage is twice as wide as the one before.
        fold: f, pictures in a group.
        multiple_of: folded widths are multiples of this.
    """

    def __init__(self, classes: int, *, width: int = 64, fold: int = 1, multiple_of: int = 1) -> None:
        super().__init__()
        if min(classes, width, fold, multiple_of) < 1:
            raise ValueError(
                "ResNet18: classes, width, fold and multiple_of must be at least 1, "
                f"got {classes=}, {width=}, {fold=}, {multiple_of=}"
            )
        widths = [folded_width(width << stage, fold, multiple_of) for stage in range(4)]
        self.stem = nn.Sequential(_conv(3 * fold, widths[0]), nn.ReLU())
        blocks = []
        inputs = widths[0]
        for stage, outputs in enumerate(widths):
            blocks += [Residual(inputs, outputs, stride=2 if stage else 1), Residual(outputs, outputs)]
            inputs = outputs
        self.blocks = nn.Sequential(*blocks)
        self.classifier = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(inputs, fold * classes))
        initialize(self)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.classifier(self.blocks(self.stem(x)))
        return logits


class Residual(nn.Module):
    """Two 3x3 convolutions whose result is added to their input, which is brought to its shape where it has another."""

    def __init__(self, inputs: int, outputs: int, *, stride: int = 1) -> None:
        super().__init__()
        self.branch = nn.Sequential(_conv(inputs, outputs, stride=stride), nn.ReLU(), _conv(outputs, outputs))
        same = inputs == outputs and stride == 1
        self.shortcut = nn.Sequential() if same else _conv(inputs, outputs, size=1, stride=stride)
        self.relu = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        added: Tensor = self.relu(self.branch(x) + self.shortcut(x))
        return added


def _conv(inputs: int, outputs: int, *, size: int = 3, stride: int = 1) -> nn.Sequential:
    """A convolution with batch normalization, which makes a bias superfluous."""
    conv = nn.Conv2d(inputs, outputs, size, stride=stride, padding=size // 2, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(outputs))
