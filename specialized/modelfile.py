"""The model file: one .safetensors that holds weights and everything needed to use them. Never a pickle.

The card (what the model is, expects and answers) is one JSON document in the file's metadata, so it is read without
torch and without the weights.
"""

import dataclasses
import hashlib
import json
import math
import os
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, get_args

from pydantic import ConfigDict, TypeAdapter, ValidationError
from safetensors import SafetensorError, safe_open

from specialized.errors import ModelError
from specialized.models import MODELS, build
from specialized.objects import search_beside
from specialized.orders import ORDERS, Order

if TYPE_CHECKING:
    from torch import Tensor, nn

Task = Literal["one_of", "any_of"]
Resize = Literal["area", "bilinear", "fast_bilinear", "bicubic", "point"]
Fit = Literal["stretch", "letterbox"]
Ranges = Mapping[str, tuple[float, float]]

_CARD_KEY = "vpipe-model-v1"
_ANY_CARD_KEY = re.compile(r"vpipe-model-v\d+")
_MAX_CARD_BYTES = 16 << 20  # each class has its figures in it
_FEW_VALUES = 10_000_000  # of weights: 40 MB
_OWN_TIMES = 10  # as many values a class of one's own may take while it is made: some of them are not kept


@dataclass(frozen=True, slots=True, kw_only=True)
class Ask:
    """A question that training asked of the label boxes: are there enough boxes of this object?"""

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid", strict=True)

    name: str  # the class that is answered
    object: str  # object_name of the boxes that count
    at_least: int = 1  # boxes
    min_confidence: float = 0.0  # of a box, 0..1

    def __post_init__(self) -> None:
        _must(bool(self.name and self.object), "name and object must not be empty", (self.name, self.object))
        _must(self.at_least >= 1, "at_least must be at least 1", self.at_least)
        _must(0 <= self.min_confidence <= 1, "min_confidence must be in 0..1", self.min_confidence)


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelCard:
    """What a model is, what it expects and what it answers."""

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid", strict=True)

    architecture: str  # name in specialized.models, or package.module:Class
    args: dict[str, object] = field(default_factory=dict)  # keyword arguments of the architecture, JSON values
    fold: int  # f, pictures in a group
    multiple_of: int = 1  # what the widths of inner layers were rounded to multiples of
    order: Order  # how the groups of its training were formed
    input: tuple[int, int]  # (H, W) of a picture
    classes: tuple[str, ...]  # K names, in the order of the scores; one_of models trained on clips end in "none"
    task: Task = "one_of"  # one_of: softmax over the classes; any_of: a sigmoid each
    thresholds: tuple[float, ...] = ()  # any_of: score from which a class is present, one per class
    temperature: float = 1.0  # logits are divided by it, so that scores are as likely as they say
    keep: dict[str, float] = field(default_factory=dict)  # class: score from which `keep: auto` lets a row pass
    resize: Resize = "area"  # how frames become pictures
    fit: Fit = "stretch"
    mean: tuple[float, float, float] = (0.5, 0.5, 0.5)  # RGB, of pictures scaled to 0..1
    std: tuple[float, float, float] = (0.25, 0.25, 0.25)
    step_s: float | None = None  # seconds between successive selected frames in training; None: unknown
    asks: tuple[Ask, ...] = ()  # the questions behind the classes; empty: unknown
    ranges: dict[str, tuple[float, float]] = field(default_factory=dict)  # layer: least and greatest input; 8 bits each
    accuracy: dict[str, object] | None = None  # measured on the stored weights; None: not measured
    training: dict[str, object] = field(default_factory=dict)  # provenance: recipe, footage, versions

    def __post_init__(self) -> None:
        """Raises ValueError for the first field that contradicts itself or another one."""
        k = len(self.classes)
        one_of = self.task == "one_of"
        _must(bool(self.architecture), "architecture must be named", self.architecture)
        _must(self.fold >= 1, "fold must be at least 1", self.fold)
        _must(self.multiple_of >= 1, "multiple_of must be at least 1", self.multiple_of)
        _must(self.order in ORDERS, f"order must be one of {', '.join(ORDERS)}", self.order)
        _must(len(self.input) == 2 and min(self.input) >= 1, "input must be (H, W), each at least 1", self.input)
        _must(k >= 1 and all(self.classes), "classes must be one name or more, none empty", self.classes)
        _must(len(set(self.classes)) == k, "classes must differ", self.classes)
        _must(self.task in get_args(Task), f"task must be one of {', '.join(get_args(Task))}", self.task)
        _must(not one_of or k >= 2, "classes of a one_of model must be two or more", self.classes)
        _must(
            len(self.thresholds) == (0 if one_of else k),
            f"thresholds must be {'empty for one_of' if one_of else f'{k} numbers, one per class'}",
            self.thresholds,
        )
        _must(all(0 <= t <= 1 for t in self.thresholds), "thresholds must be in 0..1", self.thresholds)
        _must(0 < self.temperature < math.inf, "temperature must be a finite number over 0", self.temperature)
        _must(
            set(self.keep) <= set(self.classes) and all(0 <= least <= 1 for least in self.keep.values()),
            "keep must give classes of the model thresholds in 0..1",
            self.keep,
        )
        _must(self.resize in get_args(Resize), f"resize must be one of {', '.join(get_args(Resize))}", self.resize)
        _must(self.fit in get_args(Fit), f"fit must be one of {', '.join(get_args(Fit))}", self.fit)
        _must(len(self.mean) == 3 and all(map(math.isfinite, self.mean)), "mean must be 3 finite numbers", self.mean)
        _must(len(self.std) == 3 and all(0 < s < math.inf for s in self.std), "std must be 3 numbers over 0", self.std)
        step_s = math.inf if self.step_s is None else self.step_s
        _must(step_s > 0, "step_s must be over 0, or null where it is unknown", self.step_s)
        for layer, (low, high) in self.ranges.items():
            _must(-math.inf < low <= 0 <= high < math.inf, f"ranges of {layer} must be finite and hold 0", (low, high))

    @property
    def sought(self) -> tuple[str, ...]:
        """The classes that are looked for: all but the `none` of one_of."""
        return tuple(name for name in self.classes if self.task == "any_of" or name != "none")


def _must(holds: bool, what: str, got: object) -> None:
    if not holds:
        raise ValueError(f"{what}, got {got!r}")


_CARD = TypeAdapter(ModelCard)


def save_model(path: str | os.PathLike[str], card: ModelCard, state_dict: Mapping[str, "Tensor"]) -> None:
    """Writes card and weights to `path`, which holds the old file or the whole new one, whatever happens meanwhile.

    Weights are stored as float16, or as bfloat16 where one is out of float16's range; integers stay as they are.

    Raises:
        ValueError: a weight is not finite, or the card's dicts hold what JSON cannot.
        OSError: the file cannot be written.
    """
    from safetensors.torch import save

    try:
        document = json.dumps(dataclasses.asdict(card), sort_keys=True, allow_nan=False)
    except (TypeError, ValueError) as exc:
        raise ValueError(f"save_model: args, accuracy and training of a card must be JSON values, got {exc}") from exc
    if len(document) > _MAX_CARD_BYTES:
        raise ValueError(f"save_model: a card must fit in {_MAX_CARD_BYTES} bytes of JSON, got {len(document)}")
    content = save({name: _stored(name, t) for name, t in state_dict.items()}, {_CARD_KEY: document})
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with open(temporary, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def _stored(name: str, tensor: "Tensor") -> "Tensor":
    import torch

    tensor = tensor.detach().cpu()
    if not tensor.is_floating_point():
        return tensor.clone().contiguous()
    if not bool(tensor.isfinite().all()):
        raise ValueError(f"save_model: weights must be finite, got NaN or infinity in {name!r}")
    half = tensor.to(torch.float16, copy=True)
    return (half if bool(half.isfinite().all()) else tensor.to(torch.bfloat16)).contiguous()


def read_card(path: str | os.PathLike[str]) -> ModelCard:
    """Reads the card alone: no weights, no torch.

    Raises:
        ModelError: names the file and what is wrong with it.
    """
    path = _existing(path)
    try:
        with safe_open(path, framework="numpy") as file:
            metadata: dict[str, str] = file.metadata() or {}
    except (SafetensorError, OSError) as exc:
        told = "".join(sign if sign.isprintable() else repr(sign)[1:-1] for sign in str(exc))
        raise ModelError(f"{path}: must be a safetensors file, got {told}; use a file that vpipe wrote") from exc
    document = metadata.get(_CARD_KEY)
    if document is None:
        newer = next(filter(_ANY_CARD_KEY.fullmatch, metadata), None)
        if newer:
            raise ModelError(f"{path}: format must be {_CARD_KEY}, got {newer}; it needs a newer vpipe")
        raise ModelError(
            f"{path}: must carry the metadata {_CARD_KEY!r}, got {', '.join(sorted(metadata)) or 'no metadata'}; "
            "plain weights go with a model given as package.module:Class"
        )
    if len(document) > _MAX_CARD_BYTES:
        raise ModelError(f"{path}: the card must be at most {_MAX_CARD_BYTES} bytes, got {len(document)}; save it anew")
    try:
        return _CARD.validate_json(document)
    except ValidationError as exc:
        first = exc.errors(include_url=False)[0]
        keys = [str(key) if str(key).isprintable() else repr(key) for key in first["loc"]]
        where = ".".join(keys) or "card"
        # A check of our own says itself what it got; its input is all that was checked, the whole card mostly.
        own = first["type"] == "value_error"
        told = str(first["ctx"]["error"]) if own else f"{first['msg']}, got {_short(first['input'])}"
        raise ModelError(f"{path}: {where}: {told}; save it anew") from exc


def network(card: ModelCard) -> "nn.Module":
    """Builds the card's architecture with untrained weights, in evaluation mode.

    Raises:
        ModelError: it cannot be built, see `specialized.models.build`.
    """
    return build(
        card.architecture,
        args=card.args,
        classes=len(card.classes),
        fold=card.fold,
        input=card.input,
        multiple_of=card.multiple_of,
    )


def load_model(path: str | os.PathLike[str]) -> tuple[ModelCard, "nn.Module"]:
    """Reads the card, builds its architecture and loads its weights, in float32 on the CPU and in evaluation mode.

    With `ranges` in the card its layers round to 8 bits, see `specialized.quantize`.

    A class of one's own is looked for where Python finds modules, and last beside the model file. If its module lies
    there and another one is found first, the file is refused: it may be a network of the same shapes. So is one that
    names a module of Python's own library, which holds no networks and may do anything when it is imported.

    Raises:
        ModelError: names the file and what is wrong with it.
    """
    card = read_card(path)
    module_name, colon, _ = card.architecture.partition(":")
    if colon and module_name.partition(".")[0] in sys.stdlib_module_names:
        raise ModelError(
            f"{path}: architecture must be a network, got {card.architecture}, of Python's own library; save it anew"
        )
    search_beside(path, card.architecture)
    most = max(_FEW_VALUES, 2 * _values(path))  # of a few too many, the weights that do not fit are named
    try:
        with _at_most(most if card.architecture in MODELS else _OWN_TIMES * most, _values(path)):
            module = network(card)
    except ModelError as exc:
        raise ModelError(f"{path}: {exc}") from exc
    load_weights(module, path)
    if not card.ranges:
        return card, module
    from specialized.quantize import quantized

    try:
        return card, quantized(module, card.ranges)
    except ModelError as exc:
        raise ModelError(f"{path}: {exc}") from exc


def _values(path: str | os.PathLike[str]) -> int:
    """How many the tensors of a file hold, by its header."""
    with safe_open(path, framework="numpy") as file:
        return sum(math.prod(file.get_slice(name).get_shape()) for name in file.keys())  # noqa: SIM118


@contextmanager
def _at_most(most: int, values: int) -> Iterator[None]:
    """Lets a network be made of so many values at most, for a file that holds some: its card may ask for any size."""
    import torch
    from torch.overrides import TorchFunctionMode

    made = 0

    class Counting(TorchFunctionMode):
        def __torch_function__(
            self,
            func: Callable[..., object],
            types: Iterable[type],
            args: tuple[Any, ...] = (),
            kwargs: Mapping[str, object] | None = None,
        ) -> object:
            nonlocal made
            if func is torch.empty and args:  # what layers make their weights of
                made += math.prod(args[0] if isinstance(args[0], tuple | list) else args)
                if made > most:
                    raise ValueError(f"the file holds {values:,} values, and the network {made:,} or more")
            return func(*args, **(kwargs or {}))

    with Counting():
        yield


def load_weights(module: "nn.Module", path: str | os.PathLike[str]) -> None:
    """Loads a state dict into the module: all of its weights and buffers and nothing else.

    Args:
        module: takes the weights in its own dtype.
        path: .safetensors, or .pt/.pth as torch.save wrote a state dict, read with weights_only=True.

    Raises:
        ModelError: names the file and the entries that are missing, superfluous or of another shape.
    """
    import torch
    from safetensors.torch import load_file

    path = _existing(path)
    if path.suffix not in (".safetensors", ".pt", ".pth"):
        raise ModelError(f"{path}: weights must be .safetensors, .pt or .pth, got {path.suffix!r}; convert them")
    try:
        state = load_file(path) if path.suffix == ".safetensors" else torch.load(path, "cpu", weights_only=True)
    except Exception as exc:  # unpickling a damaged file raises anything
        cause = str(exc).partition("\n")[0]
        raise ModelError(f"{path}: weights must be readable, got {cause}; save its state_dict anew") from exc
    others = (
        [type(v).__name__ for v in state.values() if not isinstance(v, torch.Tensor)] if isinstance(state, dict) else []
    )
    if others or not isinstance(state, dict):
        got = f"a dict with {others[0]} in it" if others else type(state).__name__
        raise ModelError(f"{path}: must hold a state dict of tensors, got {got}; save the module's state_dict()")
    expected = {name: tuple(value.shape) for name, value in module.state_dict().items()}
    found = {name: tuple(value.shape) for name, value in state.items()}
    problems = [f"{name} {shape} is missing" for name, shape in expected.items() if name not in found]
    problems += [f"{name} {shape} is superfluous" for name, shape in found.items() if name not in expected]
    problems += [
        f"{name} has shape {found[name]} instead of {shape}"
        for name, shape in expected.items()
        if found.get(name, shape) != shape
    ]
    if problems:
        more = f" and {len(problems) - 3} more" if len(problems) > 3 else ""
        raise ModelError(
            f"{path}: weights must fit the architecture, got: {', '.join(problems[:3])}{more}; "
            "check architecture, args, fold and classes"
        )
    module.load_state_dict(state)


def file_hash(path: str | os.PathLike[str]) -> str:
    """Returns the SHA-256 of the file in hex: the identity of a model."""
    with open(_existing(path), "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _existing(path: str | os.PathLike[str]) -> Path:
    path = Path(path)
    if not os.path.isfile(path):  # Path.is_file raises where a name is too long
        raise ModelError(
            f"{path}: must be a file, got {'a folder' if os.path.isdir(path) else 'nothing'}; check the path"
        )
    return path


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."
