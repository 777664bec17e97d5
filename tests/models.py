"""Models for tests that read back what their pictures show."""

import time

import torch
from torch import Tensor, nn

from pipeline.contracts import Sink
from pipeline.testing import numbered_batches
from tests.clips import COLUMNS, NUMBER_BITS, ROWS, SOURCE_BITS, centres

BITS = [f"b{place:02}" for place in range(ROWS * COLUMNS)]


class NumberReader(nn.Module):
    """Scores the cells of each picture: class k of picture i is over 0.5 where its cell k is white."""

    def __init__(self, *, fold: int, input: tuple[int, int], seed: int = 0) -> None:
        super().__init__()
        self.fold = fold
        self.register_buffer("rows", torch.from_numpy(centres(input[0], ROWS)))
        self.register_buffer("columns", torch.from_numpy(centres(input[1], COLUMNS)))

    def forward(self, x: Tensor) -> Tensor:
        gray = x.unflatten(1, (self.fold, 3)).mean(dim=2)  # (B, f, H, W)
        cells = self.rows @ gray @ self.columns.T  # (B, f, ROWS, COLUMNS)
        return (20 * (cells - 0.5)).flatten(1)


class Slow(NumberReader):
    """Takes its time for every forward pass."""

    def __init__(self, *, fold: int, input: tuple[int, int], takes_s: float) -> None:
        super().__init__(fold=fold, input=input)
        self.takes_s = takes_s

    def forward(self, x: Tensor) -> Tensor:
        time.sleep(self.takes_s)
        return super().forward(x)


class Leaving(NumberReader):
    """Ends the program when it is tried."""

    def forward(self, x: Tensor) -> Tensor:
        raise SystemExit(0)


class LeavingSource:
    """A source of the user's own that ends the program."""

    def __init__(self) -> None:
        self.name = "mine"

    def __iter__(self):
        raise SystemExit(0)
        yield


class Broken(NumberReader):
    """Passes the check at loading, which is of two groups, and fails at any real batch."""

    def forward(self, x: Tensor) -> Tensor:
        if len(x) > 2:
            raise RuntimeError("out of paper")
        return super().forward(x)


def numbers(scores):
    """Frame numbers and sources (N,) from the scores (N, 24) of NumberReader."""
    word = (scores > 0.5) @ (1 << torch.arange(ROWS * COLUMNS).flip(0).numpy())
    return word >> (ROWS * COLUMNS - NUMBER_BITS), word >> (ROWS * COLUMNS - NUMBER_BITS - SOURCE_BITS) & 15


class Moody(NumberReader):
    """Fails at each `every`-th forward of a run: it raises, or gives NaN or another shape. Its calls before the run, in
    which it is tried, do not count."""

    def __init__(self, *, fold: int, input: tuple[int, int], how: str, every: int) -> None:
        super().__init__(fold=fold, input=input)
        self.how, self.every = how, every
        self.calls = 0

    def forward(self, x: Tensor) -> Tensor:
        scores = super().forward(x)
        self.calls += bool(x.device.type == "cpu" and x.amax() > 0)
        if self.calls % self.every or not x.amax() > 0:
            return scores
        if self.how == "raise":
            raise RuntimeError("out of paper")
        if self.how == "exit":
            raise SystemExit(0)
        if self.how in ("none", "complex"):
            return None if self.how == "none" else scores * 1j
        return scores * float("nan") if self.how == "nan" else scores[:, 1:]


class Bright(nn.Module):
    """Says person where a picture is bright, in groups of any size; the later in its group, the harder to convince."""

    def __init__(self, *, fold: int, doubt: float = 0.0) -> None:
        super().__init__()
        self.fold = fold
        self.register_buffer("doubts", doubt * torch.arange(fold))

    def forward(self, x: Tensor) -> Tensor:
        brightness = x.unflatten(1, (self.fold, 3)).mean(dim=(2, 3, 4))  # (B, f)
        logits = 4 * (brightness - 0.5) - self.doubts
        return torch.stack([logits, -logits], dim=-1).flatten(1)


class RaisingSource:
    """A source of the user's own that breaks after its first segment."""

    def __init__(self, *, url: str = "") -> None:
        self.name = "mine"

    def __iter__(self):
        yield from numbered_batches("mine", [3], size=(24, 36))
        raise KeyError("lost the camera")


class RaisingSink(Sink):
    """A sink of the user's own that takes nothing."""

    def write(self, batch):
        raise KeyError("no room")


class Tiny(nn.Module):
    """A linear layer over the mean of the picture: of any size, quick, and it can be folded."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.conv, self.head = nn.Conv2d(3, 2, 1), nn.Linear(2, classes)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.head(self.conv(x).mean((2, 3)))
        return logits
