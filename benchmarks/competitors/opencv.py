"""VideoCapture.read, cv2.resize INTER_AREA: what most people write."""

from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import torch

from benchmarks.competitors.labelling import Size, batched, main


def pictures(video: Path, size: Size) -> Iterator[torch.Tensor]:
    return batched(_frames(video, size))


def _frames(video: Path, size: Size) -> Iterator[np.ndarray]:
    capture = cv2.VideoCapture(str(video))
    while True:
        there, frame = capture.read()
        if not there:
            break
        small = cv2.resize(frame, size[::-1], interpolation=cv2.INTER_AREA)
        yield cv2.cvtColor(small, cv2.COLOR_BGR2RGB)
    capture.release()


if __name__ == "__main__":
    main(pictures)
