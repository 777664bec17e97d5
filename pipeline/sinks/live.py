"""csv and JSON lines (`pipeline.sinks.lines`) of a live run: rows as they are labelled, or events as they are told.

`path: "-"` is the standard output. Any other path is a file that is appended to, also by the next run; when it has
grown to `rotate_mb` it becomes `<path>.1`, what was that becomes `<path>.2`, and so on up to `keep_files` of them.

With `events: true`, JSON lines are events, one when it has begun and one when it is over:

    {"event":"began","key":"gate//who/person/7/1764360000200","source":"gate","region":null,"filter":"who","label":"person",
     "clock":"utc","first_frame":7,"last_frame":12,"began_s":1764360000.2,"ended_s":1764360000.7,"best_frame":9,
     "best_score":0.97}

(on one line). A file or a reader that fails does not end the labelling; it is an error of the run at its end.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Mapping
from pathlib import Path

import pyarrow as pa

from pipeline.batch import FrameBatch
from pipeline.contracts import Sink
from pipeline.errors import SinkError
from pipeline.events import Event
from pipeline.files import make_folder, sync_folder
from pipeline.rows import Labelling, table
from pipeline.sinks.lines import Csv, Format, Jsonl, event_json
from pipeline.sinks.parts import disk_errors
from pipeline.sinks.stdout import to_stdout
from pipeline.threads import Stop

__all__ = ["LiveCsvSink", "LiveEventsSink", "LiveJsonlSink", "RotatingFile"]

log = logging.getLogger(__name__)


class RotatingFile:
    """A file that is appended to, and put aside when it has grown large.

    Args:
        path: The file; its folder is made.
        most_bytes: At which it is put aside.
        keep: How many are kept aside.
    """

    def __init__(self, path: Path, *, most_bytes: int, keep: int) -> None:
        self._path, self._most_bytes, self._keep = path, most_bytes, keep
        self._bytes: int | None = None  # not looked at yet

    @property
    def is_empty(self) -> bool:
        """Whether what is written next is its beginning."""
        if self._bytes is None:
            make_folder(self._path.parent)
            self._bytes = self._path.stat().st_size if self._path.exists() else 0
        if self._bytes >= self._most_bytes:
            self._put_aside()
        return self._bytes == 0

    def write(self, data: bytes | pa.Buffer) -> None:
        """Appends whole lines. Raises OSError."""
        with self._path.open("ab") as file:
            file.write(data)
        self._bytes = (self._bytes or 0) + len(data)

    def sync(self) -> None:
        """Afterwards what was written outlives the end of the machine too. Raises OSError."""
        for path in (self._path, *map(self._aside, range(1, self._keep + 1))):
            if path.exists():
                with path.open("rb") as file:
                    os.fsync(file.fileno())
        sync_folder(self._path.parent)

    def _put_aside(self) -> None:
        for number in reversed(range(1, self._keep)):
            if (older := self._aside(number)).exists():
                older.replace(self._aside(number + 1))
        self._path.replace(self._aside(1))
        self._bytes = 0

    def _aside(self, number: int) -> Path:
        return self._path.with_name(f"{self._path.name}.{number}")


class _Live(Sink):
    """Lines as they come.

    Args:
        path: A file, or "-" for the standard output.
        stop: Ends a wait for a reader of the standard output that does not read.
        rotate_mb: Size at which a file is put aside, in MB.
        keep_files: How many are kept.
    """

    def __init__(
        self, path: str | os.PathLike[str], *, stop: Stop | None = None, rotate_mb: float = 100.0, keep_files: int = 10
    ) -> None:
        self._path, self._stop = path, stop
        self._file: RotatingFile | None = None
        if path != "-":
            self._file = RotatingFile(Path(path), most_bytes=round(rotate_mb * 1e6), keep=keep_files)
        self._begun = False
        self._failure: SinkError | None = None

    def say(self, render: Callable[[bool], bytes | pa.Buffer]) -> None:
        """Writes what is rendered, which is told whether it is the beginning."""
        if self._failure is not None:
            return
        try:
            if self._file is None:
                to_stdout(render(not self._begun), self._stop)
            else:
                with disk_errors(Path(self._path)):
                    self._file.write(render(self._file.is_empty))
        except SinkError as error:
            log.error("%s; the run goes on without it", error)
            self._failure = error
        self._begun = True

    def sync(self) -> None:
        if self._file is not None and self._begun and self._failure is None:
            with disk_errors(Path(self._path)):
                self._file.sync()

    def finish(self) -> None:
        if self._failure is not None:
            raise self._failure


class _LiveText(_Live):
    """Rows; see _Live.

    Args:
        live: How scores become labels, by the name of the filter.
    """

    format: Format

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        live: Mapping[str, Labelling],
        stop: Stop | None = None,
        rotate_mb: float = 100.0,
        keep_files: int = 10,
    ) -> None:
        super().__init__(path, stop=stop, rotate_mb=rotate_mb, keep_files=keep_files)
        self._labellings = live

    def write(self, batch: FrameBatch) -> None:
        if len(batch):
            labelling = self._labellings[batch.filter]
            (rows,) = table(batch, labelling).combine_chunks().to_batches()
            lines = self.format.lines(rows, labelling, alone=len(self._labellings) == 1)
            self.say(lambda first: self.format.text(lines, first=first))


class LiveCsvSink(_LiveText):
    """Comma-separated values."""

    format = Csv()


class LiveJsonlSink(_LiveText):
    """JSON lines."""

    format = Jsonl()


class LiveEventsSink(_Live):
    """Events as JSON lines."""

    def __init__(
        self, path: str | os.PathLike[str], *, stop: Stop | None = None, rotate_mb: float = 100.0, keep_files: int = 10
    ) -> None:
        super().__init__(path, stop=stop, rotate_mb=rotate_mb, keep_files=keep_files)
        self.takes_again = path != "-" and not Path(path).exists()

    def write(self, batch: FrameBatch) -> None:
        """Nothing to do: rows are no events."""

    def event(self, event: Event) -> None:
        self.say(lambda first: event_json(event) + b"\n")
