"""Events: when a class came and when it went, by its scores over time.

    score  ──┐ on ┌────┐ ┌─────  up from `on` on, down below `off`; between them it stays as it was
             │    │    │ │
    state  ──┘────┘    └─┘       an event begins with the first frame up, once it was up for `min_s`,
                                 and ends with the last frame up, once it was down for `gap_s`

A track is one region of one source (or its whole frames), in the order of time. Where its clock is set back, as when a
camera tells its own, an event ends, and the time goes on from there. There is Python for every change of state and none
for every row.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field, fields, replace
from typing import Literal, TypedDict
from urllib.parse import quote

import numpy as np
import numpy.typing as npt

__all__ = ["Event", "EventRule", "Track"]

Float64s = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]


SILENT_S = 10.0  # without any frame: nobody knows whether it was there
# From one frame to the next a clock that went back by more was set: frames that come out of order, and a camera's clock
# that follows another, are off by less. What is off by less holds an event up for no longer than this.
BACK_S = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class EventRule:
    """What makes an event of a class.

    Attributes:
        on: Score from which it is there.
        off: Score below which it is gone; at most `on`.
        min_s: For how long it must be there, in seconds; what is shorter is no event.
        gap_s: For how long it must be gone; what is shorter does not end an event. Where no frame comes at all, it
            counts as gone after this time or `SILENT_S`, whichever is longer.
    """

    on: float = 0.5
    off: float = 0.5
    min_s: float = 0.0
    gap_s: float = 0.0

    def __post_init__(self) -> None:
        if not 0 < self.off <= self.on <= 1:
            raise ValueError(f"0 < off <= on <= 1 must hold, got off {self.off:g}, on {self.on:g}")
        if not (self.min_s >= 0 and self.gap_s >= 0):
            raise ValueError(f"min_s and gap_s must be at least 0, got {self.min_s:g} and {self.gap_s:g}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """A stretch of frames in which a class is there, in a region of a source, by a filter.

    Attributes:
        source, region, filter, label: Of what: names; no region where frames are labelled as a whole.
        clock: What its times are: UTC in seconds since 1970, or seconds of the source.
        first_frame, last_frame: Both included.
        began_s, ended_s: Their times, in seconds; of what clock is the track's matter. Minus infinity: no time yet.
        best_frame: The one with the highest score, of several the first.
        best_score: That score.
        is_over: Whether it has ended; else the last frame is the last one yet.
        thumbnail: A JPEG of the best frame; of a camera, of the best among those that it keeps, one a second. None:
            there is none.
    """

    source: str
    region: str | None
    filter: str
    label: str
    clock: Literal["utc", "pts"]
    first_frame: int
    last_frame: int
    began_s: float
    ended_s: float
    best_frame: int
    best_score: float
    is_over: bool = False
    thumbnail: bytes | None = field(default=None, repr=False)

    @property
    def key(self) -> str:
        """The same for both times that it is told, and for no other event of a run, however often it is told.

        Cameras count anew what was not committed when a run was killed: where time is UTC, it tells their frames apart.
        """
        parts = [self.source, self.region or "", self.filter, self.label, str(self.first_frame)]
        if self.clock == "utc" and math.isfinite(self.began_s):
            parts.append(str(round(1000 * self.began_s)))
        return "/".join(quote(part, safe="") for part in parts)

    def told(self) -> dict[str, object]:
        """What a table has of it, by column: None for a time that is not known."""
        values = {one.name: getattr(self, one.name) for one in fields(self) if one.name != "is_over"}
        return {name: None if isinstance(v, float) and not math.isfinite(v) else v for name, v in values.items()}


class _Of(TypedDict):
    """What an event is of."""

    source: str
    region: str | None
    filter: str
    label: str
    clock: Literal["utc", "pts"]


class Track:
    """Finds the events of one class in the scores of one track.

    Args:
        rule: What makes one.
        source, region, filter, label, clock: See Event.

    Attributes:
        silent_s: For how long no frame must come for an event to end; the track's own times tell once one has come.
    """

    def __init__(
        self,
        rule: EventRule,
        *,
        source: str,
        region: str | None,
        filter: str,
        label: str,
        clock: Literal["utc", "pts"],
    ) -> None:
        self._rule = rule
        self._of = _Of(source=source, region=region, filter=filter, label=label, clock=clock)
        self._is_up = False
        self._found: Event | None = None  # under way, or gone for less than `gap_s`
        self._told = False  # whether it has begun: it was there for `min_s`
        self._went = False  # since the last frame in which it was there
        self.silent_s = max(SILENT_S, rule.gap_s)
        self._now_s = -math.inf  # the latest since the clock was last set back
        self._known_s = -math.inf  # of the last frame that had a time

    def add(self, frame: npt.NDArray[np.int64], time_s: Float64s, score: npt.NDArray[np.float32]) -> Iterator[Event]:
        """Takes rows (N,) in order. Yields each event twice: when it has begun, and when it is over.

        Args:
            frame: Ascending.
            time_s: Seconds, or NaN for a frame without a time: it is taken to be of the time of the one before. Where
                one is more than `BACK_S` before that, the clock was set back: what is under way is over with the frame
                before. One that is back by less is taken to be of the latest time.
            score: Of the class.
        """
        if not len(frame):
            return
        time_s, back = self._steady(time_s)
        with np.errstate(invalid="ignore"):  # of no time yet: minus infinity
            anew = back | (np.diff(time_s, prepend=self._now_s) > self.silent_s)
        up = self._states(score, anew)
        # Each begins a stretch of one state, without a gap in time.
        edges = np.flatnonzero(np.concatenate([[True], up[1:] != up[:-1]]) | anew)
        for start, stop in zip(edges.tolist(), [*edges[1:].tolist(), len(up)], strict=True):
            if back[start]:
                yield from self.close()
            if up[start]:
                yield from self._there(frame[start:stop], time_s[start:stop], score[start:stop])
            else:
                yield from self._gone(float(time_s[stop - 1]))
        self._is_up, self._now_s = bool(up[-1]), float(time_s[-1])

    @property
    def first_frame(self) -> int | None:
        """Of the event that is under way, or may become one; None: there is none."""
        return None if self._found is None else self._found.first_frame

    def close(self) -> Iterator[Event]:
        """The track is at its end, and so is an event that is under way."""
        if self._found is not None and self._told:
            yield replace(self._found, is_over=True)
        self._found, self._told, self._is_up = None, False, False

    def _steady(self, time_s: Float64s) -> tuple[Float64s, Bools]:
        """Times that never go back, but where the clock was set back; and whether it was, row by row."""
        last = np.maximum.accumulate(np.where(np.isfinite(time_s), np.arange(len(time_s)), -1))  # row with a time
        known = np.where(last >= 0, time_s[last], self._known_s)
        with np.errstate(invalid="ignore"):  # of no time yet: minus infinity
            back = np.diff(known, prepend=self._known_s) < -BACK_S
        self._known_s = float(known[-1])
        stretches = np.split(known, np.flatnonzero(back))
        stretches[0] = np.maximum(stretches[0], self._now_s)  # empty where the first row is set back
        return np.concatenate([np.maximum.accumulate(stretch) for stretch in stretches]), back

    def _states(self, score: npt.NDArray[np.float32], anew: Bools) -> Bools:
        """Whether the class is there, row by row. Of what was there before a row that is `anew` nobody knows: it takes
        `on` again."""
        decided = np.where(score >= self._rule.on, 1, np.where((score < self._rule.off) | anew, 0, -1))
        last = np.maximum.accumulate(np.where(decided >= 0, np.arange(len(score)), -1))  # row that decided
        return np.where(last >= 0, decided[last] == 1, self._is_up)

    def _there(self, frame: npt.NDArray[np.int64], time_s: Float64s, score: npt.NDArray[np.float32]) -> Iterator[Event]:
        longest_s = self._rule.gap_s if self._went else self.silent_s
        if self._found is not None and float(time_s[0]) - self._found.ended_s > longest_s:
            yield from self.close()
        self._went = False
        best = int(score.argmax())
        here = Event(
            **self._of,
            first_frame=int(frame[0]),
            last_frame=int(frame[-1]),
            began_s=float(time_s[0]),
            ended_s=float(time_s[-1]),
            best_frame=int(frame[best]),
            best_score=float(score[best]),
        )
        before = self._found
        if before is not None:
            better = here if here.best_score > before.best_score else before
            here = replace(
                here,
                first_frame=before.first_frame,
                began_s=before.began_s,
                best_frame=better.best_frame,
                best_score=better.best_score,
            )
        self._found = here
        if not self._told and here.ended_s - here.began_s >= self._rule.min_s:
            self._told = True
            yield here

    def _gone(self, until_s: float) -> Iterator[Event]:
        self._went = True
        if self._found is not None and until_s - self._found.ended_s > self._rule.gap_s:
            yield from self.close()
