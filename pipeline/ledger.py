"""The ledger of a run: what became of every frame, per segment, source and in total; and the summary made from it.

Nobody counts along the way: all of it is the sum of the SegmentEnds, which lie in the footers of the committed parts.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Literal

from pipeline.batch import Counts, Segment, SegmentEnd

__all__ = ["EXIT_CODES", "Earlier", "Ledger", "SourceLedger", "State", "bound_by", "run_state", "summary"]

Document = dict[str, object]
State = Literal["done", "partial", "failed", "interrupted"]
Bound = Literal["decode", "transfer", "compute", "sink"]

EXIT_CODES: Mapping[State, int] = {"done": 0, "failed": 1, "partial": 3, "interrupted": 130}


@dataclass(frozen=True, slots=True)
class Earlier:
    """The sum over some segments of a camera: what became of their frames, and seconds in each of its states."""

    counts: Counts = field(default_factory=Counts)
    states: Mapping[str, float] = field(default_factory=dict)

    @staticmethod
    def of(end: SegmentEnd) -> Earlier:
        return Earlier(Counts() if end.retry else end.counts, end.states)

    def __add__(self, other: Earlier) -> Earlier:
        each = (*self.states, *other.states)
        states = {state: round(self.states.get(state, 0.0) + other.states.get(state, 0.0), 3) for state in each}
        return Earlier(self.counts + other.counts, states)


@dataclass(frozen=True, slots=True)
class SourceLedger:
    """What became of one source: the ends of its segments, in order.

    A segment that is to be tried again is listed, but counts for nothing: its rows were dropped. Of a camera `earlier`
    sums up the segments before those that are listed. Of a run that is `broken` segments may be missing.
    """

    name: str
    ends: tuple[SegmentEnd, ...]
    earlier: Earlier = field(default_factory=Earlier)
    broken: bool = False

    @property
    def counts(self) -> Counts:
        return sum((end.counts for end in self.ends if not end.retry), self.earlier.counts)

    @property
    def states(self) -> Mapping[str, float]:
        """Of a camera, seconds in each state."""
        return sum((Earlier.of(end) for end in self.ends), self.earlier).states

    @property
    def error(self) -> str | None:
        """The first error of its segments."""
        return next((end.error for end in self._lasting if end.error is not None), None)

    @property
    def again(self) -> Sequence[SegmentEnd]:
        """Of a file, the segments that are to be tried again."""
        return [] if self._is_live else [end for end in self.ends if end.retry]

    @property
    def complete(self) -> bool:
        """Whether every frame that was asked for has a label, for good."""
        is_over = self.finished or self._is_live
        is_well = not self.again and not any(end.error is not None for end in self._lasting)
        return is_over and is_well and self.counts.complete

    @property
    def finished(self) -> bool:
        """Whether its last segment is safe; those of a source are committed in order."""
        return any(end.segment.end_s is None and not end.retry for end in self.ends)

    def check(self) -> list[str]:
        """What does not add up: the equations of `Counts` per segment, and that the segments tile the frame numbers."""
        problems = []
        for end in self.ends:
            equation = end.counts.imbalance()
            if equation is not None and not end.retry:
                problems.append(f"{_where(end)}: {equation} must hold, got {end.counts.as_dict()}")
            if not end.retry and min(end.counts.as_dict().values()) < 0:
                problems.append(f"{_where(end)}: counts must not be negative, got {end.counts.as_dict()}")
            owed = end.counts.labelled * end.per_frame
            # Of a frame that failed by name one picture at least has no score; others may have theirs.
            named = sum(lost.last - lost.first + 1 for lost in end.lost if lost.why == "failed")
            more = named * max(0, end.per_frame - 1)
            if not owed <= end.counts.pictures <= owed + more and not end.retry:
                told = f"{owed} to {owed + more}" if more else f"{owed}"
                problems.append(f"{_where(end)}: {told} pictures must be classified, got {end.counts.pictures}")
        if self.broken:
            return problems
        first = self.ends[0].segment if self.ends else Segment(self.name)
        # Early windows of a camera may have been removed.
        if (first.number, first.first_frame) != (0, 0) and not self._is_live:
            problems.append(f"{_where(self.ends[0])}: must follow on segment 0 from frame 0, got none before it")
        ends = [end for end in self.ends if not (end.retry and self._is_live)]  # of those nothing is missing
        there = {end.segment.number for end in ends if not end.retry}
        is_refused = any(end.retry and end.segment.number in there for end in ends)  # what is missing, it says
        for before, end in () if is_refused else pairwise(ends):
            number = before.segment.number + 1
            frame = before.segment.first_frame + before.counts.indexed
            if (end.segment.number, end.segment.first_frame) != (number, frame) and not before.retry:
                problems.append(f"{_where(end)}: must be segment {number} from frame {frame}, after {_where(before)}")
        return problems

    @property
    def _lasting(self) -> Sequence[SegmentEnd]:
        """Its ends, of a camera without those of a time in which nothing came, if something came later."""
        if not self._is_live:
            return self.ends
        came = max((place for place, end in enumerate(self.ends) if not end.retry), default=-1)
        return [end for place, end in enumerate(self.ends) if place > came or not end.retry]

    @property
    def _is_live(self) -> bool:
        return any(end.segment.window_utc_s is not None for end in self.ends)

    def as_dict(self) -> Document:
        return {
            "counts": self.counts.as_dict(),
            "error": self.error,
            **({"states": self.states} if self._is_live else {}),
            "segments": [
                {
                    "number": end.segment.number,
                    "first_frame": end.segment.first_frame,
                    "counts": end.counts.as_dict(),
                    "lost": [lost.as_dict() for lost in end.lost],
                    "error": end.error,
                    "retry": end.retry,
                    **({"states": dict(end.states)} if self._is_live else {}),
                }
                for end in self.ends
            ],
        }


class Ledger:
    """The ledger of a run.

    Args:
        ends: Of every segment, in any order: those that are committed and those that could not be.
        sources: Names of the run's sources, in the order given; one without an end had no turn.
        earlier: By source, the sum over segments whose ends are not among them.
        broken: Whether the run broke, so that segments may be missing.
    """

    def __init__(
        self,
        ends: Iterable[SegmentEnd],
        *,
        sources: Sequence[str] = (),
        earlier: Mapping[str, Earlier] | None = None,
        broken: bool = False,
    ) -> None:
        by_source: dict[str, list[SegmentEnd]] = {name: [] for name in sources}
        for end in ends:
            by_source.setdefault(end.segment.source, []).append(end)
        self.sources = {
            name: SourceLedger(
                name,
                tuple(sorted(ends, key=lambda end: end.segment.number)),
                (earlier or {}).get(name, Earlier()),
                broken,
            )
            for name, ends in by_source.items()
        }

    @property
    def counts(self) -> Counts:
        return sum((source.counts for source in self.sources.values()), Counts())

    @property
    def complete(self) -> bool:
        """Whether every source had its turn and every frame that was asked for has a label."""
        return all(source.ends and source.complete for source in self.sources.values())

    def check(self) -> list[str]:
        """The equations that do not hold, one a line; none when every frame is accounted for."""
        return [problem for source in self.sources.values() for problem in source.check()]

    def as_dict(self) -> Document:
        """What `ledger.json` holds."""
        return {
            "counts": self.counts.as_dict(),
            "sources": {name: source.as_dict() for name, source in self.sources.items()},
            "problems": self.check(),
        }


def run_state(ledger: Ledger, *, interrupted: bool = False, broken: bool = False, untold: bool = False) -> State:
    """How a run ended; `EXIT_CODES` has its exit code.

    Args:
        ledger: The whole run's, also what was committed before a resume.
        interrupted: An archive run was stopped by a signal. A live run that is stopped so is simply done.
        broken: It ended with an error of the run itself: its model, its device, its disk, a sink.
        untold: A receiver did not get all that was meant for it.
    """
    if interrupted:
        return "interrupted"
    if broken or ledger.counts.labelled == 0:
        return "failed"
    return "done" if ledger.complete and not ledger.check() and not untold else "partial"


def bound_by(stages: Mapping[str, Mapping[str, float]]) -> Bound | None:
    """Which stage a run waited for most: `decode`, `transfer`, `compute` or `sink`; None before anything ran.

    One thread pulls batches from the decoders' channel, hands them to the device, waits for the scores and writes
    them. So nearly all of its wall time falls into four parts: waiting at the empty channel is decoding's, the rest is
    what the other stages were busy. The largest part is the answer, on a tie the one that comes first. The decoders'
    own busy time does not count: they run side by side with all of this.

    Args:
        stages: Per stage `busy_s`, `waiting_in_s` (for what comes before it) and `waiting_out_s`; those of transfer,
            compute and sink must not overlap. Other stages count as none of the four.
    """
    behind: tuple[Bound, ...] = ("transfer", "compute", "sink")
    known = {name: stages[name] for name in behind if name in stages}
    parts: dict[Bound, float] = {"decode": sum(times.get("waiting_in_s", 0.0) for times in known.values())}
    parts |= {name: times.get("busy_s", 0.0) for name, times in known.items()}
    largest = max(parts, key=lambda name: parts[name])
    return largest if parts[largest] > 0 else None


def summary(
    ledger: Ledger,
    *,
    state: State,
    seconds: float,
    labelled: int,
    stages: Mapping[str, Mapping[str, float]],
    fold: Mapping[str, object],
    filters: Mapping[str, Mapping[str, object]],
    gpu: Mapping[str, float | None] | None,
    gpu_absent: str | None,
    process: Mapping[str, float | None],
) -> Document:
    """What `summary.json` holds. Its keys are stable: they may be added to, and none changes its meaning.

    Args:
        ledger: The whole run's, also what was committed before a resume.
        state: How the run ended.
        seconds: Wall time of this process's part of the run.
        labelled: Frames that this process labelled, fewer than the ledger's after a resume.
        stages: Times per stage, see `bound_by`.
        fold: `frames`, `order`, `padded_slots`.
        filters: Per filter its model, classes, parameters, cost, device, dtype and engine.
        gpu: Telemetry of the device, or None where `gpu_absent` says why.
        gpu_absent: Why there is none, in words, or None.
        process: Telemetry of this process.
    """
    again = [end for source in ledger.sources.values() for end in source.again]
    return {
        "state": state,
        "seconds": seconds,
        "frames": ledger.counts.as_dict(),
        "frames_per_s": labelled / seconds if seconds > 0 else None,
        "sources": {
            name: {**source.counts.as_dict(), "error": source.error, "finished": source.finished}
            for name, source in ledger.sources.items()
        },
        "stages": {name: dict(times) for name, times in stages.items()},
        "bound_by": bound_by(stages),
        "fold": dict(fold),
        "filters": {name: dict(facts) for name, facts in filters.items()},
        "gpu": None if gpu is None else dict(gpu),
        "gpu_absent": gpu_absent,
        "process": dict(process),
        "again": {
            "segments": len(again),
            "frames": sum(end.counts.indexed - end.counts.skipped for end in again),
        },
        "problems": ledger.check(),
    }


def _where(end: SegmentEnd) -> str:
    return f"{end.segment.source} segment {end.segment.number} from frame {end.segment.first_frame}"
