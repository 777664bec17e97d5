"""More footage, more sources: time per frame and peak memory must stay flat.

    python -m benchmarks.growth                      ten minutes on two cores

*footage*: one file, 1, 2, 4 and 8 times as long. *sources*: the same footage on 1, 2, 4 and 8 files. The ratios are
those of the smallest case over each other one, so that 1 is flat and less is worse.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

import click

from benchmarks.archive import F4
from benchmarks.facts import facts
from benchmarks.footage import clip
from benchmarks.measuring import Figures, Rate, Result, alternate, files_of, ratio, result, vpipe
from benchmarks.part import chosen, options, run_part, say

CLIP = "lobby-person"
STEPS = (1, 2, 4, 8)
SHORT, MORE = 3, 2  # repeats of the clip: of the short run, and by how many more the smallest long run takes
SHARED = 8  # repeats of the clip that the files of the short run hold together; the long run takes twice that


@click.command(help=(__doc__ or "").partition("\n")[0])
@options
def main(rounds: int, only: str, again: bool, out: Path) -> None:
    with tempfile.TemporaryDirectory() as folder:
        programs = {"footage": footage, "sources": sources}
        cases: dict[str, Callable[[], Result]] = {
            name: partial(measured, of(Path(folder)), rounds) for name, of in chosen(programs, only).items()
        }
        run_part("growth", cases, origin=facts(), settings={"rounds": rounds}, out=out, again=again)


def footage(folder: Path) -> dict[str, Callable[[], Figures]]:
    program, files = vpipe(folder, F4), files_of(clip(CLIP), number=1)
    return {f"{step} x": Rate(program, files, lengths=(SHORT, SHORT + MORE * step)) for step in STEPS}


def sources(folder: Path) -> dict[str, Callable[[], Figures]]:
    program = vpipe(folder, F4)
    return {
        f"{step} x": Rate(program, files_of(clip(CLIP), number=step), lengths=(SHARED // step, 2 * SHARED // step))
        for step in STEPS
    }


def measured(measures: dict[str, Callable[[], Figures]], rounds: int) -> Result:
    found, _ = alternate(measures, rounds, figure="frames_per_s", say=say)
    first, *others = found
    case = result(
        found,
        figure="frames_per_s",
        ratios=[(f"time per frame, {first} / {other}", other, first, "frames_per_s") for other in others],
    )
    for other in others:
        case["ratios"][f"peak memory, {first} / {other}"] = ratio(found[first], found[other], "peak_bytes_long")
    return case


if __name__ == "__main__":
    main()
