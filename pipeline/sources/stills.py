"""Single frames of a file to look at, found by their numbers or by time."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from contextlib import closing
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import numpy as np
import numpy.typing as npt
from av.codec.context import CodecContext
from av.video.frame import VideoFrame

from pipeline.batch import Pixels
from pipeline.errors import SourceError
from pipeline.sources.container import NO_MORE
from pipeline.sources.decode import SegmentTask
from pipeline.sources.file import FileSource, Refusal
from pipeline.sources.reader import Reader
from pipeline.sources.scaler import PictureFormat, View
from pipeline.sources.selection import Selection

__all__ = ["as_jpeg", "read_still", "read_stills"]


def read_still(path: Path, *, from_s: float | None = None) -> Pixels:
    """Decodes one frame, as large as players show it.

    Args:
        path: The file.
        from_s: The first frame from this time on, in seconds from the file's first. None: one from the file's middle,
            or, where all behind that is damaged, the first that is not.

    Returns:
        uint8 (H, W, 3) RGB.

    Raises:
        SourceError: There is no such frame.
    """
    tasks = list(_tasks(path, Selection(from_s=from_s)))
    middle = tasks[0].index.frames // 2 if from_s is None else 0
    with Reader() as reader:
        for least in dict.fromkeys((middle, 0)):
            for task in tasks:
                selected = task.selected & (np.arange(len(task.selected)) >= least)
                view = View(PictureFormat(*task.index.shown_size))
                frames = replace(task, selected=selected, views=(view,), batch_frames=1).frames(reader)
                with closing(frames):
                    for batch in frames:
                        if len(batch) and batch.index[0] >= least:
                            return batch.frames.reshape(batch.frames.shape[1:])
    raise SourceError(path.name, f"{path}: must hold a frame from {from_s or 0:g} s on, got none that can be decoded")


def read_stills(file: FileSource | Path, numbers: Collection[int], *, width: int) -> Iterator[tuple[int, Pixels]]:
    """Decodes some frames, and no more than the groups of pictures that hold them.

    Args:
        file: The file. That of a source may ask for as much as there, and must be the one that its run began with.
        numbers: Of frames, in presentation order from 0.
        width: Of the pictures, in pixels; the height keeps the proportions of the frames.

    Yields:
        Number and picture, uint8 (H, W, 3) RGB, in order; without those that are lost to damage.

    Raises:
        SourceError: The file cannot be read, or none of the frames.
    """
    left = set(numbers)
    selected: npt.NDArray[np.bool_] | None = None
    with Reader() as reader:
        for task in _tasks(file):
            if selected is None:
                selected = np.isin(np.arange(len(task.selected)), list(left))
            # Where frames are counted as they come, nothing is selected beforehand, and all of them are decoded.
            is_known = task.index.numbering == "pts"
            if is_known and not selected[task.cut.first_frame : task.cut.last_frame].any():
                continue
            height, of_width = task.index.shown_size
            view = View(PictureFormat(max(1, round(width * height / of_width)), width))
            for batch in replace(task, selected=selected, views=(view,), batch_frames=1).frames(reader):
                for number, still in zip(batch.index.tolist(), batch.frames, strict=True):
                    if number in left:
                        left.remove(number)
                        yield number, still
            if not left:
                break
    if numbers and len(left) == len(set(numbers)):
        path = file if isinstance(file, Path) else file.path
        raise SourceError(path.name, f"{path}: none of its frames can be decoded")


def as_jpeg(picture: Pixels) -> bytes:
    """The picture, uint8 (H, W, 3) RGB, as a JPEG file."""
    encoder = CodecContext.create("mjpeg", "w")
    encoder.height, encoder.width = picture.shape[:2]
    encoder.pix_fmt, encoder.time_base = "yuvj420p", Fraction(1)
    encoder.options = {"qscale": "3"}
    frame = VideoFrame.from_ndarray(picture, "rgb24").reformat(format="yuvj420p")
    return b"".join(bytes(packet) for packet in [*encoder.encode(frame), *encoder.encode(None)])


def _tasks(file: FileSource | Path, selection: Selection | None = None) -> Iterator[SegmentTask]:
    """The file, cut at every keyframe."""
    path, limits, stamp = (file, NO_MORE, None) if isinstance(file, Path) else (file.path, file.limits, file.stamp)
    views = [View(PictureFormat(1, 1))]
    cut = FileSource(path, name=path.name, views=views, segment_frames=1, selection=selection, limits=limits)
    cut.stamp = stamp
    for task in cut.segments():
        if isinstance(task, Refusal):
            raise SourceError(path.name, task.error)
        yield task
