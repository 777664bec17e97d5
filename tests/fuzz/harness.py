"""Tries cases in a process of their own, which is started anew when it crashes or passes a limit of time or memory.

fuzz ──── number ──▶ serve: damages a file, gives it to vpipe
     ◀─── Tried ───
"""

from __future__ import annotations

import gc
import importlib
import multiprocessing
import os
import random
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Protocol

KINDS = ("videos", "configs", "labels", "models")
RESTART = 300  # cases of a process
KEEP = 250  # cases between two results
POLL_S = 0.05
STALL_S = 30.0  # by the clock
READY_S = 300.0  # for a process to load what it needs
ISOLATED_S = 300.0  # for isolation to end all that hangs in a file
END_S = 5.0
UNPROTECTED = ("isolated: wrong", "isolated: hangs", "isolated: crashes")  # what must not come of a file


@dataclass(slots=True)
class Tried:
    """What came of a case.

    Attributes:
        outcome: One of a few.
        mutation: What was done to which file.
        finding: What must not be, or None.
    """

    outcome: str
    mutation: str = ""
    finding: str | None = None


class Case(Protocol):
    """What a module of a kind calls `CASE`. It is made once in each process.

    Attributes:
        limit_mb: By which a case may let its process grow.
        crash_is_finding: Of its process.
    """

    limit_mb: int
    crash_is_finding: bool

    @staticmethod
    def limit_s(number: int) -> float:
        """How long it may compute; below `STALL_S` the time of a clock is not held against it: others compute too."""

    def prepared(self, number: int, chance: random.Random) -> str:
        """Writes the damaged file; what was done to which."""

    def tried(self, number: int, chance: random.Random) -> Tried:
        """Gives it to vpipe."""

    def isolated(self) -> str:
        """What comes of the file where vpipe protects itself, in a word or two."""


@dataclass(slots=True)
class Found:
    """What came of all cases."""

    outcomes: Counter[str] = field(default_factory=Counter)
    findings: list[dict[str, object]] = field(default_factory=list)
    crashes: list[dict[str, object]] = field(default_factory=list)
    longest_s: float = 0.0
    most_mb: int = 0

    @property
    def cases(self) -> int:
        return self.outcomes.total()

    def as_dict(self) -> dict[str, object]:
        return {
            "cases": self.cases,
            "outcomes": dict(self.outcomes.most_common()),
            "findings": self.findings,
            "crashes": self.crashes,
            "longest_s": round(self.longest_s, 2),
            "most_mb": self.most_mb,
        }


def module_of(kind: str) -> Any:
    return importlib.import_module(f"tests.fuzz.{kind}")


def fuzz(
    kind: str,
    numbers: Iterable[int],
    *,
    seed: int = 0,
    seconds: float | None = None,
    keep: Callable[[Found], None] | None = None,
) -> Found:
    """Tries the cases of these numbers, one after the other.

    Args:
        kind: One of `KINDS`.
        numbers: Of the cases.
        seed: Of all of them.
        seconds: After which no other is begun.
        keep: Given now and then what was found so far.
    """
    found, began_s = Found(), time.monotonic()
    with tempfile.TemporaryDirectory(prefix="vpipe-fuzz-") as folder:
        stock = Path(folder) / "stock"
        stock.mkdir()
        module_of(kind).stock(stock)
        process = Process(kind, stock, seed)
        try:
            for k, number in enumerate(numbers, 1):
                if seconds is not None and time.monotonic() - began_s > seconds:
                    break
                process.one(number, found)
                if k % KEEP == 0:
                    say(f"{kind}: {k} cases, {time.monotonic() - began_s:.0f} s, {len(found.findings)} findings")
                    if keep is not None:
                        keep(found)
        finally:
            process.close()
    return found


class Process:
    """The process that tries cases, and those that come after it."""

    def __init__(self, kind: str, stock: Path, seed: int) -> None:
        self._kind, self._stock, self._seed = kind, stock, seed
        self._limits: type[Case] = module_of(kind).CASE
        self._open()

    def _open(self) -> None:
        context = multiprocessing.get_context("spawn")
        self._line, theirs = context.Pipe()
        self._process = context.Process(target=serve, args=(self._kind, self._stock, self._seed, theirs))
        self._process.start()
        theirs.close()
        self._done = 0
        if self._line.poll(READY_S):
            self._line.recv()

    def one(self, number: int, found: Found) -> None:
        if self._done == RESTART:
            self.close()
            self._open()
        self._done += 1
        mutation, before_mb, before_s = "", 0, 0.0
        self._line.send(("try", number))
        began_s = time.monotonic()
        tried: Tried | None = None
        grown_mb = 0
        why = ""
        while tried is None and not why:
            try:
                if self._line.poll(POLL_S):
                    kind, content, grown_mb = self._line.recv()
                    if kind == "prepared":
                        mutation, before_mb, began_s = content, grown_mb, time.monotonic()
                        before_s = cpu_s(self._process.pid)
                    else:
                        tried = content
                    continue
            except (EOFError, ConnectionError):
                self._process.join(END_S)
                why = f"crashed with {self._process.exitcode}"
                continue
            grown_mb = resident_mb(self._process.pid) - before_mb if mutation else 0
            limit_s = self._limits.limit_s(number)
            computed_s = cpu_s(self._process.pid) - before_s if mutation else 0.0
            if computed_s > limit_s or time.monotonic() - began_s > max(limit_s, STALL_S):
                why = f"took over {limit_s:g} s"
            elif grown_mb > self._limits.limit_mb:
                why = f"grew by over {self._limits.limit_mb} MB"
        found.longest_s = max(found.longest_s, time.monotonic() - began_s)
        found.most_mb = max(found.most_mb, grown_mb)
        if tried is not None:
            if grown_mb > self._limits.limit_mb:
                was = tried.finding or tried.outcome
                tried = Tried("too much memory", mutation, f"grew by {grown_mb} MB for a moment, then: {was}")
            tried.mutation = mutation
        else:
            tried = self._broken(number, why, mutation, found)
        found.outcomes[tried.outcome] += 1
        if tried.finding is not None:
            found.findings.append({"number": number, "finding": tried.finding, "mutation": tried.mutation})

    def _broken(self, number: int, why: str, mutation: str, found: Found) -> Tried:
        """Starts the next process, and in it tells what isolation makes of the file."""
        self.close(kill=True)
        self._open()
        crashed = why.startswith("crashed")
        told = ""
        if not self._limits.crash_is_finding:
            self._line.send(("isolate", number))
            try:
                told = self._line.recv()[1] if self._line.poll(ISOLATED_S) else "isolated: hangs"
            except (EOFError, ConnectionError):
                told = "isolated: crashes"
            if told in ("isolated: hangs", "isolated: crashes"):
                self.close(kill=True)
                self._open()
        if crashed:
            found.crashes.append({"number": number, "ended": why, "isolated": told, "mutation": mutation})
            is_signal = why.startswith("crashed with -")  # and not an exception, of the case itself
            if not self._limits.crash_is_finding and is_signal:
                return Tried(why, mutation, told if told.startswith(UNPROTECTED) else None)
        return Tried(why, mutation, f"{why}; {told}" if told else why)

    def close(self, *, kill: bool = False) -> None:
        self._line.close()
        if not kill:
            self._process.join(END_S)
        self._process.kill()
        self._process.join()


def serve(kind: str, stock: Path, seed: int, line: Connection) -> None:
    """The process. What FFmpeg and others print is nobody's."""
    null = os.open(os.devnull, os.O_RDWR)
    for out in (1, 2):
        os.dup2(null, out)
    with tempfile.TemporaryDirectory(prefix="own-", dir=stock.parent) as own:
        case: Case = module_of(kind).CASE(stock, Path(own))
        line.send(("ready", "", 0))
        while True:
            try:
                what, number = line.recv()
            except EOFError:
                break
            chance = random.Random(f"{kind} {seed} {number}")
            mutation = case.prepared(number, chance)
            if what == "isolate":
                line.send(("isolated", case.isolated(), 0))
                continue
            gc.collect()
            before_mb = resident_mb()
            Path("/proc/self/clear_refs").write_text("5")  # the peak is that of this case
            line.send(("prepared", mutation, before_mb))
            tried = case.tried(number, chance)
            if tried.finding is not None:
                tried.finding = tried.finding.replace(f"{own}/", "")  # the same each time
            line.send(("tried", tried, resident_mb(key="VmHWM") - before_mb))
    os._exit(0)  # not waiting for what hangs


def resident_mb(process: int | None = None, key: str = "VmRSS") -> int:
    """Of a process, by default this one; 0 if it is gone."""
    try:
        text = Path(f"/proc/{process or 'self'}/status").read_text()
    except OSError:
        return 0
    return next((int(line.split()[1]) >> 10 for line in text.splitlines() if line.startswith(key)), 0)


def cpu_s(process: int | None) -> float:
    """What a process has computed for; 0 if it is gone."""
    try:
        fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0.0
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def told(error: BaseException) -> str:
    """An exception that must not be, and where it came from."""
    frames = traceback.extract_tb(error.__traceback__)
    ours = [frame for frame in frames if any(top in frame.filename for top in ("/pipeline/", "/specialized/"))]
    at = f" at {Path(ours[-1].filename).name}:{ours[-1].lineno}" if ours else ""
    return f"{type(error).__name__}{at}: {str(error)[:300]}"


def wrong_report(lines: Sequence[str], path: Path) -> str | None:
    """What is wrong with the lines of a refusal: each must be one line, and name the file."""
    for line in lines:
        if str(path) not in line:
            return f"a line that does not name the file: {line[:300]!r}"
        if len(line.splitlines()) != 1 or any(sign < " " for sign in line):
            return f"a line that is not one: {line[:300]!r}"
    return None if lines else "a refusal without a line"


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
