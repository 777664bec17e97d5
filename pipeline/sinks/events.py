"""The run's own record of events, which hands them on to the other sinks.

    <folder>/events.parquet                                            of files: written when the run is done
    <folder>/events/<UTC date>/<time, 6 digits>-<number>.parquet       of cameras: what ended since the one before

A row is an event that is over: source, region, filter, label, clock, first_frame, last_frame, began_s, ended_s,
best_frame, best_score, thumbnail (a JPEG, or null). Of files, events are found in the committed
parts when the run is done, so that one that was resumed has them whole; of cameras, in rows as they come. There an
event that is under way when the run is stopped ends with it, and one whose camera is away as soon as no row came for
long enough by the run's clock, for none may ever come that tells.
"""

from __future__ import annotations

import logging
import math
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.batch import FrameBatch, Pixels, SegmentEnd
from pipeline.contracts import Sink, Watcher
from pipeline.errors import SourceError
from pipeline.events import Event, EventRule, Track
from pipeline.files import make_folder, whole_file
from pipeline.rows import Labelling
from pipeline.sinks.parts import committed, disk_errors, open_part, part_path
from pipeline.sources.camera import Preview
from pipeline.sources.file import FileSource
from pipeline.sources.stills import as_jpeg, read_stills
from pipeline.text import printable
from specialized.objects import one_line

__all__ = ["EventsSink", "Rules"]

Rules = Mapping[str, Mapping[str, EventRule]]
"""By the name of a filter, and of one of its classes."""

log = logging.getLogger(__name__)

WIDTH = 320  # of a thumbnail, in pixels
PREVIEWS = 8  # of a camera, about a second apart: rows that are later than that are beyond all bounds
AT_ONCE = 64  # events that are told and written together
LOOK_S = 1.0  # between looks for what is silent
LATE_S = 1.0  # so much later than the row before a row may come, beside the time between their frames

SCHEMA = pa.schema(
    [
        *(pa.field(name, pa.string(), nullable=name == "region") for name in ("source", "region", "filter", "label")),
        pa.field("clock", pa.string(), nullable=False),
        *(pa.field(name, pa.int64(), nullable=False) for name in ("first_frame", "last_frame")),
        *(pa.field(name, pa.float64()) for name in ("began_s", "ended_s")),
        pa.field("best_frame", pa.int64(), nullable=False),
        pa.field("best_score", pa.float32(), nullable=False),
        pa.field("thumbnail", pa.binary()),
    ]
)


_Key = tuple[str, str | None, str, str]  # source, region, filter, label


class _Rows(NamedTuple):
    """Some rows of one source and filter, in order."""

    source: str
    filter: str
    frame: npt.NDArray[np.int64]  # (N,)
    time_s: npt.NDArray[np.float64]  # (N,)
    clock: Literal["utc", "pts"]
    regions: Sequence[str]
    region: npt.NDArray[np.int32]  # (N,), place in `regions`; -1: the whole frame
    scores: npt.NDArray[np.float32]  # (N, K)


class _Shot(NamedTuple):
    """A picture of an event by its first frame, and the score of the frame that it shows."""

    since: int
    score: float
    picture: Pixels


class EventsSink(Sink):
    """Finds the events of a run.

    Args:
        folder: The run's folder.
        rules: What makes them.
        labellings: Of the filters, by name.
        sources: Names of the sources, and of those that are files, the file.
        sinks: Told of each, at both of its times.
        watchers: Likewise, after the sinks.
        preview: Of a camera, by its name, a frame that is about a second old, if there is one. None: the sources are no
            cameras.
        clock: Seconds; of files nobody asks it.
    """

    def __init__(
        self,
        folder: Path,
        rules: Rules,
        labellings: Mapping[str, Labelling],
        *,
        sources: Mapping[str, FileSource | None],
        sinks: Sequence[Sink],
        watchers: Sequence[Watcher] = (),
        preview: Callable[[str], Preview | None] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._folder, self._rules, self._labellings = folder, rules, labellings
        self._sources, self._sinks, self._watchers, self._preview = sources, sinks, watchers, preview
        self._tracks: dict[_Key, Track] = {}
        self._previews: dict[str, deque[Preview]] = {}  # of cameras
        self._shots: dict[_Key, _Shot] = {}  # of events under way
        self._over: list[Event] = []
        self._files = 0
        self._clock = clock
        self._written_s = math.inf  # by the clock, the last batch of a camera
        self._now_s = 0.0  # time in which batches of cameras came, ticks too
        self._looked_s = 0.0  # likewise, when silent ones were last looked for
        self._heard_s: dict[_Key, float] = {}  # likewise, the last rows of each track

    def write(self, batch: FrameBatch) -> None:
        if self._preview is None:
            return
        self._pass()
        if len(batch) and batch.filter in self._rules:
            rows = _of_batch(batch)
            self._keep(rows.source, self._preview(rows.source))
            for key, events in self._found(rows):
                self._heard_s[key] = self._now_s
                for event in events:
                    if not event.is_over:
                        self._look(key, rows, since=event.first_frame)
                    self._tell([replace(event, thumbnail=self._thumbnail(key))])
                    if event.is_over:
                        self._shots.pop(key, None)
                if (first := self._tracks[key].first_frame) is None:
                    self._shots.pop(key, None)
                else:
                    self._look(key, rows, since=first)
        if self._now_s - self._looked_s >= LOOK_S:
            self._looked_s = self._now_s
            if silent := [key for key, track in self._tracks.items() if self._is_silent(key, track)]:
                self._end(silent)
                self._save_cameras()  # no window of theirs may ever end again

    def commit(self, end: SegmentEnd) -> None:
        if self._preview is not None:
            self._save_cameras()

    def finish(self) -> None:
        if self._preview is not None:
            self._end([*self._tracks])
            self._save_cameras()
            return
        path = self._folder / "events.parquet"
        known = _known(path)
        with disk_errors(path), whole_file(path) as file, pq.ParquetWriter(file, SCHEMA) as writer:
            for source, video in self._sources.items():
                found: list[Event] = []
                for end in committed(self._folder, source):
                    for filter in self._rules:
                        for rows in _of_part(part_path(self._folder, filter, end.segment), source, filter):
                            found += [event for _, events in self._found(rows) for event in events]
                found += [event for track in self._tracks.values() for event in track.close()]
                self._tracks.clear()
                for some in _with_thumbnails(found, video):
                    self._tell(some, known)
                    if self._over:
                        writer.write_table(self._told())
            for sink in self._sinks:
                sink.sync()  # or a power cut could take what the table says was told

    def _found(self, rows: _Rows) -> Iterator[tuple[_Key, list[Event]]]:
        """What some rows tell, track by track."""
        classes = self._labellings[rows.filter].classes
        for place in np.unique(rows.region).tolist():
            mine = rows.region == place
            region = None if place < 0 else rows.regions[place]
            for label, rule in self._rules[rows.filter].items():
                key = rows.source, region, rows.filter, label
                if key not in self._tracks:
                    self._tracks[key] = Track(
                        rule, source=rows.source, region=region, filter=rows.filter, label=label, clock=rows.clock
                    )
                score = rows.scores[mine, classes.index(label)]
                yield key, list(self._tracks[key].add(rows.frame[mine], rows.time_s[mine], score))

    def _pass(self) -> None:
        """Lets time pass. What a run is held up for, by a receiver or as its process was stopped, is no silence of its
        cameras: their frames wait."""
        now_s = self._clock()
        self._now_s += min(max(0.0, now_s - self._written_s), LOOK_S)
        self._written_s = now_s

    def _is_silent(self, key: _Key, track: Track) -> bool:
        return self._now_s - self._heard_s[key] > track.silent_s + LATE_S

    def _end(self, keys: Sequence[_Key]) -> None:
        """Tells that these tracks of cameras are at their end. Rows that come again begin others."""
        for key in keys:
            events = self._tracks.pop(key).close()
            self._tell(replace(event, thumbnail=self._thumbnail(key)) for event in events)
            self._shots.pop(key, None)
            del self._heard_s[key]

    def _keep(self, source: str, preview: Preview | None) -> None:
        """Keeps the last previews of a camera: its rows may come seconds later."""
        kept = self._previews.setdefault(source, deque(maxlen=PREVIEWS))
        if preview is not None and (not kept or kept[-1].frame != preview.frame):
            kept.append(preview)

    def _look(self, key: _Key, rows: _Rows, *, since: int) -> None:
        """Keeps a frame of the event that began at `since` if it is better than the one that is kept. One that is not
        among the rows is better than none: the nearest to its begin."""
        previews = self._previews[rows.source]
        if not previews:
            return
        nearest = min(previews, key=lambda preview: abs(preview.frame - since))
        best = _Shot(since, -math.inf, nearest.picture)
        for preview in previews:
            if max(since, rows.frame[0]) <= preview.frame <= rows.frame[-1]:
                score = self._score(key, rows, preview.frame)
                best = max(best, _Shot(since, score, preview.picture), key=lambda shot: shot.score)
        known = self._shots.get(key)
        if known is None or known.since != since or best.score > known.score:
            self._shots[key] = best

    def _score(self, key: _Key, rows: _Rows, frame: int) -> float:
        """That of a frame; minus infinity where the rows have it not."""
        _, region, filter, label = key
        place = -1 if region is None else rows.regions.index(region)
        (found,) = np.nonzero((rows.frame == frame) & (rows.region == place))
        if not len(found):
            return -math.inf
        return float(rows.scores[found[0], self._labellings[filter].classes.index(label)])

    def _thumbnail(self, key: _Key) -> bytes | None:
        return as_jpeg(self._shots[key].picture) if key in self._shots else None

    def _tell(self, events: Iterable[Event], known: Mapping[str, Mapping[str, object]] | None = None) -> None:
        """Hands events on; those that an earlier run of the same files has told as they are to sinks alone that take
        them again."""
        for event in events:
            is_known = known is not None and _is_known(event, known)
            for sink in self._sinks:
                if not is_known or sink.takes_again:
                    sink.event(event)
            if not is_known:
                for watcher in self._watchers:
                    watcher.event(event)
            if event.is_over:
                self._over.append(event)

    def _save_cameras(self) -> None:
        """Writes what is over, if anything is."""
        if self._over:
            self._files += 1
            self._save(self._folder / "events" / f"{datetime.now(UTC):%Y-%m-%d/%H%M%S}-{self._files:06d}.parquet")

    def _save(self, path: Path) -> None:
        with disk_errors(path):
            make_folder(path.parent)
            with whole_file(path) as file:
                pq.write_table(self._told(), file)

    def _told(self) -> pa.Table:
        """Of what is over, a row each; once."""
        over, self._over = self._over, []
        return pa.Table.from_pylist([event.told() for event in over], SCHEMA)


def _known(path: Path) -> dict[str, Mapping[str, object]]:
    """The events of a table that was written when all of them had been told: by their keys, as they ended."""
    if not path.exists():
        return {}
    try:
        rows = pq.read_table(path, columns=[name for name in SCHEMA.names if name != "thumbnail"]).to_pylist()
    except (OSError, pa.ArrowException) as error:
        log.warning("%s: cannot be read any more (%s); all events are told again", path, one_line(error))
        return {}
    made = (Event(**_finite(row), is_over=True) for row in rows)
    return {event.key: _facts(event) for event in made}


def _finite(row: Mapping[str, object]) -> dict[str, Any]:
    return {name: math.nan if value is None and name.endswith("_s") else value for name, value in row.items()}


def _is_known(event: Event, known: Mapping[str, Mapping[str, object]]) -> bool:
    """Of the begin of an event that is known its end is, too, unless that came otherwise: then both are told."""
    before = known.get(event.key)
    return before is not None and (not event.is_over or before == _facts(event))


def _facts(event: Event) -> Mapping[str, object]:
    facts = event.told()
    del facts["thumbnail"]
    return facts | {"best_score": float(np.float32(event.best_score))}


def _with_thumbnails(events: Sequence[Event], file: FileSource | None) -> Iterator[list[Event]]:
    """The same, a few at a time, with pictures of a file; without, where it does not give them any more, or there is
    none."""
    jpegs: dict[int, bytes] = {}
    if file is not None and events:
        try:
            for number, still in read_stills(file, {event.best_frame for event in events}, width=WIDTH):
                jpegs[number] = as_jpeg(still)
        except SourceError as error:
            log.warning("%s; its events have no thumbnails", error)
    for first in range(0, len(events), AT_ONCE):
        yield [replace(event, thumbnail=jpegs.get(event.best_frame)) for event in events[first : first + AT_ONCE]]


def _of_batch(batch: FrameBatch) -> _Rows:
    assert batch.scores is not None
    captured = batch.captured_s
    region = np.full(len(batch), -1, np.int32) if batch.region is None else batch.region.astype(np.int32)
    return _Rows(
        printable(batch.source),
        batch.filter,
        batch.index,
        batch.pts_s if captured is None else captured,
        "pts" if captured is None else "utc",
        batch.regions,
        region,
        batch.scores,
    )


def _of_part(path: Path, source: str, filter: str) -> Iterator[_Rows]:
    """The rows of a committed part, as many at a time as it keeps together."""
    with open_part(path) as part:
        for group in range(part.num_row_groups):
            rows = part.read_row_group(group, ["frame", "region", "pts_s", "captured", "scores"]).combine_chunks()
            if not len(rows):
                continue
            captured = rows["captured"].null_count < len(rows)
            if captured:
                time_s = rows["captured"].cast(pa.int64()).to_numpy().astype(np.float64) / 1e6
            else:
                time_s = rows["pts_s"].to_numpy().astype(np.float64)
            names = rows["region"].chunk(0)
            yield _Rows(
                printable(source),
                filter,
                rows["frame"].to_numpy(),
                time_s,
                "utc" if captured else "pts",
                names.dictionary.to_pylist(),
                names.indices.fill_null(-1).to_numpy(zero_copy_only=False).astype(np.int32),
                rows["scores"].chunk(0).flatten().to_numpy().reshape(len(rows), -1),
            )
