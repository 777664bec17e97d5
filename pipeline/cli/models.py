"""The commands about models: train, eval, quantize, models, info."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Callable
from pathlib import Path

import click

from pipeline.cli.shell import (
    INTERRUPTED,
    complain,
    facts,
    fold_option,
    leave,
    log_to_stderr,
    overwrite_option,
    set_option,
)
from pipeline.errors import ConfigError, ModelError
from pipeline.outputs import check_output
from pipeline.text import aligned

TRAINED_BY = "take the one that trained the model"


@click.command()
@click.argument("config", type=click.Path())
@set_option
@click.option("--resume", is_flag=True, help="Go on with the training of this name, to the same weights.")
@click.option("--overwrite", is_flag=True, help="Replace the model file and the training of this name.")
@click.option("-q", "--quiet", is_flag=True, help="No progress.")
def train(config: str, overrides: tuple[str, ...], resume: bool, overwrite: bool, quiet: bool) -> None:
    """Train the model that CONFIG describes on its labelled clips, and write it with its measured accuracy.

    Curves and the confusion matrix go to runs/NAME; while it goes on, and if it is interrupted, a checkpoint.

    Exit codes: 0 the model is written, or was before; 1 the training or a clip broke; 2 wrong usage, configuration or
    labels; 130 interrupted.
    """
    if resume and overwrite:
        raise click.UsageError("--resume and --overwrite exclude each other")
    from pipeline.config import load_train_config
    from pipeline.runs import RunFolder

    loaded = load_train_config(config, overrides=overrides)
    log_to_stderr(logging.WARNING)
    say: Callable[[str], None] = (lambda line: None) if quiet else (lambda line: click.echo(line, err=True))
    folder = RunFolder(Path(loaded.run.dir, loaded.run.name))
    since = None if resume else folder.begun_ns
    try:
        from pipeline.training import train as fit  # takes seconds: torch

        click.echo(fit(loaded, mode="resume" if resume else "overwrite" if overwrite else "new", say=say))
    except KeyboardInterrupt:
        complain(f"interrupted: {folder.way_on(since=since)}")
        leave(INTERRUPTED)


@click.command(name="eval")
@click.argument("models", nargs=-1, required=True, type=click.Path(), metavar="MODEL...")
@click.argument("config", type=click.Path())
@set_option
@click.option("--compare", is_flag=True, help="Two MODELs or more side by side, in one table and one picture.")
@click.option(
    "--out", type=click.Path(path_type=Path), metavar="FILE.png", help="Picture of --compare. Default: compare.png."
)
@overwrite_option
@click.option(
    "--part",
    type=click.Choice(["test", "validation", "training", "all"]),
    default="test",
    show_default=True,
    help="Which part of the footage, by the split of CONFIG.",
)
@click.option(
    "--order",
    type=click.Choice(["consecutive", "strided", "shuffled", "streams", "regions"]),
    help="Form the groups in another order than the model was trained for.",
)
@click.option("--json", "as_json", is_flag=True, help="Machine-readable.")
def evaluate(
    models: tuple[str, ...],
    config: str,
    overrides: tuple[str, ...],
    compare: bool,
    out: Path | None,
    overwrite: bool,
    part: str,
    order: str | None,
    as_json: bool,
) -> None:
    """Measure MODEL on the labelled clips of CONFIG (one for `vpipe train`): per class, per fold slot and in every
    order, with intervals over blocks of time.
    """
    if config.endswith(".safetensors"):
        raise click.UsageError(f"the last argument must be a configuration, and {config} is a model")
    if not compare and (len(models) > 1 or out is not None or overwrite):
        raise click.UsageError("one MODEL goes with one CONFIG; several, --out and --overwrite go with --compare")
    if compare and len(models) < 2:
        raise click.UsageError("--compare needs two MODELs or more before the CONFIG")
    from pipeline.config import load_train_config

    loaded = load_train_config(config, overrides=overrides, cure=TRAINED_BY)
    log_to_stderr(logging.WARNING)
    if not compare:
        from pipeline.evaluation import evaluate as measure

        click.echo(measure(models[0], loaded, part=part, order=order, as_json=as_json))
        return
    out = out or Path("compare.png")
    check_output(out, given_by="--out", overwrite=overwrite, suffix=".png")
    from pipeline.comparison import compare as side_by_side

    click.echo(side_by_side(models, loaded, out=out, part=part, order=order, as_json=as_json))
    click.echo(out, err=True)


@click.command()
@click.argument("model", type=click.Path())
@click.argument("config", type=click.Path())
@set_option
@click.option("--out", type=click.Path(path_type=Path), required=True, metavar="FILE", help="The model file to write.")
@overwrite_option
def quantize(model: str, config: str, overrides: tuple[str, ...], out: Path, overwrite: bool) -> None:
    """Make MODEL a model file of 8 bits, which engine openvino runs in about 0.6 of the time.

    The ranges of its layers come from the validation part of CONFIG (the one that trained it), its accuracy from the
    test part.

    Exit codes: 0 the model is written; 1 a clip cannot be read; 2 wrong usage, model, configuration or labels.
    """
    from pipeline.config import load_train_config

    loaded = load_train_config(config, overrides=overrides, cure=TRAINED_BY)
    check_output(out, given_by="--out", overwrite=overwrite, suffix=".safetensors")
    log_to_stderr(logging.WARNING)
    from pipeline.quantization import quantize as made

    try:
        click.echo(made(model, loaded, out))
    except ModelError as error:
        raise ConfigError([str(error)]) from error


@click.command(name="models")
@fold_option("1")
@click.option("--json", "as_json", is_flag=True, help="Machine-readable.")
def list_models(folds: tuple[int, ...], as_json: bool) -> None:
    """List the architectures that have a name, and what they cost."""
    import dataclasses

    from specialized.models.listing import listing

    rows = [row for fold in folds for row in listing(fold)]
    if as_json:
        click.echo(json.dumps([dataclasses.asdict(row) for row in rows]))
        return
    cells = [
        (
            row.name,
            str(row.fold),
            "{}x{}".format(*row.input),
            str(row.classes),
            f"{row.parameters:,}",
            f"{row.flops_per_image / 1e6:,.2f}",
            f"{row.intensity:.2f}",
        )
        for row in rows
    ]
    head = ("name", "fold", "input", "classes", "parameters", "MFLOP/image", "FLOP/byte")
    click.echo("\n".join(aligned([head, *cells])))
    click.echo("counted: convolutions and linear layers; bytes of 1,024 images at 2 per element")


@click.command()
@click.argument("model", type=click.Path())
@click.option("--json", "as_json", is_flag=True, help="Machine-readable.")
def info(model: str, as_json: bool) -> None:
    """Say what a MODEL file holds."""
    import dataclasses

    from specialized.modelfile import file_hash, read_card

    card = read_card(model)
    found = dataclasses.asdict(card) | {"sha256": file_hash(model), "bytes": os.path.getsize(model)}
    title = f"{model}: quantized to 8 bits, for engine openvino" if card.ranges else model
    click.echo(json.dumps(found) if as_json else facts(title, found))
