"""Damage to bytes, to the lines of a text and to a tree of JSON. Each says what it did."""

from __future__ import annotations

import copy
import json
import random
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

NUMBERS: tuple[Any, ...] = (
    *(0, 1, -1, 2**31, 2**32 - 1, 2**60, 2**63, -(2**63), 2**64, 10**9, 10**30, 10**400),
    *(0.5, -0.5, 1e308, 5e-324, float("nan"), float("inf"), float("-inf")),
)
WORDS: tuple[str, ...] = (
    *("", " ", "=1+1", "@SUM(A1)", "\0", "a\0b", "é", "\u202e", "\u2028", "😀", "\n", "\r", "\t", '"', "'", "..", "/"),
    *(
        "~",
        "null",
        "NaN",
        ".nan",
        "-.inf",
        "1e999",
        "0x",
        "1_000",
        "true",
        "no",
        "${HOME}",
        "${",
        "%d",
        "{}",
        "[",
        "*a",
    ),
    *("a" * 5000, "9" * 5000, "-", "1 2", "&a [*a]", "!!python/object:os.system", "!!binary aGk=", "2026-01-01"),
)
SCALARS: tuple[Any, ...] = (*NUMBERS, *WORDS, None, True, False)
ENCODINGS = ("utf-16", "utf-16-be", "utf-32", "latin-1", "cp1252", "utf-8-sig", "cp500", "shift_jis")

Damage = Callable[[bytes, random.Random], tuple[bytes, str]]


# ------------------------------------------------------------------------------------------ bytes


def place_in(n: int, chance: random.Random) -> int:
    """A place in n bytes: anywhere, or near either end, where headers and indices lie."""
    if n < 2 or chance.random() < 0.65:
        return chance.randrange(n + 1)
    near = min(n, int(2 ** chance.uniform(0, 12)))
    return near if chance.random() < 0.7 else n - near


def stretch_of(data: bytes, chance: random.Random) -> tuple[int, int]:
    """Begin and end of a stretch; of 10 and of 1,000 bytes are as likely."""
    at = place_in(len(data), chance)
    return at, min(len(data), at + int(2 ** chance.uniform(0, 14)))


def bits(data: bytes, chance: random.Random) -> tuple[bytes, str]:
    out = bytearray(data)
    places = (
        [min(place_in(len(out), chance), len(out) - 1) for _ in range(chance.choice((1, 2, 10, 100)))] if out else []
    )
    for at in places:
        out[at] ^= 1 << chance.randrange(8)
    return bytes(out), f"{len(places)} bits flipped, the first at {places[:1]}"


def octets(data: bytes, chance: random.Random) -> tuple[bytes, str]:
    out = bytearray(data)
    places = [min(place_in(len(out), chance), len(out) - 1) for _ in range(chance.choice((1, 4, 50)))] if out else []
    for at in places:
        out[at] = chance.choice((0, 255, chance.randrange(256)))
    return bytes(out), f"{len(places)} bytes changed, the first at {places[:1]}"


def removed(data: bytes, chance: random.Random) -> tuple[bytes, str]:
    begin, end = stretch_of(data, chance)
    return data[:begin] + data[end:], f"{begin}..{end} removed"


def doubled(data: bytes, chance: random.Random) -> tuple[bytes, str]:
    begin, end = stretch_of(data, chance)
    return data[:end] + data[begin:], f"{begin}..{end} doubled"


def swapped(data: bytes, chance: random.Random) -> tuple[bytes, str]:
    a, b = sorted(chance.randrange(len(data) + 1) for _ in range(2))
    n = min(b - a, len(data) - b, int(2 ** chance.uniform(0, 14)))
    return data[:a] + data[b : b + n] + data[a + n : b] + data[a : a + n] + data[b + n :], f"{n} at {a} and {b} swapped"


def zeroed(data: bytes, chance: random.Random) -> tuple[bytes, str]:
    begin, end = stretch_of(data, chance)
    return data[:begin] + bytes(end - begin) + data[end:], f"{begin}..{end} zeroed"


def cut(data: bytes, chance: random.Random) -> tuple[bytes, str]:
    at = place_in(len(data), chance)
    return data[:at], f"cut at {at}"


def appended(data: bytes, chance: random.Random) -> tuple[bytes, str]:
    n = int(2 ** chance.uniform(0, 14))
    return data + chance.randbytes(n), f"{n} bytes appended"


BYTES: tuple[Damage, ...] = (bits, octets, removed, doubled, swapped, zeroed, cut, appended)


def damaged(data: bytes, chance: random.Random, ways: Sequence[Damage] = BYTES) -> tuple[bytes, str]:
    """One to three kinds of damage, mostly one."""
    told = []
    for _ in range(chance.choice((1, 1, 1, 2, 3))):
        data, what = chance.choice(ways)(data, chance)
        told.append(what)
    return data, ", ".join(told)


# ------------------------------------------------------------------------------------------ texts


def reworded(text: str, chance: random.Random) -> tuple[str, str]:
    """One to four lines removed, doubled, swapped, shifted or with another value."""
    told = []
    for _ in range(chance.randint(1, 4)):
        lines = text.splitlines(keepends=True) or ["\n"]
        k, other = chance.randrange(len(lines)), chance.randrange(len(lines))
        line, at = lines[k], chance.randrange(len(lines[k]) + 1)
        what = chance.choice(("removed", "doubled", "swapped", "indented", "dedented", "revalued", "inserted", "cut"))
        match what:
            case "removed":
                lines[k] = ""
            case "doubled":
                lines[k] = line + line
            case "swapped":
                lines[k], lines[other] = lines[other], line
            case "indented":
                lines[k] = " " * chance.randint(1, 7) + line
            case "dedented":
                lines[k] = line.lstrip(" ")
            case "revalued":
                lines[k] = _revalued(line, chance)
            case "inserted":
                lines[k] = line[:at] + chance.choice((*WORDS, *'{}[],:#&*!|>-"')) + line[at:]
            case "cut":
                lines[k] = line[:at] + line[at + chance.randint(1, 5) :]
        told.append(f"line {k + 1} {what}")
        text = "".join(lines)
    return text, ", ".join(told)


def _revalued(line: str, chance: random.Random) -> str:
    """The line with another value behind one of its colons, or between two of its commas."""
    marks = [at + 1 for at, sign in enumerate(line) if sign in ":,"]
    value = str(chance.choice((*SCALARS, "[[1, [2]], {a: {b: [c]}}]")))
    if not marks:
        return f"{value}\n"
    begin = chance.choice(marks)
    end = next((at for at in range(begin, len(line)) if line[at] in ",}]\n"), len(line))
    return f"{line[:begin]} {value}{line[end:]}"


# ------------------------------------------------------------------------------------------ trees


def regrown(tree: Any, chance: random.Random) -> tuple[Any, str]:
    """One to three values of a tree of dicts and lists replaced, removed, wrapped, doubled or renamed."""

    def regrow(holder: Any, key: Any) -> str:
        what = chance.choice(("replaced", "replaced", "replaced", "removed", "wrapped", "doubled"))
        if what == "replaced":
            holder[key] = chance.choice(SCALARS)
        elif what == "removed":
            del holder[key]
        elif what == "wrapped":
            holder[key] = chance.choice(([holder[key]], {"a": holder[key]}, [], {}, [1, [2, [3]]], nested(60)))
        elif isinstance(holder, dict):
            holder[chance.choice(WORDS)] = holder[key]
        else:
            holder.insert(key, holder[key])
        return what

    return _altered(tree, chance, regrow)


def nudged(tree: Any, held: Mapping[str, Sequence[Any]], chance: random.Random) -> tuple[Any, str]:
    """One to three values of a tree a little different: it may still make sense.

    Args:
        tree: Of dicts and lists.
        held: By a key, what it holds here and elsewhere.
        chance: Decides.
    """

    def nudge(holder: Any, key: Any) -> str:
        value = holder[key]
        if isinstance(value, bool):
            holder[key] = not value
            return "turned"
        if isinstance(value, int | float) and chance.random() < 0.7:
            near = (value + 1, value - 1, value * 2, value / 2, value * chance.uniform(0.5, 2))
            holder[key] = chance.choice(near)
            return "nudged"
        if isinstance(holder, list):
            chance.shuffle(holder)
            return "shuffled"
        if chance.random() < 0.3:
            del holder[key]
            return "left out"
        other = chance.choice(list(held))
        key = key if chance.random() < 0.6 else other
        holder[key] = copy.deepcopy(chance.choice(held.get(key, [None])))
        return f"or {key!r} as elsewhere"

    return _altered(tree, chance, nudge)


def _altered(tree: Any, chance: random.Random, alter: Callable[[Any, Any], str]) -> tuple[Any, str]:
    """A copy of a tree of which one to three values are altered, given what holds them and their keys."""
    told = []
    tree = json.loads(json.dumps(tree))
    for _ in range(chance.randint(1, 3)):
        places = list(_places(tree))
        if not places:
            break
        holder, key = chance.choice(places)
        told.append(f"{str(key)[:40]!r} {alter(holder, key)}")
    return tree, ", ".join(told)


def values_by_key(trees: Iterable[Any]) -> dict[str, list[Any]]:
    """What the keys of some trees hold."""
    held: dict[str, list[Any]] = {}
    for tree in trees:
        for holder, key in _places(tree):
            if isinstance(holder, dict):
                held.setdefault(key, []).append(holder[key])
    return held


def _places(tree: Any) -> Iterator[tuple[Any, Any]]:
    """Each dict and list of it with each of its keys."""
    keys = list(tree) if isinstance(tree, dict) else range(len(tree)) if isinstance(tree, list) else ()
    for key in keys:
        yield tree, key
        yield from _places(tree[key])


def nested(depth: int) -> list[Any]:
    """A list in a list in a list."""
    tree: list[Any] = []
    for _ in range(depth):
        tree = [tree]
    return tree
