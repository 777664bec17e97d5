"""From a path in a configuration to video files: a file, a folder read recursively, or a glob."""

from __future__ import annotations

import glob
import logging
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import dropwhile
from pathlib import Path

from pipeline.errors import ConfigError

__all__ = ["VIDEO_SUFFIXES", "Found", "find_videos", "matches", "passed_over", "videos_at"]

log = logging.getLogger(__name__)

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
        path: An absolute file, folder or glob (`**` goes through folders, and then each file is taken once, by the
            first of its names). A path that exists is never a glob.
        name: Name of the source. Videos of a folder or glob are called `<name>/<path below it>`.
    """
    if os.path.isdir(path):  # that of Path raises for a name that is too long, or that may not be looked at
        files, unreadable = _walk(Path(path))
        return _below(Path(path), sorted([*files, *unreadable]), name, unreadable)
    if os.path.exists(path) or not glob.has_magic(path):
        return Found(videos=((name, Path(path)),))
    found = list(_files(sorted(map(Path, matches(path)))))
    if "**" in Path(path).parts:  # else one had to write down each way to a file
        first: dict[tuple[str, bool], Path] = {}
        for file in found:
            first.setdefault((os.path.realpath(file), _is_video(file)), file)
        found = list(first.values())
    return _below(_fixed_part(path), found, name)


def matches(pattern: str) -> Iterator[str]:
    """What matches an absolute glob, as the module of that name has it, but that `**` goes into each folder once: there
    links may lead in circles."""
    parts = pattern.split(os.sep)
    if "**" not in parts:
        yield from glob.iglob(pattern)
        return
    at = parts.index("**")
    rest = os.sep.join([*dropwhile("**".__eq__, parts[at:])] or ["*"])
    for top in glob.iglob(os.sep.join([*parts[:at], ""])):
        for folder, _ in _folders(top, hidden=False):
            yield from matches(os.path.join(glob.escape(folder), rest))


def videos_at(paths: Sequence[str]) -> list[Path]:
    """The videos that the arguments of a command stand for; files that are passed over are logged.

    Args:
        paths: Files, folders or globs, from where one stands.

    Raises:
        ConfigError: names the paths that stand for none.
    """
    found = [(path, find_videos(path, "")) for path in map(os.path.abspath, paths)]
    if problems := [
        f"{path}: must be a video, or a folder or glob of them, got none among {len(at.ignored)} files; check the path"
        for path, at in found
        if not at.videos
    ]:
        raise ConfigError(problems)
    if ignored := [path for _, at in found for path in at.ignored]:
        log.warning("%s", passed_over(ignored))
    return [video for _, at in found for _, video in at.videos]


def passed_over(ignored: Sequence[Path]) -> str:
    """Says which files were passed over, the first of them by name."""
    some = ", ".join(path.name for path in ignored[:5]) + (", ..." if len(ignored) > 5 else "")
    return f"passed over: {len(ignored)} files whose names are not those of videos: {some}"


def _files(found: list[Path]) -> Iterator[Path]:
    for path in found:
        if not os.path.isdir(path):  # also a link to nothing: it was meant to be a file, and will be refused by name
            yield path


def _walk(folder: Path) -> tuple[list[Path], list[Path]]:
    """All files below a folder; and the folders that cannot be read."""
    unreadable: list[Path] = []

    def note(error: OSError) -> None:
        unreadable.append(Path(error.filename))

    return [Path(top, file) for top, files in _folders(str(folder), note) for file in files], unreadable


def _folders(
    top: str, note: Callable[[OSError], None] | None = None, *, hidden: bool = True
) -> Iterator[tuple[str, list[str]]]:
    """A folder and those below it, links followed, each once and by the first of its names; and their files.

    Args:
        top: The folder.
        note: Told of each that cannot be read.
        hidden: Whether those whose names begin with a dot are among them.
    """
    seen: set[tuple[int, int]] = set()
    for folder, folders, files in os.walk(top, onerror=note, followlinks=True):
        facts = os.stat(folder)
        if (facts.st_dev, facts.st_ino) in seen:
            folders.clear()
            continue
        seen.add((facts.st_dev, facts.st_ino))
        folders[:] = sorted(name for name in folders if hidden or not name.startswith("."))
        yield folder, files


def _below(root: Path, files: list[Path], name: str, unreadable: Sequence[Path] = ()) -> Found:
    """Tells videos from other files. A folder that cannot be read is taken for a video, and so refused by name."""
    taken = {path for path in files if _is_video(path)}.union(unreadable)
    videos = [path for path in files if path in taken]
    ignored = tuple(path for path in files if path not in taken)
    return Found(tuple((f"{name}/{path.relative_to(root).as_posix()}", path) for path in videos), ignored)


def _is_video(path: Path) -> bool:
    return path.suffix.lower() in VIDEO_SUFFIXES


def _fixed_part(pattern: str) -> Path:
    """The folder before the first part with a wildcard."""
    parts = []
    for part in Path(pattern).parts:
        if glob.has_magic(part):
            break
        parts.append(part)
    return Path(*parts)
