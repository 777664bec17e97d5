"""Single frames of a file to look at, found by their numbers."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace
from pathlib import Path

import numpy as np

from pipeline.batch import Pixels
from pipeline.errors import SourceError
from pipeline.sources.file import FileSource, Refusal
from pipeline.sources.reader import Reader
from pipeline.sources.scaler import PictureFormat, View

__all__ = ["read_stills"]


def read_stills(path: Path, numbers: Collection[int], *, width: int) -> dict[int, Pixels]:
    """Decodes some frames, and no more than the groups of pictures that hold them.

    Args:
        path: The file.
        numbers: Of frames, in presentation order from 0.
        width: Of the pictures, in pixels; the height keeps the proportions of the frames.

    Returns:
        By number, uint8 (H, W, 3) RGB; without those that are lost to damage.

    Raises:
        SourceError: The file cannot be read, or none of the frames.
    """
    stills: dict[int, Pixels] = {}
    source = FileSource(
        path, name=path.name, views=[View(PictureFormat(1, 1))], segment_frames=1
    )  # a cut at every keyframe
    with Reader() as reader:
        for task in source.segments():
            if isinstance(task, Refusal):
                raise SourceError(path.name, task.error)
            height, of_width = task.index.shown_size
            view = View(PictureFormat(max(1, round(width * height / of_width)), width))
            # Where frames are counted as they come, nothing is selected beforehand, and all of them are decoded.
            selected = np.isin(np.arange(len(task.selected)), list(numbers))
            for batch in replace(task, selected=selected, views=(view,), batch_frames=1).frames(reader):
                decoded = zip(batch.index.tolist(), batch.frames, strict=True)
                stills |= {number: still for number, still in decoded if number in numbers}
            if len(stills) == len(numbers):
                break
    if numbers and not stills:
        raise SourceError(path.name, f"{path}: none of its frames can be decoded")
    return stills
