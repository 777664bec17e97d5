"""csv and JSON lines, made from the committed parts.

csv has one row per picture and filter, with the columns

    source, frame, region, pts_s, captured, filter, label, score

and, where the run has a single filter, `score_<class>` for each of its classes. JSON lines have the same fields, the
scores of every filter as one object by class, and `labels` where the task is any_of:

    {"source":"lobby","frame":7,"region":null,"pts_s":0.28,"captured":null,"filter":"person","label":"person","score":0.97,
     "scores":{"person":0.97,"none":0.03}}

(on one line). With `wide: true` both have one row per frame, with its labels side by side:

    source, frame, pts_s, captured, <a column for each region of each filter>

    {"source":"wall","frame":7,"pts_s":0.28,"captured":null,"labels":{"display-1":"7","display-2":"3"}}

A column has the name of its region, or `<filter>.<region>` where other columns would have that name; of whole frames,
that of the filter. The columns are those of the run, of all of its sources. There is no label where a region is not one
of the source's, where `keep` let the row not pass, and where an any_of model finds no class.

`captured` is ISO 8601 in UTC; what is not known is empty in csv and null in JSON.

`path: "-"` is the standard output: each segment at its commit, each source in the order of its frames; where there are
cameras, rows as soon as they are labelled. Any other path
is a file that appears when the run has finished, in the order of the sources given, then frames, then filters: also
rows that an earlier, interrupted run committed are in it.
"""

from __future__ import annotations

import json
import logging
import os
import select
from abc import abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv

from pipeline.batch import FrameBatch, SegmentEnd
from pipeline.contracts import Sink
from pipeline.errors import SinkError
from pipeline.regions import OF_FRAMES, Column
from pipeline.rows import Labelling, labelling_of, table
from pipeline.runs import WholeFile, make_folder
from pipeline.sinks.parts import committed, disk_errors, open_part, part_path
from pipeline.sinks.wide import placed, side_by_side
from pipeline.threads import Stop

__all__ = ["CsvSink", "JsonlSink"]

log = logging.getLogger(__name__)

ROWS = 1 << 15  # rendered at once

STDOUT = 1
WAIT_S = 0.2  # for a slow reader, before looking whether the run is to stop


class TextSink(Sink):
    """Renders rows as lines of text: those of the run's parts, which are committed, or live ones as they come.

    Args:
        path: A file, or "-" for the standard output.
        folder: The run's folder.
        sources: Names of the sources, in the order in which a file holds them.
        stop: Ends a wait for a reader of the standard output that does not read.
        columns: One row per frame, with these columns of labels, by their names; None: one per picture and filter.
        live: How scores become labels, by the name of the filter, where rows go to the standard output as they come.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        folder: Path,
        sources: Sequence[str],
        stop: Stop | None = None,
        columns: Mapping[Column, str] | None = None,
        live: Mapping[str, Labelling] | None = None,
    ) -> None:
        self._path = None if path == "-" else Path(path)
        self._folder = folder
        self._sources = tuple(sources)
        self._stop = stop
        self._columns = columns
        self._live = live if self._path is None else None
        self._file: WholeFile | None = None
        self._begun = False
        self._failure: SinkError | None = None

    def write(self, batch: FrameBatch) -> None:
        """Writes live rows. Of others, what counts is what gets committed."""
        if self._live is not None and len(batch):
            labelling = self._live[batch.filter]
            (rows,) = table(batch, labelling).combine_chunks().to_batches()
            self._say(self.lines(rows, labelling, alone=len(self._live) == 1))

    def commit(self, end: SegmentEnd) -> None:
        if self._path is not None:
            self._open(self._path)  # now, so that a path that cannot be written is known early
        elif self._live is None and not end.retry:
            for data in self._render(end):
                _to_stdout(data, self._stop)

    def finish(self) -> None:
        """Writes the file. To be called before `close` when the run came to its own end.

        Raises:
            SinkError: the file cannot be written.
        """
        if self._path is None:
            if self._failure is not None:
                raise self._failure
            return
        file = self._open(self._path)
        with disk_errors(self._path):
            for source in self._sources:
                for end in committed(self._folder, source):
                    for data in self._render(end):
                        file.file.write(data)
            file.commit()
        self._file = None

    def close(self) -> None:
        if self._file is not None and self._path is not None:
            with disk_errors(self._path):
                self._file.discard()

    def _open(self, path: Path) -> WholeFile:
        if self._file is None:
            if path.exists() and not path.is_file():
                raise SinkError(f"{path}: must be a file, got something else; choose another path, or '-'")
            with disk_errors(path):
                make_folder(path.parent)
                self._file = WholeFile(path)
        return self._file

    def _render(self, end: SegmentEnd) -> Iterator[pa.Buffer]:
        paths = [part_path(self._folder, name, end.segment) for name in end.filters]
        for lines in self._long(paths) if self._columns is None else self._wide(paths, self._columns):
            yield self.text(lines, first=not self._begun)
            self._begun = True

    def _say(self, lines: pa.Table) -> None:
        """Writes live rows. A reader that is gone does not end the labelling; it is an error of the run at its end."""
        if self._failure is None:
            try:
                _to_stdout(self.text(lines, first=not self._begun), self._stop)
            except SinkError as error:
                log.error("%s; the run goes on without it", error)
                self._failure = error
        self._begun = True

    def _long(self, paths: Sequence[Path]) -> Iterator[pa.Table]:
        return _by_frame([_tables(path, self.lines, alone=len(paths) == 1) for path in paths])

    def _wide(self, paths: Sequence[Path], columns: Mapping[Column, str]) -> Iterator[pa.Table]:
        rows = _by_frame([_tables(path, placed, columns=columns) for path in paths])
        return map(self.frame_lines, side_by_side(rows, columns))

    @abstractmethod
    def lines(self, rows: pa.RecordBatch, labelling: Labelling, *, alone: bool) -> pa.Table:
        """What becomes lines, with the column `frame`; the same columns for every filter unless it is alone."""

    @abstractmethod
    def frame_lines(self, frames: pa.RecordBatch) -> pa.Table:
        """What becomes lines, from frames with their labels side by side."""

    @abstractmethod
    def text(self, lines: pa.Table, *, first: bool) -> pa.Buffer:
        """The bytes of these lines."""


class CsvSink(TextSink):
    """Comma-separated values, see the module."""

    def lines(self, rows: pa.RecordBatch, labelling: Labelling, *, alone: bool) -> pa.Table:
        columns = {
            "source": rows["source"],
            "frame": rows["frame"],
            "region": rows["region"],
            "pts_s": rows["pts_s"],
            "captured": _iso(rows["captured"]),
            "filter": _constant(labelling.name, len(rows)),
            "label": rows["label"],
            "score": rows["score"],
        }
        if alone:
            columns |= {f"score_{name}": scores for name, scores in _by_class(rows, labelling)}
        return pa.table(columns)

    def frame_lines(self, frames: pa.RecordBatch) -> pa.Table:
        at = OF_FRAMES.index("captured")
        return pa.Table.from_batches([frames]).set_column(at, "captured", _iso(frames["captured"]))

    def text(self, lines: pa.Table, *, first: bool) -> pa.Buffer:
        out = pa.BufferOutputStream()
        options = pyarrow.csv.WriteOptions(include_header=first, batch_size=8192)
        pyarrow.csv.write_csv(lines, out, options)
        return out.getvalue()


class JsonlSink(TextSink):
    """JSON lines, see the module."""

    def lines(self, rows: pa.RecordBatch, labelling: Labelling, *, alone: bool) -> pa.Table:
        texts = [
            *('{"source":', _quoted(rows["source"])),
            *(',"frame":', _number(rows["frame"])),
            *(',"region":', _quoted(rows["region"])),
            *(',"pts_s":', _number(rows["pts_s"])),
            *(',"captured":', pc.binary_join_element_wise('"', _iso(rows["captured"]), '"', "")),
            *(f',"filter":{json.dumps(labelling.name, ensure_ascii=False)},"label":', _quoted(rows["label"])),
        ]
        if "labels" in rows.schema.names:
            texts += [',"labels":[', _joined(rows["labels"]), "]"]
        texts += [',"score":', _number(rows["score"])]
        before = ',"scores":{'
        for name, scores in _by_class(rows, labelling):
            texts += [f"{before}{json.dumps(name, ensure_ascii=False)}:", _number(scores)]
            before = ","
        return pa.table({"frame": rows["frame"], "line": _lines(texts)})

    def frame_lines(self, frames: pa.RecordBatch) -> pa.Table:
        texts = [
            *('{"source":', _quoted(frames["source"].dictionary_encode())),
            *(',"frame":', _number(frames["frame"])),
            *(',"pts_s":', _number(frames["pts_s"])),
            *(',"captured":', pc.binary_join_element_wise('"', _iso(frames["captured"]), '"', "")),
        ]
        before = ',"labels":{'
        for name, labels in zip(frames.schema.names[len(OF_FRAMES) :], frames.columns[len(OF_FRAMES) :], strict=True):
            texts += [f"{before}{json.dumps(name, ensure_ascii=False)}:", _quoted(labels)]
            before = ","
        return pa.table({"line": _lines(texts)})

    def text(self, lines: pa.Table, *, first: bool) -> pa.Buffer:
        # The lines of an array lie one behind the other in its memory: that is the text.
        line = lines["line"].combine_chunks()
        _, offsets, data = line.buffers()
        bounds = np.frombuffer(offsets, np.int32)[line.offset : line.offset + len(line) + 1]
        return data[int(bounds[0]) : int(bounds[-1])]


def _lines(texts: Sequence[str | pa.Array]) -> pa.Array:
    """Each row's texts one behind the other."""
    return pc.binary_join_element_wise(*texts, "}}\n", "", null_handling="replace", null_replacement="null")


def _tables(path: Path, lines: Callable[..., pa.Table], **options: object) -> Iterator[pa.Table]:
    """The lines of one part, a few at a time, in the order of its frames."""
    with open_part(path) as part:
        labelling = labelling_of(part.metadata.metadata)
        for rows in part.iter_batches(ROWS):
            yield lines(rows, labelling, **options)


def _by_frame(streams: Sequence[Iterator[pa.Table]]) -> Iterator[pa.Table]:
    """Merges streams that are each in the order of frames; rows of one frame stay in the order of the streams."""
    if len(streams) == 1:
        yield from streams[0]
        return
    heads = [_Head(stream) for stream in streams]
    while any(heads := [head for head in heads if head.reach()]):
        # Of the last frame of a head more rows may follow; up to it, all streams are known.
        bound = min((head.last for head in heads if not head.is_over), default=None)
        yield pa.concat_tables([head.taken(bound) for head in heads]).sort_by("frame")


class _Head:
    """The next rows of a stream, of more than one frame unless they are its last."""

    def __init__(self, stream: Iterator[pa.Table]) -> None:
        self._stream = stream
        self._rows: pa.Table | None = None
        self.is_over = False

    @property
    def last(self) -> int:
        """The last frame of these rows."""
        assert self._rows is not None
        return int(self._rows["frame"][-1].as_py())

    def reach(self) -> bool:
        """Reads on if need be; whether there are rows."""
        while not self.is_over and (not self._rows or self._rows["frame"][0].as_py() == self.last):
            rows = next(self._stream, None)
            if rows is None:
                self.is_over = True
            else:
                self._rows = pa.concat_tables([self._rows, rows]) if self._rows else rows
        return bool(self._rows)

    def taken(self, bound: int | None) -> pa.Table:
        """Takes the rows of frames below the bound, or all."""
        assert self._rows is not None
        n = len(self._rows) if bound is None else int(np.searchsorted(self._rows["frame"].to_numpy(), bound))
        taken, self._rows = self._rows[:n], self._rows[n:]
        return taken


def _by_class(rows: pa.RecordBatch, labelling: Labelling) -> Iterator[tuple[str, pa.Array]]:
    scores = rows["scores"].flatten().to_numpy().reshape(len(rows), len(labelling.classes))  # (N·K,) -> (N, K)
    for k, name in enumerate(labelling.classes):
        yield name, pa.array(np.ascontiguousarray(scores[:, k]))


def _iso(instants: pa.Array) -> pa.Array:
    return pc.replace_substring(instants.cast(pa.string()), " ", "T")


def _constant(text: str, n: int) -> pa.Array:
    return pa.DictionaryArray.from_arrays(pa.array(np.zeros(n, np.int32)), pa.array([text]))


def _number(values: pa.Array) -> pa.Array:
    """As in JSON, which knows no NaN."""
    if pa.types.is_floating(values.type):
        values = pc.if_else(pc.is_finite(values), values, None)
    return values.cast(pa.string())


def _quoted(names: pa.DictionaryArray) -> pa.Array:
    """As in JSON; each distinct name is quoted once."""
    quoted = [json.dumps(name, ensure_ascii=False) for name in names.dictionary.to_pylist()]
    return pa.array(quoted, pa.string()).take(names.indices)


def _joined(lists: pa.ListArray) -> pa.Array:
    """Lists of names as the inside of JSON's."""
    quoted = _quoted(lists.flatten().dictionary_encode())
    return pc.binary_join(pa.ListArray.from_arrays(lists.offsets, quoted), ",")


def _to_stdout(data: pa.Buffer, stop: Stop | None) -> None:
    rest = memoryview(data)
    try:
        while rest:
            if select.select([], [STDOUT], [], WAIT_S)[1]:
                rest = rest[os.write(STDOUT, rest[: select.PIPE_BUF]) :]  # so much never blocks a writable pipe
            elif stop:
                raise SinkError(
                    "standard output: must be read to its end, got a stop while nobody read; rows that were not read "
                    "come no more: use a path"
                )
    except BrokenPipeError as exc:
        raise SinkError(
            "standard output: must be read to its end, got a reader that left; read all, or use a path"
        ) from exc
    except OSError as exc:
        raise SinkError(f"standard output: must be writable, got {exc.strerror}; use a path") from exc
