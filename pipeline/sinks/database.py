"""Events, and rows if wanted, as tables of a database: a file of SQLite, or PostgreSQL.

    events (run, key, source, region, filter, label, clock, first_frame, last_frame, began_s, ended_s, best_frame,
            best_score, thumbnail, is_over)           a row per event, whole when it is over
    labels (run, source, frame, region, captured, filter, label, score)      a row per picture and filter

`run` is the name of the run, of which several may share a database. Other programs may read them meanwhile. Both
databases understand the same statements, but for the mark of a value and the names of two types.
"""

from __future__ import annotations

import base64
import importlib.util
import json
import os
import re
import socket
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, suppress
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.errors import ConfigError
from pipeline.rows import Labelling
from pipeline.sinks.delivery import Away, Refused, SpooledSink, events_in, rows_in
from pipeline.threads import Stop, within

if TYPE_CHECKING:
    import psycopg

__all__ = ["PostgresSink", "SqliteSink", "missing_psycopg"]

OF_EVENTS = (
    *("run", "key", "source", "region", "filter", "label", "clock", "first_frame", "last_frame", "began_s", "ended_s"),
    *("best_frame", "best_score", "thumbnail", "is_over"),
)
OF_ROWS = ("run", "source", "frame", "region", "captured", "filter", "label", "score")
TIMEOUT_S = 5.0
FROZEN_S = 2.0  # beyond it, until a server that does not even end its own statements is left
FOREIGN = ": its tables `events` and `labels` must be vpipe's own; name another file, database or schema"

TABLES = """
create table if not exists events (
    run text not null, key text not null, source text not null, region text, filter text not null, label text not null,
    clock text not null, first_frame bigint not null, last_frame bigint not null, began_s double precision,
    ended_s double precision, best_frame bigint not null, best_score real not null, thumbnail {bytes},
    is_over boolean not null, primary key (run, key)
);
create table if not exists labels (
    run text not null, source text not null, frame bigint not null, region text, captured {instant},
    filter text not null, label text, score real not null
);
create unique index if not exists label_of on labels ({row});
"""
# Cameras count anew what was not committed when a run was killed: their times tell such frames apart.
ROW = "run, source, frame, filter, coalesce(region, ''), coalesce(captured, '1970-01-01T00:00:00Z')"


def _put(table: str, columns: Sequence[str], key: str, *, mark: str) -> str:
    """The statement that writes a row, or writes over the one of the same key."""
    values = ", ".join([mark] * len(columns))
    new = ", ".join(f"{name} = excluded.{name}" for name in columns)
    return f"insert into {table} ({', '.join(columns)}) values ({values}) on conflict ({key}) do update set {new}"


def _put_event(mark: str) -> str:
    """An event that is over stays so, in whatever order it is told again."""
    return f"{_put('events', OF_EVENTS, 'run, key', mark=mark)} where excluded.is_over >= events.is_over"


def _put_row(mark: str) -> str:
    return _put("labels", OF_ROWS, ROW, mark=mark)


def _events(records: Sequence[bytes], run: str) -> list[list[object]]:
    """Of each event among records, the values of its row."""
    rows = []
    for text in events_in(records):
        event = json.loads(text) | {"run": run}
        event["is_over"] = event["event"] == "ended"
        picture = event.get("thumbnail")
        event["thumbnail"] = None if picture is None else base64.b64decode(picture)
        rows.append([event[name] for name in OF_EVENTS])
    return rows


def _rows(records: Sequence[bytes], run: str) -> list[list[object]]:
    rows = (json.loads(text) | {"run": run} for text in rows_in(records))
    return [[row[name] for name in OF_ROWS] for row in rows]


class SqliteSink(SpooledSink):
    """A file of SQLite. One that is locked, or whose disk is full, is tried again.

    Args:
        path: The file; made if need be, else added to.
        rows: Whether rows are written, too.
        name, spool_mb, thumbnails, folder, stop, live: See SpooledSink.
    """

    def __init__(
        self,
        path: str | PathLike[str],
        *,
        folder: Path,
        spool_mb: float = 100.0,
        rows: bool = False,
        thumbnails: bool = True,
        name: str = "sqlite",
        stop: Stop | None = None,
        live: Mapping[str, Labelling] | None = None,
    ) -> None:
        super().__init__(
            name, folder=folder, spool_mb=spool_mb, batch=100, rows=rows, thumbnails=thumbnails, stop=stop, live=live
        )
        self._path = Path(path)
        self._is_set_up = False

    def send(self, records: Sequence[bytes], timeout_s: float) -> int:
        try:
            with closing(sqlite3.connect(self._path, timeout=min(TIMEOUT_S, timeout_s))) as db:
                if not self._is_set_up:
                    db.execute("pragma journal_mode = wal")
                    db.executescript(TABLES.format(bytes="blob", instant="text", row=ROW))
                    self._is_set_up = True
                with db:  # one transaction
                    db.executemany(_put_event("?"), _events(records, self.run))
                    db.executemany(_put_row("?"), _rows(records, self.run))
        except sqlite3.Error as exc:
            self._is_set_up = False  # the file may be another one when it is there again
            foreign = FOREIGN if re.search("no such column|has no column|ON CONFLICT", str(exc)) else ""
            raise Away(f"{self._path}: {exc}{foreign}") from None
        return len(records)


class PostgresSink(SpooledSink):
    """A database of PostgreSQL. The tables are made if need be.

    Args:
        url: `postgresql://user:password@host:port/database`.
        rows: Whether rows are written, too.
        name, spool_mb, thumbnails, folder, stop, live: See SpooledSink.
    """

    def __init__(
        self,
        url: str,
        *,
        folder: Path,
        spool_mb: float = 100.0,
        rows: bool = False,
        thumbnails: bool = True,
        name: str = "postgres",
        stop: Stop | None = None,
        live: Mapping[str, Labelling] | None = None,
    ) -> None:
        super().__init__(
            name, folder=folder, spool_mb=spool_mb, batch=100, rows=rows, thumbnails=thumbnails, stop=stop, live=live
        )
        problem = missing_psycopg()
        if problem is not None:
            raise ConfigError([f"sink {name}: {problem}"])
        self._url = url
        self._db: psycopg.Connection | None = None
        self._is_set_up = False

    def send(self, records: Sequence[bytes], timeout_s: float) -> int:
        import psycopg

        if self._db is None:
            self._db = self._connect(timeout_s)
        try:
            with _answering(self._db, timeout_s):
                if not self._is_set_up:
                    self._set_up(self._db)
                with self._db.transaction(), self._db.cursor() as cursor:
                    cursor.executemany(_put_event("%s"), _events(records, self.run))
                    cursor.executemany(_put_row("%s"), _rows(records, self.run))
        except psycopg.Error as exc:
            self.hang_up()
            why = str(exc).strip().partition("\n")[0] or type(exc).__name__
            if isinstance(exc, (psycopg.DataError, psycopg.IntegrityError)):
                raise Refused(why) from None
            raise Away(f"{why}{FOREIGN}" if isinstance(exc, psycopg.ProgrammingError) else why) from None
        return len(records)

    def hang_up(self) -> None:
        import psycopg

        if self._db is not None:
            with suppress(psycopg.Error):
                self._db.close()
            self._db, self._is_set_up = None, False

    def _connect(self, timeout_s: float) -> psycopg.Connection:
        import psycopg

        at_most_s = max(1, round(min(TIMEOUT_S, timeout_s)))
        try:
            return psycopg.connect(
                self._url,
                autocommit=True,
                connect_timeout=at_most_s,
                application_name="vpipe",
                tcp_user_timeout=round(TIMEOUT_S * 1000),  # for a server whose machine is gone
            )
        except psycopg.ProgrammingError:  # what libpq says of an address shows part of it
            raise Away("an address that cannot be read") from None
        except psycopg.Error as exc:
            raise Away(str(exc).strip().partition("\n")[0] or type(exc).__name__) from None

    def _set_up(self, db: psycopg.Connection) -> None:
        """Makes the tables, unless they are there: who may write to them need not be allowed to make any."""
        db.execute(f"set statement_timeout = {TIMEOUT_S:.0f}000")
        there = db.execute("select to_regclass('events'), to_regclass('labels')").fetchone()
        if there is None or None in there:
            db.execute(TABLES.format(bytes="bytea", instant="timestamptz", row=ROW))
        self._is_set_up = True


@contextmanager
def _answering(db: psycopg.Connection, timeout_s: float) -> Iterator[None]:
    """Ends the connection when the block takes too long: a server that is frozen answers nothing, and never leaves."""
    line = socket.socket(fileno=os.dup(db.fileno()))

    def give_up() -> None:
        with suppress(OSError):
            line.shutdown(socket.SHUT_RDWR)

    with closing(line), within(min(TIMEOUT_S, timeout_s) + FROZEN_S, give_up, name="postgres-limit"):
        yield


def missing_psycopg() -> str | None:
    """What to install, unless psycopg is there."""
    if importlib.util.find_spec("psycopg") is None:
        return "must have psycopg, got none; pip install 'vpipe[postgres]'"
    return None
