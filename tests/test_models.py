import subprocess
import sys
from pathlib import Path

import pytest
import torch

from specialized.cost import cost
from specialized.errors import ModelError
from specialized.models import MODELS, build

FOREIGN = """
import torch
from torch import nn

class Free(nn.Module):
    def __init__(self, outputs):
        super().__init__()
        self.outputs = outputs
    def forward(self, x):
        return x.mean((2, 3))[:, :1].expand(-1, self.outputs)

class Told(Free):
    def __init__(self, fold, *, classes, input):
        super().__init__(fold * classes)
        self.told = (fold, classes, input)

class Plain(nn.Module):
    def __init__(self, classes, width=8):
        super().__init__()
        self.conv = nn.Conv2d(3, width, 3)
        self.fc = nn.Linear(width, classes)
    def forward(self, x):
        return self.fc(self.conv(x).mean((2, 3)))

class Reshaped(Plain):
    def forward(self, x):
        return self.fc(self.conv(x).mean((2, 3)).view(-1, 8))

class Wrong(Plain):
    def forward(self, x):
        return self.fc(self.conv(x))

class Flat(nn.Module):
    def forward(self, x):
        return x.flatten()[None, :4]

class Failing(nn.Module):
    def __init__(self):
        raise RuntimeError("no such\\nthing")

class NotAModule: ...

def not_a_class(command):
    raise AssertionError("a model file must not call what is no module")

number = 3
"""


@pytest.fixture
def foreign(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "foreign_models.py").write_text(FOREIGN)
    (tmp_path / "broken_models.py").write_text("import nothing_of_this_name")
    monkeypatch.syspath_prepend(tmp_path)


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("f", [1, 2, 3, 4])
def test_named_models_fold(name: str, f: int) -> None:
    size = MODELS[name].input
    with torch.device("meta"):
        module = build(name, args={}, classes=3, fold=f, input=size)
        assert module(torch.zeros(5, 3 * f, *size)).shape == (5, 3 * f)
    assert not module.training


def weights(name: str, f: int, *, classes: int, **args: object) -> list[tuple[int, ...]]:
    """Shapes of all weights without biases and normalization."""
    module = build(name, args=args, classes=classes, fold=f, input=MODELS[name].input)
    return [tuple(p.shape) for p in module.parameters() if p.ndim > 1]


def test_roundabout_has_the_widths_of_its_family() -> None:
    expected = [(45, 6, 3, 3), (45, 45, 3, 3), (90, 45, 3, 3), (90, 90, 3, 3), (45, 90 * 12 * 12), (4, 45)]
    assert weights("roundabout", 2, classes=2) == expected


def test_timer3_has_the_widths_of_its_family() -> None:
    inner = [(55, 55, 3, 3)] * 6
    expected = [(55, 9, 3, 3), *inner, (13, 55, 3, 3), (3 * 27, 13 * 2 * 4)]  # 22x30, 10x14, 8x12, 6x10, 2x4
    assert weights("timer3", 3, classes=27) == expected


def test_widths_of_a_game_can_be_multiples() -> None:
    inner = [(48, 48, 3, 3)] * 3
    expected = [(48, 6, 3, 3), *inner, (8, 48, 3, 3), (2 * 22, 8 * 3 * 4)]
    assert weights("squad-count", 2, classes=22, multiple_of=8) == expected


def test_resnet18_halves_its_picture_three_times_and_doubles_its_width() -> None:
    first = [(128, 12, 3, 3), *[(128, 128, 3, 3)] * 4]
    stages = []
    for inputs, outputs in ((128, 256), (256, 512), (512, 1024)):
        stages += [(outputs, inputs, 3, 3), (outputs, outputs, 3, 3), (outputs, inputs, 1, 1)]
        stages += [(outputs, outputs, 3, 3)] * 2
    assert weights("resnet18", 4, classes=10) == [*first, *stages, (40, 1024)]
    with torch.device("meta"):
        module = build("resnet18", args={}, classes=10, fold=1, input=(32, 32))
        blocks = module.get_submodule("blocks")(torch.zeros(1, 64, 32, 32))
    assert blocks.shape == (1, 512, 4, 4)


def test_resnet18_takes_pictures_of_other_sizes_and_other_widths() -> None:
    module = build("resnet18", args={"width": 4, "multiple_of": 8}, classes=3, fold=2, input=(28, 40))
    assert next(module.parameters()).shape == (8, 6, 3, 3)


def test_a_compound_scaled_model_is_smaller_and_one_layer_shallower() -> None:
    assert MODELS["coral-compound"].input == (43, 43)
    assert weights("coral-compound", 1, classes=2) == [(14, 3, 3, 3), (14, 14, 3, 3), (2, 14 * 21 * 21)]
    assert MODELS["coin-count-compound"].input == (14, 34)
    inner = [(29, 29, 3, 3)] * 3
    assert weights("coin-count-compound", 1, classes=15) == [(29, 3, 3, 3), *inner, (15, 29 * 4 * 14)]


@pytest.mark.parametrize("name", [name for name in MODELS if name.endswith("-compound")])
def test_compound_scaling_takes_flops_and_with_them_intensity(name: str) -> None:
    with torch.device("meta"):
        scaled, full = (
            cost(build(spec.name, args={}, classes=spec.classes, fold=1, input=spec.input), fold=1, input=spec.input)
            for spec in (MODELS[name], MODELS[name.removesuffix("-compound")])
        )
    assert 0.48 < scaled.flops_per_picture / full.flops_per_picture < 0.68
    assert scaled.intensity < 0.98 * full.intensity


def test_arguments_override_those_of_the_name() -> None:
    module = build("coral", args={"filters": 4}, classes=2, fold=1, input=(32, 48))
    assert next(module.parameters()).shape[0] == 4


@pytest.mark.usefixtures("foreign")
def test_a_class_of_ones_own_is_told_fold_classes_and_input_where_it_asks() -> None:
    module = build("foreign_models:Told", args={}, classes=2, fold=4, input=(8, 9))
    assert module.told == (4, 2, (8, 9))
    build("foreign_models:Free", args={"outputs": 8}, classes=2, fold=4, input=(8, 9))


@pytest.mark.parametrize("name", MODELS)
def test_named_models_round_their_widths_where_asked(name: str) -> None:
    spec = MODELS[name]
    module = build(name, args={}, classes=2, fold=2, input=spec.input, multiple_of=8)
    widths = [len(value) for key, value in module.state_dict().items() if key.endswith("weight")]
    assert widths[-1] == 4
    assert [width for width in widths[:-1] if width % 8] == []


@pytest.mark.usefixtures("foreign")
def test_a_class_that_knows_nothing_of_folding_is_folded() -> None:
    torch.manual_seed(5)
    module = build("foreign_models:Plain", args={"width": 10}, classes=2, fold=4, input=(8, 9), multiple_of=8)
    torch.manual_seed(5)
    again = build("foreign_models:Plain", args={"width": 10}, classes=2, fold=4, input=(8, 9), multiple_of=8)
    assert {name: tuple(value.shape) for name, value in module.state_dict().items()} == {
        "conv.weight": (24, 12, 3, 3),
        "conv.bias": (24,),
        "fc.weight": (8, 24),
        "fc.bias": (8,),
    }
    assert not module.training
    assert all(torch.equal(value, again.state_dict()[name]) for name, value in module.state_dict().items())
    assert build("foreign_models:Plain", args={}, classes=2, fold=1, input=(8, 9)).fc.in_features == 8


@pytest.mark.usefixtures("foreign")
def test_a_class_that_folds_itself_must_round_its_own_widths() -> None:
    with pytest.raises(ModelError, match="foreign_models:Told: must have a parameter multiple_of, got 8 for a class"):
        build("foreign_models:Told", args={}, classes=2, fold=4, input=(8, 9), multiple_of=8)
    with pytest.raises(ModelError, match="foreign_models:Free: must have a parameter multiple_of, got 8 for a class"):
        build("foreign_models:Free", args={"outputs": 8}, classes=2, fold=4, input=(8, 9), multiple_of=8)


@pytest.mark.usefixtures("foreign")
@pytest.mark.parametrize(
    ("architecture", "args", "message"),
    [
        ("corall", {}, "corall: must be a name that `vpipe models` lists, or package.module:Class; did you .*'coral'"),
        ("vgg", {}, "package.module:Class; correct the name"),
        ("missing_models:A", {}, "module 'missing_models' must be importable"),
        ("broken_models:A", {}, "No module named 'nothing_of_this_name'"),
        ("foreign_models:Fre", {}, "must define 'Fre', got none of that name; did you mean 'Free'"),
        ("foreign_models:number", {}, "must be a class or function, got int"),
        ("foreign_models:NotAModule", {}, "must be a subclass of torch.nn.Module, got <class"),
        ("foreign_models:not_a_class", {"command": "true"}, "must be a subclass of torch.nn.Module, got <function"),
        ("os:system", {"command": "true"}, "must be a subclass of torch.nn.Module, got <built-in"),
        ("foreign_models:Failing", {}, "must be constructible with {}, got RuntimeError: no such thing"),
        ("foreign_models:Free", {}, "missing 1 required positional argument: 'outputs'"),
        (
            "foreign_models:Free",
            {"outputs": 7},
            r"Free: must give 2 outputs for input \(2, 3, 8, 9\), .*, got 7; change",
        ),
        ("foreign_models:Plain", {"classes": 5}, r"Plain: must give 2 outputs for input \(2, 3, .*, got 5; change"),
        ("foreign_models:Told", {"classes": 3}, r"Told: must give 8 outputs for input \(2, 12, 8, 9\), .*, got 12"),
        ("foreign_models:Flat", {}, r"must map float32 \(2, 3, 8, 9\) to \(2, 2\), got \(1, 4\); change"),
        ("torch.nn:Linear", {"in_features": 3, "out_features": 8}, r"if it folds itself, it must map .*\(2, 12, 8"),
        ("foreign_models:Reshaped", {}, "Reshaped: must take sizes from tensors, got the fixed number 8"),
        ("foreign_models:Wrong", {}, r"Wrong: must map float32 \(2, 3, 8, 9\) to \(2, 2\), got Runtime"),
        ("coral", {"layers": 3}, "layers must be 2 or 4, got 3"),
        ("coral", {"filters": 0}, "filters=0"),
        ("coral", {"dense": -1}, "dense at least 0 .* dense=-1"),
        ("timer3", {}, r"input at least 15 a side, got .*input=\(8, 9\)"),
        ("timer3", {"units": 0}, "units=0"),
        ("resnet18", {"width": 0}, "width=0"),
        ("coral", {"colour": 1}, "unexpected keyword argument 'colour'"),
    ],
)
def test_what_cannot_be_built_is_named_in_one_line(architecture: str, args: dict[str, object], message: str) -> None:
    with pytest.raises(ModelError, match=message) as raised:
        build(architecture, args=args, classes=2, fold=4, input=(8, 9))
    assert "\n" not in str(raised.value)
    assert str(raised.value).startswith(f"{architecture}: ")


@pytest.mark.parametrize(("name", "gain", "zero_biases"), [("coral", 1.0, False), ("squad-count", 2**0.5, True)])
def test_each_family_starts_from_the_weights_it_was_measured_with(name: str, gain: float, zero_biases: bool) -> None:
    spec = MODELS[name]
    module = build(name, args={}, classes=spec.classes, fold=4, input=spec.input)
    convolutions = [layer for layer in module.modules() if isinstance(layer, torch.nn.Conv2d)]
    for layer in convolutions:
        bound = gain * (6 / (9 * (layer.in_channels + layer.out_channels))) ** 0.5
        assert 0.95 * bound < float(layer.weight.detach().abs().max()) <= bound * (1 + 1e-6)
        assert bool((layer.bias == 0).all()) == zero_biases


def test_listing_models_does_not_load_torch() -> None:
    code = "import sys, specialized.models as m; assert m.MODELS; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
