"""What all competitors share: pictures in, scores out, through one network in torch."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from pathlib import Path

import numpy as np
import torch

from specialized.folding import Normalize
from specialized.modelfile import ModelCard, load_model

BATCH = 256

Size = tuple[int, int]  # height, width
# Batches of the pictures of a video: uint8 (n, 3, H, W), in whatever layout.
Pictures = Callable[[Path, Size], Iterator[torch.Tensor]]


def label(videos: Iterable[Path], model: Path, pictures: Pictures) -> torch.Tensor:
    """Scores (N, K) of all frames of all videos, float32.

    Args:
        videos: Taken one after the other.
        model: A model file, f = 1.
        pictures: How frames become pictures of the model's input size.
    """
    card, forward = normalized(model)
    scores = [torch.empty(0, len(card.classes))]
    with torch.inference_mode():
        for video in videos:
            scores += [forward(batch) for batch in pictures(video, card.input)]
    return torch.cat(scores)


def normalized(model: Path) -> tuple[ModelCard, Callable[[torch.Tensor], torch.Tensor]]:
    """A model file, f = 1, and what maps pictures, uint8 (n, 3, H, W), to scores (n, K)."""
    card, network = load_model(model)
    if card.fold != 1:
        raise SystemExit(f"{model}: must be a model of f = 1, got f = {card.fold}")
    network = network.to(torch.bfloat16).to(memory_format=torch.channels_last).eval()
    normalize = Normalize(f=1, size=card.input, mean=card.mean, std=card.std, device=torch.device("cpu"))

    def forward(batch: torch.Tensor) -> torch.Tensor:
        x = normalize(batch.permute(0, 2, 3, 1)[:, None], torch.bfloat16)
        return network(x.contiguous(memory_format=torch.channels_last)).float().softmax(1)

    return card, forward


def batched(pictures: Iterable[np.ndarray]) -> Iterator[torch.Tensor]:
    """Stacks pictures (H, W, 3) to batches."""
    waiting = iter(pictures)
    while batch := list(islice(waiting, BATCH)):
        yield channels_first(np.stack(batch))


def channels_first(batch: np.ndarray) -> torch.Tensor:
    """(n, H, W, 3) as (n, 3, H, W), without a copy."""
    return torch.from_numpy(batch).permute(0, 3, 1, 2)


def main(pictures: Pictures) -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("videos", nargs="*", type=Path)
    options = parser.parse_args()
    print(len(label(options.videos, options.model, pictures)))
