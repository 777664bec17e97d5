"""From a path in a configuration to video files: a file, a folder read recursively, or a glob."""

from __future__ import annotations

import glob
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from pipeline.errors import SourceError

__all__ = ["VIDEO_SUFFIXES", "Found", "find_videos"]

VIDEO_SUFFIXES = frozenset(
    {
        *(".264", ".265", ".av1", ".h264", ".h265", ".hevc", ".ivf", ".m4v", ".mjpeg", ".mjpg", ".obu"),
        *(".3gp", ".asf", ".avi", ".dav", ".divx", ".dv", ".f4v", ".flv", ".gif", ".m2ts", ".mkv", ".mov", ".mp4"),
        *(".mpeg", ".mpg", ".mts", ".mxf", ".nut", ".ogv", ".ts", ".vob", ".webm", ".wmv"),
    }
)


@dataclass(frozen=True, slots=True)
class Found:
    """What a path stands for.

    Attributes:
        videos: (name, path) of each video, sorted; the name is that of the source.
        ignored: Files that were passed over because their suffix is not that of a video.
    """

    videos: tuple[tuple[str, Path], ...]
    ignored: tuple[Path, ...] = ()


def find_videos(path: str, name: str) -> Found:
    """Finds the videos of a source.

    Args:
        path: An absolute file, folder or glob (`**` goes through folders). A path that exists is never a glob.
        name: Name of the source. Videos of a folder or glob are called `<name>/<path below it>`.
    """
    if Path(path).is_dir():
        return _below(Path(path), sorted(_walk(Path(path))), name)
    if Path(path).exists() or not glob.has_magic(path):
        return Found(videos=((name, Path(path)),))
    matches = sorted(Path(match) for match in glob.iglob(path, recursive=True))
    return _below(_fixed_part(path), list(_files(matches)), name)


def _files(matches: list[Path]) -> Iterator[Path]:
    for match in matches:
        if match.is_file():
            yield match


def _walk(folder: Path) -> Iterator[Path]:
    """All files below a folder, links followed, each folder once. One that cannot be read is an error, not a gap."""
    seen: set[tuple[int, int]] = set()

    def refuse(error: OSError) -> None:
        raise SourceError(str(folder), f"{error.filename}: must be a readable folder, got {error.strerror}") from error

    for top, folders, files in os.walk(folder, onerror=refuse, followlinks=True):
        facts = os.stat(top)
        if (facts.st_dev, facts.st_ino) in seen:
            folders.clear()
            continue
        seen.add((facts.st_dev, facts.st_ino))
        yield from (Path(top, file) for file in files)


def _below(root: Path, files: list[Path], name: str) -> Found:
    videos = tuple((f"{name}/{p.relative_to(root).as_posix()}", p) for p in files if p.suffix.lower() in VIDEO_SUFFIXES)
    return Found(videos, tuple(p for p in files if p.suffix.lower() not in VIDEO_SUFFIXES))


def _fixed_part(pattern: str) -> Path:
    """The folder before the first part with a wildcard."""
    parts = []
    for part in Path(pattern).parts:
        if glob.has_magic(part):
            break
        parts.append(part)
    return Path(*parts)
