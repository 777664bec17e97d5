"""Labels as a table: CSV with one box per row."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import VpipeError, refuse
from pipeline.files import whole_file
from pipeline.labels.boxes import LONGEST_NAME, Boxes, as_number

__all__ = ["read_table", "write_table"]

Value = TypeVar("Value")
Row = tuple[int, list[str]]  # the line on which it begins, and its fields
Corners = tuple[float, ...]

CORNERS = ("xmin", "ymin", "xmax", "ymax")
COLUMNS = ("frame", "object_name", "confidence", *CORNERS)
OPTIONAL = ("ind",)  # number of the object's track
OF_REGIONS = ("frame", "region", "label")
BEGINNING = f"{','.join(COLUMNS)} or {','.join(OF_REGIONS)}"


def read_table(path: Path, text: str) -> Boxes:
    """Reads CSV whose first line names the columns, in any order, and that has one box per row.

        frame,object_name,confidence,xmin,ymin,xmax,ymax,ind        (ind may be missing)

    The track is not looked at. A frame without a row shows nothing; a file with the first line alone says that no frame
    does. Or one row for every region of every frame that is taken, with an empty label where it shows nothing:

        frame,region,label

    Raises:
        ConfigError: the first problems of the file, each with its line.
    """
    rows, broken = _rows(path, text)
    if not rows:
        refuse(path, broken or [f"{path}:1: labels must begin with {BEGINNING}, got an empty file"])
    (first, names), *rows = rows
    header = [name.strip() for name in names]
    if set(header) == set(OF_REGIONS) and len(header) == len(OF_REGIONS):
        return _of_regions(path, header, rows, broken)
    refuse(path, [f"{path}:{first}: {wrong}" for wrong in _wrong_columns(header)])
    boxes: list[tuple[int, str, float, Corners]] = []
    problems: list[str] = []
    for line, row in rows:
        box, wrong = _box(header, row)
        boxes.append(box)
        problems += [f"{path}:{line}: {text}" for text in wrong]
    refuse(path, problems + broken)
    frames = np.array([frame for frame, *_ in boxes], np.int64)
    return Boxes(
        path=path,
        frame=frames,
        object_name=np.array([name for _, name, *_ in boxes], np.str_),
        confidence=np.array([confidence for *_, confidence, _ in boxes], np.float64),
        told=frames,
        place=np.array([f":{line}" for line, _ in rows], np.str_),
        complete=True,
        corners=np.array([corners for *_, corners in boxes], np.float64).reshape(-1, 4),
    )


def _of_regions(path: Path, header: Sequence[str], rows: Sequence[Row], broken: Sequence[str]) -> Boxes:
    """A table of what regions show."""
    problems: list[str] = []
    frames: list[int] = []
    regions: dict[str, int] = {}
    of_regions, names = [], []
    for line, row in rows:
        if len(row) != len(header):
            problems.append(
                f"{path}:{line}: a row must have {len(header)} fields as the first line has, got {len(row)}"
            )
            continue
        fields = dict(zip(header, (field.strip() for field in row), strict=True))
        number = as_number(fields["frame"])
        if number is None:
            problems.append(f"{path}:{line}: frame must be a whole number from 0, got {fields['frame'][:80]!r}")
        problems += [
            f"{path}:{line}: {name} must be a name of up to {LONGEST_NAME} characters, got {fields[name][:80]!r}"
            for name, least in (("region", 1), ("label", 0))
            if not least <= len(fields[name]) <= LONGEST_NAME
        ]
        frames.append(number or 0)
        of_regions.append(regions.setdefault(fields["region"], len(regions)))
        names.append(fields["label"])
    refuse(path, [*problems, *broken])
    return Boxes(
        path=path,
        frame=np.array(frames, np.int64),
        object_name=np.array(names, np.str_),
        confidence=np.ones(len(names)),
        told=np.array(frames, np.int64),
        place=np.array([f":{line}" for line, _ in rows], np.str_),
        complete=False,
        region=np.array(of_regions, np.int64),
        regions=tuple(regions),
    )


def write_table(
    path: Path,
    frame: NDArray[np.int64],
    object_name: Sequence[str],
    confidence: NDArray[np.float32],
    corners: NDArray[np.float32],
) -> None:
    """Writes M boxes as `read_table` reads them; the file appears whole or not at all, over what was there.

    Args:
        path: The file.
        frame: (M,), numbers from 0.
        object_name: M names.
        confidence: (M,), 0..1.
        corners: (M, 4), xmin, ymin, xmax, ymax in fractions of the frame.

    Raises:
        VpipeError: it cannot be written.
    """
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    for number, name, share, box in zip(
        frame.tolist(), object_name, confidence.tolist(), corners.tolist(), strict=True
    ):
        writer.writerow([number, name, f"{share:.3f}", *(f"{value:.4f}" for value in box)])
    try:
        with whole_file(path) as file:
            file.write(text.getvalue().encode())
    except OSError as exc:
        raise VpipeError(f"{path}: must be a file that can be written, got {exc.strerror or exc}") from exc


def _rows(path: Path, text: str) -> tuple[list[Row], list[str]]:
    """All rows with the line on which each begins, without blank ones; and the problem at which they broke off."""
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    rows: list[Row] = []
    while True:
        line = reader.line_num + 1
        try:
            row = next(reader, None)
        except csv.Error as exc:
            return rows, [f"{path}:{line}: labels must be CSV, got: {exc}"]
        if row is None:
            return rows, []
        if row:
            rows.append((line, row))


def _wrong_columns(header: Sequence[str]) -> list[str]:
    """What is wrong with the first line."""
    required = ",".join(COLUMNS)
    if len(set(header) & set(COLUMNS)) < 2:
        got = ",".join(header)
        advice = "separate columns with commas" if any(mark in got for mark in ";\t|") else "add that line"
        return [f"labels must begin with {BEGINNING}, got {got[:80]!r}; {advice}"]
    allowed = f"{required} and, if you like, {','.join(OPTIONAL)}"
    return [
        *(f"column {name!r} must be there, got none" for name in COLUMNS if name not in header),
        *(f"columns must be {allowed}, got {name[:80]!r}" for name in header if name not in COLUMNS + OPTIONAL),
        *(f"columns must differ, got {name[:80]!r} twice" for name in sorted(set(header)) if header.count(name) > 1),
    ]


def _box(header: Sequence[str], row: Sequence[str]) -> tuple[tuple[int, str, float, Corners], list[str]]:
    """Frame, name, confidence and corners of a row, and what is wrong with it; they mean nothing if something is."""
    if len(row) != len(header):
        return (0, "", 0.0, ()), [f"a row must have {len(header)} fields as the first line has, got {len(row)}"]
    fields = dict(zip(header, row, strict=True))
    wrong: list[str] = []

    def read(name: str, rule: str, reader: Callable[[str], Value | None], otherwise: Value) -> Value:
        value = reader(fields[name].strip())
        if value is None:
            wrong.append(f"{name} must be {rule}, got {fields[name][:80]!r}")
        return otherwise if value is None else value

    box = (
        read("frame", "a whole number from 0", as_number, 0),
        read("object_name", f"a name of up to {LONGEST_NAME} characters", _name, ""),
        read("confidence", "a number in 0..1", _share, 0.0),
        tuple(_number(fields[name]) for name in CORNERS),
    )
    return box, wrong + _wrong_corners(fields)


def _wrong_corners(fields: Mapping[str, str]) -> list[str]:
    corners = {name: _number(fields[name]) for name in CORNERS}
    # A tracker's box may reach over the edge of the frame. One that would reach over the next frame is in pixels.
    if strange := [name for name in CORNERS if not -1 <= corners[name] <= 2]:
        got = ", ".join(repr(fields[name][:80]) for name in strange)
        return [
            f"{', '.join(strange)} must be fractions of the frame, got {got}; divide pixels by its width and height"
        ]
    return [
        f"{high} must be {low} or more, got {fields[high][:80]!r} under {fields[low][:80]!r}"
        for low, high in (("xmin", "xmax"), ("ymin", "ymax"))
        if corners[high] < corners[low]
    ]


def _name(text: str) -> str | None:
    return text if 0 < len(text) <= LONGEST_NAME else None


def _share(text: str) -> float | None:
    value = _number(text)
    return value if 0 <= value <= 1 else None


def _number(text: str) -> float:
    """NaN for what is none."""
    try:
        return math.nan if "_" in text else float(text)
    except ValueError:
        return math.nan
