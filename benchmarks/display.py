"""Renders recordings of a game's screen, on which six numbers are to be read, with what vpipe needs to learn them.

    python -m benchmarks.display render runs/display       two to four minutes: recordings, labels, configurations
    vpipe train runs/display/train-goldnumber-int.yaml     and likewise the other five
    vpipe run runs/display/run.yaml > runs/display/read.csv
    python -m benchmarks.display score runs/display/test.csv runs/display/read.csv

FOLDER/game-0.mp4 and so on are recordings of one game, 640x360 at 30 frames/s, as H.264 with B-frames at the usual
quality; the last one is test.mp4, of which no training sees a frame. Beside each lie its labels, `frame,region,label`.
The numbers stand where `REGIONS` says, each in a font of its own, outlined or shaded, over a map that is panned and
cut; they are drawn as in `benchmarks.displays`. From recording to recording vary: the map, its light, colours, the size
of the numbers by a few per cent and their place by a pixel. Scores jump, in random order, each value once before any
comes again; clocks count. Either way all values of a number come about equally often, and "none", which is no number,
too.

For a folded model set `--set model.fold=4 --set output=NAME-f4.safetensors --set run.name=NAME-f4`, where an output is
relative to the configuration, and name the model file in run.yaml, or by `--set filters.0.model=FILE`.

Everything is drawn from the seed: the same one gives the same recordings, on one version of OpenCV and of the encoder.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import click
import cv2
import numpy as np
from numpy.typing import NDArray

from benchmarks.displays import DISPLAYS, Display, held, letters, masks, scenery

Frame = NDArray[np.uint8]  # (H, W, 3) RGB

WIDTH, HEIGHT, RATE = 640, 360, 30
ENCODER = {"crf": "23", "preset": "medium", "threads": "2"}
FONTS: Mapping[str, int | None] = {  # None: the segments of a clock
    "goldnumber-fraction": cv2.FONT_HERSHEY_DUPLEX,
    "goldnumber-int": cv2.FONT_HERSHEY_SIMPLEX,
    "timer-minutes": None,
    "squad-count": cv2.FONT_HERSHEY_SCRIPT_COMPLEX,
    "coin-count": cv2.FONT_HERSHEY_SIMPLEX,
    "timer3": cv2.FONT_HERSHEY_DUPLEX,
}
CORNERS = {  # x, y
    "goldnumber-fraction": (180, 8),
    "goldnumber-int": (356, 8),
    "timer-minutes": (286, 14),
    "squad-count": (20, 60),
    "coin-count": (540, 312),
    "timer3": (290, 300),
}
LARGER = 2  # a number is so many times as high and wide as the picture of it that its model takes
REGIONS = {  # x, y, width, height in pixels
    name: (*CORNERS[name], LARGER * DISPLAYS[name].size[1], LARGER * DISPLAYS[name].size[0]) for name in CORNERS
}
UP, DOWN = ("timer-minutes",), ("timer3",)  # clocks
SHADED = ("timer-minutes",)  # on a dark panel, for its segments are thin; others are outlined

TRAIN = """\
# vpipe train {folder}/train-{name}.yaml
model: {{architecture: {name}, fold: 1, order: consecutive}}
{task}
split: {{blocks: 10, validation: [3, 4], test: [8, 9], gap_s: 1}}
train: {{epochs: 20, shift: 1, zoom: 0.1, contrast: 0.2, colour: 0.2}}
output: {name}-f1.safetensors
"""
RUN = """\
# vpipe run {folder}/run.yaml > {folder}/read.csv
run: {{name: display-read}}
sources:
  - {{path: {recording}.mp4}}
regions_px:
{regions}
filters:
{filters}
sinks:
  - {{type: csv, path: "-", wide: true}}
"""


@dataclass(frozen=True, slots=True)
class Style:
    """How a number looks in one recording."""

    face: int | None
    scale: NDArray[np.float64]  # of x and y
    offset: NDArray[np.float64]  # of the longest text from the middle of its region
    widest: int  # points of the longest text
    ink: NDArray[np.float32]  # RGB
    edge: NDArray[np.float32]
    cover: float  # of the outline or shade


def shown(name: str, frames: int, rng: np.random.Generator) -> tuple[NDArray[np.int64], list[str]]:
    """What a number is in each frame: the numbers of its classes, and texts, which are empty where there is none."""
    display = DISPLAYS[name]
    k = len(display.classes)
    if name in (*UP, *DOWN):
        values, others = _clock(display, frames, rng, step=1 if name in UP else -1)
    else:
        values = held(rng, k, frames, display.hold)
        others = held(rng, display.others, frames, (1, display.hold[1]))
    texts = [display.text(v, o) if v < display.values else "" for v, o in zip(values, others, strict=True)]
    return values, texts


def _clock(
    display: Display, frames: int, rng: np.random.Generator, *, step: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Counts through all values from somewhere on, with a pause at the end, and through the others in each of them."""
    k, changes = len(display.classes), frames // display.hold[0] + 1
    holds = rng.integers(display.hold[0], display.hold[1] + 1, changes)
    values = (rng.integers(k) + step * np.arange(changes)) % k
    within = np.concatenate([np.arange(hold) / hold for hold in holds])
    return np.repeat(values, holds)[:frames], (within * display.others).astype(np.int64)[:frames]


def pictures(texts: Mapping[str, Sequence[str]], rng: np.random.Generator) -> Iterator[Frame]:
    """Draws the frames of a recording, of which `texts` tells what each number shows."""
    (frames,) = {len(of_frames) for of_frames in texts.values()}
    whole = scenery(rng, (2 * HEIGHT, 2 * WIDTH)).astype(np.uint8)
    world = np.tile(cv2.GaussianBlur(whole, (0, 0), 0.8), (2, 2, 1))
    styles = {name: _style(name, rng) for name in texts}
    drawn: dict[tuple[str, str], tuple[NDArray[np.float32], NDArray[np.float32]]] = {}
    at, speed, until = np.zeros(2), np.zeros(2), 0
    beat = 0.06 * np.sin(np.arange(frames) * rng.uniform(0.02, 0.1)) + rng.normal(0, 0.01, frames)
    for number in range(frames):
        if number == until:
            at, speed = rng.uniform(0, 1, 2) * (HEIGHT, WIDTH), rng.normal(0, 2, 2)
            until += int(rng.integers(60, 240))
        at = (at + speed + rng.normal(0, 0.5, 2)) % (2 * HEIGHT, 2 * WIDTH)
        y, x = at.astype(int)
        frame = cv2.convertScaleAbs(world[y : y + HEIGHT, x : x + WIDTH], alpha=1 + beat[number])
        for name, of_frames in texts.items():
            if text := of_frames[number]:
                key = (name, text)
                if key not in drawn:
                    drawn[key] = _drawn(text, styles[name], name)
                _put(frame, drawn[key], styles[name], name)
        yield frame


def _style(name: str, rng: np.random.Generator) -> Style:
    display, (_, _, width, height) = DISPLAYS[name], REGIONS[name]
    widest = letters(display.text(display.values - 1, display.others - 1), FONTS[name]).shape[::-1]
    return Style(
        face=FONTS[name],
        scale=np.array([0.88 * width, 0.66 * height]) / widest * rng.uniform(0.95, 1.02, 2),
        offset=rng.uniform(-1.5, 1.5, 2),
        widest=widest[0],
        ink=rng.uniform(205, 255, 3).astype(np.float32),
        edge=rng.uniform(0, 40, 3).astype(np.float32),
        cover=float(rng.uniform(0.75, 0.95)),
    )


def _drawn(text: str, style: Style, name: str) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """How far ink, and what sets it off, cover the points of the region, (H, W, 1) in 0..1."""
    _, _, width, height = REGIONS[name]
    ink = letters(text, style.face)
    left = np.array([style.scale[0] * (ink.shape[1] - style.widest) / 2, 0])  # all begin where the longest does
    inked, edge = masks(ink, np.diag(style.scale), style.offset + left, (height, width))
    if name in SHADED:
        edge[:] = 255
    return inked[..., None] / 255, style.cover * edge[..., None] / 255


def _put(frame: Frame, drawn: tuple[NDArray[np.float32], NDArray[np.float32]], style: Style, name: str) -> None:
    x, y, width, height = REGIONS[name]
    part = frame[y : y + height, x : x + width]
    ink, edge = drawn
    below = part + edge * (style.edge - part)
    part[:] = below + ink * (style.ink - below)


def record(video: Path, labels: Path, *, frames: int, seed: int) -> None:
    """Writes a recording and its labels, a row for each region of each frame.

    Args:
        video: MP4 file.
        labels: CSV file.
        frames: To show every class, some thousands.
        seed: Of everything.
    """
    import av

    rng = np.random.default_rng(seed)
    numbers = {name: shown(name, frames, rng) for name in REGIONS}
    with labels.open("w", encoding="utf-8", newline="") as file:
        rows = csv.writer(file, lineterminator="\n")
        rows.writerow(["frame", "region", "label"])
        for frame in range(frames):
            for name, (values, texts) in numbers.items():
                rows.writerow([frame, name, values[frame] if texts[frame] else ""])
    with av.open(str(video), "w", format="mp4") as writer:
        stream = writer.add_stream("libx264", RATE, width=WIDTH, height=HEIGHT, pix_fmt="yuv420p", options=ENCODER)
        for number, picture in enumerate(pictures({name: texts for name, (_, texts) in numbers.items()}, rng)):
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
            frame.pts, frame.time_base = number, Fraction(1, RATE)
            writer.mux(stream.encode(frame))
        writer.mux(stream.encode(None))


def configure(folder: Path, recordings: Sequence[str]) -> None:
    """Writes configurations: one to train a model for each number, one to read all six of the last recording."""
    for name in REGIONS:
        text = TRAIN.format(name=name, folder=folder, task=_task(name, recordings[:-1]))
        (folder / f"train-{name}.yaml").write_text(text, encoding="utf-8")
    run = RUN.format(
        folder=folder,
        recording=recordings[-1],
        regions="\n".join(f"  {name}: {list(box)}" for name, box in REGIONS.items()),
        filters="\n".join(f"  - {{name: {name}, model: {name}-f1.safetensors, regions: [{name}]}}" for name in REGIONS),
    )
    (folder / "run.yaml").write_text(run, encoding="utf-8")


def _task(name: str, recordings: Sequence[str]) -> str:
    values = [value for value in DISPLAYS[name].classes if value != "none"]
    lines = [f"regions_px: {{{name}: {list(REGIONS[name])}}}", "classes:"]
    lines += [f'  - {{name: "{value}"}}' for value in values]
    lines += ["clips:", *(f"  - {{video: {recording}.mp4, labels: {recording}.csv}}" for recording in recordings)]
    return "\n".join(lines)


def right(labels: Path, read: Path) -> Mapping[str, float]:
    """In what share of the frames each number was read as it was, and last, as "all", every number.

    Args:
        labels: Of a recording.
        read: What a run with `wide: true` wrote of the same recording.
    """
    with labels.open(encoding="utf-8", newline="") as file:
        if "region" not in (csv.DictReader(file).fieldnames or ()):
            raise click.UsageError(f"{labels}: must be the labels of a recording, got another table; name it first")
        file.seek(0)
        shows = {(row["frame"], row["region"]): row["label"] or "none" for row in csv.DictReader(file)}
    with read.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    if len(shows) != len(REGIONS) * len(rows):
        raise click.UsageError(f"{read}: must tell of {len(shows) // len(REGIONS)} frames, got {len(rows)}")
    agrees = np.array([[row[name] == shows[row["frame"], name] for name in REGIONS] for row in rows])
    shares = [*agrees.mean(0).tolist(), float(agrees.all(1).mean())]
    return dict(zip((*REGIONS, "all"), shares, strict=True))


@click.group(help=(__doc__ or "").partition("\n")[0])
def main() -> None:
    pass


@main.command()
@click.argument("folder", type=click.Path(path_type=Path))
@click.option("--recordings", default=4, show_default=True, type=click.IntRange(2), help="The last is held out.")
@click.option("--frames", default=4500, show_default=True, type=click.IntRange(1), help="Of each recording.")
@click.option("--seed", default=0, show_default=True, type=click.IntRange(0), help="Another seed, other recordings.")
def render(folder: Path, recordings: int, frames: int, seed: int) -> None:
    """Write recordings of a game, their labels, and configurations to train with, into FOLDER."""
    if folder.exists():
        raise click.UsageError(f"{folder}: must not exist yet; remove it, or name another folder")
    folder.mkdir(parents=True)
    names = [*(f"game-{number}" for number in range(recordings - 1)), "test"]
    for number, name in enumerate(names):
        record(folder / f"{name}.mp4", folder / f"{name}.csv", frames=frames, seed=recordings * seed + number)
        click.echo(f"{folder / name}.mp4: {frames} frames")
    configure(folder, names)


@main.command()
@click.argument("labels", type=click.Path(path_type=Path, exists=True))
@click.argument("read", type=click.Path(path_type=Path, exists=True))
def score(labels: Path, read: Path) -> None:
    """Tell in what share of the frames each number was READ as LABELS have it."""
    for name, share in right(labels, read).items():
        click.echo(f"{name:20} {share:.4f}")


if __name__ == "__main__":
    main()
