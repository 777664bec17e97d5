import contextlib
import os
import signal
import sqlite3
import subprocess
import sys
import tempfile
from collections import deque
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.errors import SinkError
from pipeline.sinks import spool as spool_module
from pipeline.sinks.spool import Spool

ROOT = Path(__file__).parents[1]


@pytest.fixture
def spool(tmp_path):
    with contextlib.closing(Spool(tmp_path / "spool", 1000)) as opened:
        yield opened


def numbered(n):
    return [b"%06d" % k for k in range(n)]


def test_records_come_in_order_and_stay_until_they_are_dropped(spool):
    for record in numbered(5):
        spool.append(record)
    assert spool.peek(2) == numbered(2)
    assert spool.peek(3) == numbered(3)
    spool.drop(2)
    assert spool.peek(10) == numbered(5)[2:]
    assert (len(spool), spool.bytes, spool.lost) == (3, 18, 0)


def test_what_waits_is_there_when_it_is_opened_again(tmp_path):
    with contextlib.closing(Spool(tmp_path, 1000)) as spool:
        for record in numbered(3):
            spool.append(record)
        spool.peek(3)
        spool.drop(1)
    with contextlib.closing(Spool(tmp_path, 1000)) as spool:
        assert (len(spool), spool.bytes) == (2, 12)
        spool.append(b"new")
        assert spool.peek(10) == [*numbered(3)[1:], b"new"]


def test_beyond_the_bound_the_oldest_are_given_up_and_counted(tmp_path):
    with contextlib.closing(Spool(tmp_path, 30)) as spool:
        for record in numbered(8):
            spool.append(record)
        assert spool.peek(10) == numbered(8)[3:]
        assert (spool.bytes, spool.lost) == (30, 3)


def test_what_is_marked_stays_so(tmp_path):
    with contextlib.closing(Spool(tmp_path, 30)) as spool:
        assert spool.marks() == set()
        for mark in ("a", "b", "a"):
            spool.mark(mark)
        spool.append(b"record")
        spool.drop(len(spool.peek(1)))
    with contextlib.closing(Spool(tmp_path, 30)) as spool:
        assert spool.marks() == {"a", "b"}


def test_a_record_of_a_name_is_taken_once_in_each_state(tmp_path):
    with contextlib.closing(Spool(tmp_path, 100)) as spool:
        for state in (b"a", b"a", b"b"):
            spool.append(b"as " + state, once=("x", state))
        spool.append(b"another", once=("y", b"a"))
        spool.append(b"x" * 101, once=("z", b""))
    with contextlib.closing(Spool(tmp_path, 100)) as spool:
        spool.append(b"as b", once=("x", b"b"))
        spool.append(b"x" * 101, once=("z", b""))  # was lost, and is not lost again
        assert spool.peek(9) == [b"as a", b"as b", b"another"]
        spool.append(b"as a", once=("x", b"a"))
        assert spool.peek(9)[3:] == [b"as a"]


def test_what_became_of_records_is_counted_over_the_life_of_a_spool_or_anew(tmp_path):
    for _ in range(2):
        with contextlib.closing(Spool(tmp_path, 20)) as spool:
            for record in numbered(5):
                spool.append(record)
            spool.append(b"x" * 21)
            spool.peek(2)
            spool.drop(1)
            spool.drop(1, refused=True)
            spool.peek(1)
            for record in numbered(3):
                spool.append(record)
            spool.drop(1)  # what was given up meanwhile did arrive
    assert (spool.sent, spool.refused, spool.lost) == (4, 2, 3 + 6)
    with contextlib.closing(Spool(tmp_path, 20)) as spool:
        assert (spool.sent, spool.refused, spool.lost) == (4, 2, 9)
    with contextlib.closing(Spool(tmp_path, 20, counts_on=False)) as spool:
        assert (spool.sent, spool.refused, spool.lost) == (0, 0, 0)
        spool.append(b"x" * 21)
    with contextlib.closing(Spool(tmp_path, 20)) as spool:
        assert spool.lost == 1


def test_a_spool_from_before_there_were_names_takes_them(tmp_path):
    with contextlib.closing(sqlite3.connect(tmp_path / spool_module.FILE)) as db:
        db.executescript(
            "create table records (number integer primary key autoincrement, record blob not null);"
            "create table marks (mark text primary key) without rowid;"
            "insert into records (record) values (cast('old' as blob)); insert into marks values ('a');"
        )
    with contextlib.closing(Spool(tmp_path, 100)) as spool:
        for _ in range(2):
            spool.append(b"new", once=("x", b""))
        assert (spool.peek(9), spool.marks()) == ([b"old", b"new"], {"a"})
        spool.drop(1)
        assert (spool.sent, spool.refused, spool.lost) == (1, 0, 0)


def test_a_record_larger_than_the_bound_is_lost_alone(tmp_path):
    with contextlib.closing(Spool(tmp_path, 30)) as spool:
        spool.append(b"small")
        spool.append(b"x" * 31)
        assert (spool.peek(9), spool.lost) == ([b"small"], 1)


def test_what_is_given_up_while_it_is_sent_is_lost_only_if_it_did_not_arrive(tmp_path):
    with contextlib.closing(Spool(tmp_path, 12)) as spool:
        spool.append(b"000000")
        spool.append(b"000001")
        assert len(spool.peek(2)) == 2
        spool.append(b"000002")
        spool.append(b"000003")
        assert spool.lost == 0
        spool.drop(1)  # the first arrived, the second did not
        assert spool.peek(9) == [b"000002", b"000003"]
        assert spool.lost == 1


def test_a_peek_ends_before_too_many_bytes_but_gives_one_record(spool):
    for size in (5, 5, 100):
        spool.append(b"x" * size)
    assert [len(record) for record in spool.peek(9, max_bytes=12)] == [5, 5]
    spool.drop(2)
    assert [len(record) for record in spool.peek(9, max_bytes=12)] == [100]


def test_what_is_lost_is_logged_once_a_minute_and_at_the_end(tmp_path, caplog):
    with contextlib.closing(Spool(tmp_path, 12)) as spool:
        for record in numbered(9):
            spool.append(record)
    told = [record.getMessage() for record in caplog.records]
    assert [text.partition(": ")[2].partition(" records")[0] for text in told] == ["1", "6"]


def test_what_the_disk_does_not_take_counts_for_nothing(tmp_path):
    with contextlib.closing(Spool(tmp_path, 60_000)) as spool:
        for k in range(6):
            spool.append(bytes([k]) * 100)
        spool.sync()
        with spool._db as db:
            (pages,) = db.execute("pragma page_count").fetchone()
            db.execute(f"pragma max_page_count = {pages}").fetchall()
        with pytest.raises(SinkError, match=r"database or disk is full"):
            spool.append(b"x" * 59_950, once=("x", b""))  # for which it would give up all others
        assert (len(spool), spool.bytes, spool.lost) == (6, 600, 0)
        with spool._db as db:
            assert db.execute("select count(*) from told").fetchone() == (0,)
        assert [record[0] for record in spool.peek(9)] == list(range(6))


def test_a_spool_in_use_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(spool_module, "LOCKED_S", 0.1)
    with (
        contextlib.closing(Spool(tmp_path, 100)),
        pytest.raises(
            SinkError, match=r"spool\.sqlite: must be .* of one run at a time, got database is locked; .*end"
        ),
    ):
        Spool(tmp_path, 100)


def test_a_file_of_something_else_is_refused(tmp_path):
    (tmp_path / spool_module.FILE).write_text("something else, longer than the head of a database" * 50)
    with pytest.raises(SinkError, match=r"got file is not a database; .* can be removed"):
        Spool(tmp_path, 100)


def test_a_folder_that_cannot_be_made_is_named(tmp_path):
    (tmp_path / "spool").write_text("a file")
    with pytest.raises(SinkError, match=r"spool.sqlite: must be writable"):
        Spool(tmp_path / "spool" / "hook", 100)


def test_a_synced_spool_lies_in_its_file_alone(tmp_path):
    with contextlib.closing(Spool(tmp_path, 1000)) as spool:
        spool.append(b"safe")
        spool.sync()
        (tmp_path / "copy.sqlite").write_bytes((tmp_path / spool_module.FILE).read_bytes())
    copy = sqlite3.connect(tmp_path / "copy.sqlite")
    assert copy.execute("select record from records").fetchall() == [(b"safe",)]
    copy.close()


STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("append"), st.integers(0, 40)),
        st.tuples(st.just("peek"), st.integers(0, 6)),
        st.tuples(st.just("drop"), st.integers(0, 6)),
        st.tuples(st.just("reopen"), st.just(0)),
    ),
    max_size=40,
)


@given(steps=STEPS)
@settings(max_examples=60, deadline=None)
def test_a_spool_is_a_bounded_queue_however_often_it_is_opened(steps):
    bound = 100
    with tempfile.TemporaryDirectory() as folder:
        spool, model, lost, sent, in_hand = Spool(Path(folder), bound), deque(), 0, 0, []
        try:
            for number, (step, n) in enumerate(steps):
                match step:
                    case "append":
                        record = bytes([number]) * n
                        spool.append(record)
                        model.append(record)
                        while sum(map(len, model)) > bound:
                            lost += model.popleft() not in in_hand
                    case "peek":
                        lost += sum(record not in model for record in in_hand)
                        in_hand = list(model)[:n]
                        assert spool.peek(n) == in_hand
                    case "drop":
                        for record in in_hand[:n]:
                            if record in model:
                                model.remove(record)
                        spool.drop(n)
                        sent += len(in_hand[:n])
                        in_hand = in_hand[n:]
                    case "reopen":
                        spool.close()
                        lost += sum(record not in model for record in in_hand)
                        spool, in_hand = Spool(Path(folder), bound), []
                assert (len(spool), spool.bytes) == (len(model), sum(map(len, model)))
                assert (spool.lost, spool.sent) == (lost, sent)
        finally:
            spool.close()


WRITER = """
import sys
from pathlib import Path
from pipeline.sinks.spool import Spool
spool = Spool(Path(sys.argv[1]), 10**9)
number = int(sys.argv[2])
while True:
    spool.append(b"%d" % number + b" " * (number % 5000))
    print(number, flush=True)
    number += 1
    if number % 3 == 0:
        spool.peek(2)
        spool.drop(1)
        print("dropped", flush=True)
"""


def test_a_killed_process_loses_nothing_that_was_appended_and_keeps_the_order(tmp_path):
    first, dropped = 0, 0
    for life in range(4):
        process = subprocess.Popen(
            [sys.executable, "-c", WRITER, str(tmp_path), str(first)], cwd=ROOT, stdout=subprocess.PIPE, text=True
        )
        lines = []
        while len(lines) < 40 + 35 * life:
            lines.append(process.stdout.readline())
        os.kill(process.pid, signal.SIGKILL)
        lines += process.stdout.readlines()
        process.stdout.close()
        process.wait()
        told = [line.strip() for line in lines if line.endswith("\n")]
        appended = first + sum(line != "dropped" for line in told)
        dropped += told.count("dropped")
        with contextlib.closing(Spool(tmp_path, 10**9)) as spool:
            there = [int(record) for record in spool.peek(10_000)]
        assert there == list(range(there[0], there[-1] + 1))
        assert there[0] in (dropped, dropped + 1)  # it may have been killed before it could say so
        assert there[-1] + 1 in (appended, appended + 1)
        first, dropped = there[-1] + 1, there[0]


def test_what_was_sent_makes_room_on_disk_again(tmp_path):
    with contextlib.closing(Spool(tmp_path, 10**7)) as spool:
        for _ in range(200):
            spool.append(b"x" * 10_000)
        while len(spool):
            spool.peek(50)
            spool.drop(50)
        spool.sync()
        assert (tmp_path / spool_module.FILE).stat().st_size < 100_000
