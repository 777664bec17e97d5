"""Sinks whose far side may be away: what they take waits in a spool, and a thread sends it.

    event, write, commit ──▶ Spool ──▶ thread: send ──▶ the receiver
                                         │ away: again after 0.5 s, then twice as long each time, up to 30 s

Labelling never waits for a camera's receiver. Events and rows arrive in order, each at least once.
"""

from __future__ import annotations

import hashlib
import json
import logging
import math
import random
import time
from abc import abstractmethod
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

import pyarrow as pa

from pipeline.batch import FrameBatch, SegmentEnd
from pipeline.contracts import Sink
from pipeline.errors import SinkError
from pipeline.events import Event
from pipeline.rows import Labelling, labelling_of, table
from pipeline.sinks.lines import Jsonl, event_json
from pipeline.sinks.parts import open_part, part_path
from pipeline.sinks.spool import Spool
from pipeline.threads import Stop, Worker

__all__ = ["Away", "Refused", "Severed", "SpooledSink", "events_in", "rows_in"]

log = logging.getLogger(__name__)

FIRST_S, MOST_S = 0.5, 30.0  # between two attempts
JITTER = 0.2  # give or take this share, so that many senders do not come back at once
PATIENCE_S = 30.0  # for which files wait for a receiver that has gone: it may be back in a moment
TRIAL_S = 10.0
CLOSE_S = 2.0
LAST_S = 0.2  # to end, also for a sink whose turn comes after that
POISON = 10  # attempts in a row that ended the connection, until one record is held to be the cause
LOG_S = 60.0  # between two lines about what was refused
WAIT_S = 0.05
MOST_BYTES = 1 << 20  # sent at once, unless one record is larger
ROWS = 256  # in a record
EVENT, TABLE = b"e", b"r"  # what a record begins with; JSON follows, of rows one line each


class Away(Exception):  # noqa: N818 (named as what it says of the receiver)
    """The receiver took nothing, and may later."""


class Severed(Away):
    """It was there, and ended the connection when it was sent these records: one of them may be the cause."""


class Refused(Exception):  # noqa: N818
    """The receiver never takes these records."""


class SpooledSink(Sink):
    """Sends events and, if wanted, rows from a spool. `send` is what a kind of receiver adds.

    Any thread may look at `sent`, `refused`, `lost` and `pending`, all numbers of records: of files over the life of
    the run, of cameras since it was started.

    Args:
        name: Of the sink; what waits lies in `<folder>/spool/<name>/`.
        folder: The run's folder.
        spool_mb: Megabytes that may wait; beyond them the oldest are given up.
        batch: Records that are sent at once, at most.
        rows: Whether rows are sent as well.
        thumbnails: Whether events are sent with theirs.
        stop: Ends a wait for the receiver.
        live: How scores become labels, by the name of the filter, where rows are sent as they come.
    """

    takes_again = True  # the spool knows what it was given

    def __init__(
        self,
        name: str,
        *,
        folder: Path,
        spool_mb: float,
        batch: int,
        rows: bool = False,
        thumbnails: bool = True,
        stop: Stop | None = None,
        live: Mapping[str, Labelling] | None = None,
    ) -> None:
        self.name, self.run = name, folder.name
        self._folder = folder
        self._max_bytes = int(spool_mb * 1e6)
        self._batch = batch
        self._rows = rows
        self._thumbnails = thumbnails
        self._stop = stop
        self._live = live
        self._lines = Jsonl()
        self._opened: tuple[Spool, Worker] | None = None
        self._left: deque[Path] = deque()  # parts that are committed, and have found no room yet
        self._closing_s = math.inf  # monotonic time at which closing ends
        self._away_s = math.inf  # monotonic time since when it is away
        self._why = ""  # it is, as the log was told last
        self._attempts = 0  # since the receiver was last there
        self._next_s = 0.0  # monotonic time of the next one
        self._severed = 0  # attempts in a row
        self._again = 0  # records of the attempt that is to be made again, as it was
        self._singly = 0  # records that go one by one, since one of them was refused
        self._untold, self._told_s = 0, -math.inf  # refused records that the log has not told of, and when it did

    @abstractmethod
    def send(self, records: Sequence[bytes], timeout_s: float) -> int:
        """Hands over records in order; returns how many of the first of them arrived. Called in the sink's thread.

        Raises:
            Away: none arrived. `Severed`: and it may be for what one of them holds.
            Refused: they never will.
        """

    def rest(self) -> float | None:
        """Nothing waits: called in the sink's thread; returns after how many seconds to call it again."""
        return None

    def hang_up(self) -> None:
        """Nothing more is sent: called when the sink's thread has ended."""

    @property
    def pending(self) -> int:
        """Records that wait to be sent; a part that has found no room yet counts as one."""
        return len(self._left) + (len(self._opened[0]) if self._opened is not None else 0)

    @property
    def lost(self) -> int:
        """Records that were given up, as too many waited."""
        return self._opened[0].lost if self._opened is not None else 0

    @property
    def sent(self) -> int:
        """Records that arrived."""
        return self._opened[0].sent if self._opened is not None else 0

    @property
    def refused(self) -> int:
        """Records that never will."""
        return self._opened[0].refused if self._opened is not None else 0

    def trial(self) -> str | None:
        """Sends an event of the source `test` and the run `vpipe check`, past the spool. For a sink that is not in use.

        Returns:
            Why it did not arrive, or None.
        """
        self.run, now_s = "vpipe check", time.time()
        event = Event(
            source="test",
            region=None,
            filter="test",
            label="test",
            clock="utc",
            first_frame=0,
            last_frame=0,
            began_s=now_s,
            ended_s=now_s,
            best_frame=0,
            best_score=1.0,
            is_over=True,
        )
        try:
            self._sent([EVENT + event_json(event, thumbnail=self._thumbnails)], TRIAL_S)
        except (Away, Refused) as exc:
            return str(exc)
        finally:
            self.hang_up()
        return None

    def resume(self, ends: Sequence[SegmentEnd]) -> None:
        """Leaves to be sent what is committed and has not found its way here."""
        spool, _ = self._open()  # in any case: what was lost before counts
        if self._rows and self._live is None:
            marks = spool.marks()
            self._left.extend(path for end in ends for path in self._parts(end) if self._mark(path) not in marks)
            self._catch_up()

    def write(self, batch: FrameBatch) -> None:
        """Leaves rows of cameras to be sent. Of others, what counts is what gets committed."""
        self._open()
        if self._rows and self._live is not None and len(batch):
            labelling = self._live[batch.filter]
            (rows,) = table(batch, labelling).combine_chunks().to_batches()
            self._leave_rows(rows, labelling)

    def event(self, event: Event) -> None:
        spool, worker = self._open()
        spool.append(EVENT + event_json(event, thumbnail=self._thumbnails), once=self._once(event))
        worker.wake()
        if self._live is None:
            self._wait(self._max_bytes // 2)  # files wait, so that nothing of them is given up

    def sync(self) -> None:
        if self._opened is not None:
            self._opened[0].sync()

    def commit(self, end: SegmentEnd) -> None:
        spool, worker = self._open()
        if self._rows and self._live is None and not end.retry:
            self._left.extend(self._parts(end))
            self._catch_up()
        spool.sync()
        worker.wake()

    def finish(self) -> None:
        """Of files, waits until all is sent, also what an earlier run left, unless the receiver is away."""
        self._open()
        if self._live is None:
            self._try_now()
            left = -1
            while self._left and len(self._left) != left:
                left = len(self._left)
                self._wait(self._max_bytes // 2)
                self._catch_up()
            self._wait(0)

    def hurry(self) -> None:
        """`close` will be called soon, and the time for what still waits begins now: that of several sinks together."""
        if self._opened is not None and self._closing_s == math.inf:
            self._closing_s = time.monotonic() + CLOSE_S
            with suppress(SinkError):  # `close` goes on though its thread has failed
                self._opened[1].wake()

    def close(self) -> None:
        if self._opened is None:
            return
        spool, worker = self._opened
        self.hurry()
        if worker.close(max(LAST_S, self._closing_s - time.monotonic())):
            self.hang_up()
        spool.close()
        if self.pending:
            text = "%s: %d records were not taken and wait in %s; the run sends them when it goes on"
            log.warning(text, self.name, self.pending, spool.folder)
        if self.lost or self.refused:
            log.warning("%s: %d records were given up, %d refused", self.name, self.lost, self.refused)

    def _open(self) -> tuple[Spool, Worker]:
        if self._opened is None:
            counts_on = self._live is None  # as all that a summary tells
            spool = Spool(self._folder / "spool" / self.name, self._max_bytes, counts_on=counts_on)
            self._opened = spool, Worker(lambda: self._work(spool), name=f"sink-{self.name}")
        return self._opened

    def _once(self, event: Event) -> tuple[str, bytes] | None:
        """Of files, by what an event is known that was told before, and whether as it is. Cameras tell none again."""
        if self._live is not None:
            return None
        if not event.is_over:
            return f"began {event.key}", b""
        return f"ended {event.key}", hashlib.sha256(event_json(event)).digest()

    def _parts(self, end: SegmentEnd) -> list[Path]:
        return [part_path(self._folder, name, end.segment) for name in end.filters]

    def _mark(self, path: Path) -> str:
        return str(path.relative_to(self._folder))

    def _catch_up(self) -> None:
        """Leaves parts to be sent, in order, as far as there is room: rather than given up they are left for later."""
        while self._left and not self._is_full() and self._leave_part(self._left[0]):
            self._left.popleft()

    def _is_full(self) -> bool:
        """Whether nothing that can wait elsewhere is to be left here now."""
        spool, _ = self._open()
        return bool(self._stop) or spool.bytes > self._max_bytes // 2

    def _leave_part(self, path: Path) -> bool:
        """Leaves the rows of a committed part to be sent, and marks it, as far as there is room.

        Returns:
            Whether all of it was left; else it is to be left anew.
        """
        spool, _ = self._open()
        with open_part(path) as part:
            labelling = labelling_of(part.metadata.metadata)
            for rows in part.iter_batches(ROWS):
                if self._is_full():
                    return False
                self._leave_rows(rows, labelling)
                self._wait(self._max_bytes // 2)  # files wait, so that nothing of them is given up
        spool.mark(self._mark(path))
        return True

    def _leave_rows(self, rows: pa.RecordBatch, labelling: Labelling) -> None:
        spool, worker = self._open()
        for first in range(0, len(rows), ROWS):
            lines = self._lines.lines(rows.slice(first, ROWS), labelling, alone=True)
            spool.append(TABLE + self._lines.text(lines, first=False).to_pybytes())
        worker.wake()

    def _wait(self, most_bytes: int) -> None:
        """Waits until no more than so much waits to be sent, unless the receiver has been away for `PATIENCE_S`."""
        spool, worker = self._open()
        while spool.bytes > most_bytes and time.monotonic() - self._away_s < PATIENCE_S and not self._stop:
            worker.wake()  # raises what the thread failed with
            time.sleep(WAIT_S)

    def _try_now(self) -> None:
        """Makes the next attempt at a receiver that was away at once: it may be back, and nobody waits for it later."""
        _, worker = self._open()
        before, until_s = self._attempts, time.monotonic() + TRIAL_S
        self._next_s = 0.0
        while before and self._attempts == before and time.monotonic() < until_s and not self._stop:
            worker.wake()
            time.sleep(WAIT_S)

    def _work(self, spool: Spool) -> float | None:
        """Sends what can be sent now; returns when to come again."""
        closing = self._closing_s < math.inf
        now_s = time.monotonic()
        if now_s < self._next_s and not closing:
            return self._next_s - now_s  # woken, and the receiver was away a moment ago
        limit = 1 if self._singly else self._again or self._batch
        records = spool.peek(limit, max_bytes=MOST_BYTES)
        if not records:
            return None if closing else self.rest()
        refused = False
        try:
            n = self._sent(records, max(0.1, self._closing_s - now_s))
        except Away as exc:
            self._severed = self._severed + 1 if isinstance(exc, Severed) else 0
            if self._severed < POISON or len(records) > 1:
                if self._severed > 1:
                    self._singly = len(records)  # so that the one at fault shows
                self._again = len(records)
                return self._wait_s(str(exc), len(spool))
            n, refused = (
                self._refuse(records[0], f"{exc}, {self._severed} times; it may be too long for the receiver"),
                True,
            )
        except Refused as exc:
            if len(records) > 1:
                self._singly = len(records)
                return 0.0
            n, refused = self._refuse(records[0], str(exc)), True
        if self._attempts:
            log.info("%s: is back after %d attempts", self.name, self._attempts)
        self._attempts, self._severed, self._next_s, self._away_s, self._why = 0, 0, 0.0, math.inf, ""
        self._again, self._singly = 0, max(0, self._singly - n)
        spool.drop(n, refused=refused)
        return 0.0

    def _sent(self, records: Sequence[bytes], timeout_s: float) -> int:
        """Sends; returns how many arrived."""
        try:
            return self.send(records, timeout_s)
        except (Away, Refused):
            raise
        except Exception as exc:  # a library may fail in ways that nobody foresaw; its text may hold a secret
            raise Away(f"a failure ({type(exc).__name__})") from None

    def _refuse(self, record: bytes, why: str) -> int:
        """One record is dropped."""
        self._untold += 1
        now_s = time.monotonic()
        if now_s - self._told_s >= LOG_S:
            what = json.loads(record[1:])["key"] if record[:1] == EVENT else "rows"
            text = "%s: %d records were refused for good (the last, %s of %d bytes: %s) and are dropped"
            log.warning(text, self.name, self._untold, what, len(record) - 1, why)
            self._untold, self._told_s = 0, now_s
        return 1

    def _wait_s(self, why: str, pending: int) -> float:
        if not self._attempts:
            self._away_s = time.monotonic()
        if why != self._why:  # it may be there by now, and refuse
            self._why = why
            log.warning(
                "%s: must be there, got %s; %d records wait, it is tried again for ever", self.name, why, pending
            )
        pause_s: float = min(MOST_S, FIRST_S * 2.0 ** min(self._attempts, 10)) * random.uniform(1 - JITTER, 1 + JITTER)
        self._attempts += 1
        self._next_s = time.monotonic() + pause_s
        return pause_s


def events_in(records: Sequence[bytes]) -> Iterator[bytes]:
    """The events among records, as JSON each."""
    return (record[1:] for record in records if record[:1] == EVENT)


def rows_in(records: Sequence[bytes]) -> Iterator[bytes]:
    """The rows among records, as JSON each."""
    return (line for record in records if record[:1] == TABLE for line in record[1:].splitlines())
