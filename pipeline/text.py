"""Text for reading: cells in columns, names of any bytes."""

from __future__ import annotations

import re
from collections.abc import Sequence

__all__ = ["aligned", "printable", "visible"]

_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")


def aligned(rows: Sequence[Sequence[str]], *, left: int = 1) -> list[str]:
    """Lines of cells, one for each row, the head among them.

    Args:
        rows: As many cells each.
        left: So many columns are flush left, those of texts; the others, of numbers, are flush right.
    """
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join(
            f"{cell:{'<' if at < left else '>'}{width}}"
            for at, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]


def printable(name: str) -> str:
    """A file name that is not UTF-8 keeps its odd bytes as `\\udcXX`, visibly: neither Arrow nor a font takes them."""
    return name.encode("utf-8", "backslashreplace").decode()


def visible(text: str) -> str:
    """A text for a terminal, which the names of files that nobody trusts may be part of: they do not write on it."""
    return _CONTROL.sub(lambda sign: f"\\x{ord(sign[0]):02x}", text)
