"""Labelled footage for training and evaluation: boxes and clips in, pictures with answers out.

Clips are read through `pipeline.sources`, so the pixels that training sees are those that running sees.

    labels ─────read_labels──▶ Boxes ──answers──┐
    clip.mp4 ──read_clip──▶ Clip ────────────────┴──▶ Footage ──split──▶ training, validation, test
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pipeline.batch import FrameBatch, Pixels, SegmentEnd
from pipeline.errors import ConfigError, SourceError
from pipeline.labels import Boxes, Inside, answers, read_labels
from pipeline.machine import cores
from pipeline.regions import Region
from pipeline.sources.decode import SegmentTask
from pipeline.sources.file import FileSource, Refusal, regions_outside
from pipeline.sources.pool import decode
from pipeline.sources.scaler import PictureFormat, View
from pipeline.sources.selection import ROUNDING_S, Selection
from specialized.examples import Examples, Runs, regions_in, split_runs, tracks
from specialized.intervals import block_length
from specialized.modelfile import Ask, Task

__all__ = ["Clip", "Footage", "LabelledClip", "outline_clip", "read_clip", "read_footage"]


@dataclass(frozen=True, slots=True, eq=False)
class Clip:
    """The selected frames of a video, N of them, in order, as R pictures each."""

    pictures: Pixels  # (N·R, H, W, 3), the regions of a frame one behind the other
    numbers: NDArray[np.int64]  # (N,) frame number in presentation order, from 0
    pts_s: NDArray[np.float64]  # (N,) NaN where unknown
    frames: int  # of the whole video, selected or not
    size: tuple[int, int]  # (H, W) of its own pictures, as players show them


@dataclass(frozen=True, slots=True)
class LabelledClip:
    """A video, its label file, which of its frames are taken, and which regions of them."""

    video: Path
    labels: Path
    selection: Selection = field(default_factory=Selection)
    regions: tuple[Region, ...] | None = None  # None: whole frames


def read_clip(
    video: Path,
    view: View,
    selection: Selection | None = None,
    *,
    workers: int | None = None,
    fast: bool = False,
) -> Clip:
    """Decodes the selected frames of a video into memory, as a run decodes them.

    Args:
        video: The file.
        view: What a model takes of every frame.
        selection: Which frames; None: all.
        workers: Decoders that work side by side; None: as many as a run has. The result does not depend on it.
        fast: As `decode.fast` of a run.

    Raises:
        SourceError: The file cannot be read, or not every selected frame of it: a loss in the middle would join
            frames that are no neighbours.
    """
    tasks = _tasks(video, view, selection, fast=fast)
    batches: list[FrameBatch] = []
    ends: list[SegmentEnd] = []
    with closing(decode(tasks, workers=workers or cores())) as decoded:
        for batch in decoded:
            batches.append(batch)
            ends += [batch.end] if batch.end is not None else []
    _refuse_damage(video, sorted(ends, key=lambda end: end.segment.number))
    numbers = np.concatenate([batch.index for batch in batches])
    in_order = np.argsort(numbers, kind="stable")  # segments come as their decoders finish
    place = np.argsort(in_order)
    pictures = np.empty((len(numbers), view.picture.height, view.picture.width, 3), np.uint8)
    pts_s = np.concatenate([batch.pts_s for batch in batches])[in_order]
    stop = len(numbers)
    while batches:  # from the back, freeing each: two copies of a long clip would not fit in memory
        batch = batches.pop()
        pictures[place[stop - len(batch) : stop]] = batch.frames
        stop -= len(batch)
    frames = sum(end.counts.indexed for end in ends)
    size = next(task.index.shown_size for task in tasks if isinstance(task, SegmentTask))
    return Clip(pictures, numbers[in_order][:: view.pictures], pts_s[:: view.pictures], frames, size)


def outline_clip(video: Path, view: View, selection: Selection | None = None, *, workers: int | None = None) -> Clip:
    """The clip as `read_clip` reads it, but for its pictures, which are black and take no memory: the index of the file
    tells all the rest. A file of which it does not, or that looks damaged, is read.

    Damage that only decoding shows is not found. Arguments and errors are those of `read_clip`.
    """
    tasks = _tasks(video, view, selection)
    task = tasks[0]
    if not isinstance(task, SegmentTask) or not task.index.is_sound:
        return read_clip(video, view, selection, workers=workers)
    index, numbers = task.index, np.flatnonzero(task.selected)
    pts_s = index.seconds(index.shown)[numbers]
    return Clip(_black(len(numbers) * view.pictures, view), numbers, pts_s, index.frames, index.shown_size)


def _tasks(video: Path, view: View, selection: Selection | None, *, fast: bool = False) -> list[SegmentTask | Refusal]:
    return list(FileSource(video, name=video.name, views=[view], selection=selection, fast=fast).segments())


def _black(n: int, view: View) -> Pixels:
    """N black pictures (N, H, W, 3) in the memory of one value."""
    return np.broadcast_to(np.uint8(0), (n, view.picture.height, view.picture.width, 3))


def _refuse_damage(video: Path, ends: Sequence[SegmentEnd]) -> None:
    told = [f"frames {lost.first} to {lost.last} {lost.why}" for end in ends for lost in end.lost]
    damaged = sum(end.counts.damaged for end in ends)
    told += [f"{damaged} frames concealed by the decoder"] if damaged else []
    told += [end.error.removeprefix(f"{video}: ") for end in ends if end.error is not None]
    if told:
        raise SourceError(
            video.name,
            f"{video}: training footage must be whole, got {'; '.join(told)}; use a whole copy, or a part without the "
            "loss (from, to)",
        )


@dataclass(frozen=True, slots=True, eq=False)
class Footage:
    """Labelled clips joined: N pictures, in the order of the clips."""

    examples: Examples  # one run per clip
    pts_s: NDArray[np.float64]  # (N,)
    videos: tuple[Path, ...]
    sizes: tuple[tuple[int, int], ...] = ()  # (H, W) of their own pictures; empty: unknown
    objects: tuple[str, ...] = ()  # that its labels name, sorted
    warnings: tuple[str, ...] = ()  # what its labels probably do not mean

    @property
    def step_s(self) -> float | None:
        """Median time between successive selected frames, in seconds; None where it is not known."""
        steps = np.concatenate([np.diff(self.pts_s[run]) for run in tracks(self.examples.runs, self.examples.region)])
        median = float(np.median(steps)) if len(steps) else math.nan
        return round(median, 6) if median > 0 else None  # containers round to microseconds at best

    @property
    def block_frames(self) -> int:
        """Frames of a block of time that an interval rests on."""
        return block_length(self.step_s)

    def split(
        self, *, blocks: int, validation: Collection[int], test: Collection[int], gap_s: float
    ) -> dict[str, Examples]:
        """Cuts each clip by time, see `specialized.examples.split_runs`.

        Args:
            blocks: Equal stretches of each clip, numbered from 0.
            validation: Blocks that choose the epoch.
            test: Blocks that measure.
            gap_s: Seconds between frames of different parts.

        Returns:
            The parts "training", "validation" and "test"; a run of one never leaves its clip.

        Raises:
            ConfigError: a clip is too short for the blocks, or has no times to measure the gap by.
        """
        parts: dict[str, Runs] = {"training": (), "validation": (), "test": ()}
        for video, (start, stop) in zip(self.videos, self.examples.runs, strict=True):
            each = regions_in(self.examples.region, start, stop)
            frames = (stop - start) // each
            if frames < blocks:
                raise ConfigError(
                    [f"{video}: must give a frame to each of {blocks} blocks, got {frames}; ask for fewer blocks"]
                )
            gap = _frames_within(self.pts_s[start:stop:each], gap_s)
            if gap is None:
                raise ConfigError([f"{video}: must have times to leave a gap of {gap_s:g} s, got none; set gap_s to 0"])
            cut = split_runs(frames, blocks=blocks, validation=validation, test=test, gap=gap)
            for part, runs in cut.items():
                parts[part] += tuple((start + a * each, start + b * each) for a, b in runs)
        return {part: self.examples.only(runs) for part, runs in parts.items()}


def _frames_within(pts_s: NDArray[np.float64], gap_s: float) -> int | None:
    """The most successive frames that any stretch of `gap_s` holds, whatever the rate does; None without times."""
    if gap_s == 0:
        return 0
    if not np.isfinite(pts_s).all():
        return None
    reached = np.searchsorted(pts_s, pts_s + gap_s - ROUNDING_S)  # the first frame that is far enough away
    return int((reached - np.arange(len(pts_s))).max())


def read_footage(
    clips: Sequence[LabelledClip],
    *,
    picture: PictureFormat,
    asks: Sequence[Ask],
    task: Task,
    inside: Inside = "centre",
    workers: int | None = None,
    outline: bool = False,
) -> Footage:
    """Reads labels and pictures of all clips and joins them.

    Args:
        clips: One or more, each of another video: frames of one recording must not come into two parts of a split.
        picture: What the model takes.
        asks: One question per class.
        task: See `answers`.
        inside: Likewise.
        workers: Decoders that work side by side; None: as many as a run has.
        outline: Read no pictures where that can be helped, see `outline_clip`; labels are checked all the same.

    Raises:
        ConfigError: all that is wrong with the label files, or a video is named twice; a label file speaks of frames
            that its clip does not have, or leaves out some that are taken; no frame is selected.
        SourceError: a video is not whole.
    """
    labelled = list(_labelled(clips))  # all of them before the first video is decoded, which takes longer
    names = {region.name: None for clip in clips for region in clip.regions or ()}
    of_name = {name: number for number, name in enumerate(names)}
    read = []
    warnings: list[str] = []
    beyond = [line for clip in clips for line in regions_outside(clip.video, clip.video.name, clip.regions or ())]
    if beyond:
        raise ConfigError(beyond)
    for clip, boxes in labelled:
        view = View(picture, clip.regions)
        found = (outline_clip if outline else read_clip)(clip.video, view, clip.selection, workers=workers)
        if not len(found.numbers):
            raise ConfigError([f"{clip.video}: must have frames in the selection, got none; select others"])
        _refuse_frames_beyond(boxes, found.frames)
        if boxes.region is None:
            _refuse_frames_unknown(boxes, found.numbers)
        _refuse_regions_unknown(boxes, found.numbers, clip.regions, task)
        warnings += _frames_between(boxes, found.numbers)
        warnings += _unheeded(boxes, asks, clip.regions)
        labels = answers(boxes, found.numbers, asks, task, regions=clip.regions, size=found.size, inside=inside)
        region = np.tile(np.array([of_name[name] for name in view.names] or [0], np.int16), len(found.numbers))
        read.append((found, labels, region, np.repeat(found.pts_s, view.pictures)))
    stops = np.cumsum([len(found.pictures) for found, *_ in read]).tolist()
    pictures = [_black(stops[-1], View(picture))] if outline else [found.pictures for found, *_ in read]
    return Footage(
        examples=Examples(
            pictures[0] if len(pictures) == 1 else np.concatenate(pictures),  # a long clip may not fit in memory twice
            np.concatenate([labels for _, labels, *_ in read]),
            tuple(zip([0, *stops[:-1]], stops, strict=True)),
            region=np.concatenate([region for _, _, region, _ in read]) if names else None,
            regions=tuple(names),
        ),
        pts_s=np.concatenate([pts_s for *_, pts_s in read]),
        videos=tuple(clip.video for clip in clips),
        sizes=tuple(found.size for found, *_ in read),
        objects=tuple(sorted({str(name) for _, boxes in labelled for name in np.unique(boxes.object_name) if name})),
        warnings=tuple(warnings),
    )


def _labelled(clips: Sequence[LabelledClip]) -> Iterator[tuple[LabelledClip, Boxes]]:
    problems: list[str] = []
    seen: set[Path] = set()
    for clip in clips:
        if clip.video.resolve() in seen:
            problems.append(f"{clip.video}: must be given once, got it again; its parts would not be apart in time")
        seen.add(clip.video.resolve())
        try:
            yield clip, read_labels(clip.labels)
        except ConfigError as exc:
            problems += exc.problems
    if problems:
        raise ConfigError(problems)


def _refuse_frames_beyond(boxes: Boxes, frames: int) -> None:
    beyond = np.flatnonzero(boxes.told >= frames)
    if len(beyond):
        first = beyond[0]
        raise ConfigError(
            [
                f"{boxes.path}{boxes.place[first]}: frame must be below {frames}, the clip's number of frames, got "
                f"{boxes.told[first]}; are these the labels of another clip, or do they count from 1?"
            ]
        )


def _refuse_frames_unknown(boxes: Boxes, numbers: NDArray[np.int64]) -> None:
    unknown = np.empty(0, np.int64) if boxes.complete else np.setdiff1d(numbers, boxes.told)
    if len(unknown):
        raise ConfigError(
            [
                f"{boxes.path}: images must be there for every frame that is taken, got none for {len(unknown)} of "
                f"{len(numbers)}, first for frame {unknown[0]}; take those that are there (every, from, to), or add "
                "the others, which need no annotations if they show nothing"
            ]
        )


def _refuse_regions_unknown(
    boxes: Boxes, numbers: NDArray[np.int64], regions: Sequence[Region] | None, task: Task
) -> None:
    """Refuses labels that do not tell of a region, or tell of regions where there are none."""
    if regions is None:
        if boxes.region is not None:
            raise ConfigError([f"{boxes.path}: tells of regions: the clip must have some, got none; give it `regions`"])
        return
    if boxes.region is None:
        assert boxes.corners is not None
        unplaced = boxes.frame[np.isnan(boxes.corners).any(axis=1)]
        if len(unplaced):
            told = "annotations must have a bbox, and images width and height, where there are regions"
            raise ConfigError(
                [f"{boxes.path}: {told}, got {len(unplaced)} of {len(boxes)} without, first in frame {unplaced[0]}"]
            )
        return
    rows = {name: np.flatnonzero(boxes.region == k) for k, name in enumerate(boxes.regions)}
    for region in regions:
        own = rows.get(region.name, np.empty(0, np.intp))
        frames, first, times = np.unique(boxes.told[own], return_index=True, return_counts=True)
        unknown = np.setdiff1d(numbers, frames)
        if len(unknown):
            raise ConfigError(
                [
                    f"{boxes.path}: must have a row for region {region.name!r} in every frame that is taken, got "
                    f"none for {len(unknown)} of {len(numbers)}, first for frame {unknown[0]}; its label is empty "
                    "where the region shows nothing"
                ]
            )
        shows = boxes.object_name[own] != ""
        both = np.intersect1d(boxes.told[own][shows], boxes.told[own][~shows])
        if len(both):
            at = own[~shows][boxes.told[own][~shows] == both[0]][0]
            told = f"region {region.name!r} must show nothing in frame {both[0]}, or something, got rows for both"
            raise ConfigError([f"{boxes.path}{boxes.place[at]}: {told}"])
        if task == "one_of" and (twice := np.flatnonzero(times > 1)).size:
            where = boxes.place[own[first[twice[0]]]]
            told = f"region {region.name!r} must have one row in frame {frames[twice[0]]}, got {times[twice[0]]}"
            raise ConfigError([f"{boxes.path}{where}: {told}; one_of knows one label"])


def _unheeded(boxes: Boxes, asks: Sequence[Ask], regions: Sequence[Region] | None) -> Iterator[str]:
    """Warns of what a table of regions tells to no effect, as slips of the pen do."""
    if boxes.region is None:
        return
    asked = {ask.object for ask in asks}
    for name, rows in zip(*np.unique(boxes.object_name, return_counts=True), strict=True):
        if name and str(name) not in asked:
            told = f"has the label {str(name)!r} in {rows} rows, which no class asks for: it counts as nothing"
            yield f"{boxes.path}: {told}"
    known = {region.name for region in regions or ()}
    for place, name in enumerate(boxes.regions):
        if name not in known:
            rows = np.count_nonzero(boxes.region == place)
            yield f"{boxes.path}: tells of region {name!r} in {rows} rows, which the clip has not; they are left out"


def _frames_between(boxes: Boxes, numbers: NDArray[np.int64]) -> Iterator[str]:
    """Warns of frames that were probably not looked at. A table cannot say that only every n-th was, but its numbers
    tell: boxes in all frames come in frames that follow each other.
    """
    told = np.unique(boxes.told)
    step = int(np.gcd.reduce(told))
    if boxes.complete and len(told) > 1 and (between := np.count_nonzero(numbers % step)):
        yield (
            f"{boxes.path}: has boxes in multiples of {step} alone, so {between} of the {len(numbers)} frames that are "
            f"taken count as showing nothing; if only every n-th was looked at, write every: {step} beside the labels"
        )
