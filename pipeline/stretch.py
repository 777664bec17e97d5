"""A stretch of a run's footage that is labelled over and over to be timed, and leaves nothing behind.

It is labelled by whole runs, record included, in a temporary folder. Time counts from the first batch that leaves a
decoder to the last commit: what starting up costs does not grow with the footage.
"""

from __future__ import annotations

import math
import tempfile
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from itertools import count, islice
from time import perf_counter

from pipeline.assembly import open_models, open_sources
from pipeline.batch import FrameBatch, SegmentEnd
from pipeline.config import FileSource, RunConfig
from pipeline.contracts import Watcher
from pipeline.errors import ConfigError, VpipeError
from pipeline.machine import cores
from pipeline.plan import make_plan
from pipeline.runner import run
from pipeline.schema import AnySource
from pipeline.sources.cuts import LEAST_FRAMES
from pipeline.sources.decode import SegmentTask
from pipeline.sources.file import FileSource as File
from pipeline.sources.paths import find_videos
from specialized.modelfile import ModelCard

__all__ = ["Passed", "Stretch", "decode", "label", "stretch_of"]

CUTS_PER_CORE = 8  # so that at the end of the stretch no decoder works alone for long


@dataclass(frozen=True, slots=True)
class Stretch:
    """What is labelled in one measurement.

    Attributes:
        sources: One file each.
        limit: Most frames of a source.
        frames: Of all sources together.
        files: How many there are.
        times_over: How often each is labelled, where the footage is shorter than was asked for.
    """

    sources: tuple[AnySource, ...]
    limit: int
    frames: int
    files: int
    times_over: int

    def of(self, config: RunConfig) -> RunConfig:
        """The configuration for this footage in place of its own, without sinks and metrics."""
        cut = max(LEAST_FRAMES, self.frames // (CUTS_PER_CORE * cores()))
        decoding = {"segment_frames": min(config.decode.segment_frames, cut)}
        return config.model_copy(
            update={
                "sources": self.sources,
                "sinks": (),
                "metrics": None,
                "run": config.run.model_copy(update={"limit": self.limit}),
                "decode": config.decode.model_copy(update=decoding),
            }
        )


def stretch_of(config: RunConfig, card: ModelCard, *, frames: int, least_files: int = 1) -> Stretch:
    """Takes files in their order until they have so many frames; indexes these files.

    Args:
        config: The run.
        card: Of a model that it is for.
        frames: About how many; at most so many of each file, and of shorter footage several times all.
        least_files: So many files where there are as many.

    Raises:
        ConfigError: there is no frame to label, or a source is no file.
    """
    others = [k for k, source in enumerate(config.sources) if not isinstance(source, FileSource)]
    if others:
        told = "must be files where speed is measured, got a source of another type; leave it out"
        raise ConfigError([config.problem(told, "sources", k) for k in others])
    limit = min(frames, config.run.limit or frames)
    limited = config.model_copy(update={"run": config.run.model_copy(update={"limit": limit})})
    opened = open_sources(limited, cards=[card], order=card.order, batch_pictures=1)
    taken: list[tuple[AnySource, int]] = []
    for section, file in zip(_one_by_one(config), opened.files, strict=True):
        if sum(found for _, found in taken) >= frames and len(taken) >= least_files:
            break
        if found := _frames_of(file, limit):
            taken.append((section, found))
    total = sum(found for _, found in taken)
    if not total:
        raise ConfigError([config.problem("must hold frames to label, got none; try `vpipe probe`", "sources")])
    times_over = math.ceil(frames / total)
    sources = tuple(
        section.model_copy(update={"name": f"{number}"})
        for number, section in zip(count(), (section for section, _ in taken * times_over), strict=False)
    )
    return Stretch(sources, limit, total * times_over, len(taken), times_over)


def _one_by_one(config: RunConfig) -> Iterator[FileSource]:
    """The sources with one file each, in the order in which a run takes them."""
    for section in config.sources:
        if isinstance(section, FileSource):
            for _, path in find_videos(section.path, section.name).videos:
                yield section.model_copy(update={"path": str(path)})


def _frames_of(file: File, limit: int) -> int:
    """Frames of a file that are selected, about; 0 if it cannot be read."""
    first = next(islice(file.segments(), 1), None)
    if not isinstance(first, SegmentTask):
        return 0
    return int(first.selected.sum()) if len(first.selected) else min(limit, first.index.frames)


@dataclass(frozen=True, slots=True)
class Passed:
    """One run over the stretch: how fast it was, and what its summary says that it was bound by."""

    frames_per_s: float
    bound_by: str | None


class _Window(Watcher):
    """A watcher that takes the time."""

    def __init__(self) -> None:
        self._began: float | None = None
        self._ended = 0.0
        self._frames = 0

    def decoded(self, batch: FrameBatch) -> None:
        self._ended = perf_counter()
        if self._began is not None:
            self._frames += batch.whole_frames
        elif len(batch):
            self._began = self._ended

    def committed(self, end: SegmentEnd) -> None:
        self._ended = perf_counter()

    def frames_per_s(self, otherwise: float) -> float:
        """Frames after the first batch over the time since; `otherwise` where there was only one."""
        if self._began is None or not self._frames or self._ended <= self._began:
            return otherwise
        return self._frames / (self._ended - self._began)


def label(config: RunConfig) -> Passed:
    """Labels everything that a configuration names, and removes the record.

    Raises:
        VpipeError: the run broke, or a model cannot be loaded.
    """
    window = _Window()
    with tempfile.TemporaryDirectory(prefix="vpipe-tune-") as folder:
        outcome = run(
            config.model_copy(update={"run": config.run.model_copy(update={"dir": folder, "name": "run"})}),
            watcher=window,
        )
    summary = outcome.summary
    if outcome.error is not None or outcome.state == "failed":
        raise VpipeError(outcome.error or "run: must label frames, got none; `vpipe run` says why")
    otherwise, bound = summary["frames_per_s"], summary["bound_by"]
    return Passed(
        window.frames_per_s(float(otherwise) if isinstance(otherwise, (int, float)) else 0.0),
        bound if isinstance(bound, str) else None,
    )


def decode(config: RunConfig) -> Passed:
    """Decodes the same frames to pictures and drops them: what a run with a model that costs nothing would reach.

    Raises:
        VpipeError: a model cannot be loaded.
    """
    window, frames = _Window(), 0
    plan = make_plan(config, open_models(config))
    began = perf_counter()
    with closing(plan.decode(workers=config.decode.workers or cores())) as batches:
        for batch in batches:
            window.decoded(batch)
            frames += batch.whole_frames
    return Passed(window.frames_per_s(frames / (perf_counter() - began)), "decode")
