"""From a configuration to the parts of a run. Behind this module there are no configuration objects, only arguments."""

from __future__ import annotations

import inspect
import logging
import math
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Literal, NamedTuple, cast

from pipeline.config import CameraSource, FilterSection, RunConfig, SourceObject, card_of
from pipeline.config import FileSource as FileSection
from pipeline.configcheck import absent_decoder
from pipeline.contracts import Sink, Source
from pipeline.errors import ConfigError, ModelError
from pipeline.filter import Filter
from pipeline.regionfile import regions_of_each
from pipeline.regions import Column, Region, chosen, columns_of, pictures_of
from pipeline.rows import Labelling
from pipeline.runs import cores
from pipeline.schema import NamePattern as NamePatternSection
from pipeline.sinks import open_sink
from pipeline.sinkschema import CallbackSink, SinkObject, SpooledSection
from pipeline.sources.camera import Camera
from pipeline.sources.container import Limits
from pipeline.sources.file import FileSource, NamePattern, Start
from pipeline.sources.live import LANE, Cameras
from pipeline.sources.own import OwnSource
from pipeline.sources.paths import find_videos
from pipeline.sources.scaler import PictureFormat, View
from pipeline.sources.selection import Frames, Selection
from pipeline.threads import Stop
from specialized.engines import Engine, open_engine
from specialized.modelfile import ModelCard, file_hash, load_model, load_weights, network
from specialized.objects import code_hash, load_object, one_line
from specialized.orders import Order

__all__ = ["Model", "Sources", "engine_threads", "formats_of", "open_models", "open_sinks", "open_sources"]

log = logging.getLogger(__name__)

HEAVY_FLOPS = 1e9  # of a frame: a network then takes about as long as decoding does, on half the cores


@dataclass(frozen=True, slots=True)
class Model:
    """One of the run's models, loaded and ready.

    Attributes:
        name: Name of its filter.
        path: The model file or `package.module:Class`.
        sha256: Of the weights' file; None for a class that brings its own weights.
        card: What it expects and answers.
        engine: What runs it.
        filter: What of its rows goes on.
        labelling: How its scores become labels.
    """

    name: str
    path: str
    sha256: str | None
    card: ModelCard
    engine: Engine
    filter: Filter
    labelling: Labelling

    def identity(self, written: Mapping[str, object]) -> dict[str, object]:
        """What decides its labels: its section as it was written, its weights, its code, and what runs it."""
        settled = {
            "sha256": self.sha256,
            **({"code_sha256": code_hash(self.card.architecture)} if ":" in self.card.architecture else {}),
            "engine": self.engine.name,
            "dtype": self.engine.dtype,
            "device": self.engine.device.partition(":")[0],
        }
        by_content = () if self.sha256 is None else ("weights",) if ":" in self.card.architecture else ("model",)
        without = (*by_content, "events")  # which are found in the labels
        return {key: value for key, value in written.items() if key not in without} | settled

    def facts(self, *, pictures: int, seconds: float) -> dict[str, object]:
        """What the summary says of it, given the pictures that it labelled."""
        cost = self.engine.cost
        return {
            "model": self.path,
            "classes": list(self.card.classes),
            "keep": {self.card.classes[k]: least for k, least in self.filter.keep},
            "parameters": cost.parameters,
            "flops_per_picture": cost.flops_per_picture,
            "intensity": cost.intensity,
            "device": self.engine.device,
            "dtype": self.engine.dtype,
            "engine": self.engine.name,
            "quantized": bool(self.card.ranges),
            "achieved_flops": cost.flops_per_picture * pictures / seconds if seconds else None,
            "share_of_peak": None,
        }


def open_models(config: RunConfig) -> list[Model]:
    """Loads the models of all filters onto their devices.

    Raises:
        ModelError: one of them cannot be loaded or does not run there.
    """
    loaded: list[_Loaded] = []
    models: list[Model] = []
    for section in config.filters:
        with _named(section):
            loaded.append(_load(config, section))
    threads = engine_threads(config, [one.flops for one in loaded])
    for section, one in zip(config.filters, loaded, strict=True):
        with _named(section):
            models.append(one.open(threads))
    return models


def engine_threads(config: RunConfig, flops: Sequence[float]) -> int:
    """Threads of the CPU's engines. It does not depend on the footage, so that labels do not.

    Decoding fills all cores, and a forward pass mostly costs a fraction of it: half of them is plenty, and more threads
    than that wait for each other. Where the networks have more to do, decoders wait for them, and leave them the cores.

    Args:
        config: The run.
        flops: Per picture, of each filter's model.
    """
    if config.run.torch_threads is not None:
        return config.run.torch_threads
    by_source = (
        sum(pictures_of(one.regions or (), names) * each for one, each in zip(config.filters, flops, strict=True))
        for names in _names_of_regions(config)
    )
    most = max(by_source, default=0.0)
    return cores() if most > HEAVY_FLOPS else max(1, cores() // 2)


def _batch(config: RunConfig, section: FilterSection, fold: int) -> int:
    """Pictures in a forward pass. Of cameras there are seldom more at once than those of one frame of each, and a pass
    costs the same however few it has."""
    if "batch" in section.model_fields_set or not config.is_live:
        return section.batch
    at_once = sum(pictures_of(section.regions or (), names) for names in _names_of_regions(config))
    return max(fold, min(section.batch, -(-at_once // fold) * fold))


def _names_of_regions(config: RunConfig) -> list[tuple[str, ...]]:
    """Of each source; none: whole frames."""
    return [tuple(region.name for region in regions or ()) for regions in regions_of_each(config, config.sources)]


@contextmanager
def _named(section: FilterSection) -> Iterator[None]:
    """Says of a model's error which filter's it is."""
    try:
        yield
    except ModelError as error:
        raise ModelError(f"filter {section.name}: {error}") from error


class _Loaded(NamedTuple):
    """The model of a filter in memory."""

    flops: float  # per picture
    open: Callable[[int], Model]  # by the number of threads


def _load(config: RunConfig, section: FilterSection) -> _Loaded:
    from specialized.cost import cost  # loads torch

    card = card_of(section)
    own_class = ":" in card.architecture and card.architecture == section.model
    weights = section.weights if own_class else section.model
    if own_class:
        module = network(card)
        if weights is not None:
            load_weights(module, weights)
        else:
            log.warning(
                "filter %s: no `weights` are given: it answers with those that %s makes", section.name, section.model
            )
    else:
        card, module = load_model(section.model)

    def opened(threads: int) -> Model:
        engine = open_engine(
            card,
            module,
            device=section.device,
            batch=_batch(config, section, card.fold),
            dtype=section.dtype,
            engine=section.engine,
            threads=threads,
        )
        thresholds = card.keep if section.keep == "auto" else section.keep
        keep = tuple((card.classes.index(name), least) for name, least in thresholds.items())
        return Model(
            section.name,
            section.model,
            None if weights is None else file_hash(weights),
            card,
            engine,
            Filter(section.name, engine, keep),
            Labelling(section.name, card.classes, card.task, card.thresholds),
        )

    return _Loaded(cost(module, fold=card.fold, input=card.input).flops_per_picture, opened)


@dataclass(frozen=True, slots=True)
class Sources:
    """The run's sources: video files, which a pool of decoders shares, and others, which run on a thread each."""

    files: tuple[FileSource, ...]
    cameras: Cameras | None
    others: tuple[Source, ...]
    facts: Mapping[str, Mapping[str, object]]  # of the others by name, their sections as they were written
    ignored: tuple[Path, ...]
    of_files: Mapping[str, tuple[str, ...]]  # names of the regions of each file that has some

    def regions(self, source: str) -> tuple[str, ...]:
        """Names of the regions of a source; none: whole frames."""
        if self.cameras is not None:
            return self.cameras.regions(source)
        return self.of_files.get(source, ())

    @property
    def names(self) -> list[str]:
        return [
            *(source.name for source in self.files),
            *(camera.name for camera in (self.cameras.all if self.cameras else ())),
            *(source.name for source in self.others),
        ]


def formats_of(cards: Sequence[ModelCard]) -> list[PictureFormat]:
    """The kinds of pictures that some models take. A view of a source is of one of them."""
    return list(dict.fromkeys(map(PictureFormat.of, cards)))


def open_sources(config: RunConfig, *, cards: Sequence[ModelCard], order: Order, batch_pictures: int) -> Sources:
    """Finds the files and makes the sources; opens none of them.

    Args:
        config: The run.
        cards: Of the models of its filters, in their order.
        order: How pictures are grouped.
        batch_pictures: Of one kind in a batch, about: a batch holds whole frames, a multiple of what models fold.

    Raises:
        ConfigError: two sources end up with one name, or none is left.
    """
    formats = formats_of(cards)
    patterns: dict[PictureFormat, list[tuple[str, ...]]] = {picture: [] for picture in formats}
    for filter, card in zip(config.filters, cards, strict=True):
        patterns[PictureFormat.of(card)].append(filter.regions or ())
    fold = 1 if order == "streams" else math.lcm(*(card.fold for card in cards))
    device = config.decode.device
    limits = Limits(**config.decode.limits.model_dump(exclude={"memory_mb"}))
    if (absent := absent_decoder(config)) is not None:
        log.warning("%s", absent)
        device = "cpu"
    files: list[FileSource] = []
    cameras: list[Camera] = []
    others: list[Source] = []
    facts_of: dict[str, Mapping[str, object]] = {}
    ignored: list[Path] = []
    names: dict[str, tuple[str, ...]] = {}
    written = cast(Sequence[Mapping[str, object]], config.resolved()["sources"])
    seen = regions_of_each(config, config.sources)
    for section, regions, facts in zip(config.sources, seen, written, strict=True):
        if isinstance(section, SourceObject):
            others.append(OwnSource(_own_source(section, formats[0], batch_pictures)))
            facts_of[others[-1].name] = facts
            continue
        views = [View(picture, _seen(regions, patterns[picture])) for picture in formats]
        if isinstance(section, CameraSource):
            cameras.append(_camera(section, views, tuple(region.name for region in regions or ())))
            continue
        most = max(view.pictures for view in views)
        # One picture a frame: groups are then a view of the batch's memory.
        unit = fold if most == 1 else 1
        found = find_videos(section.path, section.name)
        ignored += found.ignored
        if regions is not None:
            names |= {name: tuple(region.name for region in regions) for name, _ in found.videos}
        files += [
            FileSource(
                path,
                name=name,
                views=views,
                batch_frames=unit * max(1, round(batch_pictures / (unit * most))),
                selection=_selection(section, config.run.limit, config.decode.frames),
                segment_frames=config.decode.segment_frames,
                fast=config.decode.fast,
                device=device,
                start=_start(section),
                limits=limits,
            )
            for name, path in found.videos
        ]
    if order == "streams" and others:
        raise ConfigError(["sources: order streams must have files or cameras, got a source of another type"])
    lane = max(LANE, *(2 * card.fold for card in cards))
    live = Cameras(cameras, window_s=config.run.window_s, lane=lane) if cameras else None
    sources = Sources(tuple(files), live, tuple(others), facts_of, tuple(ignored), names)
    twice = sorted(name for name, times in Counter(sources.names).items() if times > 1)
    if twice:
        raise ConfigError([f"sources: names must differ, got {', '.join(twice)} more than once; set `name:`"])
    if not sources.names:
        raise ConfigError([f"sources: must hold a video, got none among {len(ignored)} files; check the paths"])
    return sources


def _seen(regions: tuple[Region, ...] | None, patterns: Sequence[tuple[str, ...]]) -> tuple[Region, ...] | None:
    """Those of a source's regions that some filters see; None: the whole frame."""
    if regions is None:
        return None if () in patterns else ()
    names = tuple(region.name for region in regions)
    wanted = set().union(*(chosen(some, names) for some in patterns))
    return tuple(region for place, region in enumerate(regions) if place in wanted)


def _own_source(section: SourceObject, picture: PictureFormat, batch_pictures: int) -> Source:
    """A source of the user's own class, which is offered the pictures' size and the batch length."""
    make = load_object(section.type)
    offered: Mapping[str, object] = {"input": (picture.height, picture.width), "batch_frames": batch_pictures}
    parameters = inspect.signature(make).parameters
    arguments = {name: value for name, value in offered.items() if name in parameters} | section.arguments
    try:
        source = make(**arguments)
    except Exception as exc:  # the user's constructor may raise anything
        raise ConfigError([f"source {section.type}: must be made of its arguments, got {one_line(exc)}"]) from exc
    if not isinstance(source, Source) or not isinstance(source.name, str):
        raise ConfigError([f"source {section.type}: must be iterable and have a `name`, got {source!r}"])
    return source


def _camera(section: CameraSource, views: Sequence[View], regions: tuple[str, ...]) -> Camera:
    return Camera(
        section.url,
        name=section.name,
        views=views,
        protocol=section.type,
        transport=section.transport,
        fps=section.fps,
        dead_s=section.dead_s,
        regions=regions,
    )


def _selection(section: FileSection, limit: int | None, frames: Frames) -> Selection:
    return Selection(
        every=section.every, fps=section.fps, from_s=section.from_, to_s=section.to, limit=limit, frames=frames
    )


def _start(section: FileSection) -> Start:
    start = section.start
    if start is None:
        return None
    if isinstance(start, NamePatternSection):
        return NamePattern(start.pattern, start.tz)
    if start in ("creation_time", "mtime"):
        return cast(Literal["creation_time", "mtime"], start)
    return datetime.fromisoformat(start)


def open_sinks(
    config: RunConfig,
    *,
    folder: Path,
    sources: Sequence[str],
    stop: Stop,
    live: Mapping[str, Labelling] | None = None,
) -> list[Sink]:
    """The sinks beside the run's own parts; see `open_sink`.

    Raises:
        ConfigError: one of them does not take its options.
    """
    sinks = []
    for section in config.sinks:
        options: Mapping[str, object]
        kind = section.type
        match section:
            case SinkObject():
                options = section.arguments
            case CallbackSink():
                options = {"call": section.call}
            case SpooledSection():
                options = {key: getattr(section, key) for key in type(section).model_fields if key != "type"}
            case _ if live is not None or section.events:
                kind = "live-events" if section.events else f"live-{section.type}"
                options = {"path": section.path, "rotate_mb": section.rotate_mb, "keep_files": section.keep_files}
            case _:
                options = {"path": section.path, "columns": _columns(config) if section.wide else None}
        sinks.append(open_sink(kind, folder=folder, sources=sources, stop=stop, live=live, **options))
    return sinks


def _columns(config: RunConfig) -> dict[Column, str]:
    """Those of the run, whatever its sources: a sink writes their names before it has seen a row."""
    return columns_of(
        {section.name: section.regions or () for section in config.filters},
        _names_of_regions(config),
    )
