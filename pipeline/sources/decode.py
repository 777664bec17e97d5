"""Decoding one cut of a file: the only loop of the program that runs once per frame."""

from __future__ import annotations

import logging
from collections.abc import Generator, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass

import av.error
import numpy as np
import numpy.typing as npt

from pipeline.batch import FrameBatch, Segment, SegmentEnd
from pipeline.errors import SourceError
from pipeline.sources.container import is_io_error, reason
from pipeline.sources.cuts import Cut
from pipeline.sources.hardware import Gpu
from pipeline.sources.index import Index
from pipeline.sources.reader import Reader
from pipeline.sources.scaler import Scaler, View
from pipeline.sources.selection import Selection
from pipeline.sources.skipping import fed_packets
from pipeline.sources.tally import Builder, Counted, Ranked

__all__ = ["SegmentTask"]

log = logging.getLogger(__name__)

SILENT_FRAMES = 512


@dataclass(frozen=True, slots=True)
class SegmentTask:
    """One cut of one file, ready to be decoded by any worker.

    Attributes:
        source: Name of the source.
        index: The file's index, shared by its cuts.
        cut: What to decode.
        selected: bool (frames of the file,), which are asked for; empty where frames are counted and the selection
            is made as they come.
        selection: What `selected` was made from.
        views: What is shown of every frame, one or more.
        batch_frames: Frames per batch.
        fast: Decode without the loop filter.
        gpu: What decodes the file, as long as it is trusted; None: the CPU.
        start_utc_s: UTC time of the file's first frame, or None.
        bundle, slot: See Segment.
    """

    source: str
    index: Index
    cut: Cut
    selected: npt.NDArray[np.bool_]
    selection: Selection
    views: tuple[View, ...]
    batch_frames: int
    fast: bool = False
    gpu: Gpu | None = None
    start_utc_s: float | None = None
    bundle: tuple[str, ...] = ()
    slot: int = 0

    @property
    def first_frame(self) -> int:
        return self.cut.first_frame

    @property
    def segment(self) -> Segment:
        cut, index = self.cut, self.index
        borders = index.shown[[n for n in (cut.first_frame, cut.last_frame) if n < len(index.shown)]]
        start_s, end_s = (*index.seconds(borders).tolist(), None, None)[:2]
        return Segment(self.source, cut.number, cut.first_frame, start_s, end_s, self.bundle, self.slot)

    @property
    def batch_bytes(self) -> int:
        """Of the pictures of the largest batch."""
        return self.batch_frames * max(view.frame_bytes for view in self.views)

    def frames(self, reader: Reader) -> Generator[FrameBatch]:
        """Decodes the cut. The last batch carries the segment's end, whatever happened on the way."""
        segment = self.segment
        builder = Builder(segment, self.views, self.batch_frames)
        tally = self._tally()
        scalers = [Scaler(view, self.index.orientation) for view in self.views]
        error: str | None = None
        retry = False
        frames = self.selection.frames
        fed = fed_packets(frames, self.index, self.cut, self.selected)
        apart = frames == "key" and fed is not None
        silent = 0  # frames decoded since something was yielded
        if tally.asks_for_any:
            try:
                for frame in self._decoded(reader, tally, fed=fed, apart=apart):
                    if isinstance(frame, av.error.FFmpegError):
                        if is_io_error(frame):
                            retry, error = True, f"{self.index.path}: {reason(frame, self.index.path)}"
                        tally.error()
                        continue
                    silent += 1
                    number, time_s = tally.place(frame)
                    if number >= 0:
                        try:
                            for scaler, row in zip(scalers, builder.row(number, time_s), strict=True):
                                scaler.draw(frame, row)
                        except (av.error.FFmpegError, ValueError, MemoryError) as failure:
                            builder.drop_row()
                            tally.lose(number)
                            error = error or f"{self.index.path}: frame {number}: cannot be converted: {failure}"
                    if builder.is_full:
                        silent = 0
                        yield from builder.take(self._utc_offset_s(tally))
                    elif silent > SILENT_FRAMES:  # a worker hears of a stop when it yields
                        silent = 0
                        yield FrameBatch.tick(segment)
            except (SourceError, OSError) as failure:
                reader.close()
                retry, error = True, str(failure)
        if self.cut.is_last:
            if self.index.io_error is not None:
                retry, error = True, f"{self.index.path}: {self.index.io_error}"
            if not tally.is_satisfied:
                missing = tally.close(unread=self.index.unread)
                told = self.index.truncated or missing or self._unreadable
                error = error or (None if told is None else f"{self.index.path}: {told}")
        counts, lost = tally.counts()
        yield from builder.take(self._utc_offset_s(tally), SegmentEnd(segment, counts, lost, error, retry))

    def _tally(self) -> Ranked | Counted:
        if self.index.numbering == "pts":
            return Ranked(self.index, self.cut, self.selected, self.selection)
        return Counted(self.index, self.selection)

    @property
    def _unreadable(self) -> str | None:
        """What is said of a file whose packets could not all be read."""
        places = self.index.unreadable
        return f"{places} damaged places between its packets, where frames may be missing" if places else None

    def broken(self, came: Sequence[npt.NDArray[np.int64]], why: str, *, retry: bool) -> FrameBatch:
        """The segment's end where its decoder cannot give one: what did not come is lost.

        Args:
            came: int64 (N,) each, numbers of the frames that did, in whatever order and as often as they did.
            why: In one line.
            retry: Whether a later run is to try it again.
        """
        tally = self._tally()
        tally.take(np.unique(np.concatenate([np.empty(0, np.int64), *came])))
        if self.cut.is_last and not tally.is_satisfied:
            tally.close(unread=self.index.unread)
        counts, lost = tally.counts()
        error = f"{self.index.path}: from frame {self.first_frame} on: {why}"
        return FrameBatch.tick(self.segment, end=SegmentEnd(self.segment, counts, lost, error, retry))

    def _decoded(
        self, reader: Reader, tally: Ranked | Counted, *, fed: npt.NDArray[np.bool_] | None, apart: bool
    ) -> Iterator[av.VideoFrame | av.error.FFmpegError]:
        """The frames of the cut, and the errors between them.

        A GPU is left at its first error, or the first frame that it leaves out. The CPU then decodes the cut all over,
        and of its frames the tally takes those that have not come yet.
        """
        if self.gpu is None or not isinstance(tally, Ranked) or not self.gpu.is_trusted:
            yield from reader.frames(self.index, self.cut, self.source, fed=fed, apart=apart, fast=self.fast)
            return
        why = yield from self._on_gpu(reader, tally, self.gpu.device, fed, apart)
        if why is None:
            return
        log.warning("%s: frames from %d on are decoded on the CPU: %s", self.source, self.cut.first_frame, why)
        yield from reader.frames(self.index, self.cut, self.source, fed=fed, apart=apart)
        if tally.is_whole:  # else the file is damaged here, which may be all
            self.gpu.leave()

    def _on_gpu(
        self, reader: Reader, tally: Ranked, device: str, fed: npt.NDArray[np.bool_] | None, apart: bool
    ) -> Generator[av.VideoFrame, None, str | None]:
        """The frames that a GPU gives, up to where it fails; why it did, or None."""
        try:
            frames = reader.frames(self.index, self.cut, self.source, fed=fed, apart=apart, device=device)
            with closing(frames):
                for frame in frames:
                    if isinstance(frame, av.error.FFmpegError):
                        return f"{device}: {reason(frame, self.index.path)}"
                    if tally.leaves_out(frame.pts):
                        return f"{device} leaves out a frame before that of {self.index.path} at pts {frame.pts}"
                    yield frame
        except SourceError as error:  # no decoder left, say
            return str(error)
        return None if tally.is_whole else f"{device} leaves out the last frames"

    def _utc_offset_s(self, tally: Ranked | Counted) -> float | None:
        """What to add to a presentation time to get the UTC time of capture."""
        return None if self.start_utc_s is None else self.start_utc_s - tally.file_start_s
