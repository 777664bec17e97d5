"""Where a result comes from: the commit, the machine and the versions. Light, for those that measure memory."""

from __future__ import annotations

import importlib.metadata
import subprocess
from collections.abc import Iterable
from pathlib import Path

from pipeline.machine import machine, versions

ROOT = Path(__file__).parents[1]


def commit() -> str:
    """The commit of the code, marked where files of the packages differ from it."""
    git = ["git", "-C", str(ROOT), "describe", "--always", "--abbrev=40", "--exclude=*"]
    at = subprocess.run(git, capture_output=True, text=True, check=False).stdout.strip() or "unknown"
    changed = ["git", "-C", str(ROOT), "status", "--porcelain", "--", "pipeline", "specialized", "benchmarks/*.py"]
    return at + ("-dirty" if subprocess.run(changed, capture_output=True, text=True, check=False).stdout else "")


def facts(others: Iterable[str] = ()) -> dict[str, object]:
    """Commit, machine and versions, also of other distributions; None for one that is not installed."""
    return {
        "commit": commit(),
        "machine": machine(),
        "versions": versions() | {name: _version(name) for name in others},
    }


def _version(distribution: str) -> str | None:
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return None
