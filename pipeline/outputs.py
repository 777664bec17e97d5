"""One rule for the files that a command is told to write: the folder is there, and nothing is replaced unasked.

vpipe makes the folders of its runs, and none beside them: a mistyped path must not become a tree.
"""

from __future__ import annotations

import os
import shlex
import tempfile
from pathlib import Path

from pipeline.errors import ConfigError

__all__ = ["CLOSED", "check_output", "file_problem", "folder_problem"]

CLOSED: set[int] = set()  # descriptors of the standard streams that the program was started without


def check_output(path: Path, *, given_by: str, overwrite: bool, suffix: str = "") -> None:
    """Refuses what cannot be written or must not be replaced, before the work whose result it is.

    Raises:
        ConfigError: see `file_problem`.
    """
    if problem := file_problem(path, given_by=given_by, overwrite=overwrite, suffix=suffix):
        raise ConfigError([problem])


def file_problem(path: Path, *, given_by: str, overwrite: bool, suffix: str = "") -> str | None:
    """Why this file cannot be written, in one line; None if it can.

    Args:
        path: The file.
        given_by: The option that names it.
        overwrite: Whether it may be there already.
        suffix: How its name must end, as ".png"; empty: anyhow.
    """
    if not path.name.lower().endswith(suffix):
        return f"{path}: must end in {suffix}, which is what is written; choose another {given_by}"
    there = os.path.lexists(path)
    if there and not os.path.isfile(path):
        got = "a folder" if os.path.isdir(path) else "something else"
        return f"{path}: must be a file to write, got {got}; choose another {given_by}"
    if there and not overwrite:
        return f"{path}: must not exist yet; --overwrite replaces it"
    return folder_problem(path.parent, given_by=given_by)


def folder_problem(folder: Path, *, given_by: str) -> str | None:
    """Why no file can be put into this folder, in one line; None if one can: it is tried out."""
    try:
        with tempfile.TemporaryFile(dir=folder):
            return None
    except FileNotFoundError:
        cure = f"mkdir -p {shlex.quote(str(folder))}"
        return f"{folder}: must be a folder that is there, got none; {cure}, or choose another {given_by}"
    except OSError as exc:
        return f"{folder}: must be a folder to write to, got {exc.strerror or exc}; choose another {given_by}"
