"""Regions as their authors write them, in a configuration or in a file of their own.

    bay-01: [x, y, w, h]                          a rectangle
    gate: {polygon: [[x, y], [x, y], [x, y]]}     the rectangle around it; what lies outside of it is black
    shelf: {grid: [rows, columns, x, y, w, h]}    shelf-1-1, shelf-1-2, ... shelf-2-1, ...

Lengths are fractions of the picture's width and height, or pixels; the picture is the one that players show.
"""

from __future__ import annotations

import csv
import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Protocol, runtime_checkable

from pipeline.errors import ConfigError
from pipeline.regions import Region, nearest
from pipeline.values import Regions
from pipeline.yamlfile import did_you_mean, read, shown

__all__ = ["is_region_file", "names_of_each", "regions_in", "regions_of", "regions_of_each"]

MOST = 10_000  # regions of a picture
LONGEST = 200  # characters of a name, as in a table of labels
NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?", re.ASCII)
ROUNDING = 1e-9  # of fractions that add up to 1
OF_CONFIGURATIONS = ("sources", "filter", "filters", "clips", "images", "output")  # keys; each has one of these
FLAT = 1e-6  # share of its rectangle that a polygon of no area may seem to have

Say = Callable[[Sequence[str], str], None]


@runtime_checkable
class Regional(Protocol):
    """A section of a configuration that may have regions."""

    @property
    def regions(self) -> Regions | None: ...

    @property
    def regions_px(self) -> Regions | None: ...


def regions_of(section: Regional, say: Say | None = None) -> tuple[Region, ...] | None:
    """The regions of a section of a configuration, or None.

    Args:
        section: Has `regions` or `regions_px`, or neither.
        say: Told what is wrong, and by which keys of the section it is reached.

    Raises:
        ConfigError: something is wrong, and nobody is to be told.
    """
    problems: list[str] = []

    def collect(keys: Sequence[str], text: str) -> None:
        problems.append(": ".join([*keys, text]))

    regions = _regions_of(section, say or collect)
    if problems:
        raise ConfigError(problems)
    return regions


def regions_of_each(common: Regional, sections: Iterable[object]) -> list[tuple[Region, ...] | None]:
    """The regions of each section: its own, or else the common ones. Raises ConfigError as `regions_of` does."""
    shared = regions_of(common)
    own = [regions_of(section) if isinstance(section, Regional) else None for section in sections]
    return [shared if regions is None else regions for regions in own]


def names_of_each(common: Regional, sections: Iterable[object]) -> list[tuple[str, ...]]:
    """The names of the regions of each section; none: whole frames."""
    return [tuple(region.name for region in regions or ()) for regions in regions_of_each(common, sections)]


def regions_in(path: Path, *, in_pixels: bool = False) -> tuple[Region, ...]:
    """The regions of a file of them, in pixels or as fractions.

    Raises:
        ConfigError: something is wrong with it.
    """
    problems: list[str] = []
    regions = _read(path, "regions_px" if in_pixels else "regions", lambda keys, text: problems.append(text))
    if problems:
        raise ConfigError(problems)
    return regions


def is_region_file(path: Path) -> bool:
    """Whether this is a table of regions, or holds none of the keys that a configuration must have."""
    if path.suffix.lower() == ".csv":
        return True
    node = read(path, [], what="a file of regions", most=20 * MOST)
    return node is not None and not any(node.child(key) for key in OF_CONFIGURATIONS)


def _regions_of(section: Regional, say: Say) -> tuple[Region, ...] | None:
    given = {"regions": section.regions, "regions_px": section.regions_px}
    if None not in given.values():
        say(["regions_px"], "must not stand beside 'regions', got both; remove one")
        return None
    for key, value in given.items():
        if isinstance(value, str):
            return _read(Path(value), key, say)
        if value is not None:
            return _from(value, (key,), say)
    return None


def _read(path: Path, key: str, say: Say) -> tuple[Region, ...]:
    """The regions of a file."""
    problems: list[str] = []
    lines: dict[str, int] = {}  # by name

    def collect(keys: Sequence[str], text: str) -> None:
        name = keys[1] if len(keys) > 1 else None
        where = f"{path}:{lines[name]}" if name in lines else f"{path}"
        problems.append(": ".join([where, *([repr(name)] if name is not None else []), text]))

    spec = _table(path, problems, lines) if path.suffix.lower() == ".csv" else _mapping(path, problems)
    regions = _from(spec, (key,), collect) if spec or not problems else ()
    for problem in problems:
        say([key], problem)
    return regions


def _from(spec: Mapping[str, object], at: tuple[str, ...], say: Say) -> tuple[Region, ...]:
    """The regions that a mapping of names names, in its order. It stands under the keys `at`."""
    regions: dict[str, Region] = {}
    in_pixels = at[0] == "regions_px"
    for name, value in spec.items():
        if not name.strip() or not name.isprintable() or len(name) > LONGEST:
            say([*at, name], f"must be a name of up to {LONGEST} printable characters")
            continue
        try:
            made = list(_made(name, value, in_pixels))
        except ValueError as error:
            say([*at, name], str(error))
            continue
        for region in made:
            if region.name in regions:
                say([*at, name], f"must be names of their own, got {region.name!r} again")
            regions[region.name] = region
    if len(regions) > MOST:
        say(at, f"must be at most {MOST} regions, got {len(regions)}")
    elif not spec:
        say(at, "must hold one or more, got none")
    return tuple(regions.values())


def _mapping(path: Path, problems: list[str]) -> Mapping[str, object]:
    node = read(path, problems, what="a file of regions", most=20 * MOST)
    plain = None if node is None else node.plain()
    spec = plain if isinstance(plain, dict) else {}
    for key in ("regions", "regions_px"):
        inner = spec.get(key)
        if len(spec) == 1 and isinstance(inner, dict) and not {"polygon", "grid"} & inner.keys():
            problems.append(f"{path}: must hold regions by name, got the key {key!r} around them; leave it out")
            return {}
    return spec


def _table(path: Path, problems: list[str], lines: dict[str, int]) -> Mapping[str, object]:
    """The rows by name, and in `lines` where each is."""
    spec: dict[str, object] = {}
    columns = ["name", "x", "y", "w", "h"]
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            rows = csv.reader(file)
            header = [name.strip() for name in next(rows, [])]
            if sorted(header) != sorted(columns):
                got = ", ".join(header) or "none"
                problems.append(f"{path}:1: the columns must be {', '.join(columns)}, got {shown(got)}")
                return {}
            for row in rows:
                if not row:
                    continue
                where = f"{path}:{rows.line_num}"
                if len(row) != len(columns):
                    problems.append(f"{where}: must have {len(columns)} values, got {len(row)}")
                    continue
                fields = dict(zip(header, (field.strip() for field in row), strict=True))
                name = fields["name"]
                if name in spec:
                    problems.append(f"{where}: must be a name of its own, got {name!r} again")
                lines[name] = rows.line_num
                values = [fields[column] for column in columns[1:]]
                if all(map(NUMBER.fullmatch, values)):
                    spec[name] = [float(value) for value in values]
                else:
                    problems.append(f"{where}: x, y, w and h must be numbers, got {', '.join(map(shown, values))}")
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        reason = "text that is not UTF-8" if isinstance(error, UnicodeDecodeError) else reason
        problems.append(f"{path}: must be a table of regions, got: {reason}")
    return spec


def _made(name: str, value: object, in_pixels: bool) -> Iterator[Region]:
    """The regions of one key. Raises ValueError in words."""
    if isinstance(value, list):
        x, y, w, h = _numbers(value, 4, "[x, y, w, h]")
        yield _checked(Region(name, x, y, w, h, in_pixels))
        return
    if not isinstance(value, dict) or len(value) != 1:
        raise ValueError(f"must be [x, y, w, h], {{polygon: ...}} or {{grid: ...}}, got {shown(value)}")
    ((kind, numbers),) = value.items()
    if kind == "polygon":
        yield _polygon(name, numbers, in_pixels)
    elif kind == "grid":
        yield from _grid(name, numbers, in_pixels)
    else:
        raise ValueError(f"unknown key {kind!r}{did_you_mean(kind, ('polygon', 'grid'))}")


def _polygon(name: str, corners: object, in_pixels: bool) -> Region:
    if not isinstance(corners, list) or len(corners) < 3:
        raise ValueError(f"polygon must be three corners [x, y] or more, got {shown(corners)}")
    points = [_numbers(corner, 2, "a corner [x, y]") for corner in corners]
    x, y = (min(point[axis] for point in points) for axis in (0, 1))
    right, bottom = (max(point[axis] for point in points) for axis in (0, 1))
    if in_pixels:  # whole pixels around it
        x, y, right, bottom = math.floor(x), math.floor(y), math.ceil(right), math.ceil(bottom)
    corners = tuple((point[0], point[1]) for point in points)
    doubled = sum(ax * by - bx * ay for (ax, ay), (bx, by) in zip(corners, corners[1:] + corners[:1], strict=True))
    if abs(doubled) / 2 <= FLAT * (right - x) * (bottom - y):
        raise ValueError(
            f"a polygon must enclose something, got corners in a line, or sides that cross: {[*map(list, points)]}"
        )
    return _checked(Region(name, x, y, right - x, bottom - y, in_pixels, corners))


def _grid(name: str, numbers: object, in_pixels: bool) -> Iterator[Region]:
    rows, columns, x, y, w, h = _numbers(numbers, 6, "grid: [rows, columns, x, y, w, h]")
    if not (rows.is_integer() and columns.is_integer() and min(rows, columns) >= 1):
        raise ValueError(f"a grid must have at least one row and one column, got {rows:g} and {columns:g}")
    if rows * columns > MOST:
        raise ValueError(f"a grid must have at most {MOST} cells, got {rows:g} rows of {columns:g}")
    _checked(Region(name, x, y, w, h, in_pixels))
    if in_pixels and (w < columns or h < rows):
        raise ValueError(f"the cells of a grid must have a pixel each, got {rows:g} rows of {columns:g} in {w:g}x{h:g}")
    across = [_edge(x + k * w / columns, in_pixels) for k in range(int(columns) + 1)]
    down = [_edge(y + k * h / rows, in_pixels) for k in range(int(rows) + 1)]
    for row, (top, bottom) in enumerate(pairwise(down), 1):
        for column, (left, right) in enumerate(pairwise(across), 1):
            yield _checked(Region(f"{name}-{row}-{column}", left, top, right - left, bottom - top, in_pixels))


def _edge(length: float, in_pixels: bool) -> float:
    return float(nearest(length)) if in_pixels else length


def _numbers(value: object, n: int, what: str) -> list[float]:
    if not isinstance(value, list | tuple) or len(value) != n:
        raise ValueError(f"must be {what}, got {shown(value)}")
    if not all(isinstance(v, int | float) and not isinstance(v, bool) and math.isfinite(v) for v in value):
        raise ValueError(f"must be {what}, all numbers, got {list(value)}")
    return [float(v) for v in value]


def _checked(region: Region) -> Region:
    numbers = (region.x, region.y, region.w, region.h)
    if region.w <= 0 or region.h <= 0:
        raise ValueError(f"must have a width and a height over 0, got {region.told()}")
    if region.in_pixels:
        if not all(number.is_integer() for number in map(float, numbers)):
            raise ValueError(f"must be whole pixels, got {region.told()}; fractions of the picture go under `regions`")
        if min(numbers) < 0:
            raise ValueError(f"must lie in the picture, got {region.told()}")
    elif min(numbers) < 0 or max(region.x + region.w, region.y + region.h) > 1 + ROUNDING:
        advice = "; pixels go under `regions_px`" if max(numbers) > 1 else ""
        raise ValueError(f"must lie in the picture, between 0 and 1, got {region.told()}{advice}")
    return region
