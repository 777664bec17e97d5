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
APART = tuple(sorted(RunConfig.model_fields.keys() - {"sources"}))
LABELS_REST_ON = ("filters", "fold", "decode", "regions", "regions_px")


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
            self._refuse_other_labels(config)
            sources = open_sources(config, cards=self._cards, order=self._order, batch_pictures=1)
            if sources.cameras is None:
                raise ConfigError(["sources: must be cameras as they were, got others"])
        except Exception as error:  # nothing here ends the run, nor that the file is read again
            for problem in _told(error):
                log.error("%s", problem)
            log.error("%s: must be right to be read again; the cameras stay as they are", self._config.path)
            return
        if any(getattr(config, key) != getattr(self._config, key) for key in APART):
            log.warning(
                "%s: of a run that goes on only `sources` are read again, the rest at its next start", config.path
            )
        self._change(sources.cameras.all)

    def _refuse_other_labels(self, config: RunConfig) -> None:
        """What all labels rest on stays as it was when the run was started."""
        before, now = self._config.resolved(), config.resolved()
        changed = [key for key in LABELS_REST_ON if before.get(key) != now.get(key)]
        if changed:
            text = "must be as when the run was started, got another, and so other labels; give it a run of its own"
            raise ConfigError([config.problem(text, key) for key in changed])

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
        changed = [name for name in new if name in gone]
        told = {
            "new": [name for name in new if name not in changed],
            "gone": [name for name in gone if name not in changed],
            "changed": changed,
        }
        each = "; ".join(f"{what}: {', '.join(names)}" for what, names in told.items() if names)
        log.info("cameras: %s", each or "as they were")
        self._cameras.change(cameras)


def _told(error: Exception) -> Sequence[str]:
    if isinstance(error, ConfigError):
        return error.problems
    if isinstance(error, (VpipeError, OSError, ImportError)):  # a folder that goes at this moment, say
        return [str(error)]
    return [f"a failure ({type(error).__name__})"]  # that nobody foresaw; its text may hold a secret
