"""Runs a network's own `forward` on stand-ins and gathers what its layers must become."""

import copy
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from specialized.errors import ModelError
from specialized.foldcnn.functions import CREATE, FUNCTIONS, elementwise, same
from specialized.foldcnn.layers import PLAIN, WEIGHTED, Use
from specialized.foldcnn.layout import created
from specialized.foldcnn.traced import Overall, Traced, stand_ins
from specialized.foldcnn.widths import Atom, Batch, Channels, Folding, Space, UnfoldableError, channels, unify
from specialized.objects import OWN_CODE, one_line

Rule = TypeVar("Rule")

_NO_LAYER = "a function with weights of its own; make it a layer of torch.nn"
_PRODUCT = "a product of activations, which says nothing of widths; fold the class by hand"
_REARRANGED = "positions made of channels or the other way round; fold the class by hand"
_DIVIDED = "channels divided by fixed numbers; use chunk"
_VALUES = "a result that depends on a tensor's values; leave it out, or decide in __init__"
_SEQUENCE = "a pass over a sequence, for which folding has no order; use convolutions and dense layers"
_UNKNOWN = "something folding has no rule for; use other layers, or fold the class by hand"
_WHAT: Mapping[str, str] = {
    name: what
    for names, what in {
        "conv1d conv2d conv3d conv_transpose1d conv_transpose2d conv_transpose3d linear bilinear": _NO_LAYER,
        "batch_norm group_norm instance_norm layer_norm rms_norm prelu": _NO_LAYER,
        "matmul bmm mm einsum baddbmm scaled_dot_product_attention multi_head_attention_forward": _PRODUCT,
        "MultiheadAttention Transformer TransformerEncoder TransformerEncoderLayer Bilinear": _PRODUCT,
        "pixel_shuffle pixel_unshuffle PixelShuffle PixelUnshuffle channel_shuffle ChannelShuffle": _REARRANGED,
        "fold unfold unflatten Fold Unfold Unflatten": _REARRANGED,
        "split tensor_split narrow index_select": _DIVIDED,
        "all any item nonzero numpy tolist": _VALUES,
        "GRU LSTM RNN": _SEQUENCE,
    }.items()
    for name in names.split()
}


@dataclass(frozen=True, slots=True)
class Bare:
    """A parameter, buffer or tensor that `forward` uses without a layer."""

    owner: nn.Module
    attribute: str
    axes: tuple[Channels | Space, ...]


class Tracing:
    """A traced copy of a network, whose widths can be changed.

    Args:
        model: copied, and left as it is.

    Raises:
        ModelError: it cannot be copied, or its forward does what cannot be folded.
    """

    def __init__(self, model: nn.Module) -> None:
        try:
            self.network = network = copy.deepcopy(model)
        except Exception as exc:  # the user's modules may hold anything
            raise ModelError(
                f"{type(model).__name__}: must be a module that can be copied, got {one_line(exc)}; make it anew"
            ) from exc
        self.names = {module: name for name, module in network.named_modules()}
        self.picture = Atom(None, "picture")
        self.uses: dict[nn.Module, tuple[str, Use]] = {}
        self.bare: dict[int, tuple[str, Bare]] = {}
        self._mixed: list[tuple[str, Channels, str, str]] = []
        self._stack: list[nn.Module] = []
        self._tensors = {id(t): (m, name) for m in self.names for name, t in _tensors_of(m)}
        like = next(network.parameters(), torch.empty(0))
        self.dtype, self.device = like.dtype, like.device
        self._refuse_odd_weights()
        self._run()

    def resize(self, folding: Folding) -> None:
        """Gives the layers their new widths and new weights."""
        for where, use in self.uses.values():
            try:
                use.resize(folding)
            except UnfoldableError as exc:
                raise ModelError(f"{where}: {exc}") from exc
        for where, bare in self.bare.values():
            _resize(where, bare, folding)

    def _run(self) -> None:
        """Passes a stand-in for folded pictures through the network, once as in training and once as in use."""
        modes = [(module, module.training) for module in self.names]
        with self._watched():
            for training in (True, False):
                self.network.train(training)
                try:
                    output = self.network(Traced(self, (Batch(), channels(self.picture), Space(), Space())))
                finally:
                    for module, mode in modes:
                        module.training = mode
                with self._named():
                    self._answer(output)
        for where, axis, how, cure in self._mixed:
            if any(atom.kind == "picture" for atom in axis.atoms()):
                raise ModelError(
                    f"{where}: must keep the pictures of a group apart, got {how} over the channels or answers of all "
                    f"of them; {cure}"
                )
        for module in self.names:
            own = [key for key, tensor in _tensors_of(module) if isinstance(tensor, nn.Parameter)]
            own = [key for key in own if id(getattr(module, key)) not in self.bare]
            if module not in self.uses and own:
                raise ModelError(
                    f"{self._where(module)}: must be used by forward, so that its new widths are known, got a layer "
                    "that is not; remove it"
                )

    def call(self, name: str, *arguments: Any, **options: Any) -> object:
        """Answers a function or method of torch."""
        with self._named():
            name = name.strip("_")
            rule = FUNCTIONS.get(name)
            given = [x for x in stand_ins([*arguments, *options.values()]) if isinstance(x, Traced)]
            if any(isinstance(x, Overall) for x in given) and name not in _WHAT:
                if rule not in (elementwise, same) or not all(isinstance(x, Overall) for x in given):
                    raise UnfoldableError("must name the axes that are reduced, got none; write x.mean((2, 3))")
                return Overall(self)
            if name in CREATE:
                return Traced(self, created(*arguments))
            if rule is None:
                own = " with " + " and ".join(w) if (w := self._owned(arguments, options)) else ""
                raise UnfoldableError(f"must be foldable, got {name}(){own}: {_WHAT.get(name, _UNKNOWN)}")
            args = [self._stand_in(a) for a in arguments]
            return rule(*args, **{key: self._stand_in(value) for key, value in options.items()})

    def mixes(self, axis: Channels, how: str, cure: str = "leave it out") -> None:
        """All channels of the axis are brought together, which must not happen to those of pictures."""
        self._mixed.append((self._here(), axis, how, cure))

    def _answer(self, output: object) -> None:
        """Learns which channels are the network's answers."""
        if not isinstance(output, Traced):
            raise UnfoldableError(f"must return one tensor, got {type(output).__name__}; return the logits alone")
        axes = output.axes
        if len(axes) < 2 or not isinstance(axes[0], Batch) or not isinstance(axes[1], Channels):
            raise UnfoldableError(f"must return (batch, classes), got {output}; let a layer make the logits")
        atoms = axes[1].atoms()
        if len(atoms) > 1:
            raise UnfoldableError(
                f"must end in one layer that makes all answers, got {len(atoms)} that are joined; make them one"
            )
        atoms[0].join(Atom(atoms[0].width, "picture"))

    def _layer(
        self, rule: Callable[[Any, Traced], Use], layer: nn.Module, x: Traced, *_: object, **__: object
    ) -> Traced:
        if not isinstance(x, Traced):
            raise UnfoldableError(f"must be given what comes from the pictures, got {type(x).__name__}; leave it out")
        if {name for name, _ in layer.named_parameters(recurse=False)} - {"weight", "bias"} or list(layer.children()):
            raise UnfoldableError(
                "must have weight and bias alone, got a parametrization of them; add it after folding"
            )
        use = rule(layer, x)
        first = self.uses.setdefault(layer, (self._here(), use))[1]
        for now, then in zip(use.axes, first.axes, strict=True):
            unify(then, now)
        return x.like(use.shape)

    def _stand_in(self, value: Any) -> Any:
        """The stand-in for a tensor of the network's own among the arguments of a function."""
        if isinstance(value, tuple | list) and any(isinstance(v, Tensor) for v in value):
            return type(value)(self._stand_in(v) for v in value)
        if not isinstance(value, Tensor):
            return value
        shape = tuple(value.shape)
        owner, attribute = self._tensors.get(id(value), (None, ""))
        if owner is None and value.numel() == 1:
            return Traced(self, (Space(1),) * len(shape))
        if owner is None:
            raise UnfoldableError(
                f"must take tensors as they are stored, got one of shape {shape} that forward makes; register it as a "
                "buffer of shape (1, C, 1, 1)"
            )
        where = self._tensor_name(owner, attribute)
        if _rule_of(owner, WEIGHTED) or sum(n > 1 for n in shape) > 1:
            raise UnfoldableError(
                f"must use tensors of its own along the channels alone, got {where} of shape {shape}; use a layer of "
                "torch.nn"
            )
        new = Bare(owner, attribute, tuple(Space(1) if n == 1 else channels(Atom(n)) for n in shape))
        _, bare = self.bare.setdefault(id(value), (where, new))
        return Traced(self, bare.axes)

    def _owned(self, arguments: tuple[object, ...], options: dict[str, object]) -> list[str]:
        """The names of the network's own tensors among the arguments of a function."""
        owners = [self._tensors[id(a)] for a in (*arguments, *options.values()) if id(a) in self._tensors]
        return [self._tensor_name(*owner) for owner in owners]

    def _tensor_name(self, owner: nn.Module, attribute: str) -> str:
        return ".".join(filter(None, (self.names[owner], attribute)))

    # ------------------------------------------------------------------------------------------------- places

    @contextmanager
    def _watched(self) -> Iterator[None]:
        """Within it the layers answer stand-ins, and what goes wrong is told with the name of the module."""
        before = {module: module.__dict__.get("forward") for module in self.names}
        for module in self.names:
            module.forward = partial(self._forward, module, self._answering(module))
        try:
            yield
        finally:
            for module, forward in before.items():
                del module.forward
                if forward is not None:
                    module.forward = forward

    def _answering(self, module: nn.Module) -> Callable[..., Any]:
        """What a module does to stand-ins: by its rule if it is a layer of torch's, else by its own forward."""
        weighted, plain = _rule_of(module, WEIGHTED), _rule_of(module, PLAIN)
        if weighted is not None:
            return partial(self._layer, weighted, module)
        if plain is not None:
            return partial(plain, module)
        torchs_own = _forward_of(type(module)).__module__.startswith("torch.nn.")
        if torchs_own and not isinstance(module, nn.Sequential):
            return partial(self._refused, module)
        return module.forward

    def _refused(self, module: nn.Module, *_: object, **__: object) -> None:
        kind = type(module).__name__
        raise UnfoldableError(f"must be foldable, got {kind}: {_WHAT.get(kind, _UNKNOWN)}")

    def _forward(self, module: nn.Module, forward: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        self._stack.append(module)
        try:
            with self._named():
                return forward(*args, **kwargs)
        finally:
            self._stack.pop()

    @contextmanager
    def _named(self) -> Iterator[None]:
        try:
            yield
        except ModelError:
            raise
        except UnfoldableError as exc:
            raise ModelError(f"{self._here()}: {exc}") from exc
        except OWN_CODE as exc:  # the user's forward may raise anything
            raise ModelError(
                f"{self._here()}: must run on any input, got {one_line(exc)}; use layers and functions of torch alone"
            ) from exc

    def _here(self) -> str:
        return self._where(self._stack[-1] if self._stack else self.network)

    def _where(self, module: nn.Module) -> str:
        kind, name = type(module).__name__, self.names[module]
        return f"{name} ({kind})" if name else kind

    def _refuse_odd_weights(self) -> None:
        owners: dict[int, nn.Module] = {}
        for module in self.names:
            if isinstance(module, torch.jit.ScriptModule):
                raise ModelError(f"{self._where(module)}: must be Python code, got TorchScript; fold before scripting")
            for key, tensor in _tensors_of(module):
                if isinstance(tensor, nn.UninitializedParameter | nn.UninitializedBuffer):
                    raise ModelError(
                        f"{self._where(module)}: must have its shape, got a lazy layer that has none yet; run the "
                        "network once on pictures"
                    )
                other = owners.setdefault(id(tensor), module)
                if other is not module:
                    raise ModelError(
                        f"{self._where(module)}: must have weights of its own, got the {key} of {self._where(other)}; "
                        "use the layer itself twice"
                    )


def _tensors_of(module: nn.Module) -> list[tuple[str, Tensor]]:
    """Parameters, buffers and other tensors among the module's own attributes."""
    found = [*module._parameters.items(), *module._buffers.items(), *vars(module).items()]
    return [(name, value) for name, value in found if isinstance(value, Tensor)]


def _rule_of(module: nn.Module, rules: Mapping[type[nn.Module], Rule]) -> Rule | None:
    """The rule for a layer of torch's, also for a class derived from it that keeps its forward."""
    base = next((cls for cls in type(module).__mro__ if cls in rules), None)
    return rules[base] if base and _forward_of(type(module)) is _forward_of(base) else None


def _forward_of(kind: type[nn.Module]) -> Callable[..., Any]:
    return vars(next(cls for cls in kind.__mro__ if "forward" in vars(cls)))["forward"]  # type: ignore[no-any-return]


def _resize(where: str, bare: Bare, folding: Folding) -> None:
    """Repeats a tensor along the channels of pictures; elsewhere only one that is the same everywhere can grow."""
    old: Tensor = getattr(bare.owner, bare.attribute)
    new = old.detach()
    for dim, axis in enumerate(bare.axes):
        if not isinstance(axis, Channels) or folding.width(axis) == old.shape[dim]:
            continue
        if all(atom.kind == "picture" for atom in axis.atoms()):
            new = torch.cat([new] * folding.f, dim)
        elif bool((new == new.flatten()[0]).all()):
            new = new.flatten()[:1].expand([folding.width(axis) if n > 1 else 1 for n in old.shape]).clone()
        else:
            raise ModelError(
                f"{where}: must be one value or lie along the channels of pictures, got {tuple(old.shape)} values on "
                "inner channels; use a layer of torch.nn"
            )
    parameter = isinstance(old, nn.Parameter)
    setattr(bare.owner, bare.attribute, nn.Parameter(new, old.requires_grad) if parameter else new)
