"""A queue on disk for what is to be sent: bounded, in order, and still there after a crash.

    append ──▶ │ newest ... oldest │ ──▶ peek, then drop
                        the oldest is given up where there would be more than `max_bytes`

A table of an SQLite file. Its write-ahead log holds a record before `append` returns, so that the end of the process,
at any moment, loses none; the machine's own end may take those since the last `sync`.
"""

from __future__ import annotations

import logging
import sqlite3
import time
from collections.abc import Generator
from contextlib import contextmanager, suppress
from pathlib import Path

from pipeline.errors import SinkError
from pipeline.files import make_folder
from pipeline.threads import Exclusive

__all__ = ["Spool"]

log = logging.getLogger(__name__)

FILE = "spool.sqlite"
LOG_S = 60.0  # between two lines about what was given up
LOCKED_S = 2.0  # for a sender of the run before that is still at its last request

SET_UP = """
pragma auto_vacuum = incremental;
pragma locking_mode = exclusive;
pragma journal_mode = wal;
pragma synchronous = normal;
create table if not exists records (number integer primary key autoincrement, record blob not null);
create table if not exists marks (mark text primary key) without rowid;
create table if not exists counts (name text primary key, n integer not null) without rowid;
create table if not exists told (name text primary key, state blob not null) without rowid;
"""


TELL = """
insert into told values (?, ?)
on conflict (name) do update set state = excluded.state where state != excluded.state
"""
COUNT = "insert into counts values (?, ?) on conflict (name) do update set n = n + excluded.n"


class Spool:
    """The queue in one folder, which one process at a time may open.

    One thread may append while another reads. What is peeked stays in the queue until it is dropped, so a record may
    come twice and none is skipped.

    Args:
        folder: Made if need be.
        max_bytes: Of records; those that wait longest are given up for newer ones.
        counts_on: From where those before in this folder left off; else from zero.

    Attributes:
        sent, refused: Records that were dropped as such.
        lost: Records that were given up.

    Raises:
        SinkError: the folder cannot be written, or is in use.
    """

    def __init__(self, folder: Path, max_bytes: int, *, counts_on: bool = True) -> None:
        self.folder = folder
        self._max_bytes = max_bytes
        self._path = folder / FILE
        self._len: int
        self._bytes: int
        with self._errors():
            make_folder(folder)
            db = sqlite3.connect(self._path, timeout=LOCKED_S, isolation_level=None, check_same_thread=False)
            try:
                db.executescript(SET_UP)
                self._len, self._bytes = db.execute(
                    "select count(*), coalesce(sum(length(record)), 0) from records"
                ).fetchone()
                if not counts_on:
                    db.execute("delete from counts")
                counts = dict(db.execute("select name, n from counts").fetchall())
            except BaseException:
                db.close()
                raise
        self._db = Exclusive(db)
        self._peeked: list[int] = []  # numbers of the records that the reader has in hand
        self._given_up: set[int] = set()  # of those: whether they are lost shows when they are dropped or not
        self.sent, self.refused, self.lost = (counts.get(name, 0) for name in ("sent", "refused", "lost"))
        self._told = self.lost  # of the lost ones, in the log
        self._told_s = -LOG_S

    def append(self, record: bytes, *, once: tuple[str, bytes] | None = None) -> None:
        """Puts a record behind the others.

        Args:
            record: What waits.
            once: A name and a state: a record of this name whose state is that of the last one is left out, also where
                that was sent long ago.

        Raises:
            SinkError: the disk does not take it.
        """
        with self._errors(), self._db as db:
            fits, gone, freed = len(record) <= self._max_bytes, set[int](), 0
            with _transaction(db):
                if once is not None and not db.execute(TELL, once).rowcount:
                    return
                if fits:
                    gone, freed = self._make_room(db, len(record))
                    db.execute("insert into records (record) values (?)", (record,))
                if lost := len(gone) + (not fits):
                    db.execute(COUNT, ("lost", lost))  # those in hand too, until they are known to have arrived
            if fits:
                self._len += 1 - len(gone)
                self._bytes += len(record) - freed
            in_hand = gone & set(self._peeked)
            self._given_up |= in_hand
            self.lost += lost - len(in_hand)
        self._tell()

    def mark(self, mark: str) -> None:
        """Remembers, for as long as the spool is there, that what goes by this name has been appended.

        Raises:
            SinkError: the disk does not take it.
        """
        with self._errors(), self._db as db:
            db.execute("insert or ignore into marks values (?)", (mark,))

    def marks(self) -> set[str]:
        """All that has been marked."""
        with self._errors(), self._db as db:
            return {mark for (mark,) in db.execute("select mark from marks")}

    def peek(self, n: int, *, max_bytes: int | None = None) -> list[bytes]:
        """The n oldest records, or fewer.

        Args:
            n: At most so many.
            max_bytes: At most so many bytes, but one record in any case.
        """
        with self._errors(), self._db as db:
            self._settle()
            records: list[bytes] = []
            rows = db.execute("select number, record from records order by number limit ?", (n,))
            total = 0
            for number, record in rows:
                total += len(record)
                if records and max_bytes is not None and total > max_bytes:
                    break
                self._peeked.append(number)
                records.append(record)
            rows.close()
            return records

    def drop(self, n: int, *, refused: bool = False) -> None:
        """Takes out the first n of the records that were peeked last: they arrived, or were refused for good."""
        with self._errors(), self._db as db:
            numbers, self._peeked = self._peeked[:n], self._peeked[n:]
            if not numbers:
                return
            span = (numbers[0], numbers[-1])
            with _transaction(db):
                gone, freed = db.execute(
                    "select count(*), coalesce(sum(length(record)), 0) from records where number between ? and ?", span
                ).fetchone()
                db.execute("delete from records where number between ? and ?", span)
                db.execute(COUNT, ("refused" if refused else "sent", len(numbers)))
                if found := len(self._given_up.intersection(numbers)):
                    db.execute(COUNT, ("lost", -found))
            if refused:
                self.refused += len(numbers)
            else:
                self.sent += len(numbers)
            self._given_up.difference_update(numbers)
            self._len -= gone
            self._bytes -= freed
            if not self._len:
                db.executescript("pragma incremental_vacuum")  # which, unlike execute, goes on to its end

    def sync(self) -> None:
        """Afterwards all that was appended outlives the end of the machine too.

        Raises:
            SinkError: the disk does not take it.
        """
        with self._errors(), self._db as db:
            db.execute("pragma wal_checkpoint(full)").fetchall()

    def close(self) -> None:
        """Frees the file. What waits in it stays there. May be called twice."""
        with self._errors(), self._db as db:
            self._settle()
            db.close()
        self._told_s = -LOG_S
        self._tell()

    def __len__(self) -> int:
        return self._len

    @property
    def bytes(self) -> int:
        """Of the records that wait."""
        return self._bytes

    def _make_room(self, db: sqlite3.Connection, n_bytes: int) -> tuple[set[int], int]:
        """Deletes the oldest records, as many as need be; returns their numbers and bytes."""
        gone, freed = set(), 0
        while self._bytes - freed + n_bytes > self._max_bytes:
            number, size = db.execute("select number, length(record) from records order by number limit 1").fetchone()
            db.execute("delete from records where number = ?", (number,))
            gone.add(number)
            freed += size
        return gone, freed

    def _settle(self) -> None:
        """The reader has nothing in hand: what was given up meanwhile and not dropped is lost."""
        self.lost += len(self._given_up)
        self._given_up.clear()
        self._peeked.clear()

    def _tell(self) -> None:
        now_s = time.monotonic()
        if self.lost > self._told and now_s - self._told_s >= LOG_S:
            text = "%s: %d records given up for newer ones, as more than %.0f MB waited to be sent"
            log.warning(text, self.folder, self.lost - self._told, self._max_bytes / 1e6)
            self._told, self._told_s = self.lost, now_s

    @contextmanager
    def _errors(self) -> Generator[None]:
        try:
            yield
        except (sqlite3.Error, OSError) as exc:
            cause = exc.strerror if isinstance(exc, OSError) and exc.strerror else exc
            raise SinkError(
                f"{self._path}: must be writable and of one run at a time, got {cause}; make room or end "
                "the other run; one that is damaged can be removed: what waits in it is lost, rows of files come anew"
            ) from exc


@contextmanager
def _transaction(db: sqlite3.Connection) -> Generator[None]:
    db.execute("begin immediate")
    try:
        yield
        db.execute("commit")
    except BaseException:
        with suppress(sqlite3.Error):  # some errors, a full disk say, roll back by themselves
            db.execute("rollback")
        raise
