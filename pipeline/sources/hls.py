"""What is other about HLS: pictures come by whole segments, and what a connection begins with may have come before."""

from __future__ import annotations

import math

__all__ = ["OPTIONS", "Turns"]

OPTIONS = {
    "live_start_index": "-1",  # the newest segment; FFmpeg would begin with the third last
    "max_reload": "100",  # of a playlist without a new segment; FFmpeg would give up at the third
}
LONGEST_S = 30.0  # of a segment
STEP_S = 1.0  # a longer one from a frame to the next is a gap, for which nobody waits
SPEED = 1.1  # what came late is caught up with


class Turns:
    """When it is the turn of which frame: each once, and at the pace at which they were taken.

    The pace is that from each frame to the next. Were it that since the first, all segments that come a little later
    behind the first than their time says would still be bursts.
    """

    def __init__(self) -> None:
        self._last_s = -math.inf  # time in the stream, of what came last
        self._known_s = -math.inf  # up to which it came over an earlier connection
        self._begins = True
        self._turn_s = -math.inf

    def begin(self) -> None:
        """A new connection begins."""
        self._begins = True

    def is_new(self, time_s: float | None) -> bool:
        """Whether the next frame, of this time in the stream, is none that came before."""
        if time_s is None:
            return True
        if self._begins:
            goes_on = 0 <= self._last_s - time_s < LONGEST_S  # else the stream was begun anew, or is farther by now
            self._known_s = self._last_s if goes_on else -math.inf
            self._begins = False
        if time_s <= self._known_s:
            return False
        self._known_s = -math.inf
        return True

    def wait_s(self, time_s: float | None, now_s: float) -> float:
        """How long a new frame has to wait."""
        if time_s is None:
            return 0.0
        step_s, self._last_s = time_s - self._last_s, time_s
        self._turn_s = max(now_s, self._turn_s + (step_s / SPEED if 0 < step_s <= STEP_S else 0.0))
        return self._turn_s - now_s
