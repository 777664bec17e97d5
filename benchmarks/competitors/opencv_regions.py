"""VideoCapture.read, the regions sliced, cv2.resize INTER_AREA of each, one batch of torch per frame: what most people
write."""

import argparse
from itertools import pairwise
from pathlib import Path

import cv2
import numpy as np
import torch

from benchmarks.competitors.labelling import channels_first, normalized


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--grid", type=float, nargs=6, required=True, metavar="N")
    parser.add_argument("videos", nargs="*", type=Path)
    options = parser.parse_args()
    card, forward = normalized(options.model)
    frames = 0
    with torch.inference_mode():
        for video in options.videos:
            capture = cv2.VideoCapture(str(video))
            while True:
                there, frame = capture.read()
                if not there:
                    break
                crops = [
                    cv2.cvtColor(
                        cv2.resize(frame[top:bottom, left:right], card.input[::-1], interpolation=cv2.INTER_AREA),
                        cv2.COLOR_BGR2RGB,
                    )
                    for left, top, right, bottom in boxes(options.grid, *frame.shape[:2])
                ]
                forward(channels_first(np.stack(crops)))
                frames += 1
            capture.release()
    print(frames)


def boxes(grid: list[float], height: int, width: int) -> list[tuple[int, int, int, int]]:
    """Left, top, right and bottom of the cells of a grid, in pixels."""
    rows, columns, x, y, w, h = grid
    down = [round(height * (y + k * h / rows)) for k in range(int(rows) + 1)]
    across = [round(width * (x + k * w / columns)) for k in range(int(columns) + 1)]
    return [(left, top, right, bottom) for top, bottom in pairwise(down) for left, right in pairwise(across)]


if __name__ == "__main__":
    main()
