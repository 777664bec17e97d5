"""Which frames of a file are asked for: `frames`, then `every`, `fps`, `from`, `to`, `limit`."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

__all__ = ["Frames", "Selection"]

Frames = Literal["all", "reference", "key"]

ROUNDING_S = 1e-6  # times are rounded to the container's time base: a frame at a border belongs to what begins there


@dataclass(frozen=True, slots=True)
class Selection:
    """Selects frames by the part that they play in their stream, number and time; every condition given must hold.

    Attributes:
        every: Each n-th of `frames`, beginning with the first.
        fps: At most this many frames a second: the first of `frames` in each 1/fps stretch, counted from the file's
            first frame.
        from_s, to_s: Seconds from the file's first frame on; `to_s` itself is left out.
        limit: At most this many frames.
        frames: What the others choose among: "all"; "reference": without those that no other frame refers to; "key":
            those that decoding can begin with.
    """

    every: int = 1
    fps: float | None = None
    from_s: float | None = None
    to_s: float | None = None
    limit: int | None = None
    frames: Frames = "all"

    @property
    def takes_all(self) -> bool:
        return self == Selection()

    @property
    def needs_times(self) -> bool:
        return self.fps is not None or self.from_s is not None or self.to_s is not None

    def is_over(self, taken: int, since_s: float) -> bool:
        """Whether no frame behind this place can be selected, after `taken` frames and `since_s` seconds."""
        return (self.limit is not None and taken >= self.limit) or (self.to_s is not None and since_s >= self.to_s)

    def chooser(self) -> Callable[[int, float], bool]:
        """A function to be asked about `frames` of a file one by one, from the first: (rank among them, seconds since
        the file's first frame)."""
        last_stretch = -1
        left = math.inf if self.limit is None else self.limit

        def choose(rank: int, since_s: float) -> bool:
            nonlocal last_stretch, left
            if left <= 0 or rank % self.every:
                return False
            since_s += ROUNDING_S
            if self.from_s is not None and since_s < self.from_s:
                return False
            if self.to_s is not None and since_s >= self.to_s:
                return False
            if self.fps is not None and not math.isnan(since_s):
                stretch = math.floor(since_s * self.fps)
                if stretch <= last_stretch:
                    return False
                last_stretch = stretch
            left -= 1
            return True

        return choose

    def mask(self, times_s: npt.NDArray[np.float64], offered: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
        """Which of a file's frames are selected: bool (frames,).

        Args:
            times_s: Times of all of them, in order.
            offered: bool (frames,), which of them are `frames`.
        """
        if self.takes_all:
            return offered
        choose = self.chooser()
        since_s = (times_s - times_s[:1])[offered].tolist()
        selected = np.zeros(len(times_s), np.bool_)
        selected[offered] = [choose(rank, seconds) for rank, seconds in enumerate(since_s)]
        return selected
