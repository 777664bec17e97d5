"""The run's own record: one Parquet file per segment and filter. What lies here is committed; nothing else is.

    <folder>/frames/<filter>/<source>/<first frame, 12 digits>.parquet                              of a file
    <folder>/frames/<filter>/<source>/<UTC date>/<time, 6 digits>-<first frame, 12 digits>.parquet  of a camera's window

Folder names are percent-encoded. A part's footer holds the SegmentEnd, so the ledger, resuming and the other sinks
need nothing but these files. A segment is committed when each of its filters has its part.
"""

from __future__ import annotations

import hashlib
import json
import logging
import operator
import os
import re
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, replace
from datetime import UTC, datetime
from pathlib import Path
from urllib.parse import quote

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.batch import Counts, FrameBatch, Lost, Segment, SegmentEnd
from pipeline.contracts import Sink
from pipeline.errors import SinkError
from pipeline.files import WholeFile, make_folder
from pipeline.rows import Labelling, labelling_of, schema, table
from specialized.objects import one_line

__all__ = [
    "DamagedPartError",
    "PartsSink",
    "committed",
    "discard_damaged",
    "disk_errors",
    "has_parts",
    "newest",
    "open_part",
    "part_path",
    "read_end",
]

log = logging.getLogger(__name__)

END_KEY = "vpipe.end"
SUM_KEY = "vpipe.end.sha256"  # Parquet's checksums leave the footer out
IDENTITY_KEY = "vpipe.identity"

REPEATING = ["source", "region", "label", "fold_slot", "labels.list.element"]  # columns worth a dictionary
ROW_GROUP = 1 << 16  # rows kept in memory per segment and filter, a few MB; a longer segment goes to disk meanwhile
# Tables that are kept as they came. Their many small arrays lie between the large ones that torch frees and asks for
# again, and keep that memory from being used again as a whole: Arrow's own memory lies elsewhere.
FEW = 8
MANY = 64  # of the tables made of those: a camera gives one of a single row for every frame, and each takes kilobytes
FRAME_DIGITS = 12  # of a part's name
DAY = re.compile(r"\d{4}-\d\d-\d\d", re.ASCII)
PART = re.compile(r"(\d{6}-)?\d{12,}\.parquet", re.ASCII)
MAX_NAME_BYTES = 255  # of one component of a path, on every common file system


class DamagedPartError(SinkError):
    """A part is not as it was committed."""


class PartsSink(Sink):
    """Writes the parts of a run.

    Args:
        folder: The run's folder.
        labellings: One per filter.
        identity: Short hash of the run's identity, kept in every footer.
    """

    def __init__(self, folder: Path, labellings: Sequence[Labelling], *, identity: str) -> None:
        self._folder = folder
        self._labellings = {labelling.name: labelling for labelling in labellings}
        self._identity = identity
        self._parts: dict[tuple[Segment, str], _Part] = {}

    def write(self, batch: FrameBatch) -> None:
        if len(batch):
            labelling = self._labellings[batch.filter]
            self._part(batch.segment, labelling).add(table(batch, labelling))

    def commit(self, end: SegmentEnd) -> None:
        """Puts the segment's parts in place, on disk; one to be tried again is dropped instead.

        Raises:
            SinkError: the disk does not take them.
            ValueError: the segment's end tells of another number of rows than were written.
        """
        parts = {name: self._part(end.segment, labelling) for name, labelling in self._labellings.items()}
        for name in parts:
            del self._parts[end.segment, name]
        try:
            if end.retry:
                return
            written = {name: part.rows for name, part in parts.items()}
            if any(end.filters.get(name, rows) != rows for name, rows in written.items()):
                raise ValueError(f"{end.segment}: its end must tell of {written} rows, got {dict(end.filters)}")
            told = _to_json(replace(end, filters=written))
            footer = {END_KEY: told, SUM_KEY: _sum(told.encode()), IDENTITY_KEY: self._identity}
            for part in parts.values():
                part.commit(footer)
        finally:
            for part in parts.values():
                part.discard()

    def close(self) -> None:
        for part in self._parts.values():
            part.discard()
        self._parts.clear()

    def _part(self, segment: Segment, labelling: Labelling) -> _Part:
        key = segment, labelling.name
        if key not in self._parts:
            path = part_path(self._folder, labelling.name, segment)
            self._parts[key] = _Part(path, schema(labelling))
        return self._parts[key]


class _Part:
    """One part on its way: rows in memory, beyond ROW_GROUP of them in a temporary file."""

    def __init__(self, path: Path, schema: pa.Schema) -> None:
        self.rows = 0
        self._path = path
        self._schema = schema
        self._tables: list[pa.Table] = []
        self._fresh: list[pa.Table] = []
        self._in_memory = 0
        self._opened: tuple[WholeFile, pq.ParquetWriter] | None = None

    def add(self, rows: pa.Table) -> None:
        self._fresh.append(rows)
        if len(self._fresh) == FEW:
            self._settle()
        self.rows += rows.num_rows
        self._in_memory += rows.num_rows
        if self._in_memory >= ROW_GROUP:
            with disk_errors(self._path):
                self._flush()

    def commit(self, footer: Mapping[str, str]) -> None:
        with disk_errors(self._path):
            file, writer = self._flush()
            writer.add_key_value_metadata(footer)
            writer.close()
            file.commit()

    def discard(self) -> None:
        """Removes what was not committed; does nothing after a commit."""
        if self._opened is not None:
            file, writer = self._opened
            with suppress(OSError, pa.ArrowException):
                writer.close()
            with disk_errors(self._path):
                file.discard()

    def _flush(self) -> tuple[WholeFile, pq.ParquetWriter]:
        if self._opened is None:
            make_folder(self._path.parent)
            file = WholeFile(self._path)
            self._opened = (
                file,
                pq.ParquetWriter(
                    file.file, self._schema, compression="zstd", use_dictionary=REPEATING, write_page_checksum=True
                ),
            )
        writer = self._opened[1]
        self._settle()
        if self._tables:
            writer.write_table(pa.concat_tables(self._tables).combine_chunks())
        self._tables, self._in_memory = [], 0
        return self._opened

    def _settle(self) -> None:
        """Copies the fresh tables into one."""
        if self._fresh:
            self._tables.append(pa.concat_tables(self._fresh).combine_chunks())
            self._fresh = []
        if len(self._tables) == MANY:
            self._tables = [pa.concat_tables(self._tables).combine_chunks()]


def part_path(folder: Path, filter: str, segment: Segment) -> Path:
    """Where the part of this filter and segment lies or would lie."""
    name = f"{segment.first_frame:0{FRAME_DIGITS}d}.parquet"
    if segment.window_utc_s is not None:
        name = f"{datetime.fromtimestamp(segment.window_utc_s, UTC):%Y-%m-%d/%H%M%S}-{name}"
    return _source_folder(folder, filter, segment.source) / name


@contextmanager
def open_part(path: Path) -> Generator[pq.ParquetFile]:
    """Opens a part for reading.

    Raises:
        DamagedPartError: it is no part, or not as it was committed; also where that shows within the block.
        SinkError: the system does not let it be read; what it holds may be well.
    """
    try:
        with pq.ParquetFile(path, page_checksum_verification=True) as part:
            yield part
    except (OSError, pa.ArrowException) as exc:
        errno = exc.errno if isinstance(exc, OSError) else None  # Arrow's own have none
        if errno is not None or isinstance(exc, MemoryError):
            got = "no memory" if errno is None else os.strerror(errno)
            raise SinkError(f"{path}: must be readable, got {got}; see to it, then --resume") from exc
        told = " ".join(str(exc).split())
        raise DamagedPartError(
            f"{path}: must be a readable part of the run, got {told}; remove it and --resume"
        ) from exc


def read_end(path: Path) -> SegmentEnd:
    """The end of the segment that a part holds.

    Raises:
        DamagedPartError, SinkError: as `open_part` does.
    """
    with open_part(path) as part:
        return _end_in(part, path)


def _end_in(part: pq.ParquetFile, path: Path) -> SegmentEnd:
    footer = part.metadata.metadata or {}
    if END_KEY.encode() not in footer:
        raise DamagedPartError(
            f"{path}: must be a part written by vpipe, got a Parquet file of something else; remove it"
        )
    told = footer[END_KEY.encode()]
    if footer.get(SUM_KEY.encode()) not in (None, _sum(told).encode()):  # None: written by an earlier version
        raise DamagedPartError(
            f"{path}: must be a readable part of the run, got a damaged footer; remove it and --resume"
        )
    return _from_json(told)


def committed(folder: Path, source: str | None = None) -> Iterator[SegmentEnd]:
    """The ends of the segments whose parts are all there, each source's in the order of its frames.

    Args:
        folder: The run's folder.
        source: Only of this source; None for all.
    """
    for filter_folder in _folders(folder / "frames"):
        folders = _folders(filter_folder) if source is None else [filter_folder / _encoded(source)]
        if not any(map(_holds_parts, folders)):
            continue  # none of the run's
        for source_folder in folders:
            ends = map(read_end, _parts(source_folder))
            for end in sorted(ends, key=lambda end: end.segment.first_frame):  # a camera's clock may have been set back
                if _is_committed(folder, end):
                    yield end
        return  # what is committed has a part in each filter's folder


def has_parts(folder: Path, source: str) -> bool:
    """Whether any filter has a part of a source."""
    return any(_holds_parts(filter_folder / _encoded(source)) for filter_folder in _folders(folder / "frames"))


def discard_damaged(folder: Path) -> None:
    """Removes parts that cannot be read, or hold other rows than their segment's end tells of: a disk may have lost
    what it promised. What they held is labelled anew.

    Raises:
        SinkError: one cannot be read now, and may be well.
    """
    for filter_folder in _folders(folder / "frames"):
        for source_folder in _folders(filter_folder):
            for path in _parts(source_folder):
                _is_sound(path)


def _is_sound(path: Path) -> bool:
    """Whether a part is as it was committed, every page of it; one that is not is removed."""
    try:
        with open_part(path) as part:
            rows = sum(map(len, part.iter_batches()))
            wanted = _end_in(part, path).filters.get(labelling_of(part.metadata.metadata).name)
        if rows == wanted:
            return True
        why = f"{path}: must hold {wanted} rows, got {rows}"
    except DamagedPartError as error:
        why = str(error).partition(";")[0]
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        why = f"{path}: must be a part of the run, got {one_line(error)}"
    log.warning("%s; it is removed, and its segment is labelled anew", why)
    path.unlink(missing_ok=True)
    return False


def newest(folder: Path) -> Iterator[SegmentEnd]:
    """The end of the last segment of each source that is committed. Cameras leave more parts than are read quickly, so
    that only the last ones are looked at, and removed if they are damaged, or not of each filter: their frames' numbers
    are given anew."""
    filters = _folders(folder / "frames")
    for source in sorted(
        {source_folder.name for filter_folder in filters for source_folder in _folders(filter_folder)}
    ):
        # By the first frame, with which names end: a camera's clock may have been set back.
        paths = [path for filter_folder in filters for path in _parts(filter_folder / source)]
        for path in sorted(paths, key=lambda path: path.stem[-FRAME_DIGITS:], reverse=True):
            if not path.exists() or not _is_sound(path):
                continue
            end = read_end(path)
            if path not in {part_path(folder, name, end.segment) for name in end.filters}:
                log.warning("%s: must lie in the folder of its day, got another; numbers go on behind it", path)
            elif not _is_committed(folder, end):
                log.warning("%s: is not of a whole segment; it is removed", path)
                path.unlink()
                continue
            yield end
            break


def _is_committed(folder: Path, end: SegmentEnd) -> bool:
    """Whether each filter has its part of a segment."""
    return all(part_path(folder, name, end.segment).exists() for name in end.filters)


@contextmanager
def disk_errors(path: Path) -> Generator[None]:
    """Says of a disk's error which file it hit and what to do.

    Args:
        path: The file; or a folder, where the error itself may name one in it.
    """
    try:
        yield
    except (OSError, pa.ArrowException) as exc:
        cause = exc.strerror if isinstance(exc, OSError) and exc.strerror else exc
        if isinstance(exc, OSError) and isinstance(exc.filename, str) and Path(exc.filename).is_relative_to(path):
            path = Path(exc.filename)
        raise SinkError(
            f"{path}: must be writable, got {cause}; make room or choose another place, then --resume"
        ) from exc


def _source_folder(folder: Path, filter: str, source: str) -> Path:
    return folder / "frames" / _encoded(filter) / _encoded(source)


def _encoded(name: str) -> str:
    """A name as one component of a path that dataset readers neither skip (`.`, `_`) nor take for a key (`=`)."""
    text = quote(name, safe="", errors="surrogateescape")
    if text.startswith((".", "_")):
        text = f"%{ord(text[0]):02X}{text[1:]}"
    if len(text) > MAX_NAME_BYTES:
        text = text[:200] + "~" + hashlib.sha256(text.encode()).hexdigest()[:32]
    return text


def _parts(folder: Path) -> Iterator[Path]:
    """Those of a source, also in folders by date; others that somebody put there are none of the run's."""
    for path in _visible(folder):
        if DAY.fullmatch(path.name):
            yield from (part for part in _visible(path) if PART.fullmatch(part.name))
        elif PART.fullmatch(path.name):
            yield path


def _holds_parts(folder: Path) -> bool:
    return next(_parts(folder), None) is not None


def _folders(folder: Path) -> list[Path]:
    return [path for path in _visible(folder) if path.is_dir()]


def _visible(folder: Path) -> list[Path]:
    if not folder.is_dir():
        return []
    return sorted(path for path in folder.iterdir() if not path.name.startswith("."))


def _to_json(end: SegmentEnd) -> str:
    return json.dumps(asdict(end), default=operator.index)  # sources count in numpy's integers too


def _sum(text: bytes) -> str:
    return hashlib.sha256(text).hexdigest()


def _from_json(text: bytes) -> SegmentEnd:
    fields = json.loads(text)
    return SegmentEnd(
        Segment(**{**fields["segment"], "bundle": tuple(fields["segment"]["bundle"])}),
        Counts(**fields["counts"]),
        tuple(Lost(**lost) for lost in fields["lost"]),
        fields["error"],
        fields["retry"],
        fields["filters"],
        fields.get("per_frame", 0),
        fields.get("states", {}),
    )
