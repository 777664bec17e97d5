"""What a run decodes, and how it is folded: the part of it that `vpipe run` and `pipeline.label` share."""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from pipeline.assembly import Model, Sources, formats_of, open_sources
from pipeline.batch import FoldedBatch, FrameBatch, Segment, SegmentEnd
from pipeline.config import RunConfig
from pipeline.errors import ConfigError
from pipeline.faults import Fault, FaultyDecoder
from pipeline.filter import LONGEST_WAIT_S, Filter, Told, folded_filter
from pipeline.fold import Grouping, fold
from pipeline.schema import DecodeSection
from pipeline.sources import pool
from pipeline.sources.file import FileSource, regions_outside
from pipeline.sources.isolate import Isolated
from pipeline.sources.paths import passed_over
from pipeline.sources.scaler import PictureFormat
from pipeline.threads import Stop
from pipeline.times import Times
from specialized.orders import Order

__all__ = ["Plan", "make_plan"]

log = logging.getLogger(__name__)

MOST_NAMED = 8  # sources in a message
GRACE_S = 3.0  # for cameras to end their windows when the run is stopped
STEP_TOLERANCE = 2.0  # times between grouped frames that differ by more than this from training's are worth a warning


@dataclass(frozen=True, slots=True)
class Plan:
    """What is to be decoded, and how it is folded for the filters.

    `trained_s` holds, where they matter, the steps in time between the frames that models were trained on, and the
    names of their filters.
    """

    sources: Sources
    groupings: tuple[Grouping, ...]
    filters: tuple[Filter, ...]
    seed: int
    max_wait_s: float
    decode_section: DecodeSection
    faults: tuple[Fault, ...]
    trained_s: Mapping[float, Sequence[str]]

    @property
    def is_live(self) -> bool:
        """Whether it goes on until it is stopped."""
        return self.sources.cameras is not None

    @property
    def f(self) -> int | None:
        """Pictures per group, where all filters have the same."""
        found = {grouping.f for grouping in self.groupings}
        return found.pop() if len(found) == 1 else None

    @property
    def order(self) -> Order | None:
        """How groups are formed, where it is the same for all filters."""
        found = {grouping.order for grouping in self.groupings}
        return found.pop() if len(found) == 1 else None

    def decode(
        self,
        *,
        workers: int,
        before: Sequence[SegmentEnd] = (),
        stop: Stop | None = None,
        times: Times | None = None,
    ) -> Generator[FrameBatch]:
        """Decodes what is not committed.

        Args:
            workers: Decoders of files, side by side.
            before: The ends of the segments that are committed.
            stop: Ends it; cameras then end their windows.
            times: Told how long it takes.
        """
        stop = stop if stop is not None else Stop()
        committed: defaultdict[str, list[Segment]] = defaultdict(list)
        for end in before:
            committed[end.segment.source].append(end.segment)
        for file in self.sources.files:
            file.committed = committed[file.name]
        units: Iterable[pool.Unit] = self.sources.files
        if self.order == "streams":
            bundles = pool.bundles(self.sources.files, self.groupings[0].f)
            units = (bundle for bundle in bundles if not all(committed[name] for name in bundle.members))
        others: list[Iterable[FrameBatch]] = [*self.sources.others]
        if self.sources.cameras is not None:
            last = {end.segment.source: end for end in sorted(before, key=lambda end: end.segment.number)}
            others.append(self.sources.cameras.batches(stop=stop, last=last))
        return pool.decode(
            units,
            workers=0 if self.is_live else workers,
            decoder=self._decoder(stop),
            limit_s=self.decode_section.limit_s,
            others=others,
            stop=stop,
            grace_s=GRACE_S if self.is_live else 0.0,
            watch=None if times is None else times.watch,
        )

    def _decoder(self, stop: Stop) -> Callable[[], pool.Decoder]:
        section = self.decode_section

        def decoder() -> pool.Decoder:
            made: pool.Decoder = pool.Here()
            if section.isolate:
                made = Isolated(
                    limit_s=section.limit_s, tries=section.tries, memory_mb=section.limits.memory_mb, stop=stop
                )
            return FaultyDecoder(made, self.faults) if self.faults else made

        return decoder

    def fold(self, batches: Iterator[FrameBatch], *, times: Times | None = None) -> Iterator[FoldedBatch]:
        cameras = self.sources.cameras
        if cameras is None:
            return fold(*self.groupings, seed=self.seed, times=times)(self._compared(batches))
        return fold(
            *self.groupings,
            seed=self.seed,
            max_wait_s=self.max_wait_s,
            cameras=lambda: len(cameras.all),
            times=times,
        )(batches)

    def label(
        self, groups: Iterator[FoldedBatch], *, times: Times | None = None, told: Told | None = None
    ) -> Iterator[FrameBatch]:
        wait_s = self.max_wait_s if self.is_live else LONGEST_WAIT_S
        return folded_filter(self.filters, owed=self._owed, longest_wait_s=wait_s, times=times, told=told)(groups)

    def _owed(self, segment: Segment) -> list[int]:
        """Of each filter, how many pictures it is to score of every frame of a segment."""
        regions = self.sources.regions(segment)
        return [self.groupings[filter.grouping].per_frame(regions) for filter in self.filters]

    def _compared(self, batches: Iterator[FrameBatch]) -> Iterator[FrameBatch]:
        """Passes batches on, and warns once per source whose pictures lie otherwise in time than those of training."""
        compared: set[str] = set()
        for batch in batches:
            if self.trained_s and len(batch) > 1 and batch.source not in compared:
                compared.add(batch.source)
                for step_s, names in self.trained_s.items():
                    _compare_step(batch, step_s, names)
            yield batch


def make_plan(config: RunConfig, models: Sequence[Model], *, faults: Sequence[Fault] = ()) -> Plan:
    """Finds the sources and settles how their frames are grouped. `faults` happen on the way.

    Raises:
        ConfigError: There is nothing to label, two sources have one name, or a region lies outside of a picture.
    """
    cards = [model.card for model in models]
    formats = formats_of(cards)
    wanted = [
        Grouping(
            config.fold.frames or card.fold,
            config.fold.order or card.order,
            formats.index(PictureFormat.of(card)),
            section.regions or (),
        )
        for section, card in zip(config.filters, cards, strict=True)
    ]
    groupings = tuple(dict.fromkeys(wanted))
    f, order = wanted[0].f, wanted[0].order
    filters = tuple(
        replace(model.filter, grouping=groupings.index(grouping))
        for model, grouping in zip(models, wanted, strict=True)
    )
    # A batch is a forward pass: of one source's pictures, or across streams of those of f sources.
    batch_pictures = max(
        model.engine.groups * (1 if order == "streams" else grouping.f)
        for model, grouping in zip(models, wanted, strict=True)
    )
    sources = open_sources(config, cards=cards, order=order, batch_pictures=batch_pictures)
    for fault in faults:
        if fault.source is not None and fault.source not in sources.names:
            some = ", ".join(sources.names[:MOST_NAMED])
            raise ConfigError([f"--fault {fault}: must be of a source of the run ({some}), got {fault.source!r}"])
    _refuse_regions_outside(sources.files)
    if sources.ignored:
        log.warning("%s", passed_over(sources.ignored))
    for warning in config.warnings:
        log.warning("%s", warning)
    if order == "streams" and sources.cameras is not None and len(sources.cameras.all) < f:
        log.warning("order streams: %d cameras do not fill groups of %d, which are padded", len(sources.cameras.all), f)
    if order == "streams" and len(sources.files) % f:
        log.warning(
            "order streams: %d sources do not fill bundles of %d; the last one is padded with repeated pictures",
            len(sources.files),
            f,
        )
    trained_s: dict[float, list[str]] = {}
    for model, grouping in zip(models, wanted, strict=True):
        if model.card.step_s is not None and grouping.f > 1 and grouping.order in ("consecutive", "strided"):
            trained_s.setdefault(model.card.step_s, []).append(model.name)
    return Plan(
        sources,
        groupings,
        filters,
        config.fold.seed,
        config.fold.max_wait_ms / 1000,
        config.decode,
        tuple(faults),
        trained_s,
    )


def _refuse_regions_outside(files: Sequence[FileSource]) -> None:
    """Looks at one file of each section. Of the others, as of those that cannot be opened, their turn will tell."""
    problems: list[str] = []
    for source in {source.views: source for source in reversed(files)}.values():
        problems += regions_outside(source.path, source.name, [r for view in source.views for r in view.regions or ()])
    if problems:
        raise ConfigError(problems)


def _compare_step(batch: FrameBatch, trained_s: float, names: Sequence[str]) -> None:
    """Warns where the pictures of a group lie much closer or farther apart in time than in the training of filters."""
    steps_s = np.diff(np.unique(batch.pts_s[np.isfinite(batch.pts_s)]))
    step_s = float(np.median(steps_s)) if len(steps_s) else 0.0
    if step_s > 0 and not 1 / STEP_TOLERANCE <= step_s / trained_s <= STEP_TOLERANCE:
        log.warning(
            "%s: frames should be about %.3g s apart, as filter %s was trained, got %.3g s; "
            "%s, or train for this footage",
            batch.source,
            trained_s,
            " and ".join(names),
            step_s,
            "set `every:` or `fps:`" if step_s < trained_s else "take more frames (every, fps, decode.frames)",
        )
