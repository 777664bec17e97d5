"""The run and what stands around it: its folder, its log, what decides its labels, and that nothing is replaced.

What it does is in `pipeline.running`.
"""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager, suppress
from logging.handlers import MemoryHandler, RotatingFileHandler
from pathlib import Path
from typing import TYPE_CHECKING, Literal, cast

from pipeline.assembly import Model, open_models
from pipeline.batch import FrameBatch
from pipeline.config import RunConfig, run_config_from
from pipeline.configcheck import taken_sinks
from pipeline.contracts import Watcher
from pipeline.errors import ConfigError, Interrupted
from pipeline.faults import Fault
from pipeline.identity import identity, identity_changes, stamp
from pipeline.outputs import check_output
from pipeline.plan import Plan, make_plan
from pipeline.rereading import Rereading
from pipeline.running import Outcome, Running
from pipeline.runs import LOGGERS, RunFolder
from pipeline.schema import MetricsSection, PageSection
from pipeline.sinks.parts import discard_damaged, disk_errors, has_parts
from pipeline.sources.file import FileSource
from pipeline.threads import Request, Stop
from pipeline.times import Times
from pipeline.trace import Trace

if TYPE_CHECKING:
    from pipeline.exporter import Endpoint
    from pipeline.page.server import PageServer

__all__ = ["Outcome", "Watcher", "label", "run"]

log = logging.getLogger(__name__)

LOG_BYTES, OLD_LOGS = 10_000_000, 5  # of a run over cameras, which goes on for months


def run(
    config: RunConfig,
    *,
    mode: Literal["new", "overwrite", "resume"] = "new",
    stop: Stop | None = None,
    reread: Request | None = None,
    watcher: Watcher | None = None,
    trace: Path | None = None,
    faults: Sequence[Fault] = (),
) -> Outcome:
    """Labels every frame of the configuration's sources.

    Args:
        config: A checked configuration, see `pipeline.config.load_run_config`.
        mode: What to do about a run folder that is there: `new` refuses it, `overwrite` replaces it, `resume` goes on
            with the segments that are not committed. `new` refuses files at the paths of sinks, too.
        stop: Set it to interrupt the run: what is committed stays, open segments are dropped.
        reread: Set it to have cameras added and removed, as the configuration's file says by now.
        watcher: Told how it goes.
        trace: A new file, `.json`, for a timeline of what every batch spent its time on, see `pipeline.trace`. The mode
            `overwrite` replaces it; resuming makes one of its own.
        faults: What is to go wrong on purpose.

    Raises:
        ConfigError: Nothing was started.
        ModelError: A model cannot be loaded; nothing was started.
        Interrupted: `stop` was set before anything was started.
        SinkError: The disk does not take the run's own files.
    """
    stop = stop if stop is not None else Stop()
    place = RunFolder.at(Path(config.run.dir), config.run.name)
    if mode == "new" and (config.is_live or config.run.resume) and place.run_json.exists():
        mode = "resume"  # cameras' frames go on behind those that are there
    with _kept_log() as kept:
        if mode == "new":
            _refuse_taken(config, place)
        elif mode == "resume":
            place = RunFolder.resume(Path(config.run.dir), config.run.name)  # refuses where there is none, early
        if trace is not None:
            _check_trace(trace, mode)
        models = open_models(config)
        plan = make_plan(config, models, faults=faults)
        if stop:
            raise Interrupted("stopped before anything was started")
        with disk_errors(place.path), ExitStack() as cleanup:
            cleanup.enter_context(place.held())
            endpoint = None if config.metrics is None else cleanup.enter_context(_endpoint(config, config.metrics))
            page = None if config.page is None else cleanup.enter_context(_page(config, config.page))
            folder, sha = _open_folder(config, place, models, plan, mode)
            most_bytes = LOG_BYTES if config.is_live else 0  # none: a run over files ends
            handler = RotatingFileHandler(
                folder.log, maxBytes=most_bytes, backupCount=OLD_LOGS, encoding="utf-8", errors="backslashreplace"
            )
            handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
            cleanup.callback(_closed, handler)
            kept.setTarget(handler)
            cleanup.callback(kept.setTarget, None)
            kept.flush()
            times = Times(None if trace is None else cleanup.enter_context(Trace(trace)).add)
            watchers = () if watcher is None else (watcher,)
            run = Running(config, models, plan, folder, sha, stop, watchers, times, endpoint, page)
            if plan.sources.cameras is not None:
                run.rereading = Rereading(
                    config,
                    plan.sources.cameras,
                    cards=[model.card for model in models],
                    order=plan.groupings[0].order,
                    asked=reread or Request(),
                    stop=stop,
                )
            return run.work()


@contextmanager
def _kept_log() -> Iterator[MemoryHandler]:
    """Keeps what is logged until it has a target, and passes it on from then on: a run's folder is made late."""
    loggers, handler = [logging.getLogger(name) for name in LOGGERS], MemoryHandler(capacity=0)
    for logger in loggers:
        logger.addHandler(handler)
    try:
        yield handler
    finally:
        for logger in loggers:
            logger.removeHandler(handler)
        handler.close()


def _closed(handler: logging.Handler) -> None:
    with suppress(OSError):  # what the disk did not take of the log breaks no run
        handler.close()


def label(
    *videos: str | Path,
    model: str | Path,
    workers: int = 1,
    overrides: Sequence[str] = (),
) -> Iterator[FrameBatch]:
    """Labels videos and yields their frames, without a run folder.

    Args:
        videos: Files, folders or globs.
        model: A model file.
        workers: Decoders side by side. With one, frames come in order; with more, batches of different segments of a
            file alternate (`batch.index` says which frames they are).
        overrides: `key.path=value` each, as `vpipe run --set`.

    Yields:
        Batches with `frames`, `index`, `pts_s` and `scores` (N, K); the class of column k is `classes[k]` of the
        model's card. Where `overrides` give regions, row i is of `regions[region[i]]`. The last batch of a segment
        carries `end`, whose `error` tells of trouble.

    Raises:
        ConfigError, ModelError: Before the first batch.
    """
    config = run_config_from(videos, model, overrides=[*overrides, f"decode.workers={workers}"])
    models = open_models(config)
    plan = make_plan(config, models)
    return _label(plan, workers)


def _label(plan: Plan, workers: int) -> Iterator[FrameBatch]:
    with closing(plan.decode(workers=workers)) as batches:
        yield from plan.label(plan.fold(batches))


def _endpoint(config: RunConfig, section: MetricsSection) -> Endpoint:
    """Takes the port of the metrics. Their library is loaded only where they are asked for."""
    from pipeline.exporter import Endpoint

    with _taking(config, section, "metrics"):
        return Endpoint(section.host, section.port)


def _page(config: RunConfig, section: PageSection) -> PageServer:
    """Takes the port of the page, likewise."""
    from pipeline.page.server import PageServer

    with _taking(config, section, "page"):
        return PageServer(section.host, section.port, section.token)


@contextmanager
def _taking(config: RunConfig, section: MetricsSection | PageSection, key: str) -> Iterator[None]:
    try:
        yield
    except (OSError, ValueError) as error:  # ValueError: no name of a host
        cause = error.strerror if isinstance(error, OSError) and error.strerror else error
        told = f"must be free to listen at, got {section.port} at {section.host}: {cause}; choose another"
        raise ConfigError([config.problem(told, key, "port")]) from error


def _refuse_taken(config: RunConfig, place: RunFolder) -> None:
    """Refuses a run that would replace another one, or files beside it."""
    place.refuse_taken(overwrite=False, kind="run")
    if problems := taken_sinks(config):
        raise ConfigError(problems)


def _check_trace(trace: Path, mode: Literal["new", "overwrite", "resume"]) -> None:
    if mode == "resume" and trace.is_file():
        told = "must not exist yet, as it would tell of what is done now alone; choose another --trace"
        raise ConfigError([f"{trace}: {told}"])
    check_output(trace, given_by="--trace", overwrite=mode == "overwrite", suffix=".json")


def _identity(config: RunConfig, models: Sequence[Model], plan: Plan) -> tuple[dict[str, object], str]:
    """What decides the labels, from the configuration as it was written: secrets stay `${VARIABLE}`."""
    written = config.resolved()
    of_name = dict(zip((section.name for section in config.filters), _sections(written, "filters"), strict=True))
    stamps = {source.name: stamp(source.path, whole=config.run.hash_files) for source in plan.sources.files}
    for source in plan.sources.files:
        source.stamp = stamps[source.name]  # its turn may come hours later
    files = {
        source.name: stamps[source.name]
        | {"selection": dataclasses.asdict(source.selection), "start": str(source.start)}
        | _regions(source)
        for source in plan.sources.files
    }
    decode: dict[str, object] = {"segment_frames": config.decode.segment_frames, "fast": config.decode.fast}
    if config.decode.device != "cpu":
        decode["device"] = config.decode.device.partition(":")[0]
    return identity(
        {**files, **plan.sources.facts},
        decode=decode,
        fold={"frames": plan.f, "order": plan.order, "seed": plan.seed},
        filters={model.name: model.identity(of_name[model.name]) for model in models},
    )


def _regions(source: FileSource) -> dict[str, object]:
    """What is cut out of its pictures for each view, in order, which decides how the order `regions` groups them."""
    told = [None if view.regions is None else list(map(dataclasses.asdict, view.regions)) for view in source.views]
    return {"regions": told} if any(regions is not None for regions in told) else {}


def _sections(written: Mapping[str, object], key: str) -> list[Mapping[str, object]]:
    return cast(list[Mapping[str, object]], written[key])


def _open_folder(
    config: RunConfig,
    place: RunFolder,
    models: Sequence[Model],
    plan: Plan,
    mode: Literal["new", "overwrite", "resume"],
) -> tuple[RunFolder, str]:
    """Makes the run's folder or opens the one to resume."""
    document, sha = _identity(config, models, plan)
    if mode == "resume":
        folder = place
        before = folder.read_identity()
        known = before.get("sources")
        gone = set(known if isinstance(known, dict) else ()) - set(plan.sources.names)
        files = {source.name for source in plan.sources.files}
        untouched = {name for name in files | gone if not has_parts(folder.path, name)}
        changes = identity_changes(before, document, untouched=untouched)
        if changes:
            raise ConfigError([f"{folder.path}: another run: {change}" for change in changes])
        folder.remove_leftovers()
        if not config.is_live:
            discard_damaged(folder.path)
    else:
        folder = RunFolder.create(Path(config.run.dir), config.run.name, overwrite=mode == "overwrite")
    folder.write_run_json(config.resolved(), document)
    return folder, sha
