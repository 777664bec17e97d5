"""From the command to the first label on stdout.

    python -m benchmarks.startup                     a minute

`vpipe run configs/lobby.yaml`, which prints a row per frame, beside a Python that only imports torch: no program that
runs a network in torch can start faster. With OpenVINO it is a start that finds the graph of an earlier one.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import click

from benchmarks.facts import ROOT, facts
from benchmarks.measuring import VPIPE, Failed, Figures, Result, alternate, result
from benchmarks.part import chosen, options, run_part, say


@click.command(help=(__doc__ or "").partition("\n")[0])
@options
def main(rounds: int, only: str, again: bool, out: Path) -> None:
    with tempfile.TemporaryDirectory() as folder:
        cases = chosen({"first label": partial(measured, Path(folder), rounds)}, only)
        run_part("startup", cases, origin=facts(), settings={"rounds": rounds}, out=out, again=again)


def measured(folder: Path, rounds: int) -> Result:
    run = [*VPIPE, "run", str(ROOT / "configs" / "lobby.yaml"), "--overwrite", "-q"]
    run += ["--set", f"run.dir={folder}", "--set", "filters.0.device=cpu"]
    torch = [sys.executable, "-c", "import torch; print('torch'); print(torch.__version__, flush=True)"]
    measures = {
        "vpipe": partial(first_line, run),
        "vpipe openvino": partial(first_line, [*run, "--set", "filters.0.engine=openvino"]),
        "import torch": partial(first_line, torch),
    }
    found, _ = alternate(measures, rounds, figure="first_label_s", say=say)
    ours = [name for name in measures if name.startswith("vpipe")]
    ratios = [(f"import torch / {name}", "import torch", name, "first_label_s") for name in ours]
    return result(found, figure="first_label_s", ratios=ratios)


def first_line(command: Sequence[str]) -> Figures:
    """Seconds until a command has printed a line after its first, which is a heading."""
    started = time.perf_counter()
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        lines = process.stdout
        heading, label = (lines.readline(), lines.readline()) if lines else ("", "")
        seconds = time.perf_counter() - started
        for _ in lines or ():
            pass
    if process.returncode or not (heading and label):
        raise Failed(f"{' '.join(command)}: must print a heading and a line, got exit code {process.returncode}")
    return {"first_label_s": seconds}


if __name__ == "__main__":
    main()
