"""Which frames of a file are asked for: `every`, `fps`, `from`, `to`, `limit`."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

__all__ = ["Selection"]

ROUNDING_S = 1e-6  # times are rounded to the container's time base: a frame at a border belongs to what begins there


@dataclass(frozen=True, slots=True)
class Selection:
    """Selects frames by number and time; every condition given must hold.

    Attributes:
        every: Each n-th frame, by its number, beginning with frame 0.
        fps: At most this many frames a second: the first frame of each 1/fps stretch, counted from the first frame.
        from_s, to_s: Seconds from the first frame on; `to_s` itself is left out.
        limit: At most this many frames.
    """

    every: int = 1
    fps: float | None = None
    from_s: float | None = None
    to_s: float | None = None
    limit: int | None = None

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
        """A function to be asked about the frames of a file one by one, from the first, as (number, time in s)."""
        first_s = math.nan
        last_stretch = -1
        left = math.inf if self.limit is None else self.limit

        def choose(number: int, time_s: float) -> bool:
            nonlocal first_s, last_stretch, left
            if number == 0 or math.isnan(first_s):
                first_s = time_s
            if left <= 0 or number % self.every:
                return False
            since_s = time_s - first_s + ROUNDING_S
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

    def mask(self, times_s: npt.NDArray[np.float64]) -> npt.NDArray[np.bool_]:
        """Which of a file's frames are selected, given the times of all of them in order."""
        if self.takes_all:
            return np.ones(len(times_s), np.bool_)
        choose = self.chooser()
        return np.fromiter(
            (choose(number, time_s) for number, time_s in enumerate(times_s.tolist())), np.bool_, len(times_s)
        )
