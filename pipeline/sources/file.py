"""Video files as a source: one file, cut into segments that any worker can decode."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, tzinfo
from pathlib import Path
from typing import ClassVar, Literal
from zoneinfo import ZoneInfo

import numpy as np

from pipeline.batch import FrameBatch, Segment, SegmentEnd
from pipeline.errors import SourceError
from pipeline.regions import Region, outside
from pipeline.sources.container import NO_MORE, Limits, open_video
from pipeline.sources.cuts import cut_file, whole_file
from pipeline.sources.decode import SegmentTask
from pipeline.sources.hardware import Gpu
from pipeline.sources.index import TIMELESS_DEMUXERS, Index, index_file
from pipeline.sources.reader import Reader
from pipeline.sources.scaler import View
from pipeline.sources.selection import Selection
from pipeline.sources.skipping import check_frames, frames_on_offer

__all__ = ["FileSource", "NamePattern", "Refusal", "Start", "regions_outside"]


@dataclass(frozen=True, slots=True)
class NamePattern:
    """The wall-clock time of a file's first frame stands in its name, as `strptime` directives describe it."""

    pattern: str
    tz: str = "UTC"


Start = Literal["creation_time", "mtime"] | NamePattern | datetime | None


@dataclass(frozen=True, slots=True)
class Refusal:
    """Stands for the segments of a file that cannot be read at all. It is never committed: looking again is cheap, and
    what was wrong may be over, or a limit raised."""

    source: str
    error: str
    bundle: tuple[str, ...] = ()
    slot: int = 0
    first_frame: ClassVar[int] = 0

    @property
    def segment(self) -> Segment:
        return Segment(self.source, bundle=self.bundle, slot=self.slot)

    @property
    def batch(self) -> FrameBatch:
        return FrameBatch.tick(self.segment, end=SegmentEnd(self.segment, error=self.error, retry=True))

    def frames(self, reader: Reader) -> Iterator[FrameBatch]:
        yield self.batch


class FileSource:
    """The frames of one video file.

    Iterating decodes it segment by segment in the calling thread. A run gives the segments of all its files to a pool
    of decoders instead.

    Args:
        path: The file.
        name: Of the source.
        views: What is shown of every frame, one or more: a batch of each.
        batch_frames: Frames per batch.
        selection: Which frames are taken; None: all.
        segment_frames: See `pipeline.sources.cuts`.
        fast: Decode without the loop filter.
        device: Where to decode: cpu, cuda, cuda:1.
        start: What tells the UTC time of the first frame, or None.
        limits: What the file may ask for.

    Attributes:
        committed: Its segments that are, which are not decoded again.
        stamp: Of the file when the run began, see `pipeline.identity.stamp`: another is refused. None: any is taken.
    """

    def __init__(
        self,
        path: Path,
        *,
        name: str,
        views: Sequence[View],
        batch_frames: int = 256,
        selection: Selection | None = None,
        segment_frames: int = 4096,
        fast: bool = False,
        device: str = "cpu",
        start: Start = None,
        limits: Limits = NO_MORE,
    ) -> None:
        if batch_frames < 1 or segment_frames < 1:
            raise ValueError(f"batch_frames and segment_frames must be positive, got {batch_frames}, {segment_frames}")
        self.path = path
        self.name = name
        self.views = tuple(views)
        self._batch_frames = batch_frames
        self.selection = selection or Selection()
        self._segment_frames = segment_frames
        self._fast, self._device = fast, device
        self.start = start
        self.limits = limits
        self.committed: Sequence[Segment] = ()
        self.stamp: Mapping[str, object] | None = None

    def __iter__(self) -> Iterator[FrameBatch]:
        with Reader() as reader:
            for task in self.segments():
                yield from task.frames(reader)

    def segments(self, *, whole: bool = False) -> Iterator[SegmentTask | Refusal]:
        """Indexes the file and cuts it, unless it is to be decoded whole; gives the segments that are not committed.

        A file that cannot be read gives one Refusal, never an exception.
        """
        if not whole and _are_all(self.committed):
            return
        try:
            if self.stamp is not None and "size" in self.stamp:
                self._refuse_another(self.stamp)  # before what is damaged in the other one is told
            index = index_file(self.path, self.name, disposable=not self.selection.takes_all, limits=self.limits)
            if self.stamp is not None:
                self._refuse_another(self.stamp)
            tasks = self._tasks(index, whole)
        except SourceError as error:
            yield Refusal(self.name, str(error))
        except (OSError, ValueError, OverflowError) as error:
            yield self.refusal(str(error))
        else:
            yield from tasks

    @property
    def batch_bytes(self) -> int:
        """Of the pictures of the largest batch."""
        return self._batch_frames * max(view.frame_bytes for view in self.views)

    def refusal(self, why: str, *, bundle: tuple[str, ...] = (), slot: int = 0) -> Refusal:
        """Stands for its segments where it cannot be read."""
        return Refusal(self.name, f"{self.path}: {why}", bundle, slot)

    def _refuse_another(self, stamp: Mapping[str, object]) -> None:
        """Refuses what is not the file that the run began with: its labels would be told of that one."""
        if "size" not in stamp:
            told = "could not be read when the run began, and now it can: --resume labels it"
            raise SourceError(self.name, f"{self.path}: {told}")
        try:
            facts = self.path.stat()
        except OSError:
            return  # it is gone, which opening it tells
        if (facts.st_size, facts.st_mtime_ns) != (stamp["size"], stamp["mtime_ns"]):
            told = "changed since the run began; --resume labels it as it is, unless it has labels of what it was"
            raise SourceError(self.name, f"{self.path}: {told}")

    def _tasks(self, index: Index, whole: bool) -> list[SegmentTask]:
        if index.frames == 0 and index.io_error is not None:
            raise SourceError(self.name, f"{self.path}: {index.io_error}") from OSError(index.io_error)
        if index.frames == 0 and index.unread == 0:
            raise SourceError(self.name, f"{self.path}: holds a video stream without a single frame")
        height, width = index.shown_size
        regions = (region for view in self.views for region in view.regions or ())
        if problems := outside(regions, width, height):
            raise SourceError(self.name, f"{self.path}: {problems[0]}")
        check_frames(self.selection.frames, index, self.name)
        if index.numbering == "pts":
            offered = frames_on_offer(self.selection.frames, index)
            selected = self.selection.mask(index.seconds(index.shown), offered)
        elif self.selection.needs_times and index.counted_rate is None and index.demuxer in TIMELESS_DEMUXERS:
            raise SourceError(
                self.name, f"{self.path}: stores neither times nor a frame rate; select frames with `every` instead"
            )
        else:
            selected = np.empty(0, np.bool_)
        start_utc_s = _start_utc_s(self.start, index, self.name)
        gpu = None
        if self._device != "cpu":
            gpu = Gpu(self._device, index=index, source=self.name, picture=self.views[0].picture)
        committed = () if whole else self.committed
        cuts = whole_file(index) if whole else cut_file(index, segment_frames=self._segment_frames, committed=committed)
        longest = max(cut.last_frame - cut.first_frame for cut in cuts)
        if longest > self.limits.segment_frames:
            told = self.limits.refusal("segment_frames", f"a segment of {longest:,} frames")
            raise SourceError(self.name, f"{self.path}: {told}")
        tasks = [
            SegmentTask(
                source=self.name,
                index=index,
                cut=cut,
                selected=selected,
                selection=self.selection,
                views=self.views,
                batch_frames=self._batch_frames,
                fast=self._fast,
                gpu=gpu,
                start_utc_s=start_utc_s,
            )
            for cut in cuts
        ]
        left = {task.segment: task for task in tasks}
        for segment in committed:
            if left.pop(segment, None) is None:
                why = index.io_error or index.whole_because or "it does not begin there"
                told = f"must be cut as when its segment from frame {segment.first_frame} was committed, got other cuts"
                cure = "--resume when it can be read as it could, or remove its parts below frames/ to label it anew"
                raise SourceError(self.name, f"{self.path}: {told} ({why}); {cure}")
        return list(left.values())


def _are_all(segments: Sequence[Segment]) -> bool:
    """Whether these are all segments of a file: each up to the one without an end."""
    return any(segment.end_s is None and segment.number == len(segments) - 1 for segment in segments)


def regions_outside(path: Path, name: str, regions: Sequence[Region]) -> list[str]:
    """Which regions do not lie in the pictures of a file by what its header tells, a line each; none where it cannot be
    opened.

    Args:
        path: The file.
        name: Name of the source.
        regions: Of it.
    """
    by_size = [region for region in regions if region.in_pixels or region.polygon]
    if not by_size:
        return []
    try:
        container, stream = open_video(path, name)
    except (SourceError, OSError):
        return []
    with container:
        width, height = stream.codec_context.width, stream.codec_context.height
    if not width:
        return []
    told = [outside(by_size, *size) for size in ((width, height), (height, width))]  # turned, for all it tells
    return [f"{path}: {problem}" for problem in told[0]] if all(told) else []


def _start_utc_s(start: Start, index: Index, source: str) -> float | None:
    """UTC time of the first frame, in seconds since 1970."""
    if start is None:
        return None
    if isinstance(start, datetime):
        return _as_utc_s(start, UTC)
    if start == "mtime":  # a recorder closes its file at the end
        if len(index.shown):
            first_s, last_s = index.seconds(index.shown[[0, -1]]).tolist()
        elif index.counted_rate:
            first_s, last_s = 0.0, float((index.frames - 1) / index.counted_rate)
        else:
            raise SourceError(source, f"{index.path}: its length is not known; use another `start` than mtime")
        return float(index.path.stat().st_mtime - (last_s - first_s))
    if start == "creation_time":
        if index.creation_time is None:
            raise SourceError(source, f"{index.path}: its header has no creation_time; use another `start`")
        return _as_utc_s(datetime.fromisoformat(index.creation_time), UTC)
    return _as_utc_s(_time_in_name(start.pattern, index.path, source), ZoneInfo(start.tz))


def _time_in_name(pattern: str, path: Path, source: str) -> datetime:
    for match in re.finditer(f"(?=({_as_regex(pattern)}))", path.name):
        try:
            return datetime.strptime(match[1], pattern)
        except ValueError:
            continue  # looks like a time and is none: the 45th month, say
    raise SourceError(source, f"{path}: its name must hold a time like `{pattern}`; change `start`")


def _as_utc_s(time: datetime, tz: tzinfo) -> float:
    return (time if time.tzinfo else time.replace(tzinfo=tz)).timestamp()


_DIRECTIVES = {
    "Y": r"\d{4}",
    "j": r"\d{3}",
    "f": r"\d{1,6}",
    "z": r"(?:[+-]\d\d:?\d\d|Z)",
    "p": "[AaPp][Mm]",
    "%": "%",
    **dict.fromkeys("aAbB", r"[^\W\d]+"),
}


def _as_regex(pattern: str) -> str:
    """A regular expression for what `strptime` reads by this pattern; numbers have two digits unless listed above."""
    parts = re.split(r"%(.)", pattern)
    return "".join(_DIRECTIVES.get(part, r"\d{2}") if at % 2 else re.escape(part) for at, part in enumerate(parts))
