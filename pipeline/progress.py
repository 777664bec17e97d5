"""How a run goes, on stderr: one bar on a terminal, plain lines elsewhere.

lobby, yard ━━━━━━━━━━━━ 3/20 sources  41,230 frames, 3,512/s  0:00:12
gate is down ━━━━━━━━━━━ 15/16 cameras  41,230 frames, 160/s, 12 dropped  0:04:18
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, TextIO

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from pipeline.batch import FrameBatch, SegmentEnd
from pipeline.contracts import Watcher
from pipeline.text import visible

if TYPE_CHECKING:
    from pipeline.sources.camera import Camera

__all__ = ["RunProgress"]

LINE_S = 10.0  # between plain lines
RATE_S = 2.0  # over which frames/s is measured
SHOWN = 3  # active sources that are named


class RunProgress(Watcher):
    """A `pipeline.contracts.Watcher` that shows frames labelled, frames/s, and the sources at work or not live."""

    def __init__(self, stream: TextIO = sys.stderr) -> None:
        self._stream = stream
        self._bar: Progress | None = None
        self._task = TaskID(0)
        if stream.isatty():
            self._bar = Progress(
                TextColumn("{task.description}", markup=False),
                BarColumn(),
                MofNCompleteColumn(),
                TextColumn("{task.fields[kind]}"),
                TextColumn("[bold]{task.fields[frames]:,}[/] frames, {task.fields[rate]:,.0f}/s{task.fields[dropped]}"),
                TimeElapsedColumn(),
                console=Console(file=stream),
            )
        self._frames = 0
        self._views: dict[str, int] = {}
        self._active: dict[str, int] = {}  # segments being decoded, per source
        self._sources = 0
        self._cameras: Callable[[], Sequence[Camera]] = tuple
        self._seen: set[str] = set()
        self._line_at = self._rate_at = time.monotonic()
        self._rate_from = 0
        self._rate = 0.0

    def __enter__(self) -> RunProgress:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if self._bar is not None:
            self._bar.stop()

    def begin(self, sources: Sequence[str], cameras: Callable[[], Sequence[Camera]] = tuple) -> None:
        self._sources, self._cameras = len(sources), cameras
        self._line_at = self._rate_at = time.monotonic()
        if self._bar is not None:
            kind = "cameras" if cameras() else "sources"
            self._task = self._bar.add_task("labelling", total=len(sources), frames=0, rate=0.0, kind=kind, dropped="")
            self._bar.start()

    def decoded(self, batch: FrameBatch) -> None:
        if len(batch) and self._views.setdefault(batch.source, batch.view) == batch.view:  # one of them counts
            self._frames += batch.whole_frames
        self._active.setdefault(batch.source, 0)
        self._seen.add(batch.source)
        self._show()

    def committed(self, end: SegmentEnd) -> None:
        if end.segment.end_s is None:  # the last of its source
            self._active.pop(end.segment.source, None)
        self._show()

    def _show(self) -> None:
        try:
            self._print()
        except OSError:  # nobody reads any more; the run goes on
            self._stream = open(os.devnull, "w")  # noqa: SIM115
            self._bar = None

    def _print(self) -> None:
        now = time.monotonic()
        if now - self._rate_at >= RATE_S:
            self._rate = (self._frames - self._rate_from) / (now - self._rate_at)
            self._rate_at, self._rate_from = now, self._frames
        if self._bar is None and now - self._line_at < LINE_S:
            return
        self._line_at = now
        cameras = self._cameras()
        if cameras:
            lost = sum(camera.taken.dropped for camera in cameras)
            dropped = f", {lost:,} dropped" if lost else ""
            away = [f"{camera.name} is {camera.state}" for camera in cameras if camera.state != "live"]
            names, done, total = _some(away), len(cameras) - len(away), len(cameras)
            line = f"{dropped}, {done} of {total} cameras live{'; ' if away else ''}{names}"
        else:
            names, done, total = _some(list(self._active)), len(self._seen) - len(self._active), self._sources
            dropped, line = "", f", {done} of {total} sources done; at {names}"
        if self._bar is not None:
            self._bar.update(
                self._task,
                description=names,
                completed=done,
                total=total,
                frames=self._frames,
                rate=self._rate,
                dropped=dropped,
            )
        else:
            print(f"{self._frames:,} frames, {self._rate:,.0f}/s{line}", file=self._stream, flush=True)


def _some(names: Sequence[str]) -> str:
    return visible(", ".join(names[:SHOWN])) + (" ..." if len(names) > SHOWN else "")
