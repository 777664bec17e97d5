"""The command. A thin shell over the Python API: it reads options, shows progress and turns outcomes into exit codes.

Nothing heavy is imported before a subcommand needs it.
"""

from __future__ import annotations

import io
import json
import logging
import os
import signal
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any, Literal

import click

from pipeline.errors import ConfigError, Interrupted, ModelError, VpipeError
from pipeline.threads import Stop, stuck_threads

# Read when torch is loaded. A thread pool that spins while it waits takes the cores from the decoders: with both cores
# busy, a forward pass of coral at f = 4 on two threads took five times as long.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

__all__ = ["main"]

FAILED, USAGE, INTERRUPTED = 1, 2, 130


class Command(click.Group):
    """Turns what goes wrong into one line and an exit code, so that no traceback reaches a user."""

    def main(self, *args: Any, **kwargs: Any) -> Any:
        _make_streams_safe()
        logging.raiseExceptions = False  # a log that cannot be written must not stop what it tells of
        return super().main(*args, **kwargs)

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except ConfigError as error:
            _complain(error.problems)
            ctx.exit(USAGE)
        except Interrupted as error:
            _complain([str(error)])
            ctx.exit(INTERRUPTED)
        except VpipeError as error:
            _complain([str(error)])
            ctx.exit(FAILED)
        except BrokenPipeError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # the reader has left; so do we
            ctx.exit(FAILED)


def _make_streams_safe() -> None:
    """Opens what the shell closed, lest a file of the run takes its number, and lets any file name be printed."""
    for number in (0, 1, 2):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest number that is free
    if sys.stdout is None:
        sys.stdout = open(1, "w", closefd=False)  # noqa: SIM115
    if sys.stderr is None:
        sys.stderr = open(2, "w", closefd=False)  # noqa: SIM115
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def _complain(problems: object) -> None:
    for problem in problems if isinstance(problems, (list, tuple)) else [problems]:
        click.echo(f"vpipe: {problem}", err=True)


@click.group(cls=Command, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="vpipe", prog_name="vpipe")
def main() -> None:
    """Label every frame of your footage with small, specialized CNNs, folded."""


set_option = click.option(
    "--set", "overrides", multiple=True, metavar="KEY=VALUE", help="Override a key, as fold.frames=8. May be repeated."
)


@main.command()
@click.argument("paths", nargs=-1, required=True, metavar="CONFIG | VIDEO...")
@click.option("--model", type=click.Path(), help="A model file; the arguments are then videos.")
@set_option
@click.option("--resume", is_flag=True, help="Go on with the run of this name.")
@click.option("--overwrite", is_flag=True, help="Replace the run of this name.")
@click.option("--name", help="Name of the run.")
@click.option("--limit", type=click.IntRange(min=1), help="Label at most so many frames of each source.")
@click.option("-q", "--quiet", is_flag=True, help="No progress and no summary.")
@click.option("-v", "--verbose", is_flag=True, help="Say more on stderr.")
def run(
    paths: tuple[str, ...],
    model: str | None,
    overrides: tuple[str, ...],
    resume: bool,
    overwrite: bool,
    name: str | None,
    limit: int | None,
    quiet: bool,
    verbose: bool,
) -> None:
    """Label every frame of the sources of CONFIG, or of VIDEOs with --model.

    Results go to runs/NAME: frames/**/*.parquet, ledger.json, summary.json, telemetry.parquet, log.txt.

    Exit codes: 0 every frame labelled; 1 nothing labelled, or the run broke; 2 wrong usage or configuration; 3 some
    frames or sources could not be labelled, the summary says which; 130 interrupted.
    """
    if resume and overwrite:
        raise click.UsageError("--resume and --overwrite exclude each other")
    from pipeline.config import load_run_config, run_config_from

    settings = [*overrides]
    settings += [f"run.name={json.dumps(name, ensure_ascii=False)}"] if name is not None else []
    settings += [f"run.limit={limit}"] if limit is not None else []
    if model is not None:
        if configs := [path for path in paths if path.lower().endswith((".yaml", ".yml"))]:
            raise click.UsageError(
                f"--model goes with videos, and {configs[0]} is a configuration: name the model in it"
            )
        config = run_config_from(paths, model, overrides=settings)
    elif len(paths) == 1:
        _refuse_video(paths[0])
        config = load_run_config(paths[0], overrides=settings)
    else:
        raise click.UsageError("give one CONFIG, or videos with --model FILE")
    mode: Literal["new", "overwrite", "resume"] = "resume" if resume else "overwrite" if overwrite else "new"
    _log_to_stderr(logging.INFO if verbose else logging.WARNING)
    stop = Stop()
    with _signals_stop(stop):
        if not quiet:
            click.echo("loading...", err=True)
        from pipeline.progress import RunProgress
        from pipeline.report import report
        from pipeline.runner import run as start

        try:
            if quiet:
                outcome = start(config, mode=mode, stop=stop)
            else:
                with RunProgress() as progress:
                    outcome = start(config, mode=mode, stop=stop, watcher=progress)
                click.echo(report(outcome.summary, outcome.folder.path), err=True)
        except ModelError as error:  # one that a run meets on its way is part of its outcome
            raise ConfigError([str(error)]) from error
    if stuck := stuck_threads():
        logging.getLogger("pipeline").warning("left while in a native call: %s", ", ".join(stuck))
        logging.shutdown()
        sys.stdout.flush()
        os._exit(outcome.exit_code)
    sys.exit(outcome.exit_code)


def _refuse_video(path: str) -> None:
    """A video where a configuration is expected is a common slip; YAML's own complaint would not help."""
    from pipeline.sources.paths import VIDEO_SUFFIXES

    if Path(path).suffix.lower() in VIDEO_SUFFIXES:
        raise ConfigError([f"{path}: must be a configuration, got a video; add --model FILE to label it"])


@main.command()
@click.argument("config", type=click.Path())
@set_option
def check(config: str, overrides: tuple[str, ...]) -> None:
    """Check CONFIG, of a run or a training: names every problem with file and line, opens no source, starts nothing."""
    from pipeline.config import load_config

    loaded = load_config(config, overrides=overrides)
    for warning in loaded.warnings:
        click.echo(f"warning: {warning}", err=True)
    click.echo(f"{config}: fine")


@main.command()
@click.argument("paths", nargs=-1, required=True, metavar="PATH...")
@click.option("--json", "as_json", is_flag=True, help="Machine-readable, one object a line.")
def probe(paths: tuple[str, ...], as_json: bool) -> None:
    """Say what a video holds, what is wrong with it, and what vpipe would do with it."""
    from pipeline.probe import probe as look
    from pipeline.sources.paths import find_videos

    bad = 0
    for path in paths:
        for _, video in find_videos(os.path.abspath(path), "").videos:
            found = look(video)
            bad += "error" in found
            click.echo(json.dumps(found) if as_json else _facts(str(video), found))
    sys.exit(FAILED if bad else 0)


@main.command()
@click.argument("config", type=click.Path())
@set_option
@click.option("--overwrite", is_flag=True, help="Replace the model file if it exists.")
@click.option("-q", "--quiet", is_flag=True, help="No progress.")
def train(config: str, overrides: tuple[str, ...], overwrite: bool, quiet: bool) -> None:
    """Train the model that CONFIG describes on its labelled clips, and write it with its measured accuracy."""
    from pipeline.config import load_train_config

    loaded = load_train_config(config, overrides=overrides)
    _log_to_stderr(logging.WARNING)
    from pipeline.training import train as fit

    say: Callable[[str], None] = (lambda line: None) if quiet else (lambda line: click.echo(line, err=True))
    try:
        click.echo(fit(loaded, overwrite=overwrite, say=say))
    except KeyboardInterrupt:
        _complain(["interrupted: no model file was written"])
        sys.exit(INTERRUPTED)


@main.command(name="eval")
@click.argument("model", type=click.Path())
@click.argument("config", type=click.Path())
@set_option
@click.option(
    "--part",
    type=click.Choice(["test", "validation", "training", "all"]),
    default="test",
    show_default=True,
    help="Which part of the footage, by the split of CONFIG.",
)
@click.option("--order", help="Form the groups in another order than the model was trained for.")
@click.option("--json", "as_json", is_flag=True, help="Machine-readable.")
def evaluate(model: str, config: str, overrides: tuple[str, ...], part: str, order: str | None, as_json: bool) -> None:
    """Measure MODEL on the labelled clips of CONFIG (one for `vpipe train`): per class and per fold slot."""
    from pipeline.config import load_train_config

    loaded = load_train_config(config, overrides=overrides)
    _log_to_stderr(logging.WARNING)
    from pipeline.training import evaluate as measure

    click.echo(measure(model, loaded, part=part, order=order, as_json=as_json))


@main.command()
@click.argument("model", type=click.Path())
@click.option("--json", "as_json", is_flag=True, help="Machine-readable.")
def info(model: str, as_json: bool) -> None:
    """Say what a MODEL file holds."""
    import dataclasses

    from specialized.modelfile import file_hash, read_card

    card = dataclasses.asdict(read_card(model)) | {"sha256": file_hash(model), "bytes": os.path.getsize(model)}
    click.echo(json.dumps(card) if as_json else _facts(model, card))


@main.command()
@click.argument("run", type=click.Path(path_type=Path))
@click.option("--source", "sources", multiple=True, metavar="NAME", help="Draw this source. May be repeated.")
@click.option("--out", type=click.Path(path_type=Path), help="The PNG to write. Default: RUN/strip.png.")
def strip(run: Path, sources: tuple[str, ...], out: Path | None) -> None:
    """Draw what the run in folder RUN said, over time, under frames of its footage."""
    from pipeline.picture import strip as draw
    from pipeline.runs import RunFolder

    out = out or RunFolder(run).strip
    for note in draw(run, out, sources=sources):
        click.echo(note, err=True)
    click.echo(out)


def _facts(title: str, facts: Mapping[str, object]) -> str:
    """A title and `key  value` lines."""
    width = max(map(len, facts))
    lines = [f"  {key:<{width}}  {_shown(value)}" for key, value in facts.items() if value not in (None, (), {}, [])]
    return "\n".join([title, *lines])


def _shown(value: object) -> str:
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, (list, tuple)):
        return ", ".join(_shown(item) for item in value)
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {_shown(item)}" for key, item in value.items())
    return str(value)


def _log_to_stderr(level: int) -> None:
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("vpipe: %(message)s"))
    handler.setLevel(level)
    logger = logging.getLogger("pipeline")
    logger.setLevel(logging.INFO)
    logger.addHandler(handler)


@contextmanager
def _signals_stop(stop: Stop) -> Iterator[None]:
    """The first SIGINT or SIGTERM asks the run to stop, the second leaves at once."""

    def handle(number: int, frame: FrameType | None) -> None:
        if stop:
            os._exit(130)
        stop.set()
        os.write(2, b"\nvpipe: stopping: what is committed stays; once more to leave at once\n")

    before = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
