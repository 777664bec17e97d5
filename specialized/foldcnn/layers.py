"""What layers of torch do to the axes of a traced tensor, and how each takes its new widths.

Layers keep everything but their widths. Their weights are drawn anew, by the layer's own rule.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from math import lcm
from typing import Any

from torch import Tensor, nn

from specialized.foldcnn import functions, layout
from specialized.foldcnn.traced import Traced
from specialized.foldcnn.widths import Atom, Channels, Folding, Part, Positions, Shape, Space, UnfoldableError, channels

Layout = tuple[Channels | None, ...]  # None: an axis that folding leaves alone


@dataclass(frozen=True, slots=True)
class Use:
    """What a call of a layer shows. Later calls of it must agree with the first."""

    shape: Shape  # of the result
    axes: tuple[Channels, ...]  # that decide the layer's new widths
    resize: Callable[[Folding], None]
    tensors: Mapping[str, Layout]  # the axes of its tensors; those of grouped convolutions have none


def channels_at(x: Traced, at: int, rank: int | None = None) -> Channels:
    """The channel axis of a layer's input."""
    axis = x.axes[at] if -len(x.axes) <= at < len(x.axes) else None
    if not isinstance(axis, Channels) or rank not in (None, len(x.axes)):
        raise UnfoldableError(f"must be given channels at axis {at}, got {x}; permute or flatten before")
    return axis


def renew(layer: nn.Module, **shapes: tuple[int, ...]) -> None:
    """Gives the layer's tensors new shapes, and values by its own rule."""
    for name, shape in shapes.items():
        old = getattr(layer, name, None)
        if isinstance(old, nn.Parameter):
            setattr(layer, name, nn.Parameter(old.new_empty(shape), requires_grad=old.requires_grad))
        elif isinstance(old, Tensor):
            setattr(layer, name, old.new_empty(shape))
    reset: Any = layer.reset_parameters
    reset()


# ------------------------------------------------------------------------------------------ layers with weights


def conv(layer: Any, x: Traced) -> Use:
    """Convolutions, transposed ones too."""
    n = layer.weight.dim() - 2
    inputs = channels_at(x, 1, n + 2)
    inputs.measure(layer.in_channels)
    groups, transposed = layer.groups, layer.transposed
    depthwise = groups == layer.in_channels > 1
    if any(not isinstance(axis, Space) for axis in x.axes[2:]):
        raise UnfoldableError(f"must slide over height and width, got {x}; permute before")
    if depthwise:  # one filter or more for each channel, next to each other in the output
        per_channel = layer.out_channels // groups
        outputs = Channels(
            tuple(Part(p.atom, Positions((p.positions.count or 1) * per_channel)) for p in inputs.standing())
        )
    else:
        outputs = channels(Atom(layer.out_channels, multiple=groups))
        for atom in inputs.atoms():
            atom.multiple = lcm(atom.multiple, groups if (atom.width or 0) % groups == 0 else 1)

    def resize(folding: Folding) -> None:
        ins, outs = folding.width(inputs), folding.width(outputs)
        layer.in_channels, layer.out_channels = ins, outs
        layer.groups = ins if depthwise else groups
        if ins % layer.groups or outs % layer.groups:
            raise UnfoldableError(
                f"must have widths that its {groups} groups divide, got {ins} and {outs}; choose wider layers or a "
                "number of groups that divides every map"
            )
        rows, columns = (ins, outs) if transposed else (outs, ins)
        renew(layer, weight=(rows, columns // layer.groups, *layer.kernel_size), bias=(outs,))

    unpadded = layer.padding in ("same", "valid", (0,) * n)
    pointwise = set(layer.kernel_size) == set(layer.stride) == {1} and unpadded
    spaces = x.axes[2:] if pointwise else (Space(),) * n
    first, second = (inputs, outputs) if transposed else (outputs, inputs)
    tensors: dict[str, Layout] = {"bias": (outputs,)}
    if depthwise or groups == 1:
        tensors["weight"] = (first, None if depthwise else second, *(None,) * n)
    return Use((x.axes[0], outputs, *spaces), (inputs, outputs), resize, tensors)


def linear(layer: Any, x: Traced) -> Use:
    """Dense layers, along the last axis."""
    inputs, outputs = channels_at(x, -1), channels(Atom(layer.out_features))
    inputs.measure(layer.in_features)

    def resize(folding: Folding) -> None:
        layer.in_features, layer.out_features = folding.width(inputs), folding.width(outputs)
        renew(layer, weight=(layer.out_features, layer.in_features), bias=(layer.out_features,))

    tensors: dict[str, Layout] = {"weight": (outputs, inputs), "bias": (outputs,)}
    return Use((*x.axes[:-1], outputs), (inputs, outputs), resize, tensors)


def norm(layer: Any, x: Traced) -> Use:
    """Batch and instance normalisation: each channel by itself."""
    axis = channels_at(x, 1)
    axis.measure(layer.num_features)

    def resize(folding: Folding) -> None:
        layer.num_features = width = folding.width(axis)
        renew(layer, weight=(width,), bias=(width,), running_mean=(width,), running_var=(width,))

    names = ("weight", "bias", "running_mean", "running_var")
    return Use(x.axes, (axis,), resize, dict.fromkeys(names, (axis,)))


def group_norm(layer: Any, x: Traced) -> Use:
    """Group normalisation; a group for each channel stays that."""
    axis = channels_at(x, 1)
    axis.measure(layer.num_channels)
    single = layer.num_groups == layer.num_channels
    if not single:
        x.mixes(axis, "a normalisation")
        for atom in axis.atoms():
            atom.multiple = lcm(atom.multiple, layer.num_groups if (atom.width or 0) % layer.num_groups == 0 else 1)

    def resize(folding: Folding) -> None:
        layer.num_channels = width = folding.width(axis)
        layer.num_groups = width if single else layer.num_groups
        if width % layer.num_groups:
            raise UnfoldableError(
                f"must have a width that its {layer.num_groups} groups divide, got {width}; choose a number of groups "
                "that divides every map"
            )
        renew(layer, weight=(width,), bias=(width,))

    return Use(x.axes, (axis,), resize, dict.fromkeys(("weight", "bias"), (axis,)))


def layer_norm(layer: Any, x: Traced) -> Use:
    """Normalisation over the last axes."""
    shape = layer.normalized_shape
    axes = x.axes[len(x.axes) - len(shape) :]
    wide = tuple(axis for axis in axes if isinstance(axis, Channels))
    for axis, size in zip(axes, shape, strict=True):
        if isinstance(axis, Channels):
            axis.measure(size)
            x.mixes(axis, "a normalisation")

    def resize(folding: Folding) -> None:
        sizes = zip(axes, shape, strict=True)
        new = tuple(folding.width(axis) if isinstance(axis, Channels) else size for axis, size in sizes)
        layer.normalized_shape = new
        renew(layer, weight=new, bias=new)

    layout = tuple(axis if isinstance(axis, Channels) else None for axis in axes)
    return Use(x.axes, wide, resize, dict.fromkeys(("weight", "bias"), layout))


def prelu(layer: Any, x: Traced) -> Use:
    """A slope for each channel, or one for all."""
    if layer.num_parameters == 1:
        return Use(x.axes, (), lambda folding: renew(layer), {"weight": (None,)})
    axis = channels_at(x, 1)
    axis.measure(layer.num_parameters)

    def resize(folding: Folding) -> None:
        layer.num_parameters = folding.width(axis)
        renew(layer, weight=(layer.num_parameters,))

    return Use(x.axes, (axis,), resize, {"weight": (axis,)})


WEIGHTED: Mapping[type[nn.Module], Callable[[Any, Traced], Use]] = {
    **dict.fromkeys((nn.Conv1d, nn.Conv2d, nn.Conv3d), conv),
    **dict.fromkeys((nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d), conv),
    **dict.fromkeys((nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm), norm),
    **dict.fromkeys((nn.InstanceNorm1d, nn.InstanceNorm2d, nn.InstanceNorm3d), norm),
    nn.Linear: linear,
    nn.GroupNorm: group_norm,
    nn.LayerNorm: layer_norm,
    nn.RMSNorm: layer_norm,
    nn.PReLU: prelu,
}

# --------------------------------------------------------------------------------------- layers without weights


def _pool(layer: Any, x: Traced, *, n: int) -> Traced:
    return functions.pooled(x, n=n, return_indices=getattr(layer, "return_indices", False))


def _adaptive(layer: Any, x: Traced, *, n: int) -> Traced:
    return functions.adaptive(x, layer.output_size, n=n, return_indices=getattr(layer, "return_indices", False))


PLAIN: Mapping[type[nn.Module], Callable[[Any, Traced], object]] = {
    **dict.fromkeys(
        (
            *(nn.Identity, nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.ELU, nn.SELU, nn.CELU, nn.GELU, nn.SiLU, nn.Mish),
            *(nn.Sigmoid, nn.Tanh, nn.Hardswish, nn.Hardsigmoid, nn.Hardtanh, nn.Softplus, nn.Softsign, nn.Threshold),
            *(nn.LogSigmoid, nn.Tanhshrink, nn.Softshrink, nn.Hardshrink, nn.RReLU),
            *(nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d, nn.AlphaDropout, nn.FeatureAlphaDropout),
        ),
        lambda layer, x: x,
    ),
    **dict.fromkeys((nn.MaxPool1d, nn.AvgPool1d, nn.LPPool1d), partial(_pool, n=1)),
    **dict.fromkeys((nn.MaxPool2d, nn.AvgPool2d, nn.LPPool2d), partial(_pool, n=2)),
    **dict.fromkeys((nn.MaxPool3d, nn.AvgPool3d), partial(_pool, n=3)),
    **dict.fromkeys((nn.AdaptiveAvgPool1d, nn.AdaptiveMaxPool1d), partial(_adaptive, n=1)),
    **dict.fromkeys((nn.AdaptiveAvgPool2d, nn.AdaptiveMaxPool2d), partial(_adaptive, n=2)),
    **dict.fromkeys((nn.AdaptiveAvgPool3d, nn.AdaptiveMaxPool3d), partial(_adaptive, n=3)),
    **dict.fromkeys(
        (nn.Upsample, nn.UpsamplingBilinear2d, nn.UpsamplingNearest2d), lambda layer, x: functions.resized(x)
    ),
    **dict.fromkeys(
        (nn.ZeroPad2d, nn.ConstantPad2d, nn.ReflectionPad2d, nn.ReplicationPad2d, nn.CircularPad2d),
        lambda layer, x: functions.pad(x, layer.padding),
    ),
    **dict.fromkeys((nn.Softmax, nn.LogSoftmax, nn.Softmin), lambda layer, x: functions.softmax(x, layer.dim)),
    nn.Softmax2d: lambda layer, x: functions.softmax(x, 1),
    nn.LocalResponseNorm: lambda layer, x: functions.along(x, 1),
    nn.Flatten: lambda layer, x: layout.flatten(x, layer.start_dim, layer.end_dim),
}
