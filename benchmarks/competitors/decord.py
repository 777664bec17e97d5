"""decord2, which resizes while it decodes."""

from collections.abc import Iterator
from pathlib import Path

import torch
from decord import VideoReader, cpu

from benchmarks.competitors.labelling import BATCH, Size, channels_first, main


def pictures(video: Path, size: Size) -> Iterator[torch.Tensor]:
    height, width = size
    reader = VideoReader(str(video), ctx=cpu(0), width=width, height=height)
    for first in range(0, len(reader), BATCH):
        yield channels_first(reader.get_batch(range(first, min(first + BATCH, len(reader)))).asnumpy())


if __name__ == "__main__":
    main(pictures)
