"""Folding any CNN: families fold as they were folded by hand, and architectures that know nothing of it fold too."""

import copy
import pickle
import re
from collections.abc import Callable, Iterator

import pytest
import torch
from torch import Tensor, nn

import specialized
from benchmarks.architectures import DenseNet, Inception, MobileNet, ResNet, SqueezeNet, Vgg
from specialized.cost import cost
from specialized.errors import ModelError
from specialized.foldcnn import fold_cnn
from specialized.folding import folded_width
from specialized.models import MODELS, build

ARCHITECTURES: dict[str, Callable[[], nn.Module]] = {
    "mobilenet": lambda: MobileNet(5),
    "squeezenet": lambda: SqueezeNet(5),
    "densenet": lambda: DenseNet(5),
    "vgg": lambda: Vgg(5),
    "resnet": lambda: ResNet(5),
    "resnext": lambda: ResNet(5, groups=4),
    "senet": lambda: ResNet(5, squeeze=True),
    "inception": lambda: Inception(5),
}


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """Small networks run fastest on one thread, above all where other tests want the cores."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def shapes(module: nn.Module) -> dict[str, tuple[int, ...]]:
    return {name: tuple(value.shape) for name, value in module.state_dict().items()}


def layers(module: nn.Module) -> list[tuple[str, type[nn.Module], str]]:
    return [(name, type(part), part.extra_repr()) for name, part in module.named_modules()]


def small() -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 5))


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("f", [1, 2, 3, 4, 8])
def test_a_family_folds_to_what_was_folded_by_hand(name: str, f: int) -> None:
    spec = MODELS[name]
    single, by_hand = (build(name, args={}, classes=spec.classes, fold=fold, input=spec.input) for fold in (1, f))
    folded = fold_cnn(single, f)
    assert layers(folded) == layers(by_hand)
    assert shapes(folded) == shapes(by_hand)


@pytest.mark.parametrize("name", ARCHITECTURES)
@pytest.mark.parametrize("f", [1, 2, 3, 4, 8])
def test_an_architecture_folds_to_the_right_shapes_and_learns_with_all_of_its_weights(name: str, f: int) -> None:
    model = ARCHITECTURES[name]()
    folded = fold_cnn(model, f)
    logits = folded(torch.randn(2, 3 * f, 32, 32))
    assert logits.shape == (2, 5 * f)
    logits.square().sum().backward()
    assert [n for n, p in folded.named_parameters() if p.grad is None or not p.grad.isfinite().all()] == []
    assert list(folded.state_dict()) == list(model.state_dict())
    if f == 1:
        assert shapes(folded) == shapes(model)


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_the_flops_per_picture_stay_within_15_percent(name: str) -> None:
    model = ARCHITECTURES[name]()
    single = cost(model, fold=1, input=(32, 32))
    folded = cost(fold_cnn(model, 4), fold=4, input=(32, 32))
    assert folded.flops_per_picture == pytest.approx(single.flops_per_picture, rel=0.15)
    assert folded.parameters == pytest.approx(4 * single.parameters, rel=0.15)


def flops(model: nn.Module, layer: nn.Module, f: int) -> float:
    """FLOPs per picture of one convolution or linear layer without bias, by its definition."""
    seen: list[int] = []
    hook = layer.register_forward_hook(lambda _, inputs, output: seen.append(output.numel()))
    model.eval()(torch.zeros(1, 3 * f, 32, 32))
    hook.remove()
    return 2 * seen[0] * layer.weight[0].numel() / f


@pytest.mark.parametrize(
    ("layer", "grows"),
    [
        ("stem.0", 2.0),  # sees f·C channels for sqrt(f) as many filters
        ("blocks.0.conv.0", 1.0),
        ("blocks.0.conv.3", 0.5),  # depthwise: sqrt(f) filters for f pictures
        ("head", 1.0),
        ("classifier.1", 2.0),  # answers f·K from sqrt(f) as many channels
    ],
)
def test_first_last_and_depthwise_layers_are_the_exceptions_of_the_flops(layer: str, grows: float) -> None:
    model = MobileNet(5)
    folded = fold_cnn(model, 4)
    before, after = flops(model, model.get_submodule(layer), 1), flops(folded, folded.get_submodule(layer), 4)
    assert after / before == pytest.approx(grows)


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_all_inner_widths_become_multiples_where_asked(name: str) -> None:
    folded = fold_cnn(ARCHITECTURES[name](), 3, multiple_of=8)
    outputs = [m.out_channels for m in folded.modules() if isinstance(m, nn.Conv2d)]
    outputs += [m.out_features for m in folded.modules() if isinstance(m, nn.Linear)]
    assert [width for width in outputs if width % 8] == [15]  # the last layer
    assert folded(torch.randn(2, 9, 32, 32)).shape == (2, 15)


def test_pictures_that_no_layer_mixes_keep_to_their_outputs() -> None:
    model = nn.Sequential(
        nn.Conv2d(3, 6, 3, groups=3), nn.InstanceNorm2d(6), nn.ReLU(), nn.AdaptiveMaxPool2d(1), nn.Flatten()
    )
    folded = fold_cnn(model, 4).eval()
    x = torch.randn(2, 12, 8, 8)
    before = folded(x)
    x[:, 3:6] = torch.randn(2, 3, 8, 8)
    changed = (folded(x) != before).any(0).nonzero().flatten()
    assert before.shape == (2, 24)
    assert changed.tolist() == [6, 7, 8, 9, 10, 11]


@pytest.mark.parametrize(("classes", "width"), [(5, 5), (1, 1)])
def test_a_gate_may_be_as_wide_as_the_answers_or_spread_over_inner_channels(classes: int, width: int) -> None:
    class Gated(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.place = nn.Conv2d(3, 8, 1), nn.Conv2d(8, 1, 1)
            self.fc, self.gate, self.scale = nn.Linear(8, classes), nn.Linear(8, width), nn.Parameter(torch.ones(1))

        def forward(self, x: Tensor) -> Tensor:
            y = self.conv(x)
            y = y * self.place(y).sigmoid() + y.mean((1, 2, 3), keepdim=True)
            y = y.mean((2, 3))
            return self.scale * self.fc(y) * self.gate(y).sigmoid()

    folded = fold_cnn(Gated(), 4)
    assert (folded.place.out_channels, folded.gate.out_features) == (1, 4 * width)
    assert folded(torch.randn(2, 12, 8, 8)).shape == (2, 4 * classes)


def test_layers_keep_all_but_their_widths() -> None:
    model = nn.Sequential(
        nn.Conv2d(3, 8, (5, 3), stride=2, padding=(2, 1), dilation=(1, 2), padding_mode="reflect", bias=False),
        nn.BatchNorm2d(8, eps=0.01, momentum=0.3),
        nn.ConvTranspose2d(8, 6, 4, stride=2, output_padding=1),
        nn.GroupNorm(2, 6, eps=0.1),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(6, 5, bias=False),
    ).double()
    model[0].weight.requires_grad = False
    model[1].eval()
    folded = fold_cnn(model, 4)
    expected = [line.replace("(3, 8,", "(12, 16,").replace("(8, 6,", "(16, 12,") for line in str(model).splitlines()]
    expected = [line.replace("Norm2d(8,", "Norm2d(16,").replace("Norm(2, 6,", "Norm(2, 12,") for line in expected]
    expected = [line.replace("in_features=6, out_features=5", "in_features=12, out_features=20") for line in expected]
    assert str(folded).splitlines() == expected
    assert {value.dtype for value in folded.state_dict().values() if value.is_floating_point()} == {torch.float64}
    assert [p.requires_grad for p in folded.parameters()] == [p.requires_grad for p in model.parameters()]
    assert [m.training for m in folded.modules()] == [m.training for m in model.modules()]


def test_the_model_is_left_as_it_was_and_the_folded_one_can_be_copied_and_stored() -> None:
    model = ResNet(5, squeeze=True)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    folded = fold_cnn(model, 4)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert [name for name, part in folded.named_modules() if "forward" in vars(part)] == []
    again = pickle.loads(pickle.dumps(copy.deepcopy(folded))).eval()
    x = torch.randn(2, 12, 32, 32)
    assert torch.equal(again(x), folded.eval()(x))


def test_weights_are_new_and_follow_the_seed() -> None:
    model = small()
    torch.manual_seed(1)
    first, second = fold_cnn(model, 1), fold_cnn(model, 1)
    torch.manual_seed(1)
    again = fold_cnn(model, 1)
    assert not torch.equal(first[0].weight, model[0].weight)
    assert not torch.equal(first[0].weight, second[0].weight)
    assert torch.equal(first[0].weight, again[0].weight)


def test_constants_along_the_channels_of_pictures_are_repeated_for_each() -> None:
    class Normalized(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("mean", torch.tensor([0.1, 0.2, 0.3]).view(1, 3, 1, 1))
            self.std = torch.tensor([0.5, 0.6, 0.7]).view(3, 1, 1)
            self.gain = nn.Parameter(torch.full((8, 1, 1), 1e-6))
            self.scale = nn.Parameter(torch.tensor(2.0))
            self.net = small()

        def forward(self, x: Tensor) -> Tensor:
            x = self.net[0]((x - self.mean) / self.std)
            return self.net[1:](x * self.gain * self.scale)

    folded = fold_cnn(Normalized(), 4)
    assert folded.mean.flatten().tolist() == pytest.approx([0.1, 0.2, 0.3] * 4)
    assert folded.std.shape == (12, 1, 1)
    assert folded.gain.flatten().tolist() == pytest.approx([1e-6] * 16)
    assert isinstance(folded.gain, nn.Parameter)
    assert folded(torch.randn(2, 12, 9, 9)).shape == (2, 20)


def test_widths_that_meet_stay_equal_and_a_concatenation_is_as_wide_as_its_parts() -> None:
    class Meeting(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.whole = nn.Conv2d(3, 5, 1), nn.Conv2d(3, 6, 1), nn.Conv2d(3, 11, 1)
            self.same = nn.Conv2d(11, 11, 1)
            self.residual = nn.Conv2d(3, 3, 1)
            self.fc = nn.Linear(11, 2)

        def forward(self, x: Tensor) -> Tensor:
            x = x + self.residual(x)
            y = self.whole(x) + torch.cat([self.a(x), self.b(x)], 1)
            return self.fc((y + self.same(y)).mean((2, 3)))

    folded = fold_cnn(Meeting(), 2)
    parts = folded_width(5, 2) + folded_width(6, 2)
    assert parts == 15 == folded_width(11, 2)
    folded = fold_cnn(Meeting(), 3)
    parts = folded_width(5, 3) + folded_width(6, 3)
    assert parts == 18 != folded_width(11, 3)
    assert (folded.whole.out_channels, folded.same.in_channels, folded.same.out_channels) == (parts,) * 3
    assert (folded.residual.in_channels, folded.residual.out_channels) == (9, 9)


def test_groups_keep_their_number_and_widths_become_multiples_of_it() -> None:
    model = nn.Sequential(
        nn.Conv2d(3, 12, 1), nn.Conv2d(12, 18, 3, groups=6), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(18, 2)
    )
    folded = fold_cnn(model, 2)
    assert (folded[1].groups, folded[1].in_channels, folded[1].out_channels) == (6, 18, 24)
    assert folded(torch.randn(2, 6, 8, 8)).shape == (2, 4)


@pytest.mark.parametrize(("f", "multiple_of"), [(0, 1), (1, 0), (-1, 1)])
def test_less_than_one_is_misuse(f: int, multiple_of: int) -> None:
    with pytest.raises(ValueError, match="f and multiple_of must be at least 1, got f="):
        fold_cnn(small(), f, multiple_of=multiple_of)


@pytest.mark.parametrize("value", [2.5, 4.0, "4", True, None])
@pytest.mark.parametrize("name", ["f", "multiple_of"])
def test_what_is_not_a_whole_number_is_misuse(name: str, value: object) -> None:
    with pytest.raises(
        TypeError, match=f"^fold_cnn: {name} must be an int, got {re.escape(repr(value))}; pass a whole"
    ):
        fold_cnn(small(), **{"f": 4, name: value})  # type: ignore[arg-type]


def test_a_model_is_an_instance_of_a_module() -> None:
    with pytest.raises(TypeError, match=r"must be an instance of torch\.nn\.Module, got the class ResNet; make one$"):
        fold_cnn(ResNet, 4)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match=r"must be an instance of torch\.nn\.Module, got dict$"):
        fold_cnn({}, 4)  # type: ignore[arg-type]


def test_a_model_that_cannot_be_copied_is_refused() -> None:
    model = small()
    model.opened = (n for n in range(3))
    with pytest.raises(ModelError, match="Sequential: must be a module that can be copied, got TypeError"):
        fold_cnn(model, 2)


def test_the_package_offers_it_without_loading_torch_at_once() -> None:
    assert specialized.fold_cnn is fold_cnn
    with pytest.raises(AttributeError, match="'specialized' has no attribute 'fold_dnn'"):
        specialized.fold_dnn  # noqa: B018
