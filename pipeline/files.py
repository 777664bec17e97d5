"""How a file comes into place whole, and outlives a power failure."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

__all__ = ["TEMPORARY", "WholeFile", "make_folder", "sync_folder", "whole_file", "write_json"]

TEMPORARY = ".tmp"


class WholeFile:
    """A new file that appears at `path` whole or not at all.

    It is written under a temporary name beside it, which starts with a dot so that readers of the folder pass it over.
    `commit` puts it in place, on disk, over what was there; without it `discard` leaves no trace.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._temporary = path.with_name(f".{path.name}{TEMPORARY}")
        self.file = open(self._temporary, "wb")  # noqa: SIM115 (closed by commit or discard)

    def commit(self) -> None:
        self.file.flush()
        os.fsync(self.file.fileno())
        self.file.close()
        os.replace(self._temporary, self.path)
        sync_folder(self.path.parent)

    def discard(self) -> None:
        with suppress(OSError):  # closing flushes, perhaps to a disk that is full
            self.file.close()
        self._temporary.unlink(missing_ok=True)


def make_folder(path: Path) -> None:
    """Makes a folder and its parents so that they outlive a power failure, as the files in them do."""
    if path.is_dir():
        return
    make_folder(path.parent)
    path.mkdir(exist_ok=True)
    sync_folder(path.parent)


def write_json(path: Path, document: object, *, indent: int | None = 2) -> None:
    """Writes a JSON document that appears at `path` whole or not at all."""
    with whole_file(path) as file:
        file.write(json.dumps(document, indent=indent, allow_nan=False).encode() + b"\n")


@contextmanager
def whole_file(path: Path) -> Iterator[BinaryIO]:
    """Gives a file to write, which appears at `path` at the end of the block, unless that raises."""
    file = WholeFile(path)
    try:
        yield file.file
        file.commit()
    except BaseException as error:
        file.discard()
        if isinstance(error, OSError) and error.filename is None:  # a disk that is full names no file
            error.filename = str(path)
        raise


def sync_folder(path: Path) -> None:
    """Makes the names in a folder outlive a power failure."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
