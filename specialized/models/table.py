"""The architectures that can be asked for by name. Loads no torch, so that naming and listing them stays cheap."""

from collections.abc import Mapping
from dataclasses import dataclass, replace


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelSpec:
    """An architecture that can be asked for by name."""

    name: str
    target: str  # package.module:Class
    args: Mapping[str, int]  # keyword arguments of the class
    input: tuple[int, int]  # (H, W) unless asked otherwise
    classes: int  # K in its publication; a model is built with the classes of its training


def _noscope(name: str, filters: int, dense: int, layers: int) -> ModelSpec:
    return ModelSpec(
        name=name,
        target="specialized.models.noscope:NoScope",
        args={"filters": filters, "dense": dense, "layers": layers},
        input=(50, 50),
        classes=2,
    )


def _game(name: str, input: tuple[int, int], classes: int, units: int) -> ModelSpec:
    return ModelSpec(
        name=name,
        target="specialized.models.game:Game",
        args={"units": units, "width": 32, "last": 8},
        input=input,
        classes=classes,
    )


def _compound(spec: ModelSpec) -> ModelSpec:
    """What folding is compared with: one step down of compound scaling (EfficientNet, Tan and Le, ICML 2019).

    Width is divided by 1.1 and resolution by 1.15, rounded down. Depth is divided by 1.2 and rounded to the nearest,
    which leaves out one of the 4 to 9 layers that have weights, the last hidden one. (timer3's 9 / 1.2 is rounded up.)
    """
    width, last = ("filters", "dense") if "filters" in spec.args else ("width", "last")
    height, breadth = spec.input
    return replace(
        spec,
        name=f"{spec.name}-compound",
        args={**spec.args, width: spec.args[width] * 10 // 11, last: 0},
        input=(height * 20 // 23, breadth * 20 // 23),
    )


_SMALL = (
    _noscope("coral", 16, 128, 2),
    _noscope("night", 16, 128, 2),
    _noscope("taipei", 64, 32, 2),
    _noscope("roundabout", 32, 32, 4),
    _game("goldnumber-fraction", (22, 52), 11, 1),
    _game("goldnumber-int", (22, 52), 111, 1),
    _game("timer-minutes", (15, 35), 62, 1),
    _game("squad-count", (19, 25), 22, 1),
    _game("coin-count", (17, 40), 15, 1),
    _game("timer3", (22, 30), 27, 2),
)
_RESNET18 = ModelSpec(
    name="resnet18", target="specialized.models.resnet:ResNet18", args={"width": 64}, input=(32, 32), classes=10
)

MODELS: Mapping[str, ModelSpec] = {spec.name: spec for spec in (*_SMALL, _RESNET18, *map(_compound, _SMALL))}
