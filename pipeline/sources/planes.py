"""Cutting a rectangle out of a decoded frame, plane by plane, without converting the whole picture."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from av.video.frame import VideoFrame
from av.video.reformatter import VideoReformatter

__all__ = ["Crop", "planes_of", "to_planes"]

Plane = npt.NDArray[Any]  # (H, W), uint8 or uint16; interleaved RGB: (H, 3 W)
Box = tuple[int, int, int, int]  # left, top, and behind them right and bottom


class _Layout(NamedTuple):
    """How a pixel format lies in memory: its planes but for chroma's size, and the type of a sample."""

    shift_x: int = 0  # chroma is 1 << shift_x times narrower
    shift_y: int = 0
    planes: int = 3
    interleaved: int = 1  # samples of a pixel in a plane
    dtype: type = np.uint8


_LAYOUTS = {"rgb24": _Layout(planes=1, interleaved=3), "gray": _Layout(planes=1)}
for _name, _shifts in {"420": (1, 1), "422": (1, 0), "444": (0, 0)}.items():
    _LAYOUTS[f"yuv{_name}p"] = _LAYOUTS[f"yuvj{_name}p"] = _Layout(*_shifts)
    _LAYOUTS[f"yuv{_name}p10le"] = _LAYOUTS[f"yuv{_name}p12le"] = _Layout(*_shifts, dtype=np.uint16)

_SPREAD = {"nv12": "yuv420p", "p010le": "yuv420p10le"}  # as GPUs give them: the same samples, chroma interleaved


def to_planes(frame: VideoFrame) -> VideoFrame:
    """The frame itself, or in a pixel format that a Crop can be cut from."""
    name = frame.format.name
    if name in _LAYOUTS:
        return frame
    return VideoReformatter().reformat(frame, format=_SPREAD.get(name, "rgb24"), threads=1)


def planes_of(frame: VideoFrame) -> list[Plane]:
    """The frame's samples, in its own memory."""
    layout = _LAYOUTS[frame.format.name]
    planes = []
    for number, plane in enumerate(frame.planes):
        samples: Plane = np.frombuffer(memoryview(plane), layout.dtype).reshape(plane.height, -1)  # lines are padded
        width = -(-frame.width >> (layout.shift_x if number else 0)) * layout.interleaved
        planes.append(samples[:, :width])
    return planes


class Crop:
    """A rectangle of the frames of one layout.

    Where it begins between two samples of chroma, its own are the means of their neighbours.

    Args:
        like: A frame of that layout.
        box: The rectangle.
    """

    def __init__(self, like: VideoFrame, box: Box) -> None:
        left, top, right, bottom = box
        layout = _LAYOUTS[like.format.name]
        self._frame = VideoFrame(right - left, bottom - top, like.format.name)
        self._frame.colorspace, self._frame.color_range = like.colorspace, like.color_range
        self._own = planes_of(self._frame)
        self._parts = []
        for number, own in enumerate(self._own):
            shift_x, shift_y = (layout.shift_x, layout.shift_y) if number else (0, 0)
            half_x, half_y = left & ((1 << shift_x) - 1), top & ((1 << shift_y) - 1)
            x, y = (left >> shift_x) * layout.interleaved, top >> shift_y
            height, width = own.shape
            part = slice(y, y + height + half_y), slice(x, x + width + half_x)
            self._parts.append((part, (height + half_y, width + half_x)))

    def taken(self, planes: Sequence[Plane]) -> VideoFrame:
        """The rectangle of a frame with these planes; valid until the next is taken."""
        for own, plane, (part, shape) in zip(self._own, planes, self._parts, strict=True):
            block = plane[part]
            if block.shape != shape:  # at the picture's border there is no neighbour
                down, across = (wanted - there for wanted, there in zip(shape, block.shape, strict=True))
                block = np.pad(block, ((0, down), (0, across)), mode="edge")
            own[:] = block if shape == own.shape else _means(block, own.shape)
        return self._frame


def _means(block: Plane, shape: tuple[int, ...]) -> Plane:
    """The means of neighbours along each axis on which the block is longer by one than the shape, rounded half up."""
    wide = np.uint16 if block.dtype == np.uint8 else np.uint32
    halvings = 0
    if block.shape[1] > shape[1]:
        block, halvings = np.add(block[:, :-1], block[:, 1:], dtype=wide), 1
    if block.shape[0] > shape[0]:
        block, halvings = np.add(block[:-1], block[1:], dtype=wide), halvings + 1
    return (block + (1 << halvings - 1)) >> halvings
