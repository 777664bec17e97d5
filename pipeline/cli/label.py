"""The command that makes labels: label."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING

import click

from pipeline.cli.shell import (
    INTERRUPTED,
    Finite,
    complain,
    leave,
    log_to_stderr,
    overwrite_option,
)
from pipeline.errors import SourceError, VpipeError
from pipeline.text import visible

if TYPE_CHECKING:
    from pipeline.autolabel import Found, Target
    from pipeline.detector import Detector


@click.command()
@click.argument("clips", nargs=-1, required=True, metavar="CLIP...")
@click.option("--detector", type=click.Path(path_type=Path), required=True, help="An ONNX file of the YOLOX family.")
@click.option("--names", type=click.Path(path_type=Path), help="Names of its classes, one a line. Default: COCO's 80.")
@click.option("--classes", metavar="NAME,...", help="Keep only these. Default: all.")
@click.option("--confidence", type=Finite(0, 1), default=0.3, show_default=True, help="Keep boxes from this score on.")
@click.option(
    "--iou",
    type=Finite(0, 1),
    default=0.45,
    show_default=True,
    help="Of two boxes of a class that overlap by more than this, keep the surer one.",
)
@click.option("--size", type=click.IntRange(min=32), help="Longer side of what it sees, in pixels. Default: 640.")
@click.option("--every", type=click.IntRange(min=1), default=1, show_default=True, help="Look at every n-th frame.")
@click.option("--out", metavar="FILE.csv|FOLDER", default=".", help="Default: CLIP.csv where you stand.")
@click.option("--sheet", metavar="FILE.png|FOLDER", help="Draw frames with their boxes too, to check them by eye.")
@overwrite_option
@click.option("-q", "--quiet", is_flag=True, help="No progress and no summary.")
def label(
    clips: tuple[str, ...],
    detector: Path,
    names: Path | None,
    classes: str | None,
    confidence: float,
    iou: float,
    size: int | None,
    every: int,
    out: str,
    sheet: str | None,
    overwrite: bool,
    quiet: bool,
) -> None:
    """Write the labels of CLIPs (videos, or folders of them) that a detector gives: one CSV of boxes each.

    Needs onnxruntime: pip install 'vpipe[label]'. After --every N training must be told so, by the lines of a
    configuration that are printed at the end.

    Exit codes: 0 every frame labelled; 1 nothing labelled; 2 wrong usage; 3 some frames or clips could not be read or
    some sheets not drawn, each is named; 130 interrupted, the files of earlier clips stay.
    """
    from pipeline.autolabel import as_clips, read_names, targets
    from pipeline.detector import open_detector
    from pipeline.labels.table import write_table
    from pipeline.ledger import EXIT_CODES
    from pipeline.sources.paths import videos_at

    log_to_stderr(logging.WARNING)
    planned = targets(videos_at(clips), out=out, sheet=sheet, overwrite=overwrite)
    opened = open_detector(
        detector,
        names=None if names is None else read_names(names),
        classes=[name.strip() for name in classes.split(",")] if classes else (),
        confidence=confidence,
        iou=iou,
        size=size,
    )
    written: list[Target] = []
    complete = True
    try:
        for target in planned:
            try:
                found = _found(target.clip, opened, every, quiet)
            except SourceError as error:
                complain(str(error))
                complete = False
                continue
            write_table(target.table, found.frame, found.object_name, found.confidence, found.corners)
            written.append(target)
            click.echo(target.table)
            if target.sheet is not None:
                from pipeline.sheet import draw_sheet

                try:
                    draw_sheet(found, target.sheet)
                except VpipeError as error:
                    complain(str(error))
                    complete = False
                else:
                    click.echo(target.sheet)
            complain([f"{target.clip}: {loss}" for loss in found.losses])
            complete = complete and not found.losses
            if not quiet:
                click.echo(visible(f"{target.clip.name}: {found.summary()}"), err=True)
    except KeyboardInterrupt:
        complain(f"interrupted: {len(written)} of {len(planned)} clips are labelled")
        code = INTERRUPTED
    else:
        code = EXIT_CODES["done" if complete else "partial" if written else "failed"]
    if written and every > 1 and not quiet:
        click.echo(f"one frame in {every} was looked at; to train on these labels:", err=True)
        click.echo("\n".join(as_clips(written, every=every)), err=True)
    leave(code)


def _found(clip: Path, detector: Detector, every: int, quiet: bool) -> Found:
    """What the detector sees in a clip, with its progress on stderr."""
    from pipeline.autolabel import detect
    from pipeline.progress import RunProgress

    if quiet:
        return detect(clip, detector, every=every)
    with RunProgress() as progress:
        progress.begin([clip.name])
        return detect(clip, detector, every=every, watch=progress.decoded)
