"""torchcodec with its own resize, which is bilinear with antialiasing, and a thread per core."""

from collections.abc import Iterator
from pathlib import Path

import torch
from torchcodec.decoders import VideoDecoder
from torchcodec.transforms import Resize

from benchmarks.competitors.labelling import BATCH, Size, main
from pipeline.machine import cores


def pictures(video: Path, size: Size) -> Iterator[torch.Tensor]:
    decoder = VideoDecoder(str(video), transforms=[Resize(size)], num_ffmpeg_threads=cores())
    n = len(decoder)
    for first in range(0, n, BATCH):
        yield decoder.get_frames_in_range(first, min(first + BATCH, n)).data


if __name__ == "__main__":
    main(pictures)
