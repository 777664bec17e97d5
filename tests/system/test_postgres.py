import contextlib
import os
import signal
import subprocess
from dataclasses import replace
from datetime import UTC, datetime

import psycopg
import pytest

from pipeline.rows import Labelling
from pipeline.sinks import database, delivery
from pipeline.sinks.database import PostgresSink
from tests.spooled import free_port, listens, told, until
from tests.test_database import batch

PERSON = Labelling("person", ("person", "none"))


class Server:
    """A PostgreSQL of its own, which can be stopped and started."""

    def __init__(self, programs, folder):
        self.programs, self.folder, self.port, self.process = programs, folder, free_port(), None
        self.url = f"postgresql://me:hunter2@127.0.0.1:{self.port}/postgres"
        # It refuses to be root's.
        self.user = {"user": "postgres", "group": "postgres", "extra_groups": []} if os.getuid() == 0 else {}
        if self.user:
            subprocess.run(["chown", "postgres", folder], check=True)
        password = folder / "password"
        password.write_text("hunter2")
        options = ["-U", "me", "--pwfile", password, "-A", "scram-sha-256", "--no-sync"]
        self.run("initdb", "-D", folder / "data", *options)

    def run(self, program, *arguments):
        subprocess.run(
            [self.programs / program, *arguments], check=True, capture_output=True, cwd=self.folder, **self.user
        )

    def start(self):
        options = ["-p", str(self.port), "-h", "127.0.0.1", "-k", ""]
        self.process = subprocess.Popen(
            [self.programs / "postgres", "-D", self.folder / "data", *options],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            cwd=self.folder,
            **self.user,
        )
        until(lambda: listens(self.port))
        until(self.answers)

    def answers(self):
        with contextlib.suppress(psycopg.OperationalError):
            return self.query("select 1")

    def stop(self):
        if self.process is not None:
            self.process.terminate()  # waits for sinks to leave
            self.process.send_signal(2)  # no longer
            self.process.wait()
            self.process = None

    @contextlib.contextmanager
    def frozen(self):
        """All of its processes stand still."""
        found = subprocess.run(["pgrep", "-P", str(self.process.pid)], capture_output=True, text=True, check=True)
        numbers = [self.process.pid, *map(int, found.stdout.split())]
        for number in numbers:
            os.kill(number, signal.SIGSTOP)
        try:
            yield
        finally:
            for number in numbers:
                os.kill(number, signal.SIGCONT)

    def query(self, text):
        with psycopg.connect(self.url) as db:
            return db.execute(text).fetchall()


@pytest.fixture
def server(postgres, monkeypatch):
    monkeypatch.setattr(delivery, "FIRST_S", 0.05)
    with contextlib.ExitStack() as cleanup:
        import tempfile
        from pathlib import Path

        # Another user must reach it, who may not read pytest's folders.
        folder = Path(cleanup.enter_context(tempfile.TemporaryDirectory()))
        made = Server(postgres, folder)
        cleanup.callback(made.stop)
        yield made


def opened(server, folder, **options):
    return contextlib.closing(PostgresSink(server.url, folder=folder, **options))


def test_events_and_rows_become_rows(server, tmp_path):
    server.start()
    with opened(server, tmp_path, rows=True, live={"person": PERSON}) as sink:
        for event in told(2):
            sink.event(replace(event, thumbnail=b"\xff\xd8jpeg"))
        sink.write(batch([7, 8]))
        sink.write(batch([8, 9]))
        until(lambda: sink.sent == 6)
    rows = server.query("select key, last_frame, best_score, thumbnail, is_over from events order by key")
    assert rows == [(f"gate//person/person/{k}/{100 * k + 500}", k + 5, 0.875, b"\xff\xd8jpeg", True) for k in (0, 10)]
    assert server.query("select frame, region, captured, label from labels order by frame") == [
        (k, None, datetime.fromtimestamp(1_700_000_000 + k, UTC), "person") for k in (7, 8, 9)
    ]


def test_a_server_that_is_stopped_for_a_while_gets_all(server, tmp_path, caplog):
    events = list(told(20))
    server.start()
    with opened(server, tmp_path) as sink:
        for event in events[:10]:
            sink.event(event)
        until(lambda: sink.sent == 10)
        server.stop()
        for event in events[10:]:
            sink.event(event)
        until(lambda: "must be there" in caplog.text)
        server.start()
        until(lambda: sink.pending == 0)
    assert server.query("select count(*), count(*) filter (where is_over) from events") == [(20, 20)]
    assert "hunter2" not in caplog.text


def test_a_wrong_password_is_told_without_it_and_nothing_is_lost(server, tmp_path, caplog):
    server.start()
    server.url = server.url.replace("hunter2", "hunter3")
    with opened(server, tmp_path) as sink:
        sink.event(next(told(1)))
        until(lambda: "password authentication failed" in caplog.text)
        assert sink.pending == 1
    assert "hunter3" not in caplog.text


def test_an_address_that_libpq_cannot_read_is_not_shown(server, tmp_path, caplog):
    server.url = server.url.replace("hunter2", "100%hunter2")
    with opened(server, tmp_path) as sink:
        sink.event(next(told(1)))
        until(lambda: "an address that cannot be read" in caplog.text)
    assert "hunter2" not in caplog.text


def test_tables_of_somebody_else_are_left_alone_and_told(server, tmp_path, caplog):
    server.start()
    with psycopg.connect(server.url) as db:
        db.execute("create table events (id integer)")
    with opened(server, tmp_path) as sink:
        sink.event(next(told(1)))
        until(lambda: "its tables `events` and `labels` must be vpipe's own" in caplog.text)
        assert sink.pending == 1


def test_a_server_that_is_frozen_is_left_and_gets_all_when_it_is_back(server, tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(database, "TIMEOUT_S", 0.5)
    monkeypatch.setattr(database, "FROZEN_S", 0.5)
    server.start()
    with opened(server, tmp_path) as sink:
        events = list(told(10))
        for event in events[:10]:
            sink.event(event)
        until(lambda: sink.sent == 10)
        with server.frozen():
            for event in events[10:]:
                sink.event(event)
            until(lambda: "must be there" in caplog.text)
        until(lambda: sink.pending == 0)
    assert server.query("select count(*), count(*) filter (where is_over) from events") == [(10, 10)]


def test_who_may_not_make_tables_is_told_so_and_may_write_to_those_that_are_there(server, tmp_path, caplog):
    server.start()
    with psycopg.connect(server.url) as db:
        db.execute("create role writer login password 'hunter2'")
    url = server.url.replace("//me:", "//writer:")
    with contextlib.closing(PostgresSink(url, folder=tmp_path)) as sink:
        sink.event(next(told(1)))
        until(lambda: "permission denied for schema public" in caplog.text)
        with opened(server, tmp_path / "other") as owner:
            owner.event(next(told(1, "yard")))
            until(lambda: owner.sent == 1)
        with psycopg.connect(server.url) as db:
            db.execute("grant select, insert, update on events, labels to writer")
        until(lambda: sink.sent == 1)
    assert server.query("select source from events order by source") == [("gate",), ("yard",)]


def test_what_a_constraint_of_the_database_forbids_is_dropped_alone(server, tmp_path):
    server.start()
    with opened(server, tmp_path, live={}) as sink:
        sink.event(next(told(1)))
        until(lambda: sink.sent == 1)
        with psycopg.connect(server.url) as db:
            db.execute("alter table events add check (first_frame <> 10)")
        for event in told(3):
            sink.event(event)
        until(lambda: sink.pending == 0)
        assert (sink.sent, sink.refused) == (5, 2)
    assert server.query("select first_frame from events order by 1") == [(0,), (20,)]


def test_what_the_database_can_never_hold_is_dropped_alone(server, tmp_path, caplog):
    server.start()
    with opened(server, tmp_path) as sink:
        for event in told(2):
            sink.event(replace(event, label="a\0b") if event.first_frame == 0 and not event.is_over else event)
        until(lambda: sink.pending == 0)
        assert (sink.sent, sink.refused) == (3, 1)
    assert server.query("select first_frame from events order by key") == [(0,), (10,)]
