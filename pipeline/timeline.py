"""A source of a finished run over time: what each filter said in columns of time, and frames of the footage.

Labels come from the committed parts, part by part: a year of footage needs no more memory than a minute. Frames are
decoded from the footage where it still lies as the run found it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.errors import SourceError
from pipeline.rows import Labelling, labelling_of
from pipeline.runs import RunFolder
from pipeline.sinks.parts import committed, open_part, part_path
from pipeline.sources.stills import read_stills

__all__ = ["CELLS", "COLUMNS", "Band", "Clock", "Timeline", "read_timelines"]

CELLS = 12  # frames of a strip, each from the middle of its twelfth of the time
COLUMNS = 1200  # into which time is divided
PICTURE_WIDTH = 240  # pixels

Clock = Literal["captured", "pts_s", "frame"]
Float64s = npt.NDArray[np.float64]
Pixels = npt.NDArray[np.uint8]


@dataclass(slots=True)
class Band:
    """What one filter said of one source.

    Attributes:
        labelling: Classes of the filter.
        labels: float64 (COLUMNS, K + 1), rows per label in each column of time; the last is that of rows without one.
        scores: float64 (COLUMNS, K), sums of the scores of those rows.
        rows: int64 (K + 1,), rows per label in all.
    """

    labelling: Labelling
    labels: Float64s
    scores: Float64s
    rows: npt.NDArray[np.int64]


@dataclass(slots=True)
class Timeline:
    """One source of a run over time.

    Attributes:
        source: Its name.
        clock: The column that gives rows their time: the first of `captured`, `pts_s` and `frame` that is known.
        first, last: When it begins and ends, in seconds, or frames.
        bands: One per filter.
        chosen: Per cell of the strip (number of the frame, position of its label in the first band).
        pictures: Per cell a picture, uint8 (H, W, 3).
        absent: Why there are no pictures, or None.
    """

    source: str
    clock: Clock
    first: float
    last: float
    bands: list[Band] = field(default_factory=list)
    chosen: dict[int, tuple[int, int]] = field(default_factory=dict)
    pictures: dict[int, Pixels] = field(default_factory=dict)
    absent: str | None = None


def read_timelines(run: RunFolder, sources: Sequence[str]) -> list[Timeline]:
    """Reads the timelines of some sources of a run. One without rows has none.

    Args:
        run: Its folder.
        sources: Names of sources.

    Raises:
        VpipeError: A part of the run cannot be read.
    """
    footage = run.read_identity().get("sources")
    timelines = []
    for source in sources:
        timeline = _labels(run.path, source)
        if timeline is not None:
            stamp = footage.get(source) if isinstance(footage, Mapping) else None
            timeline.absent = _pictures(timeline, stamp)
            timelines.append(timeline)
    return timelines


# ---------------------------------------------------------------------------------------------- labels


def _labels(folder: Path, source: str) -> Timeline | None:
    """The timeline without pictures, or None if no filter has a row."""
    ends = list(committed(folder, source))
    filters = list(dict.fromkeys(name for end in ends for name in end.filters))
    parts = {name: [part_path(folder, name, end.segment) for end in ends if end.filters[name]] for name in filters}
    borders = [path for paths in parts.values() if paths for path in (paths[0], paths[-1])]
    if not borders:
        return None
    clock = _clock(next(_chunks(borders[0])))
    stretches = [_Rows(chunk, clock).stretch for path in borders for chunk in _chunks(path)]
    first, last = min(first for first, _ in stretches), max(last for _, last in stretches)
    timeline = Timeline(source, clock, first, last if last > first else first + 1)
    nearest = np.full(CELLS, np.inf)
    for paths in filter(None, parts.values()):
        band: Band | None = None
        for chunk in (chunk for path in paths for chunk in _chunks(path)):
            rows = _Rows(chunk, clock)
            band = band or _band(rows.labelling)
            rows.add_to(band, timeline)
            if not timeline.bands:
                rows.choose(timeline, nearest)
        assert band is not None
        timeline.bands.append(band)
    return timeline


def _band(labelling: Labelling) -> Band:
    k = len(labelling.classes)
    return Band(labelling, np.zeros((COLUMNS, k + 1)), np.zeros((COLUMNS, k)), np.zeros(k + 1, np.int64))


def _chunks(path: Path) -> Iterator[pa.Table]:
    """The rows of a part, as many at a time as it keeps together, with the part's own schema metadata."""
    with open_part(path) as part:
        for group in range(part.num_row_groups):
            yield part.read_row_group(group)


def _clock(rows: pa.Table) -> Clock:
    clocks: tuple[Clock, ...] = ("captured", "pts_s")
    return next((clock for clock in clocks if rows[clock].null_count == 0), "frame")


class _Rows:
    """Some rows of a part as arrays; those whose time is unknown are left out."""

    def __init__(self, rows: pa.Table, clock: Clock) -> None:
        self.labelling = labelling_of(rows.schema.metadata)
        k = len(self.labelling.classes)
        times = rows[clock].cast(pa.int64()) if clock == "captured" else rows[clock]
        time = times.to_numpy().astype(np.float64) / (1e6 if clock == "captured" else 1.0)
        known = np.isfinite(time)
        names = rows["label"].cast(pa.string())
        positions = pc.fill_null(pc.index_in(names, pa.array(self.labelling.classes)), k)
        self.time = time[known]
        self.frame = rows["frame"].to_numpy()[known]
        self.label = positions.to_numpy()[known]
        self.scores = rows["scores"].combine_chunks().flatten().to_numpy().reshape(-1, k)[known]
        steps, strides = (np.diff(np.unique(each)) for each in (self.time, self.frame))  # a frame may have many rows
        self._step = float(np.median(steps)) if len(steps) else 0.0
        self._stride = float(np.median(strides)) if len(strides) else 1.0

    @property
    def stretch(self) -> tuple[float, float]:
        """When the first row begins and the last ends."""
        if not len(self.time):
            return np.inf, -np.inf
        return float(self.time[0]), float(self.time[-1]) + self._step

    def add_to(self, band: Band, timeline: Timeline) -> None:
        """Counts the rows in the columns of their time. Where rows are rarer than columns, each fills those up to the
        next row, but not across frames that are missing."""
        n = len(self.time)
        width = (timeline.last - timeline.first) / COLUMNS
        column = np.clip((self.time - timeline.first) / width, 0, COLUMNS - 1).astype(np.intp)
        middles = timeline.first + (np.arange(COLUMNS) + 0.5) * width
        until = self.time + self._step
        follows = np.diff(self.frame) <= 2 * self._stride
        until[:-1][follows] = self.time[1:][follows]
        row_at = np.searchsorted(self.time, middles, "right") - 1
        bare = (np.bincount(column, minlength=COLUMNS) == 0) & (row_at >= 0)
        bare[bare] = middles[bare] < until[row_at[bare]]
        # All rows of the frame, one for each of its regions.
        first = np.searchsorted(self.time, self.time[row_at[bare]], "left")
        each = row_at[bare] - first + 1
        of_frame = np.arange(each.sum()) - np.repeat(np.cumsum(each) - each, each)
        columns = np.concatenate([column, np.repeat(np.flatnonzero(bare), each)])
        rows = np.concatenate([np.arange(n), np.repeat(first, each) + of_frame])
        np.add.at(band.labels, (columns, self.label[rows]), 1)
        np.add.at(band.scores, columns, self.scores[rows])
        band.rows += np.bincount(self.label, minlength=len(band.rows))

    def choose(self, timeline: Timeline, nearest: Float64s) -> None:
        """Takes the row nearest to the middle of each cell, if it is nearer than any before it and within the cell."""
        if not len(self.time):
            return
        cell = (timeline.last - timeline.first) / CELLS
        for number in range(CELLS):
            distances = np.abs(self.time - (timeline.first + (number + 0.5) * cell))
            row = int(distances.argmin())
            if distances[row] < min(nearest[number], cell / 2):
                nearest[number] = distances[row]
                timeline.chosen[number] = int(self.frame[row]), int(self.label[row])


# -------------------------------------------------------------------------------------------- pictures


def _pictures(timeline: Timeline, stamp: object) -> str | None:
    """Decodes the chosen frames. Says why there are none, or None."""
    if not isinstance(stamp, Mapping) or not stamp.keys() >= {"path", "size", "mtime_ns"}:
        return "its frames do not come from a file"
    path = Path(str(stamp["path"]))
    try:
        facts = path.stat()
    except OSError as exc:
        return f"{path}: {exc.strerror}"
    if (facts.st_size, facts.st_mtime_ns) != (stamp["size"], stamp["mtime_ns"]):
        return f"{path}: has changed since the run"
    cell_of = {frame: cell for cell, (frame, _) in timeline.chosen.items()}
    try:
        stills = dict(read_stills(path, cell_of, width=PICTURE_WIDTH))
    except SourceError as exc:
        return str(exc)
    timeline.pictures = {cell_of[frame]: picture for frame, picture in stills.items()}
    return None
