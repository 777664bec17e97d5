"""The command that looks for the fastest way to run: tune."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Callable
from datetime import date
from pathlib import Path

import click

from pipeline.cli.shell import (
    FAILED,
    INTERRUPTED,
    Finite,
    complain,
    leave,
    listed,
    overwrite_option,
)


@click.command()
@click.argument("config", type=click.Path(path_type=Path))
@click.argument("models", nargs=-1, type=click.Path(), metavar="[MODEL...]")
@click.option(
    "--max-accuracy-loss",
    type=Finite(min=0, max=100),
    default=0.5,
    show_default=True,
    metavar="POINTS",
    help="What the pick may lose against the most accurate model, in hundredths.",
)
@click.option(
    "--engine", "engines", multiple=True, callback=listed, help="Engines to try. May be a list. Default: all there are."
)
@click.option(
    "--dtype",
    "dtypes",
    multiple=True,
    default=("auto,float32",),
    show_default=True,
    callback=listed,
    help="Arithmetic to try: float32, bfloat16, float16; auto: as the engine chooses.",
)
@click.option(
    "--frames", type=click.IntRange(min=1), help="Frames of a whole run that is timed. Default: 2,500 a core."
)
@click.option("--rounds", type=click.IntRange(min=1), default=5, show_default=True, help="Of the last measurements.")
@click.option(
    "--seconds",
    type=Finite(min=0, min_open=True),
    default=0.2,
    show_default=True,
    help="Of a measurement of a model alone.",
)
@click.option("--json", "as_json", is_flag=True, help="Machine-readable: everything that was measured.")
@click.option(
    "--out", type=click.Path(path_type=Path), metavar="FILE.yaml", help="Write CONFIG with what was picked, beside it."
)
@overwrite_option
@click.option("-q", "--quiet", is_flag=True, help="No progress.")
def tune(
    config: Path,
    models: tuple[str, ...],
    max_accuracy_loss: float,
    engines: tuple[str, ...],
    dtypes: tuple[str, ...],
    frames: int | None,
    rounds: int,
    seconds: float,
    as_json: bool,
    out: Path | None,
    overwrite: bool,
    quiet: bool,
) -> None:
    """Find how this machine labels the footage of CONFIG fastest, with its model and with MODELs for the same task.

    Engines, dtypes, batch sizes, decoders, threads and, by the MODELs, f are measured in whole runs over a stretch of
    the footage. The run's folder and sinks are left alone. Other work on the machine falsifies the figures.

    Exit codes: 0 something was picked; 1 nothing but CONFIG as it stands could be measured; 2 wrong usage or
    configuration; 130 interrupted, and what was measured so far is told.
    """
    from pipeline.config import load_run_config

    loaded = load_run_config(config)
    if out is not None:
        from pipeline.tunefile import check_place

        check_place(out, config, overwrite=overwrite)
    from pipeline.runs import LOGGERS

    for name in LOGGERS:
        logging.getLogger(name).addHandler(logging.NullHandler())  # dozens of runs would all say the same
    say: Callable[[str], None] = (lambda line: None) if quiet else (lambda line: click.echo(line, err=True))
    from pipeline.tune import tune as measure
    from pipeline.tunetable import table, verdict

    document = measure(
        loaded,
        models,
        engines=engines,
        dtypes=dtypes,
        frames=frames,
        rounds=rounds,
        seconds=seconds,
        max_accuracy_loss=max_accuracy_loss,
        say=say,
    )
    for note in document["notes"]:
        click.echo(f"note: {note}", err=True)
    if as_json:
        click.echo(json.dumps(document, indent=2, allow_nan=False))
    else:
        click.echo(table(document))
        click.echo(verdict(document, config=None if out else str(config)))
    if document["interrupted"]:
        complain(
            "interrupted: what was measured is given, the rest is not" + (f"; {out} is not written" if out else "")
        )
        leave(INTERRUPTED)
    picked = document["picked"]
    if picked is not None and out is not None:
        from pipeline.tunefile import settings_of, write

        own = picked["model"] == document["settings"]["models"][0]
        settings = settings_of(picked, model=None if own else os.path.relpath(picked["model"], config.parent))
        cpu, cores = document["machine"]["cpu"], document["machine"]["cores"]
        heading = f"Written by `vpipe tune` on {date.today()} for {cpu or 'a CPU without a name'}, {cores} cores"
        write(out, config, settings, heading=heading)
        click.echo(out, err=as_json)
    leave(0 if picked is not None else FAILED)
