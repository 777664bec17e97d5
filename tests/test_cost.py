import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from specialized.cost import cost
from specialized.errors import ModelError
from specialized.models import MODELS, build

PUBLISHED = {  # intensity at f = 1, 2, 3, 4: Kosaian et al., ICML 2021
    "coral": (58.70, 82.44, 101.34, 118.75),
    "night": (58.70, 82.44, 101.34, 118.75),
    "taipei": (185.16, 262.37, 321.82, 374.64),
    "goldnumber-fraction": (87.33, 126.73, 158.38, 187.79),
    "coin-count": (88.15, 127.79, 159.55, 188.97),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_intensity_of_the_models_is_the_published_one(name: str) -> None:
    spec = MODELS[name]
    counted = []
    for f in (1, 2, 3, 4):
        module = build(name, args={}, classes=spec.classes, fold=f, input=spec.input)
        counted.append(round(cost(module, fold=f, input=spec.input).intensity, 2))
    assert tuple(counted) == PUBLISHED[name]


def test_flops_and_bytes_are_those_counted_by_hand() -> None:
    module = nn.Sequential(nn.Conv2d(6, 4, 3, padding=1), nn.Flatten(), nn.Linear(4 * 5 * 5, 2, bias=False))
    counted = cost(module, fold=2, input=(5, 5), pictures=8)
    conv, linear = 4 * 25 * (2 * 6 * 9 + 1), 2 * 2 * 100
    assert counted.parameters == (4 * 6 * 9 + 4) + 200
    assert counted.flops_per_picture == (conv + linear) / 2
    assert counted.bytes_per_picture == 2 * (4 * 6 * 9 + 200 + 4 * (6 * 25 + 100 + 100 + 2)) / 8
    assert counted.intensity == counted.flops_per_picture / counted.bytes_per_picture


def test_a_transposed_convolution_is_counted_by_its_inputs() -> None:
    counted = cost(nn.ConvTranspose2d(3, 2, 2, stride=2, bias=False), fold=1, input=(4, 4))
    assert counted.flops_per_picture == 2 * (3 * 16) * (2 * 4)


def test_a_model_without_weights_costs_nothing() -> None:
    counted = cost(nn.Flatten(), fold=1, input=(4, 4))
    assert (counted.parameters, counted.flops_per_picture, counted.intensity) == (0, 0, 0)


class Squeezed(nn.Sequential):
    """Normalizes vectors that a single group would have no axis of its own in."""

    def forward(self, x: Tensor) -> Tensor:
        conv, norm, head = self
        return head(norm(conv(x).mean((2, 3)).squeeze()))


def test_a_network_that_squeezes_a_single_group_away_is_counted() -> None:
    counted = cost(Squeezed(nn.Conv2d(6, 4, 3), nn.BatchNorm1d(4), nn.Linear(4, 2)), fold=2, input=(5, 5), pictures=8)
    assert counted.flops_per_picture == (2 * 4 * 9 * 54 + 4 * 9 + 2 * 4 * 2 + 2) / 2


def test_a_network_that_cannot_run_is_named() -> None:
    with pytest.raises(ModelError, match=r"Conv2d: must run on \(2, 6, 5, 5\), .*, got RuntimeError: .*; change its"):
        cost(nn.Conv2d(3, 4, 3), fold=2, input=(5, 5))


def test_counting_leaves_the_module_as_it_was() -> None:
    module = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.BatchNorm2d(4).eval())
    before = {name: value.clone() for name, value in module.state_dict().items()}
    cost(module, fold=1, input=(4, 4))
    assert [part.training for part in module.modules()] == [True, True, True, False]
    assert all(torch.equal(before[name], value) for name, value in module.state_dict().items())


def test_a_batch_smaller_than_a_group_is_refused() -> None:
    with pytest.raises(ValueError, match="pictures must be at least fold"):
        cost(nn.Flatten(), fold=4, input=(4, 4), pictures=3)


class Functional(nn.Module):
    """The same layers as a module and as calls."""

    def __init__(self, *, as_calls: bool) -> None:
        super().__init__()
        self.as_calls = as_calls
        self.conv, self.up, self.linear = nn.Conv2d(3, 4, 3), nn.ConvTranspose2d(4, 2, 2), nn.Linear(7, 5, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        if not self.as_calls:
            linear: Tensor = self.linear(self.up(self.conv(x)))
            return linear
        x = F.conv2d(x, weight=self.conv.weight, bias=self.conv.bias)
        return F.linear(F.conv_transpose2d(x, self.up.weight, self.up.bias), self.linear.weight)


def test_a_layer_is_counted_whether_it_is_a_module_or_a_call() -> None:
    modules, calls = (cost(Functional(as_calls=as_calls), fold=1, input=(8, 8)) for as_calls in (False, True))
    assert modules == calls
    assert modules.flops_per_picture == 4 * 36 * (2 * 27 + 1) + (2 * 4 * 36 * 8 + 2 * 49) + 2 * 2 * 7 * 5 * 7


class Multiplying(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.memory = nn.LSTM(3, 3)

    def forward(self, x: Tensor) -> Tensor:
        rows = x.mean(3).transpose(1, 2)
        product: Tensor = self.memory(rows)[0] @ rows.transpose(1, 2)
        return product


def test_multiplications_that_are_not_counted_are_named() -> None:
    counted = cost(Multiplying(), fold=1, input=(4, 4))
    assert counted.flops_per_picture == 0
    assert counted.uncounted == ("lstm", "matmul")
    assert cost(nn.Conv2d(3, 4, 1), fold=1, input=(4, 4)).uncounted == ()


def test_a_model_without_memory_is_counted_alike() -> None:
    with torch.device("meta"):
        shapes = nn.Sequential(nn.Conv2d(6, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(36, 2))
    real = nn.Sequential(nn.Conv2d(6, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(36, 2))
    assert cost(shapes, fold=2, input=(5, 5)) == cost(real, fold=2, input=(5, 5))
