"""`vpipe label`: labels made by a detector, for footage that has none.

clip ──decode at the detector's size──▶ pictures ──Detector──▶ Found ──▶ CSV, contact sheet
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pipeline.batch import FrameBatch, SegmentEnd
from pipeline.detector import Detections, Detector
from pipeline.errors import ConfigError, SourceError
from pipeline.labels.boxes import LONGEST_NAME
from pipeline.outputs import file_problem, folder_problem
from pipeline.sources.file import FileSource, Refusal
from pipeline.sources.reader import Reader
from pipeline.sources.scaler import PictureFormat, View
from pipeline.sources.selection import Selection

__all__ = ["Found", "Target", "as_clips", "detect", "read_names", "targets"]

MOST_NAMES = 10  # in a summary
BATCH = 16  # pictures that wait to be looked at: progress is shown, and a key heeded, between batches


@dataclass(frozen=True, slots=True)
class Target:
    """A clip, and the files that are to be made of it."""

    clip: Path
    table: Path
    sheet: Path | None


@dataclass(frozen=True, slots=True, eq=False)
class Found:
    """What a detector saw in a clip: N frames that it looked at, M boxes in them."""

    clip: Path
    numbers: NDArray[np.int64]  # (N,) ascending
    frame: NDArray[np.int64]  # (M,) number of the frame of each box, ascending
    object_name: tuple[str, ...]  # (M,)
    confidence: NDArray[np.float32]  # (M,)
    corners: NDArray[np.float32]  # (M, 4) xmin, ymin, xmax, ymax in fractions of the frame
    losses: tuple[str, ...]  # what keeps the clip from being labelled whole: frames lost or repaired, a missing end

    def summary(self) -> str:
        """One line: how much of what there is."""
        names = np.array(self.object_name, np.str_)
        counts = {name: len(np.unique(self.frame[names == name])) for name in dict.fromkeys(self.object_name)}
        told = [f"{name} in {count:,}" for name, count in sorted(counts.items(), key=lambda item: -item[1])]
        rest = [f"{len(told) - MOST_NAMES} more"] if len(told) > MOST_NAMES else []
        listed = ", ".join([*told[:MOST_NAMES], *rest])
        return f"{len(self.frame):,} boxes in {len(self.numbers):,} frames" + (f": {listed}" if listed else "")


def targets(clips: Sequence[Path], *, out: str, sheet: str | None, overwrite: bool) -> list[Target]:
    """Where the labels of each clip go.

    Args:
        clips: The videos.
        out: A file, if it ends in .csv, for one clip; else a folder, in which each is named after its clip. It is made
            if need be, what it lies in is not.
        sheet: Likewise, with .png; None: none.
        overwrite: Whether files may be there already.

    Raises:
        ConfigError: two clips would share a file, one is there already, or a folder is not.
    """
    problems: list[str] = []
    tables = _paths(clips, out, ".csv", "--out", overwrite, problems)
    sheets = _paths(clips, sheet, ".png", "--sheet", overwrite, problems) if sheet is not None else [None] * len(clips)
    planned = [Target(*paths) for paths in zip(clips, tables, sheets, strict=True)]
    made = [path for target in planned for path in (target.table, target.sheet) if path is not None]
    problems += [f"{path}: must be another clip's file, got it twice; label them apart" for path in _twice(made)]
    if problems:
        raise ConfigError(list(dict.fromkeys(problems)))
    for folder in dict.fromkeys(path.parent for path in made):
        try:
            folder.mkdir(exist_ok=True)
        except OSError as exc:
            raise ConfigError([f"{folder}: must be a folder that can be made, got: {exc.strerror or exc}"]) from exc
    return planned


def _paths(
    clips: Sequence[Path], where: str, suffix: str, option: str, overwrite: bool, problems: list[str]
) -> list[Path]:
    """The files of these clips, and what keeps them from being written."""
    place = Path(where)
    is_file = where.lower().endswith(suffix)
    if is_file and len(clips) > 1:
        raise ConfigError([f"{option}: must be a folder for {len(clips)} clips, got {where}"])
    paths = [place] if is_file else [place / (clip.stem + suffix) for clip in clips]
    if not is_file and not os.path.lexists(place):
        if place.suffix:
            problems.append(f"{option}: must be a FILE{suffix} or a folder, got {where}; mkdir it if it is one")
        found = [folder_problem(place.parent, given_by=option)]
    else:
        found = [file_problem(path, given_by=option, overwrite=overwrite) for path in paths]
    problems += [problem for problem in found if problem is not None]
    return paths


def _twice(paths: Sequence[Path]) -> list[Path]:
    return [path for k, path in enumerate(paths) if path in paths[:k]]


def as_clips(labelled: Sequence[Target], *, every: int) -> list[str]:
    """The lines of a configuration that trains on these labels, wherever it lies."""

    def quoted(path: Path) -> str:
        return json.dumps(os.path.abspath(path), ensure_ascii=False)

    entries = [(quoted(target.clip), quoted(target.table)) for target in labelled]
    return ["clips:", *(f"  - {{video: {video}, labels: {labels}, every: {every}}}" for video, labels in entries)]


def read_names(path: Path) -> list[str]:
    """Reads the names of a detector's classes, one a line.

    Raises:
        ConfigError: it cannot be read, or holds what is no name.
    """
    try:
        lines = path.read_text("utf-8-sig").rstrip().split("\n")
    except (OSError, UnicodeDecodeError) as exc:
        raise ConfigError(
            [f"{path}: must be a text file of names, got: {getattr(exc, 'strerror', None) or exc}"]
        ) from exc
    names = [line.strip() for line in lines]
    problems = [
        f"{path}:{k}: must be a name of up to {LONGEST_NAME} characters, unlike the others, got {name[:80]!r}"
        for k, name in enumerate(names, 1)
        if not 0 < len(name) <= LONGEST_NAME or not name.isprintable() or name in names[: k - 1]
    ]
    if problems:
        raise ConfigError(problems[:10])
    return names


def detect(
    clip: Path, detector: Detector, *, every: int = 1, watch: Callable[[FrameBatch], None] = lambda batch: None
) -> Found:
    """Looks at the frames of a clip, which are numbered as in training and in runs.

    Args:
        clip: The video.
        detector: What looks.
        every: Take every n-th frame.
        watch: Sees each batch before the detector does.

    Raises:
        SourceError: the clip cannot be read, or none of its frames.
        ModelError: the detector fails.
    """
    numbers: list[int] = []
    counts: list[int] = []  # of boxes in each frame
    seen: list[Detections] = []  # in each batch
    ends: list[SegmentEnd] = []
    source = FileSource(clip, name=clip.name, views=[View(PictureFormat(1, 1))], selection=Selection(every=every))
    with Reader() as reader:
        for task in source.segments():
            if isinstance(task, Refusal):
                raise SourceError(clip.name, task.error)
            picture = PictureFormat(*detector.picture_size(*task.index.shown_size), resize="bilinear")
            for batch in replace(task, views=(View(picture),), batch_frames=BATCH).frames(reader):
                watch(batch)
                numbers += batch.index.tolist()
                found = [detector(frame) for frame in batch.frames]
                counts += [len(one) for one in found]
                seen += [_joined(found)] if found else []
                ends += [batch.end] if batch.end is not None else []
    if broken := next((end.error for end in ends if end.retry and end.error is not None), None):
        raise SourceError(clip.name, broken)
    if not numbers:
        raise SourceError(clip.name, f"{clip}: must have a frame that can be decoded, got none")
    boxes = _joined(seen)
    return Found(
        clip=clip,
        numbers=np.array(numbers, np.int64),
        frame=np.repeat(np.array(numbers, np.int64), counts),
        object_name=tuple(detector.names[k] for k in boxes.kind),
        confidence=boxes.confidence,
        corners=boxes.corners,
        losses=_losses(clip, ends),
    )


def _joined(found: Sequence[Detections]) -> Detections:
    """Those of several pictures, one after the other: an object per frame of a long clip would take much memory."""
    return Detections(
        np.concatenate([one.kind for one in found]),
        np.concatenate([one.confidence for one in found]),
        np.concatenate([one.corners for one in found]),
    )


def _losses(clip: Path, ends: Sequence[SegmentEnd]) -> tuple[str, ...]:
    told = [
        f"frames {lost.first} to {lost.last} {lost.why}, so they have no labels" for end in ends for lost in end.lost
    ]
    damaged = sum(end.counts.damaged for end in ends)
    told += [f"{damaged} frames labelled as the decoder repaired them"] if damaged else []
    told += [end.error.removeprefix(f"{clip}: ") for end in ends if end.error is not None]
    return tuple(told)
