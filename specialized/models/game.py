"""The specialized CNNs that read numbers off the displays of games (Kosaian et al., ICML 2021), folded."""

from torch import Tensor, nn

from specialized.folding import folded_width
from specialized.models.initial import initialize


class Game(nn.Module):
    """A convolution, units of three, a narrow one, and a dense layer. All convolutions are 3x3.

        (B, f·3, H, W) conv pool [conv conv conv pool]... conv pool flatten linear (B, f·K)

    Args:
        units: how many times three convolutions and a pooling come in the middle.
        classes: K, classes per picture.
        width: of all convolutions but the last, before folding.
        last: width of the last convolution before folding; 0 leaves it and its pooling out.
        fold: f, pictures in a group.
        input: (H, W) of a picture.
        multiple_of: folded widths are multiples of this.
    """

    def __init__(
        self,
        units: int,
        classes: int,
        *,
        width: int = 32,
        last: int = 8,
        fold: int = 1,
        input: tuple[int, int] = (22, 52),
        multiple_of: int = 1,
    ) -> None:
        super().__init__()
        # Pooling is 3 wide and not padded: with stride 2 it makes (n - 1) // 2 of n, with stride 1 in the units n - 2.
        rows, columns = ((side - 1) // 2 - 2 * units for side in input)
        if last:
            rows, columns = (rows - 1) // 2, (columns - 1) // 2
        if min(units, classes, width, fold, multiple_of, rows, columns) < 1 or last < 0:
            raise ValueError(
                "Game: units, classes, width, fold and multiple_of must be at least 1, last at least 0 and input at "
                f"least {4 * units + (7 if last else 3)} a side, "
                f"got {units=}, {classes=}, {width=}, {last=}, {fold=}, {input=}, {multiple_of=}"
            )
        inner = folded_width(width, fold, multiple_of)
        layers = _pooled(3 * fold, inner, stride=2)
        for _ in range(units):
            for _ in range(2):
                layers += [nn.Conv2d(inner, inner, 3, padding=1), nn.ReLU()]
            layers += _pooled(inner, inner, stride=1)
        outputs = inner
        if last:
            outputs = folded_width(last, fold, multiple_of)
            layers += _pooled(inner, outputs, stride=2)
        self.features = nn.Sequential(*layers)
        self.classifier = nn.Sequential(nn.Flatten(), nn.Linear(outputs * rows * columns, fold * classes))
        initialize(self)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.classifier(self.features(x))
        return logits


def _pooled(inputs: int, outputs: int, *, stride: int) -> list[nn.Module]:
    # Pooling before the ReLU gives the same values, and the ReLU no more work, with stride 2 a quarter.
    return [nn.Conv2d(inputs, outputs, 3, padding=1), nn.MaxPool2d(3, stride), nn.ReLU()]
