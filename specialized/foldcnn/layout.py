"""What reshaping, permuting and indexing do to the axes of a traced tensor."""

from specialized.foldcnn.traced import Size, Traced
from specialized.foldcnn.widths import Axis, Channels, Shape, Space, UnfoldableError, merge, unify


def flatten(input: Traced, start_dim: int = 0, end_dim: int = -1) -> Traced:
    """Joins successive axes."""
    rank = len(input.axes)
    start, end = start_dim % rank, end_dim % rank + 1
    return input.like((*input.axes[:start], merge(input.axes[start:end]), *input.axes[end:]))


def view(input: Traced, *shape: object) -> Traced:
    """view and reshape, by sizes that come from tensors, by 1 and by -1."""
    sizes = _several(shape)
    fixed = next((s for s in sizes if not isinstance(s, Size) and s not in (1, -1)), None)
    if fixed is not None:
        raise UnfoldableError(
            f"must take sizes from tensors, got the fixed number {fixed} in a reshape; write x.flatten(1), or x.size(i)"
        )
    given = [s.axes if isinstance(s, Size) else () for s in sizes]
    open_ = next((k for k, s in enumerate(sizes) if not isinstance(s, Size) and s == -1), len(sizes))
    # Positions are the same before and after folding, so only the order of batch and channels needs to be followed.
    source = _wide(input.axes)
    lead = [a for axes in given[:open_] for a in _wide(axes)]
    tail = [a for axes in given[open_:] for a in _wide(axes)]
    rest = source[len(lead) : len(source) - len(tail)]
    own = [*source[: len(lead)], *source[len(lead) + len(rest) :]]
    if len(own) != len(lead) + len(tail) or (rest and open_ == len(sizes)):
        raise UnfoldableError(
            f"must keep batch and channels on axes of their own, got a reshape of {input}; flatten it"
        )
    for mine, theirs in zip(own, [*lead, *tail], strict=True):
        if isinstance(mine, Channels) and isinstance(theirs, Channels):
            unify(mine, theirs)
        elif type(mine) is not type(theirs):
            raise UnfoldableError(f"must keep the order of batch and channels, got a reshape of {input}; permute it")
    named_positions = any(isinstance(a, Space) for axes in given for a in axes)
    left = [] if named_positions else [a for a in input.axes if isinstance(a, Space)]
    places = iter(own)
    result = [merge([a if isinstance(a, Space) else next(places) for a in axes] or [Space(1)]) for axes in given]
    if open_ < len(sizes):
        result[open_] = merge([*rest, *left]) if rest or left or not named_positions else Space()
    return input.like(tuple(result))


def _wide(axes: Shape) -> list[Axis]:
    return [axis for axis in axes if not isinstance(axis, Space)]


def permute(input: Traced, *dims: object) -> Traced:
    """Another order of the axes."""
    return input.like(tuple(input.axes[int(d)] for d in _several(dims)))  # type: ignore[call-overload]


def transpose(input: Traced, dim0: int, dim1: int) -> Traced:
    """Two axes change places."""
    axes = list(input.axes)
    axes[dim0], axes[dim1] = axes[dim1], axes[dim0]
    return input.like(tuple(axes))


def unsqueeze(input: Traced, dim: int) -> Traced:
    """A new axis of size 1."""
    axes = list(input.axes)
    axes.insert(dim % (len(axes) + 1), Space(1))
    return input.like(tuple(axes))


def squeeze(input: Traced, dim: int | tuple[int, ...] | list[int] | None = None) -> Traced:
    """Axes of size 1 go. One that is named and whose size is not known is taken to be of size 1."""
    if dim is None:
        return input.like(tuple(a for a in input.axes if a != Space(1)))
    dims = {d % len(input.axes) for d in ((dim,) if isinstance(dim, int) else dim)}
    goes = [k in dims and isinstance(a, Space) and a.size in (1, None) for k, a in enumerate(input.axes)]
    return input.like(tuple(a for a, gone in zip(input.axes, goes, strict=True) if not gone))


def getitem(input: Traced, key: object) -> Traced:
    """x[:, :, 0, 0], x[..., None], x[:, :, ::2]: anything but a choice among batch or channels."""
    keys = list(key) if isinstance(key, tuple) else [key]
    taken = sum(k is not None and k is not Ellipsis for k in keys)
    at = next((place for place, k in enumerate(keys) if k is Ellipsis), len(keys))
    keys[at : at + 1] = [slice(None)] * (len(input.axes) - taken)
    axes = iter(input.axes)
    result: list[Axis] = []
    for k in keys:
        if k is None:
            result.append(Space(1))
            continue
        axis = next(axes)
        if isinstance(k, slice) and k == slice(None):
            result.append(axis)
        elif not isinstance(axis, Space) or not isinstance(k, int | slice | Size):
            raise UnfoldableError(
                "must not choose among batch or channels by number, got an index or slice there; use chunk, or a 1x1 "
                "convolution"
            )
        elif isinstance(k, slice):
            result.append(Space())
    return input.like(tuple(result))


def expand(input: Traced, *sizes: object) -> Traced:
    """Spreads axes of size 1."""
    given = _several(sizes)
    own = (*[Space(1)] * (len(given) - len(input.axes)), *input.axes)
    asked = [_axis(size, axis) for size, axis in zip(given, own, strict=True)]
    return input.meet(tuple(asked), own)


def _axis(size: object, default: Axis = Space(1)) -> Axis:  # noqa: B008 - immutable
    if isinstance(size, Size):
        return merge(size.axes)
    if size in (1, -1):
        return default
    raise UnfoldableError(f"must take sizes from tensors, got the fixed number {size}; write x.size(i)")


def created(*shape: object) -> Shape:
    """The axes of a tensor that is made of sizes, such as the mask of a stochastic depth."""
    return tuple(_axis(size) for size in _several(shape))


def _several(given: tuple[object, ...]) -> tuple[object, ...]:
    """The arguments of what takes both f(a, b) and f((a, b))."""
    return tuple(given[0]) if len(given) == 1 and isinstance(given[0], tuple | list) else given


def new(input: Traced, *shape: object, **_: object) -> Traced:
    """new_zeros and the like."""
    return input.like(created(*shape))


def new_full(input: Traced, size: tuple[object, ...], *_: object, **__: object) -> Traced:
    """A tensor of one value."""
    return input.like(created(size))


def size(input: Traced, dim: int | None = None) -> object:
    """The sizes of all axes, or of one."""
    return input.shape if dim is None else input.shape[dim]
