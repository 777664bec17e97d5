"""Adding and removing cameras while a run goes on, as the configuration's file says."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence

from pipeline.assembly import open_sources
from pipeline.config import RunConfig, load_run_config
from pipeline.errors import ConfigError, VpipeError
from pipeline.sources.camera import Camera
from pipeline.sources.live import Cameras
from pipeline.threads import Request, Stop
from specialized.modelfile import ModelCard
from specialized.orders import Order

__all__ = ["Rereading"]

log = logging.getLogger(__name__)

LOOK_S = 1.0  # between looks at the file


class Rereading:
    """Reads the configuration again when it is asked to or, with `run.watch`, when its file has changed.

    Args:
        config: As it was read first. One that comes of no file is never read again.
        cameras: Are changed.
        cards: Of the models of its filters, which stay.
        order: How pictures are grouped.
        asked: Set where it is to be read.
        stop: Ends the run: from then on nothing changes.
        clock: Seconds.
    """

    def __init__(
        self,
        config: RunConfig,
        cameras: Cameras,
        *,
        cards: Sequence[ModelCard],
        order: Order,
        asked: Request,
        stop: Stop,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._config, self._cameras, self._cards, self._order = config, cameras, cards, order
        self._asked, self._stop, self._clock = asked, stop, clock
        self._changed_ns = self._stamp()
        self._look_at_s = clock() + LOOK_S

    def look(self) -> None:
        """Does what is asked for by now. What is wrong with the file is said, and the cameras stay as they are."""
        if self._config.path is None or self._stop:
            return
        changed = False
        if self._config.run.watch and self._clock() >= self._look_at_s:
            self._look_at_s = self._clock() + LOOK_S
            before, self._changed_ns = self._changed_ns, self._stamp()
            changed = self._changed_ns not in (before, None)
        if self._asked.taken() or changed:
            self._read()

    def _stamp(self) -> int | None:
        try:
            return None if self._config.path is None else self._config.path.stat().st_mtime_ns
        except OSError:  # an editor puts another in its place
            return None

    def _read(self) -> None:
        assert self._config.path is not None
        try:
            config = load_run_config(self._config.path, overrides=self._config.overrides)
            sources = open_sources(config, cards=self._cards, order=self._order, batch_pictures=1)
            if sources.cameras is None:
                raise ConfigError(["sources: must be cameras as they were, got others"])
        except (VpipeError, OSError, ImportError) as error:  # a folder that goes at this moment, say
            for problem in error.problems if isinstance(error, ConfigError) else [str(error)]:
                log.error("%s", problem)
            log.error("%s: must be right to be read again; the cameras stay as they are", self._config.path)
            return
        if _apart(config) != _apart(self._config):
            log.warning(
                "%s: of a run that goes on only `sources` are read again, the rest at its next start", config.path
            )
        self._change(sources.cameras.all)

    def _change(self, wanted: Sequence[Camera]) -> None:
        there = {camera.name: camera for camera in self._cameras.all}
        cameras = [
            there[camera.name] if camera.name in there and camera.is_like(there[camera.name]) else camera
            for camera in wanted
        ]
        new = [camera.name for camera in cameras if camera not in there.values()]
        gone = [name for name, camera in there.items() if camera not in cameras]
        if self._stop:
            return
        log.info("cameras: new: %s; gone: %s", ", ".join(new) or "none", ", ".join(gone) or "none")
        self._cameras.change(cameras)


def _apart(config: RunConfig) -> dict[str, object]:
    """All but the sources."""
    return {key: value for key, value in config.resolved().items() if key != "sources"}
