"""The commands about runs: run, check, probe, strip."""

from __future__ import annotations

import json
import logging
import os
import signal
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Literal

import click

from pipeline.cli.shell import FAILED, Finite, facts, leave, log_to_stderr, overwrite_option, set_option
from pipeline.errors import ConfigError, ModelError
from pipeline.outputs import check_output
from pipeline.text import visible
from pipeline.threads import Request, Stop
from pipeline.values import OBJECT

if TYPE_CHECKING:
    from pipeline.config import RunConfig
    from pipeline.regions import Region


STOPPING = b"\nvpipe: stopping: cameras keep what came, files what is committed; once more to leave at once\n"


@click.command()
@click.argument("paths", nargs=-1, required=True, metavar="CONFIG | VIDEO...")
@click.option("--model", type=click.Path(), help="A model file; the arguments are then videos.")
@set_option
@click.option("--resume", is_flag=True, help="Go on with the run of this name.")
@click.option(
    "--overwrite", is_flag=True, help="Replace the run of this name, the files of its sinks, and that of --trace."
)
@click.option("--name", help="Name of the run.")
@click.option("--limit", type=click.IntRange(min=1), help="Label at most so many frames of each source.")
@click.option(
    "--trace",
    type=click.Path(path_type=Path),
    metavar="FILE.json",
    help="Write a timeline of every batch, for ui.perfetto.dev.",
)
@click.option(
    "--page", type=click.IntRange(0, 65535), metavar="PORT", help="Show how it goes at http://127.0.0.1:PORT."
)
@click.option(
    "--fault",
    "faults",
    multiple=True,
    metavar="KIND@PLACE:NUMBER[:SOURCE]",
    help="A test tool: make something go wrong, see docs/reliability.md.",
)
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
    trace: Path | None,
    page: int | None,
    faults: tuple[str, ...],
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
    settings += [f"page.port={page}"] if page is not None else []
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
    log_to_stderr(logging.INFO if verbose else logging.WARNING)
    stop, reread = Stop(), Request()
    with _signals_stop(stop, reread):
        if not quiet:
            click.echo("loading...", err=True)
        from pipeline.faults import parse_fault
        from pipeline.progress import RunProgress
        from pipeline.report import report
        from pipeline.runner import run as start

        found = [parse_fault(text) for text in faults]

        try:
            if quiet:
                outcome = start(config, mode=mode, stop=stop, reread=reread, trace=trace, faults=found)
            else:
                with RunProgress() as progress:
                    outcome = start(
                        config, mode=mode, stop=stop, reread=reread, watcher=progress, trace=trace, faults=found
                    )
        except ModelError as error:  # one that a run meets on its way is part of its outcome
            raise ConfigError([str(error)]) from error
    if not quiet:
        click.echo(visible(report(outcome.summary, outcome.folder.path)), err=True)
    leave(outcome.exit_code)


def _refuse_video(path: str) -> None:
    """A video where a configuration is expected is a common slip; YAML's own complaint would not help."""
    from pipeline.sources.paths import VIDEO_SUFFIXES

    if Path(path).suffix.lower() in VIDEO_SUFFIXES:
        raise ConfigError([f"{path}: must be a configuration, got a video; add --model FILE to label it"])


@click.command()
@click.argument("config", type=click.Path())
@set_option
@click.option("--send", is_flag=True, help="Of a run: send its receivers an event of the source `test`.")
def check(config: str, overrides: tuple[str, ...], send: bool) -> None:
    """Check CONFIG, of a run or a training: names every problem with file and line, starts nothing.

    With --send, also send each webhook, MQTT broker and database an event of the source `test`, and say what became of
    it.

    Of a run, no source is opened; networks of one's own are built and their weights loaded. Of a training, the network
    is built and the labels are read and held against their clips, as `vpipe train` does before its first epoch; the
    frames of clips are not decoded.

    Exit codes: 0 fine; 1 a clip or another file cannot be read, or a receiver did not take its event; 2 wrong usage,
    configuration or labels.
    """
    from pipeline.config import TrainConfig, load_config

    loaded = load_config(config, overrides=overrides)
    log_to_stderr(logging.WARNING)
    warnings = loaded.warnings
    if isinstance(loaded, TrainConfig):
        from pipeline.preparation import prepare
        from pipeline.training import refuse_taken

        if send:
            raise click.UsageError("--send goes with the configuration of a run")
        ready = prepare(loaded, outline=True)
        click.echo(ready.told, err=True)
        warnings = ready.warnings
        try:
            refuse_taken(loaded, overwrite=False)
        except ConfigError as error:
            warnings += error.problems
    else:
        from pipeline.configcheck import absent_decoder, taken_sinks

        absent = absent_decoder(loaded)
        warnings = (*warnings, *taken_sinks(loaded), *([] if absent is None else [absent]))
        if any(OBJECT.fullmatch(section.model) for section in loaded.filters):
            from pipeline.assembly import open_models

            try:
                open_models(loaded)
            except ModelError as error:
                raise ConfigError([str(error)]) from error
    for warning in warnings:
        click.echo(visible(f"warning: {warning}"), err=True)
    if send and not isinstance(loaded, TrainConfig) and not _are_sent(loaded):
        leave(FAILED)
    click.echo(f"{config}: fine")


def _are_sent(config: RunConfig) -> bool:
    """Sends each receiver a test event, and says what became of it; whether all took theirs."""
    from pipeline.assembly import try_receivers

    found = try_receivers(config)
    if not found:
        raise click.UsageError("--send goes with a sink that sends, and there is none")
    for name, why in found.items():
        told = "took an event of the source test" if why is None else f"must take an event, got {why}"
        click.echo(f"{name}: {told}", err=True)
    return not any(found.values())


@click.command()
@click.argument("paths", nargs=-1, required=True, metavar="PATH...")
@click.option("--json", "as_json", is_flag=True, help="Machine-readable, one object a line.")
@click.option(
    "--regions", "config", metavar="FILE", help="A configuration of a run or a training, or a file of regions."
)
@click.option("--px", "in_pixels", is_flag=True, help="The numbers of a file of regions are pixels.")
@click.option(
    "--picture", "out", type=click.Path(path_type=Path), metavar="FILE.png", help="Draw them on a frame of the video."
)
@click.option(
    "--at",
    "at_s",
    type=Finite(min=0),
    metavar="SECONDS",
    help="The frame, from the video's first on. Default: in its middle.",
)
@overwrite_option
def probe(
    paths: tuple[str, ...],
    as_json: bool,
    config: str | None,
    in_pixels: bool,
    out: Path | None,
    at_s: float | None,
    overwrite: bool,
) -> None:
    """Say what a video holds, what is wrong with it, and what vpipe would do with it.

    With --regions FILE and --picture FILE.png, also show where its regions lie: those of a file of regions, or those
    that a configuration has for this video, else those for all.
    """
    from pipeline.probe import probe as look
    from pipeline.sources.paths import videos_at

    if (config is None) != (out is None):
        raise click.UsageError("--regions and --picture go together")
    if out is None and (at_s is not None or overwrite or in_pixels):
        raise click.UsageError("--at, --px and --overwrite go with --picture")
    log_to_stderr(logging.WARNING)
    videos = videos_at(paths)
    regions: Sequence[Region] = ()
    if config is not None and out is not None:
        if len(videos) > 1:
            raise click.UsageError(f"--picture shows one video, and {len(videos)} are given")
        from pipeline.regionpicture import draw_regions, regions_for

        check_output(out, given_by="--picture", overwrite=overwrite, suffix=".png")
        regions = regions_for(config, videos[0], in_pixels=in_pixels)
    bad = 0
    for video in videos:
        found = look(video)
        bad += "error" in found
        click.echo(json.dumps(found) if as_json else facts(str(video), found))
    if out is not None and not bad:
        draw_regions(videos[0], regions, out, at_s=at_s)
        click.echo(out, err=as_json)
    leave(FAILED if bad else 0)


@click.command()
@click.argument("run", type=click.Path(path_type=Path))
@click.option("--source", "sources", multiple=True, metavar="NAME", help="Draw this source. May be repeated.")
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    metavar="FILE.png",
    help="The picture. Default: RUN/strip.png, which is drawn anew.",
)
@overwrite_option
def strip(run: Path, sources: tuple[str, ...], out: Path | None, overwrite: bool) -> None:
    """Draw what the run in folder RUN said, over time, under frames of its footage."""
    if out is not None:
        check_output(out, given_by="--out", overwrite=overwrite, suffix=".png")
    from pipeline.picture import strip as draw
    from pipeline.runs import RunFolder

    out = out or RunFolder(run).strip
    for note in draw(run, out, sources=sources):
        click.echo(note, err=True)
    click.echo(out)


@contextmanager
def _signals_stop(stop: Stop, reread: Request) -> Iterator[None]:
    """The first SIGINT or SIGTERM asks the run to stop, the second leaves at once. SIGHUP asks it to read its cameras
    again.

    Behind the block, whose end is the run's, neither does anything any more: the exit code is to tell how it ended.
    """

    def handle(number: int, frame: FrameType | None) -> None:
        if stop:
            os._exit(130)
        stop.set()
        with suppress(OSError):  # nobody listens
            os.write(2, STOPPING)

    before = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
    if hasattr(signal, "SIGHUP"):  # not on Windows
        before[signal.SIGHUP] = signal.signal(signal.SIGHUP, lambda number, frame: reread.set())
    try:
        yield
    except BaseException:
        for number, handler in before.items():
            signal.signal(number, handler)
        raise
    for number in before:
        signal.signal(number, signal.SIG_IGN)
