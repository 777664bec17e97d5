"""Decoding on a GPU, and whether its pictures of a file are those of the CPU.

A file is decoded on the GPU only if both gave the same pictures of its first frames, resized as the model takes them,
at the same times. What a decoder chip does not take (a codec, a profile, a size), or takes and decodes otherwise, is
decoded on the CPU; so is what it fails at later, see `SegmentTask`.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from itertools import islice

import av
import av.error
import numpy as np
import numpy.typing as npt

from pipeline.errors import SourceError
from pipeline.sources.container import accelerator, open_decoder, packets, reason
from pipeline.sources.index import Index
from pipeline.sources.scaler import PictureFormat, Scaler, View
from pipeline.threads import Answer

__all__ = ["Gpu", "absent"]

log = logging.getLogger(__name__)

SAMPLE = 48  # frames that are compared: two seconds, with B-frames and as a rule a keyframe among them
# Mean difference of a picture, of 255. The standards leave a decoder no freedom, but chroma comes interleaved from the
# GPU, and swscale may round on another way then.
MOST = 1.0

Shown = list[tuple[int | None, npt.NDArray[np.uint8]]]  # pts and picture


def absent(device: str) -> str | None:
    """Why nothing can be decoded on this device here, in one line; None if something may.

    Args:
        device: cpu, cuda, cuda:1.
    """
    if device == "cpu":
        return None
    try:
        accelerator(device).create(av.Codec("h264", "r"))
    except NotImplementedError:
        return "this FFmpeg was built without it"
    except (av.error.FFmpegError, RuntimeError, ValueError) as error:
        return f"{getattr(error, 'strerror', None) or error}"
    return None


class Gpu:
    """A GPU that decodes a file until it gives a reason not to. The segments of the file share it.

    Args:
        device: cuda or cuda:1.
        index: Of the file.
        source: Name of the source.
        picture: What the model takes.
    """

    def __init__(self, device: str, *, index: Index, source: str, picture: PictureFormat) -> None:
        self.device = device
        self._index = index
        self._source = source
        self._picture = picture
        self._trust = Answer(self._compared)

    @property
    def is_trusted(self) -> bool:
        """Whether it decodes the file. The first to ask compares its pictures with those of the CPU.

        Raises:
            SourceError: the file cannot be opened at all.
        """
        return self._trust.get()

    def leave(self) -> None:
        """It failed where the CPU did not: segments that are not begun yet are decoded there."""
        self._trust.put(False)
        log.warning("%s: its rest is decoded on the CPU: %s failed where that did not", self._source, self.device)

    def _compared(self) -> bool:
        why = _trouble(self._index, self._source, self._picture, device=self.device)
        if why is not None:
            log.warning("%s: is decoded on the CPU: %s", self._source, why)
        return why is None


def _trouble(index: Index, source: str, picture: PictureFormat, *, device: str) -> str | None:
    """Why a file cannot be decoded on the GPU, in one line; None if it can.

    Args:
        index: Of the file.
        source: Name of the source.
        picture: What the model takes.
        device: cuda or cuda:1.

    Raises:
        SourceError: the file cannot be opened at all.
    """
    if index.numbering != "pts":
        return f"{index.path}: its frames are counted: {index.whole_because}"
    try:
        expected = _sample(index, source, picture, device="cpu")
    except (av.error.FFmpegError, ValueError):
        return f"{index.path}: is damaged among its first frames"
    try:
        got = _sample(index, source, picture, device=device)
    except av.error.FFmpegError as error:
        return f"{index.path}: cannot be decoded on {device}: {reason(error, index.path)}"
    except (SourceError, ValueError) as error:
        return str(error)
    if [pts for pts, _ in got] != [pts for pts, _ in expected]:
        return f"{device} gives other frames: {len(got)} where the CPU gives {len(expected)}, or at other times"
    for number, ((_, one), (_, other)) in enumerate(zip(got, expected, strict=True)):
        if (off := float(np.abs(one.astype(np.int16) - other).mean())) > MOST:
            return f"{device} gives other pictures: frame {number} is {off:.1f} of 255 off"
    return None


def _sample(index: Index, source: str, picture: PictureFormat, *, device: str) -> Shown:
    """The first frames that a decoder gives. Raises FFmpegError where one of them gives an error."""
    container, stream = open_decoder(
        index.path, source, reorder_depth=index.reorder_depth, device=device, limits=index.limits
    )

    def decoded() -> Iterator[av.VideoFrame]:
        for packet in packets(container, stream):
            if isinstance(packet, av.error.FFmpegError):
                raise packet
            yield from stream.codec_context.decode(packet)
        yield from stream.codec_context.decode(None)

    with container:
        scaler, shown = Scaler(View(picture), index.orientation), []
        for frame in islice(decoded(), SAMPLE):
            out = np.empty((1, picture.height, picture.width, 3), np.uint8)
            scaler.draw(frame, out)
            shown.append((frame.pts, out[0]))
        return shown
