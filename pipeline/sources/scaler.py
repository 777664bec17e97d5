"""From a decoded frame to a model's input, in one pass of swscale; regions are cut out of the decoded planes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, TypeVar

import av.video.frame
import numpy as np
import numpy.typing as npt
from av.video.frame import VideoFrame
from av.video.reformatter import Interpolation, VideoReformatter

from pipeline.regions import Region
from pipeline.sources.orientation import UPRIGHT, Orientation
from pipeline.sources.planes import Crop, planes_of, to_planes
from specialized.modelfile import ModelCard

__all__ = ["PictureFormat", "Scaler", "View"]

Scalar = TypeVar("Scalar", bound=np.generic)

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

    @classmethod
    def of(cls, card: ModelCard) -> PictureFormat:
        """What a model takes."""
        return cls(*card.input, resize=card.resize, fit=card.fit)


@dataclass(frozen=True, slots=True)
class View:
    """What is shown of every frame of a source: some regions, or all of it, each as a picture of one format."""

    picture: PictureFormat
    regions: tuple[Region, ...] | None = None  # None: the whole frame

    @property
    def pictures(self) -> int:
        """How many it makes of a frame."""
        return 1 if self.regions is None else len(self.regions)

    @property
    def names(self) -> tuple[str, ...]:
        """Of its regions; none of a whole frame."""
        return tuple(region.name for region in self.regions or ())

    @property
    def frame_bytes(self) -> int:
        """Of what it shows of a frame."""
        return 3 * self.pictures * self.picture.height * self.picture.width


class Scaler:
    """Converts, cuts, resizes and turns pictures into rows of a batch. Belongs to one thread."""

    def __init__(self, view: View, orientation: Orientation = UPRIGHT) -> None:
        self._regions = view.regions
        self._orientation = orientation
        # One each: swscale's tables belong to a size, and regions have sizes of their own.
        self._resizers = [_Resizer(view.picture, orientation) for _ in range(view.pictures)]
        self._size = view.picture.height, view.picture.width
        self._outside: Sequence[npt.NDArray[np.bool_] | None] = ()  # of each region's polygon
        self._layout: object = None
        self._crops: Sequence[Crop] = ()

    def draw(self, frame: VideoFrame, out: npt.NDArray[np.uint8]) -> None:
        """Fills `out`, uint8 (pictures, H, W, 3).

        Raises:
            ValueError: a region does not lie in the picture, or swscale does not know the format.
        """
        if self._regions is None:
            self._resizers[0].draw(frame, out[0])
            return
        frame = to_planes(frame)
        layout = frame.format.name, frame.width, frame.height, frame.colorspace, frame.color_range
        if layout != self._layout:
            width, height = self._turned(frame.width, frame.height)
            boxes = [region.box(width, height) for region in self._regions]
            self._crops = [Crop(frame, self._orientation.stored(box, width, height)) for box in boxes]
            self._outside = [self._outside_of(region, width, height) for region in self._regions]
            self._layout = layout
        planes = planes_of(frame)
        for crop, resizer, outside, picture in zip(self._crops, self._resizers, self._outside, out, strict=True):
            resizer.draw(crop.taken(planes), picture)
            if outside is not None:
                picture[outside] = 0

    def _turned(self, width: int, height: int) -> tuple[int, int]:
        """As players show it."""
        return (height, width) if self._orientation.transposed else (width, height)

    def _outside_of(self, region: Region, width: int, height: int) -> npt.NDArray[np.bool_] | None:
        """Which pixels of its picture are black, in a frame of this size as it is shown: bool (H, W); None: none."""
        if not region.polygon:
            return None
        left, top, right, bottom = region.box(width, height)
        outside = np.ones(self._size, np.bool_)
        inner = self._resizers[0].content(right - left, bottom - top, outside)
        inner[:] = ~region.mask((inner.shape[0], inner.shape[1]), width, height)
        return outside


class _Resizer:
    """Resizes pictures of one size, mostly."""

    def __init__(self, picture: PictureFormat, orientation: Orientation) -> None:
        self._picture = picture
        self._orientation = orientation
        self._reformatter = VideoReformatter()
        self._interpolation = INTERPOLATIONS[picture.resize]

    def draw(self, frame: av.video.frame.VideoFrame, out: npt.NDArray[np.uint8]) -> None:
        """Fills `out`, uint8 (H, W, 3)."""
        height, width = self._picture.height, self._picture.width
        if self._picture.fit == "letterbox":
            out[:] = 0
            turned = self._orientation.transposed
            shown = (frame.height, frame.width) if turned else (frame.width, frame.height)
            out = self.content(*shown, out)
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

    def content(self, width: int, height: int, out: npt.NDArray[Scalar]) -> npt.NDArray[Scalar]:
        """The part of a picture (H, W, ...) that one of this size, as it is shown, fills: all but the bars."""
        if self._picture.fit != "letterbox":
            return out
        scale = min(out.shape[0] / height, out.shape[1] / width)
        inner_h, inner_w = max(1, round(height * scale)), max(1, round(width * scale))
        top, left = (out.shape[0] - inner_h) // 2, (out.shape[1] - inner_w) // 2
        return out[top : top + inner_h, left : left + inner_w]
