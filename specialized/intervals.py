"""How far figures measured on footage can be trusted: bootstrap intervals over blocks of time.

Neighbouring frames show nearly the same, so a thousand of them are not a thousand independent trials, and an interval
that takes them for such is far too narrow. Here whole blocks of successive frames are drawn with replacement (Künsch,
The Jackknife and the Bootstrap for General Stationary Observations, Annals of Statistics 1989; blocks that do not
overlap: Carlstein 1986) and the figure is taken of each such resample; 95 % of them lie in the interval. What a block
must be is long against what makes neighbours alike. With few blocks an interval is itself a rough guess, mostly too
narrow: see `FEW`.
"""

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

Interval = tuple[float, float]  # of 95 %

BLOCK_S = 5.0  # seconds of footage that a block is to last
BLOCK_FRAMES = 150  # where the time between frames is not known: those seconds at 30 frames/s
RESAMPLES = 2000
FEW = 5  # blocks; below, an interval rests on too little to be more than a hint

_AT_ONCE = 1_000_000  # numbers of a chunk of resamples, so that days of footage need no more memory than minutes


def block_length(step_s: float | None) -> int:
    """Frames of a block of `BLOCK_S` seconds, given the seconds between two frames."""
    return BLOCK_FRAMES if step_s is None else max(1, round(BLOCK_S / step_s))


def cut(lengths: Sequence[int], block_frames: int) -> NDArray[np.int64]:
    """Cuts runs of successive frames into blocks as near to the given length as equal blocks allow.

    Args:
        lengths: of the runs, in frames; a block never leaves its run.
        block_frames: frames of a block.

    Returns:
        The number of the block of each frame, run after run, (sum of lengths,).
    """
    numbers, first = [np.empty(0, np.int64)], 0
    for n in lengths:
        blocks = max(1, round(n / block_frames))
        numbers.append(first + np.arange(n) * blocks // n)
        first += blocks
    return np.concatenate(numbers)


def sums(columns: NDArray[np.generic], block: NDArray[np.int64]) -> NDArray[np.float64]:
    """Adds (N, M) up by block to (blocks, M)."""
    blocks = int(block.max()) + 1
    return np.stack([np.bincount(block, column, minlength=blocks) for column in columns.T], axis=1)


def resampled(of_block: NDArray[np.float64], *, seed: int) -> NDArray[np.float64]:
    """What the sums of all blocks come to in each resample.

    Figures that are compared with each other belong side by side in one call: then each resample holds the same blocks
    for all of them.

    Args:
        of_block: (blocks, M), sums within each block.
        seed: decides which blocks are drawn.

    Returns:
        (RESAMPLES, M)
    """
    return np.concatenate([drawn @ of_block for drawn in _draws(len(of_block), seed)])


def _draws(blocks: int, seed: int) -> Iterator[NDArray[np.int64]]:
    """How often each block is in a resample, (some, blocks), RESAMPLES in all."""
    rng = np.random.default_rng(seed)
    chunk = max(1, _AT_ONCE // blocks)
    for start in range(0, RESAMPLES, chunk):
        yield rng.multinomial(blocks, np.full(blocks, 1 / blocks), size=min(chunk, RESAMPLES - start))


def interval(values: NDArray[np.float64], blocks: int) -> Interval | None:
    """Between which 95 % of the resamples lie, by percentiles.

    Args:
        values: (RESAMPLES,), NaN where a resample does not have the figure, such as recall without an example.
        blocks: that were drawn from. One alone says nothing about how much blocks differ: None.
    """
    values = values[np.isfinite(values)]
    if blocks < 2 or not len(values):
        return None
    low, high = np.quantile(values, [0.025, 0.975]).tolist()
    return low, high
