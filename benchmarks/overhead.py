"""What one commit costs in speed against another, and what decoders in processes of their own cost.

    python -m benchmarks.overhead                    ten minutes: this tree against that before runs survived anything
    python -m benchmarks.overhead --before COMMIT

`lobby-person` joined to itself, one file and eight, labelled by `lobby-person-f4`: by this tree, by the other one, and
by this one with `decode.isolate`, in alternation. The interval is that of the mean ratio of a round, by bootstrap over
the rounds.
"""

from __future__ import annotations

import io
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import click
import numpy as np

from benchmarks.archive import F4
from benchmarks.facts import ROOT, facts
from benchmarks.footage import clip
from benchmarks.measuring import VPIPE, Figures, Program, Rate, Result, alternate, files_of, result, vpipe
from benchmarks.part import chosen, options, run_part, say, seconds_option

BEFORE = "99c5be0"  # the last one in which a run held no folder, and decoders were only threads
NOW, ISOLATED, OTHER = "now", "now, isolated", "before"
FIGURES = {"frames_per_s": "", "frames_per_cpu_s": ", per CPU-second"}  # the second is steadier on a shared machine
DRAWS = 10_000


@click.command(help=(__doc__ or "").partition("\n")[0])
@options
@seconds_option
@click.option("--before", default=BEFORE, show_default=True, help="The other commit.")
def main(rounds: int, seconds: float, only: str, again: bool, out: Path, before: str) -> None:
    with tempfile.TemporaryDirectory() as folder:
        tree = Path(folder) / "before"
        checked_out(before, tree)
        cases = {
            f"{number} file{'s' if number > 1 else ''}": Case(number, Path(folder), tree, rounds, seconds)
            for number in (1, 8)
        }
        settings = {"rounds": rounds, "seconds": seconds, "before": before}
        run_part("overhead", chosen(cases, only), origin=facts(), settings=settings, out=out, again=again)


@dataclass(frozen=True)
class Case:
    """The arms on so many files."""

    files: int
    folder: Path
    tree: Path
    rounds: int
    seconds: float

    def __call__(self) -> Result:
        ours = vpipe(self.folder, F4)
        programs = {
            NOW: ours,
            ISOLATED: vpipe(self.folder, F4, "decode.isolate=true"),
            OTHER: replace(ours, command=lambda videos: in_tree(ours, videos, self.tree)),
        }
        files = files_of(clip("lobby-person"), number=self.files)
        measures = {name: Rate(program, files, seconds=self.seconds) for name, program in programs.items()}
        found, _ = alternate(measures, self.rounds, figure="frames_per_s", say=say)
        pairs = ((NOW, OTHER), (ISOLATED, NOW))
        ratios = [(f"{a} / {b}{told}", a, b, figure) for a, b in pairs for figure, told in FIGURES.items()]
        document = result(found, figure="frames_per_s", ratios=ratios)
        for name, a, b, figure in ratios:
            document["ratios"][name] |= interval(found[a], found[b], figure)
        return document


def in_tree(program: Program, videos: Sequence[Path], tree: Path) -> list[str]:
    """The command of a program of this tree, from another one."""
    command = program.command(videos)
    code = f"import sys; sys.path.insert(0, {str(tree)!r}); {VPIPE[-1]}"
    return [sys.executable, "-c", code, *command[len(VPIPE) :]]


def interval(over: list[Figures], under: list[Figures], figure: str) -> Figures:
    """The mean ratio of a round, and where it lies with 95 %."""
    ratios = np.array([a[figure] / b[figure] for a, b in zip(over, under, strict=True)])
    draws = np.random.default_rng(0).choice(ratios, (DRAWS, len(ratios))).mean(axis=1)
    low, high = np.quantile(draws, [0.025, 0.975])
    return {"mean": float(ratios.mean()), "low": float(low), "high": float(high)}


def checked_out(commit: str, folder: Path) -> None:
    """The files of a commit."""
    made = subprocess.run(["git", "-C", str(ROOT), "archive", commit], capture_output=True)
    if made.returncode:
        raise click.ClickException(f"--before: must be a commit of this repository, got {commit}")
    with tarfile.open(fileobj=io.BytesIO(made.stdout)) as archive:
        archive.extractall(folder, filter="data")


if __name__ == "__main__":
    main()
