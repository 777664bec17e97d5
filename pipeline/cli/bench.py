"""The command that measures speed: bench."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import click

from pipeline.cli.shell import FAILED, INTERRUPTED, Finite, complain, fold_option, leave, listed, overwrite_option
from pipeline.outputs import check_output


@click.command()
@click.argument("models", nargs=-1, metavar="[MODEL...]")
@fold_option("1,2,3,4,8,16")
@click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda or cuda:1.")
@click.option(
    "--dtype",
    "dtypes",
    multiple=True,
    default=("auto",),
    show_default=False,
    callback=listed,
    help="float32, bfloat16, float16; auto (default): as the engine chooses. May be a list.",
)
@click.option("--pictures", type=click.IntRange(min=1), default=1024, show_default=True, help="Images in a batch.")
@click.option(
    "--rounds",
    type=click.IntRange(min=1),
    default=5,
    show_default=True,
    help="Measurements of each figure, in alternation.",
)
@click.option(
    "--seconds",
    type=Finite(min=0, min_open=True),
    default=0.2,
    show_default=True,
    help="Of a measurement, if one forward does not take longer.",
)
@click.option("--threads", type=click.IntRange(min=1), help="CPU threads. Default: one per core.")
@click.option("--engine", default="auto", show_default=True, help="The engine to measure beside the model alone.")
@click.option("--tune-all", is_flag=True, help="Look for the best settings of every f, not of f = 1 only.")
@click.option(
    "--compile/--no-compile",
    "compiled",
    default=True,
    show_default=True,
    help="Try torch.compile too where settings are tuned, on CUDA: 10 to 60 s for each.",
)
@click.option("--json", "as_json", is_flag=True, help="Machine-readable: everything that was measured.")
@click.option("--out", type=click.Path(path_type=Path), metavar="FILE.png", help="Draw the roofline.")
@overwrite_option
@click.option("-q", "--quiet", is_flag=True, help="No progress.")
def bench(
    models: tuple[str, ...],
    folds: tuple[int, ...],
    device: str,
    dtypes: tuple[str, ...],
    pictures: int,
    rounds: int,
    seconds: float,
    threads: int | None,
    engine: str,
    tune_all: bool,
    compiled: bool,
    as_json: bool,
    out: Path | None,
    overwrite: bool,
    quiet: bool,
) -> None:
    """Measure how fast MODELs run at each f, beside the tuned f = 1 and what the device can do.

    MODEL is a name of the zoo or a model file; none: the small models of the zoo, which takes about five minutes on two
    CPU cores. Other work on the machine falsifies the figures.
    """
    from pipeline.bench import bench as measure
    from pipeline.benchtable import footer, table

    if out is not None:
        check_output(out, given_by="--out", overwrite=overwrite, suffix=".png")
    say: Callable[[str], None] = (lambda line: None) if quiet else (lambda line: click.echo(line, err=True))
    document = measure(
        models,
        folds=folds,
        dtypes=dtypes,
        device=device,
        pictures=pictures,
        rounds=rounds,
        seconds=seconds,
        threads=threads,
        engine=engine,
        tune_all=tune_all,
        compiled=compiled,
        say=say,
        show=lambda document, name: click.echo(table(document, name) + "\n") if not as_json else None,
    )
    for note in document["notes"]:
        click.echo(f"note: {note}", err=True)
    if as_json:
        click.echo(json.dumps(document, indent=2, allow_nan=False))
    elif document["models"]:
        click.echo(footer(document))
    if out is not None and document["models"]:
        from pipeline.roofline import roofline

        roofline(document, out)
        click.echo(out, err=as_json)
    if document["interrupted"]:
        complain(["interrupted: what was measured is given, the rest is not"])
        leave(INTERRUPTED)
    leave(0 if document["models"] else FAILED)
