"""Folding: f pictures as the channels of one input, and widths that grow with sqrt(f).

    (B, f, C, H, W)  fold     (B, f·C, H, W) ─▶ model ─▶ (B, f·K)  unfold  (B, f, K)
    picture i of a group owns channels [i·C, (i+1)·C) and outputs [i·K, (i+1)·K)

After Kosaian et al., "Boosting the Throughput and Accelerator Utilization of Specialized CNN Inference Beyond
Increasing Batch Size", ICML 2021.
"""

from math import isqrt

import torch
from torch import Tensor


def folded_width(width: int, f: int, multiple_of: int = 1) -> int:
    """Returns the width of an inner layer that keeps the FLOPs per picture about the same: width · sqrt(f).

    Args:
        width: before folding.
        f: pictures in a group.
        multiple_of: 1 rounds down, as the publication does; more rounds to the nearest multiple (half up, never to 0):
            matrix units like multiples of 8.
    """
    if width < 1 or f < 1 or multiple_of < 1:
        raise ValueError(
            f"folded_width: width, f and multiple_of must be at least 1, got {width=}, {f=}, {multiple_of=}"
        )
    # Exact: the floor of a rounded square root can be one off.
    if multiple_of == 1:
        return isqrt(width * width * f)
    twice = isqrt(4 * width * width * f)
    return max(1, (twice + multiple_of) // (2 * multiple_of)) * multiple_of


def fold(x: Tensor) -> Tensor:
    """Views (B, f, C, H, W) as (B, f·C, H, W). Raises RuntimeError where that would need a copy."""
    b, f, c, h, w = x.shape
    return x.view(b, f * c, h, w)


def unfold(logits: Tensor, f: int) -> Tensor:
    """Views (B, f·K) as (B, f, K)."""
    b, outputs = logits.shape
    if f < 1 or outputs % f:
        raise ValueError(f"unfold: outputs per group must be a multiple of f, got {outputs} outputs and {f=}")
    return logits.view(b, f, outputs // f)


class Normalize:
    """Turns uint8 pictures into a model's input: interleave the slots, scale to 0..1, subtract mean, divide by std.

    Args:
        f: pictures in a group.
        size: (H, W) of a picture.
        mean: per channel, for values scaled to 0..1.
        std: likewise.
        device: where pictures arrive and inputs leave.
    """

    def __init__(
        self,
        *,
        f: int,
        size: tuple[int, int],
        mean: tuple[float, ...],
        std: tuple[float, ...],
        device: torch.device,
    ) -> None:
        # Constants as large as one input: broadcasting over the innermost 3·f values alone is up to 30 times slower.
        self._scale = self._constant([1 / (255 * s) for s in std], f, size, device)
        self._shift = self._constant([-m / s for m, s in zip(mean, std, strict=True)], f, size, device)

    @staticmethod
    def _constant(values: list[float], f: int, size: tuple[int, int], device: torch.device) -> Tensor:
        per_channel = torch.tensor(values, dtype=torch.float32).repeat(f)  # (f·C,)
        return per_channel.expand(*size, -1).contiguous().to(device).permute(2, 0, 1)[None]  # (1, f·C, H, W)

    def __call__(self, pictures: Tensor, dtype: torch.dtype) -> Tensor:
        """Maps uint8 (B, f, H, W, C) to (B, f·C, H, W), channels_last in memory. Leaves its argument unchanged."""
        # Bytes move while they are bytes; for f = 1 the pictures already lie as channels_last wants them.
        if pictures.shape[1] == 1:
            x = pictures[:, 0]
        elif torch.compiler.is_exporting():  # other libraries have kernels for an axis moved, rather than for this cat
            x = pictures.permute(0, 2, 3, 1, 4).flatten(3)
        else:  # two to three times as quick in torch
            x = torch.cat(pictures.unbind(1), dim=3)  # (B, H, W, f·C)
        # In float32 whatever the dtype: one rounding at the end, and quicker than bf16 arithmetic.
        return x.permute(0, 3, 1, 2).float().mul_(self._scale).add_(self._shift).to(dtype)
