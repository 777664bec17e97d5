"""PyAV with FFmpeg's threads; resized and turned into RGB by swscale in one step, before anything becomes an array."""

from collections.abc import Iterator
from pathlib import Path

import av
import numpy as np
import torch

from benchmarks.competitors.labelling import Size, batched, main


def pictures(video: Path, size: Size) -> Iterator[torch.Tensor]:
    return batched(_frames(video, size))


def _frames(video: Path, size: Size) -> Iterator[np.ndarray]:
    height, width = size
    with av.open(str(video)) as container:
        stream = container.streams.video[0]
        stream.thread_type = "AUTO"
        for frame in container.decode(stream):
            yield frame.to_ndarray(format="rgb24", width=width, height=height, interpolation="AREA")


if __name__ == "__main__":
    main(pictures)
