"""Labels as a table: CSV with one box per row."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import ConfigError, VpipeError
from pipeline.labels.boxes import LONGEST_NAME, Boxes, as_number, refuse
from pipeline.runs import WholeFile

__all__ = ["read_table", "write_table"]

Value = TypeVar("Value")

COLUMNS = ("frame", "object_name", "confidence", "xmin", "ymin", "xmax", "ymax")
OPTIONAL = ("ind",)  # number of the object's track


def read_table(path: Path, text: str) -> Boxes:
    """Reads CSV whose first line names the columns, in any order, and that has one box per row.

        frame,object_name,confidence,xmin,ymin,xmax,ymax,ind        (ind may be missing)

    The corners and the track must have their columns, and what stands there is not looked at. A frame without a row
    shows nothing; a file with the first line alone says that no frame does.

    Raises:
        ConfigError: the first problems of the file, each with its line.
    """
    header, rows = _rows(path, text)
    problems = [f"{path}:1: column {name!r} must be there, got none" for name in COLUMNS if name not in header]
    known = COLUMNS + OPTIONAL
    problems += [
        f"{path}:1: columns must be {','.join(known)}, got {name[:80]!r}" for name in header if name not in known
    ] + [
        f"{path}:1: columns must differ, got {name[:80]!r} twice"
        for name in sorted(set(header))
        if header.count(name) > 1
    ]
    refuse(path, problems)

    def column(name: str, rule: str, read: Callable[[str], Value | None]) -> list[Value]:
        at = header.index(name)
        values = []
        for line, row in rows:
            value = read(row[at])
            if value is None:
                problems.append(f"{path}:{line}: {name} must be {rule}, got {row[at][:80]!r}")
            else:
                values.append(value)
        return values

    frame = column("frame", "a whole number from 0", lambda text: as_number(text.strip()))
    names = column("object_name", f"a name of up to {LONGEST_NAME} characters", _name)
    confidence = column("confidence", "a number in 0..1", _share)
    refuse(path, problems)
    frames = np.array(frame, np.int64)
    return Boxes(
        path=path,
        frame=frames,
        object_name=np.array(names, np.str_),
        confidence=np.array(confidence, np.float64),
        told=frames,
        place=np.array([f":{line}" for line, _ in rows], np.str_),
        complete=True,
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
        file = WholeFile(path)
        try:
            file.file.write(text.getvalue().encode())
            file.commit()
        finally:
            file.discard()
    except OSError as exc:
        raise VpipeError(f"{path}: must be a file that can be written, got {exc.strerror or exc}") from exc


def _rows(path: Path, text: str) -> tuple[list[str], list[tuple[int, list[str]]]]:
    """The names of the columns, and the rows below them with their line; blank lines are passed over."""
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    try:
        rows = [(reader.line_num, row) for row in reader if row]
    except csv.Error as exc:
        raise ConfigError([f"{path}:{reader.line_num}: labels must be CSV, got: {exc}"]) from exc
    if not rows:
        raise ConfigError([f"{path}:1: labels must begin with {','.join(COLUMNS)}, got an empty file"])
    header = [name.strip() for name in rows[0][1]]
    for line, row in rows[1:]:
        if len(row) != len(header):
            raise ConfigError([f"{path}:{line}: a row must have {len(header)} fields as line 1 has, got {len(row)}"])
    return header, rows[1:]


def _name(text: str) -> str | None:
    name = text.strip()
    return name if 0 < len(name) <= LONGEST_NAME else None


def _share(text: str) -> float | None:
    try:
        value = float(text)
    except ValueError:
        return None
    return value if 0 <= value <= 1 and "_" not in text else None
