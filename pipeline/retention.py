"""Making room in the folder of a live run: what is old goes, and the oldest first where the disk is nearly full.

Of cameras, windows lie in folders by UTC date, `frames/<filter>/<camera>/<date>/<time>-<first frame>.parquet`, and so
do events and telemetry. The last window of a camera stays whatever its age: the next run goes on behind it.
"""

from __future__ import annotations

import logging
import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import NamedTuple

from pipeline.threads import Stop

__all__ = ["Removed", "free_bytes", "make_room"]

log = logging.getLogger(__name__)

MARGIN = 1.1
DATE = re.compile(r"\d{4}-\d\d-\d\d", re.ASCII)


class Removed(NamedTuple):
    """What was removed: files for their age, and files for want of room."""

    old: int = 0
    for_room: int = 0


def free_bytes(folder: Path) -> int:
    """What is free on the disk of a folder."""
    return shutil.disk_usage(folder).free


def make_room(
    folder: Path,
    *,
    keep_days: float | None = None,
    min_free_bytes: int = 0,
    now: datetime | None = None,
    free: Callable[[Path], int] = free_bytes,
    stop: Stop | None = None,
) -> Removed:
    """Removes files of a live run.

    Args:
        folder: The run's folder.
        keep_days: Files of UTC days that ended longer ago are removed; None: none for its age.
        min_free_bytes: Of the disk; below it the oldest files are removed until so much and a tenth more is free, so
            that not every window that comes makes it look through the folder again.
        now: In UTC.
        free: What is free on the disk of a folder, in bytes.
        stop: Ends it soon.
    """
    now = now or datetime.now(UTC)
    found = []
    for path in _removable(folder):
        if stop:
            return Removed()
        found.append(path)
    files = sorted(found, key=lambda path: (path.parent.name, path.name))
    kept, old = [], 0
    for path in files:
        ended = datetime.strptime(path.parent.name, "%Y-%m-%d").replace(tzinfo=UTC) + timedelta(days=1)
        if keep_days is not None and now - ended > timedelta(days=keep_days):
            old += _remove(path)
        else:
            kept.append(path)
    for_room = 0
    if free(folder) < min_free_bytes:
        for path in kept:
            if free(folder) >= MARGIN * min_free_bytes or stop:
                break
            for_room += _remove(path)
    if for_room:
        log.warning("%s: %d of the oldest files were removed, as the disk is nearly full", folder, for_room)
    if free(folder) < min_free_bytes and not stop:
        log.warning("%s: less is free than must be, and nothing is left that may be removed; make room", folder)
    return Removed(old, for_room)


def _removable(folder: Path) -> Iterator[Path]:
    """The files of windows, events and telemetry but for the last window of each camera."""
    for camera in folder.glob("frames/*/*"):
        windows = [path for day in _days(camera) for path in day.glob("*.parquet")]
        last = max(windows, key=lambda path: path.stem.rpartition("-")[2], default=None)  # by its first frame
        yield from (path for path in windows if path != last)
    for others in ("events", "telemetry"):
        yield from (path for day in _days(folder / others) for path in day.glob("*.parquet"))


def _days(folder: Path) -> Iterator[Path]:
    if folder.is_dir():
        yield from (path for path in folder.iterdir() if DATE.fullmatch(path.name) and path.is_dir())


def _remove(path: Path) -> bool:
    """Removes a file, and its day if that is empty then; False if it is not to be removed."""
    try:
        path.unlink()
    except OSError as error:
        log.warning("%s: cannot be removed: %s", path, error.strerror)
        return False
    with suppress(OSError):  # not empty
        path.parent.rmdir()
    return True
