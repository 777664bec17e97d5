"""A run under way: sources, folding, filters and sinks tied together, and every segment committed in order.

    decoders ─▶ merge ─▶ fold ─▶ filter ─▶ sinks, then commit when the last batch of a segment has been written

Everything behind `merge` happens in the calling thread.
"""

from __future__ import annotations

import logging
import os
import time
from collections import Counter, deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from pipeline.assembly import Model, open_sinks
from pipeline.batch import FoldedBatch, FrameBatch, SegmentEnd
from pipeline.config import RunConfig
from pipeline.contracts import Sink, Watcher
from pipeline.errors import ConfigError, SinkError, VpipeError
from pipeline.events import EventRule
from pipeline.faults import Fault, FaultySink
from pipeline.files import write_json
from pipeline.ledger import EXIT_CODES, Earlier, Ledger, State, run_state, summary
from pipeline.machine import cores
from pipeline.memory import give_back
from pipeline.monitor import Monitor
from pipeline.plan import Plan
from pipeline.rereading import Rereading
from pipeline.retention import Removed, free_bytes, make_room
from pipeline.runs import RunFolder
from pipeline.sinks.delivery import SpooledSink
from pipeline.sinks.events import EventsSink, Rules
from pipeline.sinks.parts import DamagedPartError, PartsSink, committed, discard_damaged, disk_errors, newest, part_path
from pipeline.telemetry import Telemetry
from pipeline.threads import Stop, every
from pipeline.times import TimedSink, Times

if TYPE_CHECKING:
    from pipeline.exporter import Endpoint, RunCollector
    from pipeline.page.content import Content
    from pipeline.page.server import PageServer
    from pipeline.sources.camera import Camera

__all__ = ["Outcome", "Running"]

log = logging.getLogger(__name__)

ROOM_S = 600.0  # between looks at what is old
FULL_S = 2.0  # and at how full the disk is
REREAD_S = 0.25  # between looks whether the configuration is to be read again
LAG_S = 10.0  # of a camera, unless `metrics` says another
TRIM_S = 2.0  # between two times that freed memory is given back
KEPT_ENDS = 100  # of a camera's segments, for the ledger: nearly a day at ten minutes each
KEPT_LOST = 1000  # ranges of lost frames in those, unless the last segment has more


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


@dataclass
class Running:
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
    page: PageServer | None = None
    monitor: Monitor = field(init=False)
    receivers: Sequence[SpooledSink] = ()
    events: EventsSink | None = None
    pictures: Counter[int] = field(default_factory=Counter)  # by the number of the grouping, without padding
    padded: Counter[int] = field(default_factory=Counter)  # slots, likewise
    labelled: int = 0
    dropped: list[SegmentEnd] = field(default_factory=list)
    tails: dict[str, deque[SegmentEnd]] = field(default_factory=dict)  # of cameras, the last ends
    earlier: dict[str, Earlier] = field(default_factory=dict)  # and the sum of those before
    rereading: Rereading | None = None
    to_come: set[Fault] = field(default_factory=set)  # faults at segments and frames
    faulty: FaultySink | None = None
    removed: Removed = field(default_factory=Removed)
    _look_s: float = 0.0  # monotonic time at which to look for what is old
    error: str | None = None

    def __post_init__(self) -> None:
        lag_s = LAG_S if self.config.metrics is None else self.config.metrics.lag_s
        self.monitor = Monitor(self.plan.sources.names, cameras=self._cameras, lag_s=lag_s)
        self.to_come = {fault for fault in self.plan.faults if fault.place != "write"}
        self.watchers = (self.monitor, *self.watchers)  # first, so that the others find it up to date

    def work(self) -> Outcome:
        before = list((newest if self.plan.is_live else committed)(self.folder.path))
        if known := [e for e in before if not self.plan.is_live or e.segment.source in self.plan.sources.names]:
            kind = "cameras are known" if self.plan.is_live else "segments are committed"
            log.info("going on: %d %s already", len(known), kind)
        started = time.perf_counter()
        devices = [model.engine.device_uuid for model in self.models if model.engine.device_uuid is not None]
        uuid = devices[0] if devices else None
        if self.plan.is_live:
            telemetry = Telemetry(self.folder.telemetry_parts, hourly=True, gpu_uuid=uuid)
        else:
            telemetry = Telemetry(self.folder.telemetry, gpu_uuid=uuid)
        with ExitStack() as cleanup:
            cleanup.enter_context(telemetry)
            cleanup.enter_context(every(self.config.telemetry.interval_s, telemetry.sample, name="telemetry"))
            cleanup.enter_context(every(TRIM_S, give_back, name="memory"))
            if self.plan.is_live:
                cleanup.enter_context(every(FULL_S, self._look_for_room, name="retention"))
            if self.rereading is not None:  # apart, as reading takes longer than frames may wait
                cleanup.enter_context(every(REREAD_S, self.rereading.look, name="rereading"))
            cleanup.enter_context(self._served(telemetry))
            self._label(before)
        seconds = time.perf_counter() - started
        outcome = self._finish(seconds, telemetry)
        log.info("%s: %d frames labelled in %.1f s", outcome.state, self.labelled, seconds)
        return outcome

    def _cameras(self) -> Sequence[Camera]:
        cameras = self.plan.sources.cameras
        return () if cameras is None else cameras.all

    @contextmanager
    def _served(self, telemetry: Telemetry) -> Iterator[None]:
        """Shows how the run goes at the endpoint and on the page, if there are any, for as long as the block lasts."""
        with ExitStack() as cleanup:
            if self.endpoint is not None:
                cleanup.enter_context(self.endpoint.serving(self._collector(telemetry), self.monitor.problems))
            if self.page is not None:
                cleanup.enter_context(self.page.serving(self._content(telemetry)))
            yield

    def _collector(self, telemetry: Telemetry) -> RunCollector:
        from pipeline.exporter import RunCollector

        return RunCollector(
            self.config.run.name,
            monitor=self.monitor,
            times=self.times,
            telemetry=telemetry,
            groupings={filter.name: filter.grouping for filter in self.plan.filters},
            pictures=self.pictures,
            padded=self.padded,
            receivers=lambda: self.receivers,
            transfer_s=self._transfer_s,
        )

    def _content(self, telemetry: Telemetry) -> Content:
        from pipeline.page.content import Content

        return Content(
            self.config.run.name,
            monitor=self.monitor,
            telemetry=telemetry,
            labellings={model.name: model.labelling for model in self.models},
            receivers=lambda: self.receivers,
        )

    def _transfer_s(self) -> float:
        return sum(model.engine.transfer_s for model in self.models)

    def _label(self, before: Sequence[SegmentEnd]) -> None:
        """Labels what is not committed. Afterwards every sink is closed, whatever happened."""
        done = {(end.segment.source, end.segment.first_frame) for end in before}
        order = _Order(before, live=self.plan.is_live)
        names = self.plan.sources.names
        with ExitStack() as cleanup:
            try:
                sinks = self._sinks()
                for sink in sinks:
                    cleanup.callback(self._close, sink)
                cleanup.callback(self._hurry)
                for watcher in self.watchers:
                    watcher.begin(names, self._cameras)
                if before and not self.plan.is_live:
                    for sink in sinks:
                        sink.resume(before)
                workers = self.config.decode.workers or cores()
                batches = self.plan.decode(workers=workers, before=before, stop=self.stop, times=self.times)
                cleanup.enter_context(closing(batches))
                groups = self.plan.fold(self._watched(batches), times=self.times)
                told = self.monitor.scored if self.plan.is_live else None
                labelled = self.plan.label(self._counted(groups), times=self.times, told=told)
                for batch in labelled:
                    # Of a bundle or a source of the user's own, what is committed comes again on resuming. A file that
                    # cannot be read any more says so, whatever is committed of it.
                    is_retry = batch.end is not None and batch.end.retry
                    if is_retry or (batch.source, batch.segment.first_frame) not in done:
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
                if self.plan.is_live and self.events is not None:
                    with suppress(VpipeError):
                        self.events.finish()  # whoever was told that something began is told that it is over

    def _sinks(self) -> list[TimedSink]:
        """The run's own record, events, and what the configuration asks for."""
        labellings = {model.name: model.labelling for model in self.models}
        sources = self.plan.sources
        live = labellings if self.plan.is_live else None
        others = open_sinks(self.config, folder=self.folder.path, sources=sources.names, stop=self.stop, live=live)
        self.receivers = [sink for sink in others if isinstance(sink, SpooledSink)]
        parts: Sink = PartsSink(self.folder.path, [*labellings.values()], identity=self.sha)
        if self.plan.faults:
            parts = self.faulty = FaultySink(parts, *self.plan.faults, damage=self._damage)
        opened: list[tuple[str, Sink]] = [("parts", parts)]
        if rules := _rules(self.config):
            files = {source.name: source for source in sources.files}
            self.events = EventsSink(
                self.folder.path,
                rules,
                labellings,
                sources={name: files.get(name) for name in sources.names},
                sinks=others,
                watchers=self.watchers,
                preview=None if sources.cameras is None else sources.cameras.preview,
            )
            opened.append(("events", self.events))
        opened += zip((section.type for section in self.config.sinks), others, strict=True)
        return [TimedSink(kind, sink, self.times) for kind, sink in opened]

    def _damage(self, end: SegmentEnd) -> None:
        """What a disk may do to a part that it was given: a fault made on purpose."""
        for name in end.filters:
            path = part_path(self.folder.path, name, end.segment)
            os.truncate(path, path.stat().st_size // 2)

    def _close(self, sink: Sink) -> None:
        try:
            sink.close()
        except VpipeError as error:
            self.error = self.error or str(error)
            log.error("%s", error)

    def _hurry(self) -> None:
        """What is sent has one time for all, not one after the other: a run is to end within seconds."""
        for sink in self.receivers:
            sink.hurry()

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
            if self.plan.is_live:
                for why in ("corrupt", "dropped", "failed"):  # a line each: it may be so for months
                    if n := getattr(end.counts, why):
                        log.warning("%s: %d of %d frames %s", end.segment.source, n, end.counts.indexed, why)
                self._remember(end)
            else:
                if end.retry:
                    self.dropped.append(end)
                    log.warning("%s: frames from %d on: to be tried again", end.segment.source, end.segment.first_frame)
                else:
                    for lost in end.lost:
                        log.warning("%s: frames %d to %d: %s", end.segment.source, lost.first, lost.last, lost.why)
            if not end.retry:
                self.labelled += end.counts.labelled
            for watcher in self.watchers:
                watcher.committed(end)

    def _look_for_room(self) -> None:
        """Removes what is old, time and again, and the oldest as soon as the disk is nearly full."""
        least = round(self.config.run.min_free_gb * 1e9)
        try:
            if time.monotonic() < self._look_s and free_bytes(self.folder.path) >= least:
                return
            self._look_s = time.monotonic() + ROOM_S
            removed = make_room(
                self.folder.path, keep_days=self.config.run.keep_days, min_free_bytes=least, stop=self.stop
            )
        except OSError as error:  # the next look may tell more
            log.warning("%s: cannot be looked through for what is old: %s", self.folder.path, error.strerror)
            return
        self.removed = Removed(self.removed.old + removed.old, self.removed.for_room + removed.for_room)

    def _remember(self, end: SegmentEnd) -> None:
        """Keeps the last ends of a camera, and the sum of those before: it may run for months."""
        tail = self.tails.setdefault(end.segment.source, deque())
        tail.append(end)
        while len(tail) > KEPT_ENDS or (len(tail) > 1 and sum(len(end.lost) for end in tail) > KEPT_LOST):
            before = self.earlier.get(end.segment.source, Earlier())
            self.earlier[end.segment.source] = before + Earlier.of(tail.popleft())

    def _watched(self, batches: Iterator[FrameBatch]) -> Iterator[FrameBatch]:
        for batch in batches:
            for watcher in self.watchers:
                watcher.decoded(batch)
            if self.to_come:
                self.to_come -= {fault for fault in self.to_come if fault.has_happened(batch)}
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
            ends = [*self._committed(), *self.dropped]
        broken = self.error is not None
        ledger = Ledger(ends, sources=self.plan.sources.names, earlier=self.earlier, broken=broken)
        for problem in ledger.check():
            log.error("the ledger does not add up: %s", problem)
        for fault in (*self.to_come, *(self.faulty.to_come if self.faulty is not None else ())):
            log.warning("--fault %s: has not happened, as nothing came to that place", fault)
        interrupted = bool(self.stop) and not self.plan.is_live  # cameras end when they are stopped
        # What waits for a receiver of cameras' events is sent when the run goes on, as it does; files are done now.
        untold = any(sink.lost or sink.refused or (sink.pending and not self.plan.is_live) for sink in self.receivers)
        state = run_state(ledger, interrupted=interrupted, broken=broken, untold=untold)
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
        if self.receivers:
            document["receivers"] = {
                sink.name: {"sent": sink.sent, "refused": sink.refused, "lost": sink.lost, "pending": sink.pending}
                for sink in self.receivers
            }
        if self.plan.is_live:
            document["removed"] = self.removed._asdict()
        if self.error is not None:
            document["error"] = self.error
        try:
            for path, told in ((self.folder.ledger, ledger.as_dict()), (self.folder.summary, document)):
                with disk_errors(path):
                    write_json(path, told)
        except SinkError as error:
            if self.error is None:
                raise
            log.error("%s", error)  # what broke the run counts
        return Outcome(state, self.folder, document, self.error)

    def _committed(self) -> list[SegmentEnd]:
        """What is committed. A part that is no longer what it was is removed, and the run is broken."""
        try:
            return list(committed(self.folder.path))
        except DamagedPartError as error:
            told = str(error).partition(";")[0]
            self.error = self.error or f"{told}; --resume labels its segment anew"
            log.error("%s", told)
            discard_damaged(self.folder.path)
            return list(committed(self.folder.path))

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
        self._live = live
        self._passed = {(end.segment.source, end.segment.number) for end in committed}
        self._next: dict[str, int] = {}
        if live:  # early windows may have been removed
            for source, number in sorted(self._passed):
                self._next[source] = number + 1
        self._waiting: dict[str, dict[int, SegmentEnd]] = {}

    def ready(self, end: SegmentEnd) -> Iterator[SegmentEnd]:
        """The segments that may be committed now that this one is whole."""
        source = end.segment.source
        if self._live and end.retry:  # nothing came of a camera, and what comes later takes its number
            yield end
            return
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
