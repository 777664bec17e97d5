"""Processes measured from outside, in alternation.

A rate is the difference of frames over the difference of wall times of a long and a short run, so that start-up drops
out. Frames per CPU-second likewise, of the time that the cores spent on the process and the children it waited for.
Peak memory is the largest resident set of any of them; the kernel counts a new process from what its parent holds, so
a program that measures should hold little itself.
"""

from __future__ import annotations

import json
import os
import random
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from benchmarks.facts import ROOT
from benchmarks.footage import CACHE, frames, joined, rung

TRIES = 6  # of lengths
LEAST = 480  # frames of a short run
# Of vpipe, which then cuts a file into 8 segments of like length: with fewer, a decoder ends before the others, the
# short run takes too long and the difference flatters.
LEAST_OF_VPIPE = 2_400

Figures = dict[str, float]
Result = dict[str, Any]  # as it is written and read


class Failed(click.ClickException):
    """A program that is measured did not do its work."""


@dataclass(frozen=True, slots=True)
class Ran:
    """What a process cost: wall and CPU time in seconds, peak resident memory in bytes; and what it printed."""

    seconds: float
    cpu_seconds: float
    peak_bytes: int
    said: str


def ran(command: Sequence[str]) -> Ran:
    """Runs a command from the project's root.

    Raises:
        Failed: its exit code is not 0.
    """
    started = time.perf_counter()
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        said = process.stdout.read() if process.stdout else ""
        _, status, usage = os.wait4(process.pid, 0)
        seconds = time.perf_counter() - started
        process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise Failed(f"{' '.join(command)}: exit code {process.returncode}")
    unit = 1 if sys.platform == "darwin" else 1024
    return Ran(seconds, usage.ru_utime + usage.ru_stime, usage.ru_maxrss * unit, said)


def rates(short: Ran, long: Ran, taken: tuple[int, int]) -> Figures:
    """What a short and a long run say.

    Args:
        taken: Frames of the short and of the long run.

    Raises:
        Failed: the long run was not the longer one.
    """
    more, seconds = taken[1] - taken[0], long.seconds - short.seconds
    cpu_seconds = long.cpu_seconds - short.cpu_seconds
    if more <= 0 or seconds <= 0 or cpu_seconds <= 0:
        raise Failed(
            f"{more} frames more must take longer, got {seconds:.2f} s and {cpu_seconds:.2f} CPU-seconds; "
            "raise --seconds, and leave the machine alone"
        )
    return {
        "frames_per_s": more / seconds,
        "frames_per_cpu_s": more / cpu_seconds,
        "start_up_s": short.seconds - taken[0] * seconds / more,
        "short_s": short.seconds,
        "long_s": long.seconds,
        "peak_bytes_short": short.peak_bytes,
        "peak_bytes_long": long.peak_bytes,
    }


@dataclass(frozen=True, slots=True)
class Program:
    """A program that takes every frame of some files.

    Attributes:
        command: How it is called for these files.
        count: How many frames it took, by what it printed or left behind.
        least: Frames of a short run.
    """

    command: Callable[[Sequence[Path]], list[str]]
    count: Callable[[Ran], int]
    least: int = LEAST


class Rate:
    """Measures the rate of a program.

    Args:
        program: It.
        files: The files for so many repeats of the footage; a file may be named more than once.
        seconds: By which the long run is to be longer than the short one. How many repeats that takes is found by the
            first calls, and found anew when it was less than half: start-ups differ by more than that would leave.
        lengths: The repeats of the short and the long run, where they are given.
    """

    def __init__(
        self,
        program: Program,
        files: Callable[[int], Sequence[Path]],
        *,
        seconds: float = 0.0,
        lengths: tuple[int, int] | None = None,
    ) -> None:
        self._program, self._files, self._seconds = program, files, seconds
        self._frames = sum(map(frames, files(1)))
        self._given = lengths is not None
        short = rung(program.least / self._frames)
        self._short, self._long = lengths or (short, rung(2 * short))

    def __call__(self) -> Figures:
        for _ in range(TRIES):
            short, long = self._ran(self._short), self._ran(self._long)
            taken = self._short * self._frames, self._long * self._frames
            took = long.seconds - short.seconds
            if self._given or took >= self._seconds / 2:
                return {**rates(short, long, taken), "frames_short": taken[0], "frames_long": taken[1]}
            more = min(8.0, self._seconds / took) if took > 0 else 2.0
            self._long = rung(self._short + max(2.0, more) * (self._long - self._short))
        raise Failed(f"{taken[1] - taken[0]} frames more must take {self._seconds / 2} s, got {took:.2f} s")

    def _ran(self, times: int) -> Ran:
        of = ran(self._program.command(self._files(times)))
        if (taken := self._program.count(of)) != times * self._frames:
            raise Failed(f"must take {times * self._frames} frames, got {taken}")
        return of


def files_of(clip: Path, *, number: int, cache: Path = CACHE) -> Callable[[int], list[Path]]:
    """One file that grows, or several of them, which are one file by several names.

    Args:
        clip: What is repeated.
        number: Of files.
        cache: Where they are made.
    """

    def files(times: int) -> list[Path]:
        whole = joined(clip, times, cache=cache)
        if number == 1:
            return [whole]
        names = [whole.with_name(f"{whole.stem}-{i}.mp4") for i in range(number)]
        for name in names:
            if not name.exists():
                os.link(whole, name)
        return names

    return files


def alternate(
    measures: Mapping[str, Callable[[], Figures]],
    rounds: int,
    *,
    figure: str,
    optional: Iterable[str] = (),
    say: Callable[[str], None] = lambda line: None,
) -> tuple[dict[str, list[Figures]], dict[str, str]]:
    """Measures all in each round, in a newly drawn order, after a round that only warms up.

    Args:
        measures: What is measured.
        rounds: That count.
        figure: What is told of each.
        optional: May fail in the first round: they are left out then.
        say: Is told what goes on.

    Returns:
        The figures of each round, and why some were left out.
    """
    drawn, left_out = random.Random(0), {}
    found: dict[str, list[Figures]] = {name: [] for name in measures}
    for number in range(rounds + 1):
        for name in drawn.sample(sorted(found), len(found)):
            try:
                figures = measures[name]()
            except Failed as exc:
                if number or name not in set(optional):
                    raise Failed(f"{name}: {exc.message}") from exc
                left_out[name] = exc.message
                del found[name]
                say(f"{name}: left out: {exc.message}")
                continue
            say(f"{f'round {number} of {rounds}' if number else 'warm-up'}: {name}: {figure} {figures[figure]:,.2f}")
            if number:
                found[name].append(figures)
    return {name: found[name] for name in measures if name in found}, left_out


def medians(rounds: Sequence[Figures]) -> Figures:
    return {key: statistics.median(one[key] for one in rounds) for key in rounds[0]}


def ratio(over: Sequence[Figures], under: Sequence[Figures], figure: str) -> Figures:
    """The ratio of the medians, with the lowest and the highest of the ratios within rounds."""
    within = [a[figure] / b[figure] for a, b in zip(over, under, strict=True)]
    return {"value": medians(over)[figure] / medians(under)[figure], "lowest": min(within), "highest": max(within)}


def result(
    rounds: Mapping[str, Sequence[Figures]],
    *,
    figure: str,
    ratios: Iterable[tuple[str, str, str, str]],
    left_out: Mapping[str, str] | None = None,
    drawn: Iterable[str] | None = None,
) -> Result:
    """A case as it is written.

    Args:
        rounds: The figures of each arm in each round.
        figure: The one that matters.
        ratios: For each its name, the arm over, the arm under, and the figure; those of arms left out are left out.
            A higher ratio must be the better one.
        left_out: Arms, and why.
        drawn: Those that the picture shows; None is all.
    """
    return {
        "figure": figure,
        "arms": {name: {"medians": medians(of), "rounds": list(of)} for name, of in rounds.items()},
        "ratios": {
            name: ratio(rounds[over], rounds[under], key)
            for name, over, under, key in ratios
            if over in rounds and under in rounds
        },
        "left_out": dict(left_out or {}),
        "drawn": list(rounds if drawn is None else drawn),
    }


def vpipe(folder: Path, model: Path, *settings: str) -> Program:
    """`vpipe run` on the CPU, with its parts committed to a folder.

    Args:
        folder: For the run.
        model: A model file.
        settings: KEY=VALUE.
    """
    told = ["--model", str(model), "--name", "bench", "--overwrite", "-q"]
    for setting in (f"run.dir={folder}", "filters.0.device=cpu", *settings):
        told += ["--set", setting]
    return Program(
        lambda videos: [*VPIPE, "run", *map(str, videos), *told],
        lambda _: int(json.loads((folder / "bench" / "summary.json").read_bytes())["frames"]["labelled"]),
        least=LEAST_OF_VPIPE,
    )


VPIPE = [sys.executable, "-c", "from pipeline.cli import main; main()"]
