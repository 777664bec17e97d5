"""What functions and methods of torch do to the axes of a traced tensor.

A function that is not in `FUNCTIONS` is refused: folding does not guess.
"""

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import TypeAlias

from specialized.foldcnn import layout
from specialized.foldcnn.traced import Overall, Size, Traced
from specialized.foldcnn.widths import (
    Atom,
    Axis,
    Batch,
    Channels,
    Shape,
    Space,
    UnfoldableError,
    channels,
    unify,
)

Answer: TypeAlias = object  # a Traced, or a tuple with some
Dims: TypeAlias = int | tuple[int, ...] | list[int]


def elementwise(*arguments: object, **options: object) -> Traced:
    """Arithmetic, activations and comparisons; numbers among the arguments are as wide as need be."""
    traced = [a for a in (*arguments, *options.values()) if isinstance(a, Traced)]
    return traced[0].meet(*(x.axes for x in traced))


def same(input: Traced, *_: object, **__: object) -> Traced:
    """What leaves all axes as they are."""
    return input


def softmax(input: Traced, dim: int | None = None, *_: object, **__: object) -> Traced:
    """Softmax and its kind along one axis."""
    axis = input.axes[1 if dim is None else dim]
    if isinstance(axis, Channels):
        input.mixes(axis, "a softmax")
    return input


def along(input: Traced, dim: int) -> Traced:
    """Other normalisation along one axis."""
    axis = input.axes[dim]
    if isinstance(axis, Channels):
        input.mixes(axis, "a normalisation")
    return input


def reduce(
    input: Traced,
    dim: Dims | None = None,
    keepdim: bool = False,
    *_: object,
    axis: Dims | None = None,
    keepdims: bool = False,
    **__: object,
) -> Traced:
    """Mean, sum and the like over some axes, or over all."""
    wanted = dim if axis is None else axis
    if wanted is None or isinstance(wanted, bool):
        return Overall(input.of)
    dims = {d % len(input.axes) for d in ((wanted,) if isinstance(wanted, int) else wanted)}
    kept: list[Axis] = []
    for place, before in enumerate(input.axes):
        if place not in dims:
            kept.append(before)
            continue
        if isinstance(before, Batch):
            raise UnfoldableError("must keep the batch, got it reduced; every group is by itself")
        if isinstance(before, Channels):
            input.mixes(before, "a sum or mean")
        if keepdim or keepdims:
            kept.append(channels(Atom(1, "fixed")) if isinstance(before, Channels) else Space(1))
    return input.like(tuple(kept))


def extreme(input: Traced, other: object = None, *arguments: object, **options: object) -> Answer:
    """max and min: of two tensors, over an axis, then with the places, or over all."""
    if isinstance(other, Traced):
        return elementwise(input, other)
    found = reduce(input, *(() if other is None else (other,)), *arguments, **options)  # type: ignore[arg-type]
    return found if isinstance(found, Overall) else Extreme((found, found))


class Extreme(tuple[Traced, Traced]):
    """What max over an axis returns."""

    @property
    def values(self) -> Traced:
        return self[0]


def pooled(
    input: Traced, kernel_size: object = None, *_: object, n: int = 2, return_indices: bool = False, **__: object
) -> Traced:
    """Pooling with a window over the last n axes. A window as large as the map leaves one position."""
    _values_alone(return_indices)
    sizes = kernel_size if isinstance(kernel_size, tuple | list) else (kernel_size,)
    whole = all(isinstance(size, Size) for size in sizes)
    return input.like(_spaces(input, n, (1 if whole else None,) * n))


def adaptive(input: Traced, output_size: object, *_: object, n: int = 2, return_indices: bool = False) -> Traced:
    """Pooling to a given size."""
    _values_alone(return_indices)
    given = output_size if isinstance(output_size, tuple | list) else (output_size,) * n
    return input.like(_spaces(input, n, tuple(size if isinstance(size, int) else None for size in given)))


def _values_alone(return_indices: bool) -> None:
    if return_indices:
        raise UnfoldableError("must return the pooled values alone, got return_indices=True; leave it out")


def resized(input: Traced, *_: object, **__: object) -> Traced:
    """Interpolation of height and width."""
    n = len(input.axes) - 2
    return input.like(_spaces(input, n, (None,) * n))


def pad(input: Traced, pad: tuple[object, ...], *_: object, **__: object) -> Traced:
    """Padding of the last axes."""
    n = len(pad) // 2
    if any(not isinstance(axis, Space) for axis in input.axes[len(input.axes) - n :]):
        raise UnfoldableError("must not pad channels, got a fixed number of them; use a 1x1 convolution")
    return input.like(_spaces(input, n, (None,) * n))


def _spaces(input: Traced, n: int, sizes: tuple[int | None, ...]) -> Shape:
    axes = input.axes
    if len(axes) < n or any(not isinstance(axis, Space) for axis in axes[len(axes) - n :]):
        raise UnfoldableError(f"must work on height and width as the last axes, got {input}; permute before")
    return (*axes[: len(axes) - n], *map(Space, sizes))


def cat(tensors: tuple[Traced, ...], dim: int = 0, *, axis: int | None = None) -> Traced:
    """Concatenation along channels or space."""
    first, at = tensors[0], (dim if axis is None else axis)
    at %= len(first.axes)
    along = [x.axes[at] for x in tensors]
    if any(isinstance(a, Batch) for a in along):
        raise UnfoldableError("must keep the batch, got tensors put one after the other along it; join channels")
    joined: Axis = Space()
    wide = [a for a in along if isinstance(a, Channels)]
    if wide:
        if len(wide) < len(along):
            raise UnfoldableError("must join channels with channels, got another axis; reduce with keepdim=True")
        joined = Channels(tuple(part for a in wide for part in a.parts))
    others = first.meet(*((*x.axes[:at], Space(1), *x.axes[at + 1 :]) for x in tensors)).axes
    return first.like((*others[:at], joined, *others[at + 1 :]))


def chunk(input: Traced, chunks: int, dim: int = 0) -> Answer:
    """Equal parts of the channels, each folded alike."""
    at = dim % len(input.axes)
    axis = input.axes[at]
    width = axis.width() if isinstance(axis, Channels) else None
    if not isinstance(axis, Channels) or not width or width % chunks:
        raise UnfoldableError(f"must divide channels into equal parts, got {chunks} parts of {input}; change one")
    parts = [channels(Atom(width // chunks)) for _ in range(chunks)]
    unify(axis, Channels(tuple(part for one in parts for part in one.parts)))
    for part in parts[1:]:
        unify(parts[0], part)
    return tuple(input.like((*input.axes[:at], part, *input.axes[at + 1 :])) for part in parts)


CREATE = frozenset(["empty", "full", "ones", "rand", "randn", "zeros"])  # tensors of given sizes


def _named(rule: Callable[..., Answer], names: str) -> Iterator[tuple[str, Callable[..., Answer]]]:
    return ((name, rule) for name in names.split())


# Names of functions and of methods, without the underscore of those that work in place.
FUNCTIONS: Mapping[str, Callable[..., Answer]] = {
    **dict(
        _named(
            elementwise,
            "abs add addcmul and ceil celu clamp clamp_max clamp_min clip cos div elu eq erf exp floor floor_divide "
            "floordiv ge gelu gt hardsigmoid hardswish hardtanh invert le leaky_relu lerp log log1p logical_and "
            "logical_not logical_or logsigmoid lt maximum minimum mish mod mul multiply ne neg nan_to_num or pos pow "
            "reciprocal relu relu6 remainder round rrelu rsqrt rsub selu sigmoid sign silu sin softplus softsign sqrt "
            "square sub subtract tanh threshold true_divide truediv where xor masked_fill",
        )
    ),
    **dict(
        _named(
            same,
            "alpha_dropout bernoulli bfloat16 clone contiguous cpu detach double dropout dropout1d dropout2d dropout3d "
            "empty_like feature_alpha_dropout fill float half normal ones_like rand_like "
            "randn_like requires_grad to type type_as uniform zero zeros_like",
        )
    ),
    **dict(_named(reduce, "amax amin logsumexp mean std sum var")),
    **dict(_named(extreme, "max min")),
    **dict(_named(softmax, "softmax log_softmax softmin")),
    **{
        f"{kind}_pool{n}d": partial(rule, n=n)
        for n in (1, 2, 3)
        for kind, rule in (("max", pooled), ("avg", pooled), ("adaptive_max", adaptive), ("adaptive_avg", adaptive))
    },
    **dict(_named(cat, "cat concat concatenate")),
    **dict(_named(layout.view, "view reshape")),
    **dict(_named(layout.transpose, "transpose swapaxes swapdims")),
    **dict(_named(layout.new, "new_empty new_ones new_zeros")),
    **dict(_named(resized, "interpolate upsample")),
    "chunk": chunk,
    "dim": lambda input: input.ndim,
    "expand": layout.expand,
    "expand_as": lambda input, other: input.meet(input.axes, other.axes),
    "flatten": layout.flatten,
    "getitem": layout.getitem,
    "local_response_norm": lambda input, *_, **__: along(input, 1),
    "new_full": layout.new_full,
    "normalize": lambda input, p=2.0, dim=1, *_, **__: along(input, dim),
    "pad": pad,
    "permute": layout.permute,
    "reshape_as": lambda input, other: layout.view(input, *other.shape),
    "size": layout.size,
    "squeeze": layout.squeeze,
    "unsqueeze": layout.unsqueeze,
    "view_as": lambda input, other: layout.view(input, *other.shape),
}
