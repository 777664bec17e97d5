"""The run: sources, folding, filters and sinks tied together, and every segment committed in order.

    decoders ─▶ merge ─▶ fold ─▶ filter ─▶ sinks, then commit when the last batch of a segment has been written

Everything behind `merge` happens in the calling thread.
"""

from __future__ import annotations

import dataclasses
import logging
import time
from collections import Counter, deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, field
from logging.handlers import MemoryHandler
from pathlib import Path
from typing import TYPE_CHECKING, Literal, cast

from pipeline.assembly import Model, open_models, open_sinks
from pipeline.batch import Counts, FoldedBatch, FrameBatch, SegmentEnd
from pipeline.config import RunConfig, run_config_from
from pipeline.configcheck import taken_sinks
from pipeline.contracts import Sink, Watcher
from pipeline.errors import ConfigError, Interrupted, VpipeError
from pipeline.events import EventRule
from pipeline.identity import identity, identity_changes, stamp
from pipeline.ledger import EXIT_CODES, Ledger, State, run_state, summary
from pipeline.monitor import Monitor
from pipeline.outputs import check_output
from pipeline.plan import Plan, make_plan
from pipeline.rereading import Rereading
from pipeline.retention import Removed, make_room
from pipeline.runs import RunFolder, cores, write_json
from pipeline.schema import MetricsSection
from pipeline.sinks.events import EventsSink, Rules
from pipeline.sinks.parts import PartsSink, committed, disk_errors, newest
from pipeline.sources.file import FileSource
from pipeline.telemetry import Telemetry
from pipeline.threads import Request, Stop, every
from pipeline.times import TimedSink, Times
from pipeline.trace import Trace

if TYPE_CHECKING:
    from pipeline.exporter import Endpoint

__all__ = ["Outcome", "Watcher", "label", "run"]

log = logging.getLogger(__name__)

ROOM_S = 600.0  # between looks at what is old
KEPT_ENDS = 100  # of a camera's segments, for the ledger: nearly a day at ten minutes each


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a run left behind.

    Attributes:
        state: How it ended.
        folder: Its folder.
        summary: What `summary.json` holds.
        error: What broke it, in one line, or None.
    """

    state: State
    folder: RunFolder
    summary: Mapping[str, object]
    error: str | None = None

    @property
    def exit_code(self) -> int:
        return EXIT_CODES[self.state]


def run(
    config: RunConfig,
    *,
    mode: Literal["new", "overwrite", "resume"] = "new",
    stop: Stop | None = None,
    reread: Request | None = None,
    watcher: Watcher | None = None,
    trace: Path | None = None,
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

    Raises:
        ConfigError: Nothing was started.
        ModelError: A model cannot be loaded; nothing was started.
        Interrupted: `stop` was set before anything was started.
        SinkError: The disk does not take the run's own files.
    """
    stop = stop if stop is not None else Stop()
    if mode == "new" and config.is_live and RunFolder(Path(config.run.dir) / config.run.name).run_json.exists():
        mode = "resume"  # cameras' frames go on behind those that are there
    with _kept_log() as kept:
        if mode == "new":
            _refuse_taken(config)
        if trace is not None:
            _check_trace(trace, mode)
        models = open_models(config)
        plan = make_plan(config, models)
        if stop:
            raise Interrupted("stopped before anything was started")
        with disk_errors(Path(config.run.dir) / config.run.name), ExitStack() as cleanup:
            endpoint = None if config.metrics is None else cleanup.enter_context(_endpoint(config, config.metrics))
            folder, sha = _open_folder(config, models, plan, mode)
            handler = logging.FileHandler(folder.log, encoding="utf-8", errors="backslashreplace")
            handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
            cleanup.callback(handler.close)
            kept.setTarget(handler)
            cleanup.callback(kept.setTarget, None)
            kept.flush()
            times = Times(None if trace is None else cleanup.enter_context(Trace(trace)).add)
            watchers = () if watcher is None else (watcher,)
            run = _Run(config, models, plan, folder, sha, stop, watchers, times, endpoint)
            if plan.sources.cameras is not None and plan.order is not None:
                run.rereading = Rereading(
                    config,
                    plan.sources.cameras,
                    cards=[model.card for model in models],
                    order=plan.order,
                    asked=reread or Request(),
                )
            return run.work()


@contextmanager
def _kept_log() -> Iterator[MemoryHandler]:
    """Keeps what is logged until it has a target, and passes it on from then on: a run's folder is made late."""
    logger, handler = logging.getLogger("pipeline"), MemoryHandler(capacity=0)
    logger.addHandler(handler)
    try:
        yield handler
    finally:
        logger.removeHandler(handler)
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

    try:
        return Endpoint(section.host, section.port)
    except (OSError, ValueError) as error:  # ValueError: no name of a host
        cause = error.strerror if isinstance(error, OSError) and error.strerror else error
        told = f"must be free to listen at, got {section.port} at {section.host}: {cause}; choose another"
        raise ConfigError([config.problem(told, "metrics", "port")]) from error


def _rules(config: RunConfig) -> Rules:
    """What makes an event, of each filter that finds some."""
    return {
        section.name: {
            label: EventRule(
                on=rule.on, off=rule.on if rule.off is None else rule.off, min_s=rule.min_s, gap_s=rule.gap_s
            )
            for label, rule in section.events.items()
        }
        for section in config.filters
        if section.events
    }


def _refuse_taken(config: RunConfig) -> None:
    """Refuses a run that would replace another one, or files beside it."""
    RunFolder(Path(config.run.dir) / config.run.name).refuse_taken(overwrite=False, kind="run")
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
    files = {
        source.name: stamp(source.path)
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
    config: RunConfig, models: Sequence[Model], plan: Plan, mode: Literal["new", "overwrite", "resume"]
) -> tuple[RunFolder, str]:
    """Makes the run's folder or opens the one to resume."""
    document, sha = _identity(config, models, plan)
    if mode == "resume":
        folder = RunFolder.resume(Path(config.run.dir), config.run.name)
        changes = identity_changes(folder.read_identity(), document)
        if changes:
            raise ConfigError([f"{folder.path}: another run: {change}" for change in changes])
    else:
        folder = RunFolder.create(Path(config.run.dir), config.run.name, overwrite=mode == "overwrite")
    folder.write_run_json(config.resolved(), document)
    return folder, sha


@dataclass
class _Run:
    """One run under way."""

    config: RunConfig
    models: Sequence[Model]
    plan: Plan
    folder: RunFolder
    sha: str
    stop: Stop
    watchers: tuple[Watcher, ...]
    times: Times
    endpoint: Endpoint | None = None
    monitor: Monitor | None = None
    pictures: Counter[int] = field(default_factory=Counter)  # by the number of the grouping, without padding
    padded: Counter[int] = field(default_factory=Counter)  # slots, likewise
    labelled: int = 0
    dropped: list[SegmentEnd] = field(default_factory=list)
    tails: dict[str, deque[SegmentEnd]] = field(default_factory=dict)  # of cameras, the last ends
    earlier: dict[str, Counts] = field(default_factory=dict)  # and the sum of those before
    rereading: Rereading | None = None
    removed: Removed = field(default_factory=Removed)
    error: str | None = None

    def work(self) -> Outcome:
        before = list((newest if self.plan.is_live else committed)(self.folder.path))
        if before:
            log.info(
                "going on: %d %s", len(before), "cameras" if self.plan.is_live else "segments are committed already"
            )
        started = time.perf_counter()
        devices = [model.engine.device_uuid for model in self.models if model.engine.device_uuid is not None]
        telemetry = Telemetry(self.folder.telemetry, gpu_uuid=devices[0] if devices else None)
        with ExitStack() as cleanup:
            cleanup.enter_context(telemetry)
            cleanup.enter_context(every(self.config.telemetry.interval_s, telemetry.sample, name="telemetry"))
            if self.plan.is_live:
                cleanup.enter_context(every(ROOM_S, self._make_room, name="retention"))
            cleanup.enter_context(self._served(telemetry))
            self._label(before)
        seconds = time.perf_counter() - started
        return self._finish(seconds, telemetry)

    @contextmanager
    def _served(self, telemetry: Telemetry) -> Iterator[None]:
        """Shows how the run goes at the endpoint, if there is one, for as long as the block lasts."""
        if self.endpoint is None or self.config.metrics is None:
            yield
            return
        from pipeline.exporter import RunCollector

        sources = self.plan.sources
        cameras = sources.cameras
        asked = tuple if cameras is None else lambda: cameras.all
        self.monitor = Monitor(sources.names, cameras=asked, lag_s=self.config.metrics.lag_s)
        self.watchers = (self.monitor, *self.watchers)  # first, so that the others find it up to date
        collector = RunCollector(
            self.config.run.name,
            monitor=self.monitor,
            times=self.times,
            telemetry=telemetry,
            groupings={filter.name: filter.grouping for filter in self.plan.filters},
            pictures=self.pictures,
            padded=self.padded,
            transfer_s=self._transfer_s,
        )
        with self.endpoint.serving(collector, self.monitor.problems):
            yield

    def _transfer_s(self) -> float:
        return sum(model.engine.transfer_s for model in self.models)

    def _label(self, before: Sequence[SegmentEnd]) -> None:
        """Labels what is not committed. Afterwards every sink is closed, whatever happened."""
        done, order = (
            {(end.segment.source, end.segment.first_frame) for end in before},
            _Order(before, live=self.plan.is_live),
        )
        names = self.plan.sources.names
        with ExitStack() as cleanup:
            try:
                labellings = {model.name: model.labelling for model in self.models}
                live = labellings if self.plan.is_live else None
                opened: list[Sink] = [
                    PartsSink(self.folder.path, [*labellings.values()], identity=self.sha),
                    *open_sinks(self.config, folder=self.folder.path, sources=names, stop=self.stop, live=live),
                ]
                kinds = ["parts", *(section.type for section in self.config.sinks)]
                if rules := _rules(self.config):
                    paths = {source.name: source.path for source in self.plan.sources.files}
                    events = EventsSink(
                        self.folder.path,
                        rules,
                        labellings,
                        sources={name: paths.get(name) for name in names},
                        others=opened[1:],
                        preview=None if self.plan.sources.cameras is None else self.plan.sources.cameras.preview,
                    )
                    opened, kinds = [opened[0], events, *opened[1:]], ["parts", "events", *kinds[1:]]
                sinks = [TimedSink(kind, sink, self.times) for kind, sink in zip(kinds, opened, strict=True)]
                for sink in sinks:
                    cleanup.callback(sink.close)
                for watcher in self.watchers:
                    watcher.begin(names)
                workers = self.config.decode.workers or cores()
                batches = self.plan.decode(workers=workers, before=before, stop=self.stop, times=self.times)
                cleanup.enter_context(closing(batches))
                groups = self.plan.fold(self._watched(batches), times=self.times)
                told = None if self.monitor is None else self.monitor.scored
                labelled = self.plan.label(self._counted(groups), times=self.times, told=told)
                for batch in labelled:
                    if self.rereading is not None:
                        self.rereading.look()
                    # Of a bundle or a source of the user's own, what is committed comes again on resuming.
                    if (batch.source, batch.segment.first_frame) not in done:
                        self._write(sinks, batch, order)
                if not self.stop or self.plan.is_live:
                    self._commit(sinks, order.rest())
                    for sink in sinks:
                        sink.finish()
            except ConfigError:
                raise
            except VpipeError as error:
                self.error = str(error)
                log.error("%s", error)

    def _write(self, sinks: Sequence[Sink], batch: FrameBatch, order: _Order) -> None:
        for sink in sinks:
            sink.write(batch)
        for watcher in self.watchers:
            watcher.written(batch)
        if batch.end is not None:
            self._commit(sinks, order.ready(batch.end))

    def _commit(self, sinks: Sequence[Sink], ends: Iterable[SegmentEnd]) -> None:
        for end in ends:
            for sink in sinks:
                sink.commit(end)
            if end.error is not None:
                log.warning("%s: %s", end.segment.source, end.error)
            if end.counts.dropped:
                log.warning("%s: %d of %d frames dropped", end.segment.source, end.counts.dropped, end.counts.indexed)
            for lost in (lost for lost in end.lost if lost.why != "dropped"):
                log.warning("%s: frames %d to %d: %s", end.segment.source, lost.first, lost.last, lost.why)
            if self.plan.is_live:
                self._remember(end)
            elif end.retry:
                self.dropped.append(end)
            if not end.retry:
                self.labelled += end.counts.labelled
            for watcher in self.watchers:
                watcher.committed(end)

    def _make_room(self) -> None:
        try:
            removed = make_room(
                self.folder.path,
                keep_days=self.config.run.keep_days,
                min_free_bytes=round(self.config.run.min_free_gb * 1e9),
            )
        except OSError as error:  # the next look may tell more
            log.warning("%s: cannot be looked through for what is old: %s", self.folder.path, error.strerror)
            return
        self.removed = Removed(self.removed.old + removed.old, self.removed.for_room + removed.for_room)

    def _remember(self, end: SegmentEnd) -> None:
        """Keeps the last ends of a camera, and the sum of those before: it may run for months."""
        tail = self.tails.setdefault(end.segment.source, deque())
        tail.append(end)
        if len(tail) > KEPT_ENDS:
            oldest = tail.popleft()
            if not oldest.retry:
                self.earlier[oldest.segment.source] = self.earlier.get(oldest.segment.source, Counts()) + oldest.counts

    def _watched(self, batches: Iterator[FrameBatch]) -> Iterator[FrameBatch]:
        for batch in batches:
            for watcher in self.watchers:
                watcher.decoded(batch)
            yield batch

    def _counted(self, groups: Iterator[FoldedBatch]) -> Iterator[FoldedBatch]:
        for folded in groups:
            self.padded[folded.grouping] += folded.padded
            self.pictures[folded.grouping] += len(folded.slot) - folded.padded
            yield folded

    def _finish(self, seconds: float, telemetry: Telemetry) -> Outcome:
        """Writes ledger and summary, both derived from the committed parts."""
        if self.plan.is_live:
            ends = [end for tail in self.tails.values() for end in tail]
        else:
            ends = [*committed(self.folder.path), *self.dropped]
        ledger = Ledger(ends, sources=self.plan.sources.names, earlier=self.earlier)
        for problem in ledger.check():
            log.error("the ledger does not add up: %s", problem)
        interrupted = bool(self.stop) and not self.plan.is_live  # cameras end when they are stopped
        state = run_state(ledger, interrupted=interrupted, broken=self.error is not None)
        document = summary(
            ledger,
            state=state,
            seconds=seconds,
            labelled=self.labelled,
            stages=self.times.stages(transfer_s=self._transfer_s()),
            fold={"frames": self.plan.f, "order": self.plan.order, "padded_slots": self.padded.total()},
            filters=self._filters(seconds),
            gpu=telemetry.gpu(),
            gpu_absent=telemetry.gpu_absent,
            process=telemetry.process(),
        )
        if self.plan.is_live:
            document["removed"] = self.removed._asdict()
        if self.error is not None:
            document["error"] = self.error
        write_json(self.folder.ledger, ledger.as_dict())
        write_json(self.folder.summary, document)
        return Outcome(state, self.folder, document, self.error)

    def _filters(self, seconds: float) -> dict[str, Mapping[str, object]]:
        """What the summary says of each filter."""
        facts: dict[str, Mapping[str, object]] = {}
        for model, filter in zip(self.models, self.plan.filters, strict=True):
            grouping = self.plan.groupings[filter.grouping]
            facts[model.name] = {
                **model.facts(pictures=self.pictures[filter.grouping], seconds=seconds),
                "fold": grouping.f,
                "order": grouping.order,
                "padded_slots": self.padded[filter.grouping],
                "regions": list(grouping.regions) or None,
            }
        return facts


class _Order:
    """Lets the segments of each source pass in order: one that is whole early waits for those before it."""

    def __init__(self, committed: Iterable[SegmentEnd], *, live: bool) -> None:
        self._passed = {(end.segment.source, end.segment.number) for end in committed}
        self._next: dict[str, int] = {}
        if live:  # early windows may have been removed
            for source, number in sorted(self._passed):
                self._next[source] = number + 1
        self._waiting: dict[str, dict[int, SegmentEnd]] = {}

    def ready(self, end: SegmentEnd) -> Iterator[SegmentEnd]:
        """The segments that may be committed now that this one is whole."""
        source = end.segment.source
        waiting = self._waiting.setdefault(source, {})
        waiting[end.segment.number] = end
        number = self._next.get(source, 0)
        while number in waiting or (source, number) in self._passed:
            self._next[source] = number + 1
            if number in waiting:
                yield waiting.pop(number)
            number += 1

    def rest(self) -> Iterator[SegmentEnd]:
        """Those that still wait when all is done, because a source left out a number."""
        for waiting in self._waiting.values():
            for number in sorted(waiting):
                yield waiting.pop(number)
