"""The sources of a run: files, cameras, and classes of one's own."""

from __future__ import annotations

import inspect
import logging
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Literal, cast

from pipeline.batch import Segment
from pipeline.config import CameraSource, RunConfig, SourceObject
from pipeline.config import FileSource as FileSection
from pipeline.configcheck import absent_decoder
from pipeline.contracts import Source
from pipeline.errors import ConfigError
from pipeline.regionfile import regions_of_each
from pipeline.regions import Region, chosen
from pipeline.schema import NamePattern as NamePatternSection
from pipeline.sources.camera import Camera
from pipeline.sources.container import Limits
from pipeline.sources.file import FileSource, NamePattern, Start
from pipeline.sources.live import LANE, Cameras
from pipeline.sources.own import OwnSource
from pipeline.sources.paths import find_videos
from pipeline.sources.scaler import PictureFormat, View
from pipeline.sources.selection import Frames, Selection
from specialized.modelfile import ModelCard
from specialized.objects import OWN_CODE, load_object, one_line
from specialized.orders import Order

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Sources:
    """The run's sources: video files, which a pool of decoders shares, and others, which run on a thread each."""

    files: tuple[FileSource, ...]
    cameras: Cameras | None
    others: tuple[Source, ...]
    facts: Mapping[str, Mapping[str, object]]  # of the others by name, their sections as they were written
    ignored: tuple[Path, ...]
    of_files: Mapping[str, tuple[str, ...]]  # names of the regions of each file that has some

    def regions(self, segment: Segment) -> tuple[str, ...]:
        """Names of the regions in a segment; none: whole frames."""
        if self.cameras is not None:
            return self.cameras.regions(segment)
        return self.of_files.get(segment.source, ())

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
            others.append(_own_source(section, formats[0], batch_pictures))
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


def _own_source(section: SourceObject, picture: PictureFormat, batch_pictures: int) -> OwnSource:
    """A source of the user's own class, which is offered the pictures' size and the batch length."""
    make = load_object(section.type)
    size = (picture.height, picture.width)
    offered: Mapping[str, object] = {"input": size, "batch_frames": batch_pictures}
    parameters = inspect.signature(make).parameters
    arguments = {name: value for name, value in offered.items() if name in parameters} | section.arguments
    try:
        source = make(**arguments)
    except OWN_CODE as exc:  # the user's constructor may raise anything
        raise ConfigError([f"source {section.type}: must be made of its arguments, got {one_line(exc)}"]) from exc
    if not isinstance(source, Source) or not isinstance(source.name, str):
        raise ConfigError([f"source {section.type}: must be iterable and have a `name`, got {source!r}"])
    return OwnSource(source, size)


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
