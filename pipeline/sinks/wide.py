"""Labels side by side: the rows of a frame as one, with a column for each region of each filter."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from itertools import pairwise

import numpy as np
import pyarrow as pa

from pipeline.errors import SinkError
from pipeline.regions import OF_FRAMES, Column
from pipeline.rows import Labelling

__all__ = ["placed", "side_by_side"]

CELLS = 1 << 20  # made at once: a thousand regions must not take a thousand times the memory of one


def placed(rows: pa.RecordBatch, labelling: Labelling, columns: Mapping[Column, str]) -> pa.Table:
    """What of a part's rows goes on, and in which of the columns each has its label.

    Raises:
        SinkError: a row is of a region that has none.
    """
    place = {column: at for at, column in enumerate(columns)}
    regions = [*rows["region"].dictionary.to_pylist(), None]
    places = np.array([place.get((labelling.name, region), -1) for region in regions])
    of_rows = rows["region"].indices.fill_null(len(regions) - 1).to_numpy(zero_copy_only=False)
    if (places[of_rows] < 0).any():
        got = regions[of_rows[places[of_rows] < 0][0]]
        raise SinkError(
            f"filter {labelling.name}: regions must stand in the configuration where a sink is wide, got "
            f"{'none' if got is None else repr(got)} from a source of one's own; leave out `wide`"
        )
    kept = {"source": rows["source"].cast(pa.string()), **{name: rows[name] for name in OF_FRAMES[1:]}}
    return pa.table(kept | {"place": pa.array(places[of_rows]), "label": rows["label"].cast(pa.string())})


def side_by_side(tables: Iterable[pa.Table], columns: Mapping[Column, str]) -> Iterator[pa.RecordBatch]:
    """One row per frame, from tables of `placed` rows in the order of frames: its source, number and times, then the
    columns, null where there is no label."""
    for rows in _whole_frames(tables, most=max(1, CELLS // len(columns))):
        begins = _begins(rows)
        of_rows = np.repeat(np.arange(len(begins)), np.diff(begins, append=len(rows)))
        labels = rows["label"].dictionary_encode()
        codes = np.full((len(columns), len(begins)), -1, np.int32)
        codes[rows["place"].to_numpy(), of_rows] = labels.indices.fill_null(-1).to_numpy()
        cells = [pa.DictionaryArray.from_arrays(pa.array(row, mask=row < 0), labels.dictionary) for row in codes]
        of_frames = rows.select(OF_FRAMES).take(pa.array(begins))
        yield pa.RecordBatch.from_arrays([*of_frames.columns, *cells], [*OF_FRAMES, *columns.values()])


def _whole_frames(tables: Iterable[pa.Table], *, most: int) -> Iterator[pa.RecordBatch]:
    """The same rows, of at most so many frames at once. The last frame of a table may go on in the next."""
    rest = None
    for table in tables:
        rows = table if rest is None else pa.concat_tables([rest, table])
        begins = _begins(rows)
        cuts = sorted({*begins[::most].tolist(), int(begins[-1])})
        for start, stop in pairwise(cuts):
            yield _in_one(rows[start:stop])
        rest = rows[cuts[-1] :]
    if rest is not None:
        yield _in_one(rest)


def _begins(rows: pa.Table | pa.RecordBatch) -> np.ndarray[tuple[int], np.dtype[np.intp]]:
    """The first row of each frame."""
    frame = rows["frame"].to_numpy()
    return np.flatnonzero(np.diff(frame, prepend=frame[0] - 1))


def _in_one(rows: pa.Table) -> pa.RecordBatch:
    return rows.combine_chunks().to_batches()[0]
