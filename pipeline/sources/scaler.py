"""From a decoded frame to a model's input, in one pass of swscale."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import av.video.frame
import numpy as np
import numpy.typing as npt
from av.video.reformatter import Interpolation, VideoReformatter

from pipeline.sources.orientation import UPRIGHT, Orientation

__all__ = ["PictureFormat", "Scaler"]

INTERPOLATIONS = {
    "area": Interpolation.AREA,
    "bilinear": Interpolation.BILINEAR,
    "fast_bilinear": Interpolation.FAST_BILINEAR,
    "bicubic": Interpolation.BICUBIC,
    "point": Interpolation.POINT,
}


@dataclass(frozen=True, slots=True)
class PictureFormat:
    """How a model wants its pictures: RGB of `height` x `width`, resized by a method of swscale.

    `fit` says what happens to other proportions: "stretch" ignores them, "letterbox" keeps them between black bars.
    """

    height: int
    width: int
    resize: Literal["area", "bilinear", "fast_bilinear", "bicubic", "point"] = "area"
    fit: Literal["stretch", "letterbox"] = "stretch"


class Scaler:
    """Converts, resizes and turns pictures into rows of a batch. Belongs to one thread."""

    def __init__(self, picture: PictureFormat, orientation: Orientation = UPRIGHT) -> None:
        self._picture = picture
        self._orientation = orientation
        self._reformatter = VideoReformatter()
        self._interpolation = INTERPOLATIONS[picture.resize]

    def draw(self, frame: av.video.frame.VideoFrame, out: npt.NDArray[np.uint8]) -> None:
        """Fills `out`, uint8 (H, W, 3)."""
        height, width = self._picture.height, self._picture.width
        if self._picture.fit == "letterbox":
            out[:] = 0
            out = self._content(frame, out)
            height, width = out.shape[:2]
        if self._orientation.transposed:
            height, width = width, height
        small = self._reformatter.reformat(
            frame,
            width,
            height,
            "rgb24",
            interpolation=self._interpolation,
            threads=1,  # with more, the decoders' threads and swscale's fight for the same cores
        )
        plane = small.planes[0]
        rows = np.frombuffer(memoryview(plane), np.uint8).reshape(height, plane.line_size)  # lines are padded
        out[:] = self._orientation.apply(rows[:, : 3 * width].reshape(height, width, 3))

    def _content(self, frame: av.video.frame.VideoFrame, out: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
        """The part of a letterboxed picture between the bars."""
        height, width = (frame.width, frame.height) if self._orientation.transposed else (frame.height, frame.width)
        scale = min(out.shape[0] / height, out.shape[1] / width)
        inner_h, inner_w = max(1, round(height * scale)), max(1, round(width * scale))
        top, left = (out.shape[0] - inner_h) // 2, (out.shape[1] - inner_w) // 2
        return out[top : top + inner_h, left : left + inner_w]
