"""How players turn a picture: the display matrix in the file's header, read off a decoded frame."""

from __future__ import annotations

import struct
from dataclasses import dataclass

import av.video.frame
import numpy as np
import numpy.typing as npt
from av.sidedata.sidedata import SideData

__all__ = ["UPRIGHT", "Orientation", "orientation_of"]


@dataclass(frozen=True, slots=True)
class Orientation:
    """One of the eight ways to lay a rectangle onto itself: first transposed, then mirrored."""

    transposed: bool = False
    rows_reversed: bool = False
    columns_reversed: bool = False

    def apply(self, picture: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
        """A view of the picture (H, W, 3), turned."""
        if self.transposed:
            picture = picture.transpose(1, 0, 2)
        return picture[:: -1 if self.rows_reversed else 1, :: -1 if self.columns_reversed else 1]

    def stored(self, box: tuple[int, int, int, int], width: int, height: int) -> tuple[int, int, int, int]:
        """Where a rectangle (left, top, right, bottom) of the turned picture lies in the picture before.

        Args:
            box: The rectangle; right and bottom are behind it.
            width, height: Of the turned picture.
        """
        left, top, right, bottom = box
        if self.rows_reversed:
            top, bottom = height - bottom, height - top
        if self.columns_reversed:
            left, right = width - right, width - left
        return (top, left, bottom, right) if self.transposed else (left, top, right, bottom)


UPRIGHT = Orientation()

_TURNED = (  # by 0, 1, 2, 3 right angles counterclockwise
    UPRIGHT,
    Orientation(transposed=True, rows_reversed=True),
    Orientation(rows_reversed=True, columns_reversed=True),
    Orientation(transposed=True, columns_reversed=True),
)


def orientation_of(frame: av.video.frame.VideoFrame) -> Orientation:
    """The frame's display matrix as an Orientation; a matrix that turns by other than right angles counts as upright.

    The matrix holds nine 32-bit numbers in rows; point (x, y) is shown at (a·x + c·y, b·x + d·y) with a, b in the first
    row and c, d in the second (FFmpeg, libavutil/display.h).
    """
    try:
        data = frame.side_data.get("DISPLAYMATRIX")
    except ValueError:  # PyAV lists none of it where one kind is new to it, as EXIF is; a mirror image is not told then
        return _TURNED[round(frame.rotation / 90) % 4]
    if not isinstance(data, SideData):
        return UPRIGHT
    a, b, _, c, d, *_ = struct.unpack("=9i", bytes(data)[:36])
    if a == 0 and d == 0 and b and c:
        return Orientation(transposed=True, rows_reversed=b < 0, columns_reversed=c < 0)
    if b == 0 and c == 0 and a and d:
        return Orientation(rows_reversed=d < 0, columns_reversed=a < 0)
    return UPRIGHT
