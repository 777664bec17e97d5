"""Labels archived footage end to end: vpipe beside what people use, and beside the wall that decoding sets.

    python -m benchmarks.archive                     35 minutes on two cores; goes on where it was stopped
    python -m benchmarks.archive --full              every program on every case: twice that
    python -m benchmarks.archive --only lobby

Every frame is labelled by coral at 50x50. vpipe's labels are committed to disk as in any run; the others
(`benchmarks.competitors`) only hold them. *wall* decodes and does nothing else. *fast* leaves out the loop filter,
*openvino* is the engine, else torch; *8bit* is openvino with the model quantized. The arms named after a resize run the
same weights on that resize: their speed counts, their labels do not, for which a model has to be trained so.

Footage: `lobby-person` (768x432, B-frames), and the junction enlarged (`benchmarks.footage`), joined to itself until a
run is long enough for each program. Eight files are eight names of one.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import click

from benchmarks.competitors import COMPETITORS
from benchmarks.facts import ROOT, facts
from benchmarks.footage import CACHE, clip
from benchmarks.measuring import VPIPE, Program, Rate, Result, alternate, files_of, result, vpipe
from benchmarks.part import chosen, options, run_part, say, seconds_option
from pipeline.machine import cores

WEIGHTS = ROOT / "specialized" / "weights"
F1, F4 = (WEIGHTS / f"lobby-person-f{fold}.safetensors" for fold in (1, 4))
RESIZES = ("fast_bilinear", "point")  # that cost less than `area`, which the shipped models were trained on
OURS = (
    "vpipe f=4",
    "vpipe f=1",
    "vpipe f=4 fast",
    "vpipe f=4 openvino",
    "vpipe f=1 8bit",
    "vpipe f=4 8bit",
    "vpipe f=4 8bit fast",
    *(f"vpipe f=4 8bit {resize}" for resize in RESIZES),
)
THEIRS = tuple(name for name in COMPETITORS if name != "wall")
EVERY = (*OURS, *THEIRS, "wall")
# Clip, files, and what is measured unless all is asked for: 35 minutes have to do.
CASES = (
    ("lobby-person", 1, EVERY),
    ("lobby-person", 8, ("vpipe f=4", "vpipe f=4 8bit", "wall")),
    ("intersection-1280x720", 1, ("vpipe f=4 8bit", "opencv", "ffmpeg", "wall")),
    ("intersection-1280x720", 8, ()),
    ("intersection-1920x1080", 1, ("vpipe f=4 8bit", "vpipe f=4 8bit fast", "opencv", "ffmpeg", "wall")),
    ("intersection-1920x1080", 8, ()),
)


@click.command(help=(__doc__ or "").partition("\n")[0])
@options
@seconds_option
@click.option("--full", is_flag=True, help="Measure every program on every case.")
@click.option("--arms", default="", metavar="NAME,...", help="Only these programs.")
def main(rounds: int, seconds: float, only: str, again: bool, out: Path, full: bool, arms: str) -> None:
    programs = arms.split(",") if arms else list(EVERY)
    if unknown := sorted(set(programs) - set(EVERY)):
        raise click.UsageError(f"--arms: must be of {', '.join(EVERY)}, got {', '.join(unknown)}")
    with tempfile.TemporaryDirectory() as folder:
        cases: dict[str, Callable[[], Result]] = {}
        for name, number, default in CASES:
            case = f"{name}, {'one file' if number == 1 else f'{number} files'}"
            measured = [arm for arm in programs if arm in (EVERY if full else default)]
            if measured:
                cases[case] = Case(name, number, tuple(measured), Path(folder), rounds, seconds)
        settings = {"rounds": rounds, "seconds": seconds, "full": full, "arms": programs}
        others = sorted({name for names in COMPETITORS.values() for name in names})
        run_part(
            "archive",
            chosen(cases, only),
            origin={**facts(others), "ffmpeg": ffmpeg_version()},
            settings=settings,
            out=out,
            again=again,
        )


@dataclass(frozen=True)
class Case:
    """Some programs on so many files of a clip."""

    clip: str
    files: int
    arms: Sequence[str]
    folder: Path
    rounds: int
    seconds: float

    def __call__(self) -> Result:
        footage = clip(self.clip)
        missing = {arm: why for arm in self.arms if arm in THEIRS and (why := reason_to_leave_out(arm))}
        for name, why in missing.items():
            say(f"{name}: left out: {why}")
        measures = {
            arm: Rate(program(arm, self.folder), self._files(footage, arm), seconds=self.seconds)
            for arm in self.arms
            if arm not in missing
        }
        found, failed = alternate(measures, self.rounds, figure="frames_per_s", optional=THEIRS, say=say)
        pairs = [(ours, other) for ours in found if ours in OURS for other in found if other not in OURS]
        ratios = [(f"{a} / {b}", a, b, "frames_per_s") for a, b in pairs]
        ratios += [(f"{a} / {b}, per CPU-second", a, b, "frames_per_cpu_s") for a, b in pairs]
        return result(found, figure="frames_per_s", ratios=ratios, left_out=missing | failed)

    def _files(self, footage: Path, arm: str) -> Callable[[int], Sequence[Path]]:
        files = files_of(footage, number=self.files)
        if arm == "wall":  # its decoders cannot share a file, so each has as many
            return lambda times: files(times) * cores()
        return files


def program(arm: str, folder: Path) -> Program:
    if arm not in OURS:
        model = [] if arm == "wall" else ["--model", str(F1)]
        start = [sys.executable, "-m", f"benchmarks.competitors.{arm}", *model]
        return Program(lambda videos: [*start, *map(str, videos)], lambda ran: int(ran.said))
    _, fold, *how = arm.split()
    model = F1 if fold == "f=1" else next((with_resize(resize) for resize in RESIZES if resize in how), F4)
    if "8bit" in how:
        model = in_8_bits(model)
    settings = ["decode.fast=true"] if "fast" in how else []
    settings += ["filters.0.engine=openvino"] if {"openvino", "8bit"} & set(how) else []
    return vpipe(folder, model, *settings)


def with_resize(resize: str) -> Path:
    """The f = 4 model as if it were made for another resize: for its speed alone."""
    path = CACHE / f"lobby-person-f4-{resize}.safetensors"
    # In a process of its own: the one that measures must not hold torch.
    code = (
        "import sys, dataclasses; from specialized.modelfile import load_model, save_model\n"
        "card, network = load_model(sys.argv[1])\n"
        "save_model(sys.argv[2], dataclasses.replace(card, resize=sys.argv[3]), network.state_dict())"
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    subprocess.run([sys.executable, "-c", code, str(F4), str(path), resize], cwd=ROOT, check=True)
    return path


def in_8_bits(model: Path) -> Path:
    path = CACHE / f"{model.stem}-8bit.safetensors"
    config = ROOT / "configs" / "train-lobby-f4.yaml"  # its clip, at any f
    command = [*VPIPE, "quantize", str(model), str(config), "--out", str(path), "--overwrite"]
    path.parent.mkdir(parents=True, exist_ok=True)
    subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
    return path


def reason_to_leave_out(competitor: str) -> str | None:
    """Why a competitor cannot be measured here; None if it can."""
    command = [sys.executable, "-m", f"benchmarks.competitors.{competitor}", "--model", str(F1)]
    tried = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if tried.returncode == 0:
        return None
    errors = [line for line in tried.stderr.splitlines() if "Error: " in line and not line.startswith(" ")]
    return (errors or tried.stderr.splitlines() or [f"exit code {tried.returncode}"])[-1]


def ffmpeg_version() -> str | None:
    """Of the command on the PATH; None if there is none, and that of imageio-ffmpeg is used."""
    if (command := shutil.which("ffmpeg")) is None:
        return None
    told = subprocess.run([command, "-version"], capture_output=True, text=True, check=False).stdout
    return told.partition("\n")[0] or None


if __name__ == "__main__":
    main()
