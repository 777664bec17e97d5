"""Decoding on a GPU, and whether its pictures of a file are those of the CPU.

A file is decoded on the GPU only if both gave the same pictures of its first frames, resized as the model takes them,
at the same times. What a decoder chip does not take (a codec, a profile, a size), or takes and decodes otherwise, is
decoded on the CPU.
"""

from __future__ import annotations

from itertools import islice

import av.error
import numpy as np
import numpy.typing as npt

from pipeline.errors import SourceError
from pipeline.sources.container import open_decoder, packets
from pipeline.sources.index import Index
from pipeline.sources.scaler import PictureFormat, Scaler

__all__ = ["trouble"]

SAMPLE = 48  # frames that are compared: two seconds, with B-frames and as a rule a keyframe among them
# Mean difference of a picture, of 255. The standards leave a decoder no freedom, but chroma comes interleaved from the
# GPU, and swscale rounds on another way then.
MOST = 1.0

Shown = list[tuple[int | None, npt.NDArray[np.uint8]]]  # pts and picture


def trouble(index: Index, source: str, picture: PictureFormat, *, device: str, fast: bool = False) -> str | None:
    """Why a file cannot be decoded on the GPU, in one line; None if it can.

    Args:
        index: Of the file.
        source: Name of the source.
        picture: What the model takes.
        device: cuda or cuda:1.
        fast: See `open_decoder`.

    Raises:
        SourceError: the file cannot be opened at all.
    """
    expected = _sample(index, source, picture, device="cpu", fast=fast)
    try:
        got = _sample(index, source, picture, device=device, fast=fast)
    except (SourceError, av.error.FFmpegError, ValueError) as exc:
        return str(exc)
    if [pts for pts, _ in got] != [pts for pts, _ in expected]:
        return f"{device} gives other frames: {len(got)} where the CPU gives {len(expected)}, or at other times"
    for number, ((_, one), (_, other)) in enumerate(zip(got, expected, strict=True)):
        if (off := float(np.abs(one.astype(np.int16) - other).mean())) > MOST:
            return f"{device} gives other pictures: frame {number} is {off:.1f} of 255 off"
    return None


def _sample(index: Index, source: str, picture: PictureFormat, *, device: str, fast: bool) -> Shown:
    """The first frames that a decoder gives."""
    container, stream = open_decoder(index.path, source, reorder_depth=index.reorder_depth, fast=fast, device=device)
    with container:
        scaler, shown = Scaler(picture, index.orientation), []
        decoded = (
            frame
            for packet in packets(container, stream)
            if not isinstance(packet, av.error.FFmpegError)
            for frame in stream.codec_context.decode(packet)
        )
        for frame in islice(decoded, SAMPLE):
            out = np.empty((picture.height, picture.width, 3), np.uint8)
            scaler.draw(frame, out)
            shown.append((frame.pts, out))
        return shown
