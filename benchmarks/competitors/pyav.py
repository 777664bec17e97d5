"""PyAV with FFmpeg's threads; swscale resizes and converts to RGB in one step, before anything becomes an array.

It keeps one context for all frames, in one thread: more of them fight with those of the decoder.
"""

from collections.abc import Iterator
from pathlib import Path

import av
import numpy as np
import torch
from av.video.reformatter import Interpolation, VideoReformatter

from benchmarks.competitors.labelling import Size, batched, main


def pictures(video: Path, size: Size) -> Iterator[torch.Tensor]:
    return batched(_frames(video, size))


def _frames(video: Path, size: Size) -> Iterator[np.ndarray]:
    height, width = size
    with av.open(str(video)) as container:
        stream = container.streams.video[0]
        stream.thread_type = "AUTO"
        scaler = VideoReformatter()
        for frame in container.decode(stream):
            yield scaler.reformat(
                frame, width, height, "rgb24", interpolation=Interpolation.AREA, threads=1
            ).to_ndarray()


if __name__ == "__main__":
    main(pictures)
