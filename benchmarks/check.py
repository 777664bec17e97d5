"""Compares the ratios of two documents of a part: what of the later one fell."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from benchmarks.measuring import Result
from pipeline.text import aligned

ALLOWED = 0.10  # of a ratio: what it may fall by


@dataclass(frozen=True, slots=True)
class Change:
    """A ratio before and after; higher is better."""

    case: str
    name: str
    before: float
    after: float

    @property
    def by(self) -> float:
        """As a share of what it was."""
        return self.after / self.before - 1

    @property
    def fell(self) -> bool:
        return self.by < -ALLOWED


def compared(before: Result, after: Result) -> list[Change]:
    """The ratios that both documents have."""
    return [
        Change(case, name, earlier["ratios"][name]["value"], now["value"])
        for case, later in after["cases"].items()
        if (earlier := before["cases"].get(case)) is not None
        for name, now in later["ratios"].items()
        if name in earlier["ratios"]
    ]


def told(part: str, before: Result, after: Result, changes: Sequence[Change]) -> list[str]:
    """A line for each ratio, those that fell marked, and what weakens the comparison."""
    rows = [[part, "before", "now", "change", ""]]
    rows += [
        [f"{c.case}: {c.name}", f"{c.before:.2f}", f"{c.after:.2f}", f"{c.by:+.0%}", "FELL" if c.fell else ""]
        for c in changes
    ]
    lines = aligned(rows)
    if not changes:
        lines.append(f"{part}: no ratio is in both documents")
    if fell := [f"{c.case}: {c.name}" for c in changes if c.fell]:
        lines.append(f"{part}: fell by more than {ALLOWED:.0%}: {'; '.join(fell)}")
    for key in ("cpu", "cores"):
        if (then := before["machine"][key]) != (now := after["machine"][key]):
            lines.append(f"{part}: measured on another machine: {key} was {then}, is {now}; ratios may differ for that")
    then, now = before["versions"], after["versions"]
    for name in sorted(then.keys() & now.keys()):
        if then[name] != now[name]:
            lines.append(f"{part}: measured with another {name}: was {then[name]}, is {now[name]}")
    return lines
