"""Orders: which pictures of a segment share a group of f.

A folded model sees f pictures at once and learns what neighbours to expect, so the order belongs to the model:
training, evaluation and running all call `groups`. Groups are formed window by window, 64·f pictures at a time counted
from the start of the segment, so a stream needs to hold back at most one window:

    n = 10, f = 3        (one window, cut short by the end of the segment; · is padding)
    consecutive  012 345 678 9··
    strided      048 159 26· 37·
    shuffled     (a permutation) 629 041 835 7··

Where frames are cut into regions, the pictures of such a group are of one region. In the order `regions` they are the
regions of a frame, one behind the other and on into the next frame: successive pictures, as in `consecutive`.
"""

from collections.abc import Iterator
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

Order = Literal["consecutive", "strided", "shuffled", "streams", "regions"]

ORDERS: tuple[Order, ...] = get_args(Order)

WINDOW_GROUPS = 64  # groups in a full window: strided frames lie 64 apart, and no window outgrows one batch by much


def groups(n: int, f: int, order: Order, *, seed: int = 0, first_window: int = 0) -> NDArray[np.int32]:
    """Forms the groups of n successive pictures of one segment.

    Args:
        n: number of pictures, counted from the start of window `first_window`; 0 gives no groups.
        f: pictures in a group; 1 means no folding, whatever the order.
        order: consecutive, strided, shuffled or regions.
        seed: seeds the permutations of `shuffled`, together with the number of the window.
        first_window: number of the segment's window at which the n pictures start. A caller that forms groups window
            after window gets the rows of one call over the whole segment, with positions counted from its own start.

    Returns:
        int32 (B, f): positions 0..n-1, each exactly once; -1 is padding, always at the end of a row.

    Raises:
        ValueError: an order that cannot be formed here, or a number out of range.
    """
    if n < 0 or f < 1 or first_window < 0:
        raise ValueError(f"groups: n >= 0, f >= 1 and first_window >= 0 must hold, got {n=}, {f=}, {first_window=}")
    if order == "streams":
        raise ValueError(
            "groups: order must be formed within one segment, got 'streams'; "
            "those groups are formed by the pipeline, from f sources read in lockstep"
        )
    if order not in ORDERS:
        raise ValueError(f"groups: order must be one of {', '.join(ORDERS)}, got {order!r}")
    if f == 1:
        return np.arange(n, dtype=np.int32)[:, None]
    rows = [np.empty((0, f), np.int32)]
    for number, start, m in _windows(n, f, first_window):
        window = _window(m, f, order, (seed, number))
        rows.append(np.where(window < 0, -1, window + start).astype(np.int32))
    return np.concatenate(rows)


def _windows(n: int, f: int, first_window: int) -> Iterator[tuple[int, int, int]]:
    """Yields (window's number, its first position, its length)."""
    size = WINDOW_GROUPS * f
    for k, start in enumerate(range(0, n, size)):
        yield first_window + k, start, min(size, n - start)


def _window(m: int, f: int, order: Order, seeds: tuple[int, int]) -> NDArray[np.int32]:
    """Groups of the m pictures of one window, (ceil(m / f), f)."""
    b = -(-m // f)
    padded = np.full(b * f, -1, np.int32)
    padded[:m] = _permutation(m, seeds) if order == "shuffled" else np.arange(m)
    return padded.reshape(f, b).T if order == "strided" else padded.reshape(b, f)


def _permutation(m: int, seeds: tuple[int, int]) -> NDArray[np.intp]:
    # Sorting raw generator output: numpy promises that this stream never changes, which it does not for permutation().
    return np.argsort(np.random.PCG64(seeds).random_raw(m), kind="stable")
