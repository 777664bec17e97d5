"""Labels many regions of every frame end to end: what folding gains where the CNN is the larger part of the work.

    python -m benchmarks.regions                     two hours on two cores; goes on where it was stopped
    python -m benchmarks.regions --full              every model at every number of regions
    python -m benchmarks.regions --only "coral, 32"

The busy junction at 1280x720 (`benchmarks.footage`), of which 8, 16, 32 or 64 regions, 256x270 pixels down to 128x67,
are labelled in every frame by models of random weights at f = 1, 4 and 8, in the order `regions`: in OpenVINO as they
are and quantized (*8bit*), or in torch where OpenVINO is not installed. *opencv* is what most people write: a frame is
read, its regions are sliced and resized, and one batch of torch per frame labels them.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path

import click

from benchmarks.facts import ROOT, facts
from benchmarks.footage import clip
from benchmarks.measuring import Figures, Program, Rate, Result, alternate, files_of, medians, result, vpipe
from benchmarks.part import options, run_part, say, seconds_option

CLIP = "intersection-1280x720"
FOLDS = (1, 4, 8)
REGIONS = {8: (2, 4), 16: (4, 4), 32: (4, 8), 64: (8, 8)}  # rows and columns
MODELS = ("coral", "taipei", "coin-count")  # small, large, and of a game's display
LEAST = 960  # frames of a short run: with fewer, one decoder ends long before the other
# Model and regions, unless all is asked for.
CASES = (("coral", 8), ("coral", 16), ("coral", 32), ("coral", 64), ("taipei", 32), ("coin-count", 32))
HOW = ("openvino", "8bit")
PART = (0.1, 0.2, 0.8, 0.75)  # of the picture, that the regions share: x, y, width, height


@click.command(help=(__doc__ or "").partition("\n")[0])
@options
@seconds_option
@click.option("--full", is_flag=True, help="Measure every model at every number of regions.")
def main(rounds: int, seconds: float, only: str, again: bool, out: Path, full: bool) -> None:
    chosen = [(model, count) for model in MODELS for count in REGIONS] if full else CASES
    with tempfile.TemporaryDirectory() as folder:
        cases: dict[str, Callable[[], Result]] = {
            name: Case(model, count, Path(folder), rounds, seconds)
            for model, count in chosen
            if only in (name := f"{model}, {count} regions")
        }
        settings = {"rounds": rounds, "seconds": seconds, "full": full}
        run_part("regions", cases, origin=facts(["openvino"]), settings=settings, out=out, again=again)


@dataclass(frozen=True)
class Case:
    """A model on so many regions of the clip, at each f and in each engine, and what people write."""

    model: str
    regions: int
    folder: Path
    rounds: int
    seconds: float

    def __call__(self) -> Result:
        ways = HOW if find_spec("openvino") else ("torch",)
        files = files_of(clip(CLIP), number=1)
        grid = [*REGIONS[self.regions], *PART]
        programs = {
            f"vpipe f={fold} {how}": vpipe(
                self.folder,
                model_file(self.model, fold, self.folder, in_8_bits=how == "8bit"),
                f"regions={{r: {{grid: {grid}}}}}",
                f"filters.0.engine={'torch' if how == 'torch' else 'openvino'}",
            )
            for how in ways
            for fold in FOLDS
        }
        programs["opencv"] = opencv(model_file(self.model, 1, self.folder), grid)
        measures = {
            name: Rate(replace(program, least=LEAST), files, seconds=self.seconds) for name, program in programs.items()
        }
        found, failed = alternate(measures, self.rounds, figure="frames_per_s", optional=["opencv"], say=say)
        best = {fold: _fastest(found, [f"vpipe f={fold} {how}" for how in ways]) for fold in FOLDS}
        ratios = [(f"f = {f} / f = 1, faster of each", best[f], best[1], "frames_per_s") for f in FOLDS[1:]]
        ratios += [
            (f"f = {f} / f = 1, {how}", f"vpipe f={f} {how}", f"vpipe f=1 {how}", "frames_per_s")
            for how in ways
            for f in FOLDS[1:]
        ]
        ratios += [(f"vpipe f = {f}, faster / opencv", best[f], "opencv", "frames_per_s") for f in FOLDS]
        return result(found, figure="frames_per_s", ratios=ratios, left_out=failed)


def _fastest(found: Mapping[str, Sequence[Figures]], names: Sequence[str]) -> str:
    return max(names, key=lambda name: medians(found[name])["frames_per_s"])


def opencv(model: Path, grid: Sequence[float]) -> Program:
    start = [sys.executable, "-m", "benchmarks.competitors.opencv_regions", "--model", str(model)]
    start += ["--grid", *map(str, grid)]
    return Program(lambda videos: [*start, *map(str, videos)], lambda ran: int(ran.said))


def model_file(name: str, fold: int, folder: Path, *, in_8_bits: bool = False) -> Path:
    """A model of random weights for groups of regions: its speed counts, its labels do not."""
    path = folder / f"{name}-f{fold}{'-8bit' if in_8_bits else ''}.safetensors"
    # In a process of its own: the one that measures must not hold torch.
    code = f"from benchmarks.regions import save; save({name!r}, {fold}, {str(path)!r}, in_8_bits={in_8_bits})"
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)
    return path


def save(name: str, fold: int, path: str, *, in_8_bits: bool) -> None:
    from benchmarks.models import quantized_to_noise
    from specialized.modelfile import save_model
    from specialized.subjects import subjects

    [subject] = subjects([name], [fold])
    card, network = quantized_to_noise(subject, fold) if in_8_bits else subject.build(fold)
    save_model(path, replace(card, order="regions"), network.state_dict())


if __name__ == "__main__":
    main()
