"""csv and JSON lines (`pipeline.sinks.lines`), made from the committed parts.

`path: "-"` is the standard output: each segment at its commit, each source in the order of its frames. Any other path
is a file that appears when the run has finished, in the order of the sources given, then frames, then filters: also
rows that an earlier, interrupted run committed are in it.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa

from pipeline.batch import FrameBatch, SegmentEnd
from pipeline.contracts import Sink
from pipeline.errors import SinkError
from pipeline.files import WholeFile, make_folder
from pipeline.regions import Column
from pipeline.rows import labelling_of
from pipeline.sinks.lines import Csv, Format, Jsonl
from pipeline.sinks.parts import committed, disk_errors, open_part, part_path
from pipeline.sinks.stdout import to_stdout
from pipeline.sinks.wide import placed, side_by_side
from pipeline.threads import Stop

__all__ = ["CsvSink", "JsonlSink"]

ROWS = 1 << 15  # rendered at once


class TextSink(Sink):
    """Renders parts as lines of text. It never sees uncommitted rows: it reads back what the run's parts hold.

    Args:
        path: A file, or "-" for the standard output.
        folder: The run's folder.
        sources: Names of the sources, in the order in which a file holds them.
        stop: Ends a wait for a reader of the standard output that does not read.
        columns: One row per frame, with these columns of labels, by their names; None: one per picture and filter.
    """

    format: Format

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        folder: Path,
        sources: Sequence[str],
        stop: Stop | None = None,
        columns: Mapping[Column, str] | None = None,
    ) -> None:
        self._path = None if path == "-" else Path(path)
        self._folder = folder
        self._sources = tuple(sources)
        self._stop = stop
        self._columns = columns
        self._file: WholeFile | None = None
        self._begun = False

    def write(self, batch: FrameBatch) -> None:
        """Nothing to do: what counts is what gets committed."""

    def commit(self, end: SegmentEnd) -> None:
        if self._path is not None:
            self._open(self._path)  # now, so that a path that cannot be written is known early
        elif not end.retry:
            for data in self._render(end):
                to_stdout(data, self._stop)

    def finish(self) -> None:
        """Writes the file. To be called before `close` when the run came to its own end.

        Raises:
            SinkError: the file cannot be written.
        """
        if self._path is None:
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
            yield self.format.text(lines, first=not self._begun)
            self._begun = True

    def _long(self, paths: Sequence[Path]) -> Iterator[pa.Table]:
        return _by_frame([_tables(path, self.format.lines, alone=len(paths) == 1) for path in paths])

    def _wide(self, paths: Sequence[Path], columns: Mapping[Column, str]) -> Iterator[pa.Table]:
        rows = _by_frame([_tables(path, placed, columns=columns) for path in paths])
        return map(self.format.frame_lines, side_by_side(rows, columns))


class CsvSink(TextSink):
    """Comma-separated values."""

    format = Csv()


class JsonlSink(TextSink):
    """JSON lines."""

    format = Jsonl()


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
