"""Label files: which objects a detector or a person saw in which frame, and what a model should answer for it."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import ConfigError
from specialized.modelfile import Ask, Task

__all__ = ["Boxes", "answers", "read_labels"]

Labels = NDArray[np.int64] | NDArray[np.float32]
Value = TypeVar("Value")

COLUMNS = ("frame", "object_name", "confidence", "xmin", "ymin", "xmax", "ymax")
OPTIONAL = ("ind",)  # number of the object's track
MOST_PROBLEMS = 10  # named of one label file: a file of another kind is wrong in every row


@dataclass(frozen=True, slots=True, eq=False)
class Boxes:
    """The boxes of a clip: M rows of a label file, in its order. Where in the picture they are does not matter here."""

    path: Path
    line: NDArray[np.int64]  # (M,) where in the file each stands, from 1
    frame: NDArray[np.int64]  # (M,) number of the frame, from 0
    object_name: NDArray[np.str_]  # (M,)
    confidence: NDArray[np.float64]  # (M,) 0..1

    def __len__(self) -> int:
        return len(self.frame)


def read_labels(path: Path) -> Boxes:
    """Reads a label file: CSV whose first line names the columns, in any order, and one box per row.

        frame,object_name,confidence,xmin,ymin,xmax,ymax,ind        (ind may be missing)

    The corners and the track must have their columns, and what stands there is not looked at. A file with that line
    alone says that no frame shows anything.

    Raises:
        ConfigError: the first problems of the file, each with its line.
    """
    header, rows = _rows(path)
    problems = [f"{path}:1: column {name!r} must be there, got none" for name in COLUMNS if name not in header]
    known = COLUMNS + OPTIONAL
    problems += [
        f"{path}:1: columns must be {','.join(known)}, got {name!r}" for name in header if name not in known
    ] + [f"{path}:1: columns must differ, got {name!r} twice" for name in sorted(set(header)) if header.count(name) > 1]
    if problems:
        raise ConfigError(problems)

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

    frame = column("frame", "a whole number from 0", _whole)
    names = column("object_name", "a name", lambda text: text.strip() or None)
    confidence = column("confidence", "a number in 0..1", _share)
    if problems:
        more = [f"{path}: and {len(problems) - MOST_PROBLEMS} more"] if len(problems) > MOST_PROBLEMS else []
        raise ConfigError(problems[:MOST_PROBLEMS] + more)
    return Boxes(
        path=path,
        line=np.array([line for line, _ in rows], np.int64),
        frame=np.array(frame, np.int64),
        object_name=np.array(names, np.str_),
        confidence=np.array(confidence, np.float64),
    )


def _rows(path: Path) -> tuple[list[str], list[tuple[int, list[str]]]]:
    """The names of the columns, and the rows below them with their line; blank lines are passed over."""
    try:
        content = path.read_bytes()
    except OSError as exc:
        raise ConfigError([f"{path}: labels must be a readable file, got: {exc.strerror or exc}"]) from exc
    if (nul := content.find(b"\0")) >= 0:
        line = content[:nul].count(b"\n") + 1
        raise ConfigError([f"{path}:{line}: labels must be text, got a NUL byte; is it another file?"])
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as exc:
        line = content[: exc.start].count(b"\n") + 1
        raise ConfigError([f"{path}:{line}: labels must be UTF-8 text, got byte 0x{content[exc.start]:02x}"]) from exc
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    try:
        rows = [(reader.line_num, row) for row in reader if row]
    except csv.Error as exc:
        raise ConfigError([f"{path}:{reader.line_num}: labels must be CSV, got: {exc}"]) from exc
    if not rows:
        raise ConfigError([f"{path}: labels must begin with {','.join(COLUMNS)}, got an empty file"])
    header = [name.strip() for name in rows[0][1]]
    for line, row in rows[1:]:
        if len(row) != len(header):
            raise ConfigError([f"{path}:{line}: a row must have {len(header)} fields as line 1 has, got {len(row)}"])
    return header, rows[1:]


def _whole(text: str) -> int | None:
    digits = text.strip()
    return int(digits) if digits.isascii() and digits.isdecimal() and len(digits) <= 18 else None


def _share(text: str) -> float | None:
    try:
        value = float(text)
    except ValueError:
        return None
    return value if 0 <= value <= 1 and "_" not in text else None


def answers(boxes: Boxes, numbers: NDArray[np.int64], asks: Sequence[Ask], task: Task) -> Labels:
    """What a model should answer for each frame, by the boxes in it.

    Args:
        boxes: of the clip.
        numbers: int64 (N,), the frames.
        asks: one question per class.
        task: one_of: the first class whose question holds, else the class after the last, `none`; any_of: each for
            itself.

    Returns:
        one_of: int64 (N,), class numbers; any_of: float32 (N, K), 0 or 1.
    """
    holds = np.ones((len(numbers), len(asks) + 1), np.bool_)  # the last column: none
    for k, ask in enumerate(asks):
        counted = boxes.frame[(boxes.object_name == ask.object) & (boxes.confidence >= ask.min_confidence)]
        counted.sort()
        found = np.searchsorted(counted, numbers, side="right") - np.searchsorted(counted, numbers, side="left")
        holds[:, k] = found >= ask.at_least
    if task == "one_of":
        return np.asarray(holds.argmax(axis=1), np.int64)
    return np.asarray(holds[:, : len(asks)], np.float32)
