"""Widths that are folded as one: what is known of a tensor's axes while a network is traced.

    (B, 64, H, W)   Batch · Channels(atom of 64) · Space · Space
    cat of two      Channels(atom of 64, atom of 32)
    flatten(1)      Batch · Channels(atom of 64, 4 · 4 positions each)

Layers make atoms. An addition says that the channels on both sides are the same ones, so their atoms become one; where
one side is a concatenation, the atom of the other side falls into parts. In the end every atom gets one new width.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from math import lcm, prod
from typing import Literal, NamedTuple

from specialized.folding import folded_width


class UnfoldableError(Exception):
    """What must hold, what was got and what to do; who catches it knows where."""


# inner: grows with sqrt(f); picture: belongs to the pictures of a group, f times as many; fixed: stays as it is.
Kind = Literal["inner", "picture", "fixed"]


class Atom:
    """Channels that are folded as one.

    Attributes:
        width: how many before folding; None for those of a picture until the first layer tells.
        kind: how the width grows.
        multiple: what the new width must be a multiple of.
        became: the atoms it fell into, or the one it was joined with; empty for an atom that still stands for itself.
    """

    def __init__(self, width: int | None, kind: Kind = "inner", multiple: int = 1) -> None:
        self.width, self.kind, self.multiple = width, kind, multiple
        self.became: tuple[Atom, ...] = ()

    def join(self, other: "Atom") -> None:
        """Makes two atoms of the same width one; an inner width yields to one that is given."""
        one, yields = (other, self) if self.kind == "inner" else (self, other)
        if yields.kind not in ("inner", one.kind):
            raise UnfoldableError(
                "must not use channels of the pictures as a map that is spread over all channels, got both uses of one "
                "width; give each a layer of its own"
            )
        one.multiple = lcm(one.multiple, yields.multiple)
        yields.became = (one,)

    def split(self, width: int) -> None:
        """Lets the atom fall into `width` channels and the rest."""
        if self.kind != "inner" or self.width is None:
            raise UnfoldableError(
                "must keep the channels of pictures together, got them divided or lined up with a concatenation; "
                "use all of them or none"
            )
        self.became = tuple(
            Atom(part, multiple=self.multiple if part % self.multiple == 0 else 1)
            for part in (width, self.width - width)
        )


class Positions:
    """Successive channels of a flattened axis that come from one channel; `count` is None until a layer tells."""

    def __init__(self, count: int | None = 1) -> None:
        self.count = count


class Part(NamedTuple):
    """A piece of a channel axis."""

    atom: Atom
    positions: Positions


@dataclass(frozen=True, slots=True)
class Batch:
    """The axis of the groups."""


@dataclass(frozen=True, slots=True)
class Space:
    """An axis that folding leaves alone, such as height or width. None: its size depends on the picture's."""

    size: int | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Channels:
    """An axis whose size folding changes."""

    parts: tuple[Part, ...]

    def standing(self) -> Iterator[Part]:
        """The parts, as atoms that stand for themselves."""
        todo = list(reversed(self.parts))
        while todo:
            part = todo.pop()
            if part.atom.became:
                todo += [Part(atom, part.positions) for atom in reversed(part.atom.became)]
            else:
                yield part

    def atoms(self) -> list[Atom]:
        """The atoms of the axis that stand for themselves."""
        return [part.atom for part in self.standing()]

    def is_fixed(self) -> bool:
        """Whether folding leaves its size, and all slots share it."""
        return all(atom.kind == "fixed" for atom in self.atoms())

    def width(self) -> int | None:
        """Its size before folding; None if a layer must tell first."""
        sizes = [(part.atom.width, part.positions.count) for part in self.standing()]
        return None if any(None in size for size in sizes) else sum(w * n for w, n in sizes if w and n)

    def measure(self, width: int) -> None:
        """Learns from a layer that the axis is so wide, or checks it."""
        known = self.width()
        if known is None:
            self._learn(width)
        elif known != width:
            raise UnfoldableError(f"must be given the {width} channels it is made for, got {known}; correct the model")

    def _learn(self, width: int) -> None:
        parts = list(self.standing())
        rest = width - sum(p.atom.width * p.positions.count for p in parts if p.atom.width and p.positions.count)
        unknown = [p for p in parts if not (p.atom.width and p.positions.count)]
        atoms, positions = {p.atom for p in unknown}, {p.positions for p in unknown}
        if len(atoms) == 1 and (first := unknown[0]).atom.width is None and first.positions.count is not None:
            sizes = sum(p.positions.count or 0 for p in unknown)
            first.atom.width = rest // sizes
        elif len(positions) == 1 and (widths := sum(p.atom.width or 0 for p in unknown)):
            unknown[0].positions.count = rest // widths
        else:
            raise UnfoldableError(
                "must tell channels from positions, got an image or several maps flattened at once; begin with a "
                "convolution, and pool maps to a fixed size before they are joined"
            )
        if rest < 1 or self.width() != width:
            raise UnfoldableError(f"must be given {width} channels, got others; correct the model")


Axis = Batch | Space | Channels
Shape = tuple[Axis, ...]


def channels(*atoms: Atom) -> Channels:
    """An axis of these atoms, one position each."""
    return Channels(tuple(Part(atom, Positions()) for atom in atoms))


def unify(one: Channels, other: Channels) -> None:
    """Makes the channels of two axes the same ones, in their order."""
    width = one.width() or other.width()
    if width is not None:
        one.measure(width)
        other.measure(width)
    left, right = list(reversed(one.parts)), list(reversed(other.parts))
    while left and right:
        (a, n), (b, m) = left.pop(), right.pop()
        if a.became or b.became:
            left += [Part(atom, n) for atom in reversed(a.became or (a,))]
            right += [Part(atom, m) for atom in reversed(b.became or (b,))]
        elif n.count != m.count:
            raise UnfoldableError("must line up channels that were flattened alike, got others; flatten them alike")
        elif a is not b and a.width == b.width:
            a.join(b)
        elif a is not b:
            if a.width is None or b.width is None:
                raise UnfoldableError("must tell how many channels a picture has, got no layer yet; begin with one")
            (a if a.width > b.width else b).split(min(a.width, b.width))
            left.append(Part(a, n))
            right.append(Part(b, m))


def broadcast(shapes: Iterable[Shape], spread: Callable[[Channels], None]) -> Shape:
    """The shape of an elementwise operation: channels that meet become the same ones.

    `spread` is told of channels over which a tensor is spread that holds one value or map for each group.
    """
    result: Shape = ()
    for shape in shapes:
        long, short = (result, shape) if len(result) >= len(shape) else (shape, result)
        lead = len(long) - len(short)
        met = list(long[:lead])
        for one, other in zip(long[lead:], short, strict=True):
            for narrow, wide, tensor in ((one, other, long), (other, one, short)):
                if isinstance(wide, Channels) and _is_spread(narrow, wide) and Batch() in tensor:
                    spread(wide)
            met.append(_meet(one, other))
        result = tuple(met)
    return result


def _is_spread(narrow: Axis, wide: Channels) -> bool:
    if isinstance(narrow, Channels):
        return narrow.width() == 1 and (wide.width() or 1) > 1
    return narrow == Space(1)


def _meet(one: Axis, other: Axis) -> Axis:
    if Space(1) in (one, other):
        return one if other == Space(1) else other
    if isinstance(one, Channels) and isinstance(other, Channels):
        for narrow, wide in ((one, other), (other, one)):
            if _is_spread(narrow, wide):
                unify(narrow, channels(Atom(1, "fixed")))
                return wide
        unify(one, other)
        return one
    if isinstance(one, Space) and isinstance(other, Space):
        return one if other.size is None else other
    if type(one) is not type(other):
        raise UnfoldableError("must line up channels with channels, got them with another axis; give both one layout")
    return one


def merge(axes: Sequence[Axis]) -> Axis:
    """One axis that runs through several, the last fastest."""
    wide = [axis for axis in axes if not isinstance(axis, Space)]
    sizes = [axis.size for axis in axes if isinstance(axis, Space)]
    size = None if None in sizes else prod(n for n in sizes if n is not None)
    if not wide:
        return Space(size)
    if len(wide) > 1:
        raise UnfoldableError(
            "must keep batch and channels on axes of their own, got them joined; flatten from axis 1 on"
        )
    (axis,) = wide
    if isinstance(axis, Batch) or size == 1:
        return axis
    assert isinstance(axis, Channels)
    # Parts that were flattened together stay tied: a layer that tells the positions of one tells those of all.
    times = {p: Positions(size and p.count and p.count * size) for p in {part.positions for part in axis.parts}}
    return Channels(tuple(Part(atom, times[positions]) for atom, positions in axis.parts))


@dataclass(frozen=True, slots=True)
class Folding:
    """How widths grow."""

    f: int
    multiple_of: int

    def width(self, axis: Channels) -> int:
        """The size of a channel axis after folding."""
        return sum(self.of_atom(part.atom) * (part.positions.count or 1) for part in axis.standing())

    def of_atom(self, atom: Atom) -> int:
        """How many channels an atom becomes."""
        assert atom.width is not None
        match atom.kind:
            case "inner":
                return folded_width(atom.width, self.f, lcm(atom.multiple, self.multiple_of))
            case "picture":
                return atom.width * self.f
            case "fixed":
                return atom.width


@dataclass(frozen=True, slots=True)
class Share(Folding):
    """How wide the share is that one slot has of each folded width: what f does not divide belongs to no slot."""

    def of_atom(self, atom: Atom) -> int:
        folded = Folding.of_atom(self, atom)
        if atom.kind == "fixed":
            return folded  # everyone's
        share = folded // self.f // atom.multiple * atom.multiple
        if not share:
            raise UnfoldableError(
                f"must leave channels for each of the {self.f} slots, got {folded} in all; choose a wider network or a "
                "smaller f"
            )
        return share

    def whole(self, axis: Channels) -> int:
        """The size of the axis in the folded network."""
        return Folding(self.f, self.multiple_of).width(axis)

    def places(self, axis: Channels, slot: int) -> list[int]:
        """The channels of the folded axis that a slot has, in the order of its share."""
        owned: list[int] = []
        start = 0
        for part in axis.standing():
            count = part.positions.count or 1
            share, folded = self.of_atom(part.atom), Folding.of_atom(self, part.atom)
            first = 0 if part.atom.kind == "fixed" else slot * share
            owned += range(start + first * count, start + (first + share) * count)
            start += folded * count
        return owned
