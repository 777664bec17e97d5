"""Stand-ins that pass through a network's own `forward`: `Traced` for a tensor, `Size` for one of its sizes."""

from collections.abc import Callable, Iterator
from typing import Any, Protocol

import torch
from torch import fx

from specialized.foldcnn.widths import Batch, Channels, Shape, Space, UnfoldableError, broadcast, unify


class Tracer(Protocol):
    """What stand-ins tell of what is done to them."""

    dtype: torch.dtype
    device: torch.device

    def call(self, name: str, *arguments: object, **options: object) -> object:
        """A function or method of torch is called on a stand-in."""

    def mixes(self, axis: Channels, how: str, cure: str = "leave it out") -> None:
        """All channels of an axis are brought together; those of several pictures must not be."""


class Traced(fx.Proxy):
    """Stands for a tensor, of which the axes are known.

    The operators are those of `torch.fx.Proxy`, which ask a tracer to `create_proxy`. Each call is answered at once and
    not recorded in a graph first: so sizes can be asked for, and what cannot be folded is refused where it happens.
    """

    def __init__(self, tracer: Tracer, axes: Shape) -> None:
        self.of, self.axes = tracer, axes
        self.tracer = _Operators(tracer)  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"({', '.join(map(_told, self.axes))})"

    def like(self, axes: Shape) -> "Traced":
        """Another tensor of the same network."""
        return Traced(self.of, axes)

    def meet(self, *shapes: Shape) -> "Traced":
        """What an elementwise operation on tensors of these shapes gives."""
        return self.like(broadcast(shapes, self._spread))

    def _spread(self, axis: Channels) -> None:
        self.of.mixes(axis, "one value or map spread", "make it as wide as what it meets")

    def mixes(self, axis: Channels, how: str) -> None:
        """All channels of the axis are brought together."""
        self.of.mixes(axis, how)

    @property
    def shape(self) -> tuple["Size", ...]:
        return tuple(Size(self.of, (axis,)) for axis in self.axes)

    @property
    def ndim(self) -> int:
        return len(self.axes)

    @property
    def data(self) -> "Traced":
        return self

    @property
    def dtype(self) -> torch.dtype:
        return self.of.dtype

    @property
    def device(self) -> torch.device:
        return self.of.device

    def __getattr__(self, k: str) -> Any:
        if k.startswith("__"):
            raise AttributeError(k)
        return lambda *arguments, **options: self.of.call(k, self, *arguments, **options)

    def __bool__(self) -> bool:
        raise UnfoldableError(
            "must do the same for every input, got a decision that depends on a tensor's values; make it in __init__, "
            "or for each element by torch.where"
        )

    def __int__(self) -> int:
        raise UnfoldableError("must leave values to torch, got one turned into a number of Python; leave it out")

    __index__ = __int__

    def __float__(self) -> float:
        return self.__int__()

    def __len__(self) -> int:
        raise UnfoldableError("must not take len() of a tensor, got that; write x.size(0)")

    def __iter__(self) -> Iterator[Any]:
        raise UnfoldableError("must keep the batch, got a loop over a tensor; work on all groups at once")

    @classmethod
    def __torch_function__(
        cls, orig_method: Callable[..., Any], types: object, args: Any = (), kwargs: Any = None
    ) -> Any:
        return called(orig_method, args, kwargs or {})


class Overall(Traced):
    """Stands for one value over all pictures. Only arithmetic takes it, so that a decision by it is refused as one."""

    def __init__(self, tracer: Tracer) -> None:
        super().__init__(tracer, ())

    def like(self, axes: Shape) -> Traced:
        return Overall(self.of)


class _Operators:
    """What the operators of `torch.fx.Proxy` need of a tracer."""

    def __init__(self, tracer: Tracer) -> None:
        self._tracer = tracer

    def create_proxy(self, kind: str, target: Callable[..., Any], args: Any, kwargs: Any, *_: object) -> object:
        return self._tracer.call(target.__name__, *args, **kwargs)


class Size:
    """Stands for a size of a traced tensor, or for the product of several."""

    def __init__(self, tracer: Tracer, axes: Shape, *, computed: bool = False) -> None:
        self.of, self._axes, self._computed = tracer, axes, computed

    @property
    def axes(self) -> Shape:
        """The axes whose sizes are multiplied."""
        if self._computed:
            raise UnfoldableError("must take sizes as they are, got one computed from a width; use chunk or flatten")
        return self._axes

    def _changed(self, other: object) -> "Size":
        """The result of arithmetic: as unknown as a picture's size, or of no use once widths come in."""
        theirs = other.axes if isinstance(other, Size) else ()
        positions = all(isinstance(axis, Space) for axis in (*self.axes, *theirs))
        return Size(self.of, (Space(),), computed=not positions)

    def __mul__(self, other: object) -> "Size":
        if isinstance(other, Size):
            return Size(self.of, (*self.axes, *other.axes))
        return self if other == 1 else self._changed(other)

    __rmul__ = __mul__

    def __add__(self, other: object) -> "Size":
        return self if other == 0 else self._changed(other)

    __radd__ = __add__
    __sub__ = __rsub__ = __floordiv__ = __rfloordiv__ = __truediv__ = __rtruediv__ = _changed
    __mod__ = __pow__ = __rpow__ = _changed

    def __neg__(self) -> "Size":
        return self._changed(None)

    def __eq__(self, other: object) -> bool:
        """Whether two sizes are equal for any picture and any folding; what cannot be told is refused."""
        if isinstance(other, Size) and len(self.axes) == len(other.axes) == 1:
            (a,), (b,) = self.axes, other.axes
            if isinstance(a, Channels) and isinstance(b, Channels):
                equal = a.width() == b.width()
                if equal:
                    unify(a, b)
                return equal
            if a is b or (isinstance(a, Batch) and isinstance(b, Batch)):
                return True
            if isinstance(a, Space) and isinstance(b, Space) and a.size and b.size:
                return a.size == b.size
        return self._undecided()

    __hash__ = None  # type: ignore[assignment]

    def _undecided(self, other: object = None) -> bool:
        raise UnfoldableError(
            "must do the same at every size, got a decision that depends on a size; make it in __init__"
        )

    __lt__ = __le__ = __gt__ = __ge__ = _undecided
    __bool__ = _undecided

    def __index__(self) -> int:
        raise UnfoldableError("must leave sizes to torch, got one turned into a number; pass it on as it is")

    __int__ = __float__ = __index__

    @classmethod
    def __torch_function__(
        cls, orig_method: Callable[..., Any], types: object, args: Any = (), kwargs: Any = None
    ) -> Any:
        return called(orig_method, args, kwargs or {})


def called(function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> object:
    """Hands a call that torch met to the tracer of a stand-in among its arguments."""
    return next(stand_ins([*args, *kwargs.values()])).of.call(function.__name__, *args, **kwargs)


def stand_ins(values: list[object]) -> Iterator[Traced | Size]:
    """Those among the values, also within lists and tuples."""
    for value in values:
        if isinstance(value, Traced | Size):
            yield value
        elif isinstance(value, list | tuple):
            yield from stand_ins(list(value))


def _told(axis: object) -> str:
    if isinstance(axis, Channels):
        return f"{axis.width() or 'C'} channels"
    if isinstance(axis, Space):
        return str(axis.size or "positions")
    return "groups"
