"""The page of a run: what it shows, who may look, and that it tells no secret."""

import contextlib
import http.client
import json
import re
import socket
import time
from contextlib import closing
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

from pipeline.batch import Counts, FrameBatch, Segment, SegmentEnd
from pipeline.config import load_run_config
from pipeline.errors import ConfigError
from pipeline.monitor import MOST_EVENTS, Monitor
from pipeline.page import server as page_server
from pipeline.page.content import MOMENTS, Content
from pipeline.page.server import PageServer
from pipeline.regions import Region
from pipeline.rows import Labelling
from pipeline.runner import run
from pipeline.sources.camera import Preview, View
from pipeline.sources.scaler import PictureFormat
from tests import test_camera, test_runner
from tests.clips import clip
from tests.rtsp import serving
from tests.spooled import told
from tests.test_exporter import LIMIT_S, port_told, running, until

WHO = Labelling("who", ("person", "none"))
WHAT = Labelling("what", ("car", "bus"), "any_of", (0.5, 0.5))
TOKEN = "a token of some length"


class Clock:
    now_s = 1_000.0

    def __call__(self):
        return self.now_s


def camera(name="gate", **more):
    facts = {"state": "live", "why": "", "taken": Counts(), "reconnects": 0, "previews": 0, "preview": None}
    return SimpleNamespace(name=name, **facts | {"size": (200, 100), "views": ()} | more)


def content(*cameras, last=None, clock=None, receivers=tuple):
    monitor = Monitor([each.name for each in cameras], cameras=lambda: list(cameras), clock=clock or Clock())
    telemetry = SimpleNamespace(last=last or {})
    labellings = {"who": WHO, "what": WHAT}
    return monitor, Content(
        "r", monitor=monitor, telemetry=telemetry, labellings=labellings, receivers=receivers, clock=clock or Clock()
    )


def batch(index, scores, filter, *, source="gate", region=None, regions=()):
    n = len(index)
    return FrameBatch(
        Segment(source, window_utc_s=0.0),
        np.zeros((n, 2, 3, 3), np.uint8),
        np.array(index, np.int64),
        np.zeros(n),
        np.full(n, 999.0),
        scores=np.array(scores, np.float32),
        filter=filter,
        regions=regions,
        region=None if region is None else np.array(region, np.int16),
    )


def test_a_camera_is_shown_with_what_each_filter_said_of_its_newest_frame():
    bay, door = Region("bay", 0.5, 0.5, 0.25, 0.5), Region("door", 20, 10, 40, 50, True, ((20, 10), (60, 10), (20, 60)))
    gate = camera(views=[View(PictureFormat(8, 8), (bay, door))], taken=Counts(indexed=9, dropped=2, decoded=7))
    monitor, page = content(gate)
    monitor.scored(batch([6, 6], [[0.5, 0.5]] * 2, "who", region=[0, 1], regions=("bay", "door")), 0, 0)
    regions = {"region": [0, 1, 0, 1], "regions": ("bay", "door")}
    scores = [[0.25, 0.75], [0.75, 0.25], [0.875, 0.125], [0.125, 0.875]]
    monitor.scored(batch([7, 7, 8, 8], scores, "who", **regions), 2, 2)
    monitor.scored(batch([8], [[0.25, 0.375]], "what"), 0, 0)
    monitor.scored(batch([], np.zeros((0, 2)), "who"), 0, 0)
    (shown,) = page.state()["cameras"]
    assert (shown["name"], shown["state"], shown["lag_s"]) == ("gate", "live", 1.0)
    assert (shown["received"], shown["labelled"], shown["dropped"]) == (9, 2, 2)
    assert shown["labels"] == [
        {
            "filter": "who",
            "region": "bay",
            "label": "person",
            "score": 0.875,
            "corners": [(0.5, 0.5), (0.75, 0.5), (0.75, 1.0), (0.5, 1.0)],
        },
        {
            "filter": "who",
            "region": "door",
            "label": "none",
            "score": 0.875,
            "corners": [(0.1, 0.1), (0.3, 0.1), (0.1, 0.6)],
        },
        {"filter": "what", "region": None, "label": None, "score": 0.375, "corners": None},
    ]
    gate.size = None  # it never came
    assert [label["corners"] is None for label in page.state()["cameras"][0]["labels"]] == [False, True, True]
    json.dumps(page.state(), allow_nan=False)


def test_the_newest_events_are_shown_first_and_each_once():
    monitor, page = content(camera())
    for event in told(MOST_EVENTS + 20):
        monitor.event(event)
    shown = page.state()["events"]
    assert [event["first_frame"] for event in shown] == [10 * (MOST_EVENTS + 19 - k) for k in range(MOST_EVENTS)]
    assert all(event["is_over"] for event in shown)
    began = replace(next(told(1, "yard")), thumbnail=b"\xff\xd8", began_s=-np.inf)
    monitor.event(began)
    first = page.state()["events"][0]
    assert (first["source"], first["is_over"], first["thumbnail"], first["began_s"]) == ("yard", False, True, None)
    assert page.thumbnail(began.key) == b"\xff\xd8"
    assert page.thumbnail("another") is None
    json.dumps(page.state(), allow_nan=False)


def test_plots_reach_back_so_far_and_know_what_is_not_known():
    clock = Clock()
    gate = camera()
    monitor, page = content(gate, last={"cpu_percent": 150.0, "gpu_util": None}, clock=clock)
    for _ in range(MOMENTS + 5):
        page.sample()
        clock.now_s += 2.0
        monitor.scored(batch([1], [[1.0, 0.0]], "who"), 30, 30)
    plots = page.state()["plots"]
    assert len(plots["time_s"]) == MOMENTS
    assert plots["frames_per_s"] == [15.0] * MOMENTS
    assert (set(plots["cpu_percent"]), set(plots["gpu_percent"])) == ({150.0}, {None})


def test_files_are_counted_and_of_many_the_last_are_shown():
    monitor, page = content()
    for k in range(300):
        monitor.committed(SegmentEnd(Segment(f"f{k}"), Counts(indexed=3, decoded=3, labelled=3, written=3)))
    state = page.state()
    assert (len(state["files"]), state["files_done"], state["files"][-1]["name"]) == (200, 300, "f299")


def ask(port, path, **headers):
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=LIMIT_S)
    with closing(connection):
        connection.request("GET", path, headers=headers)
        answer = connection.getresponse()
        return answer.status, answer.read(), {name.lower(): text for name, text in answer.getheaders()}


@pytest.fixture
def served():
    preview = Preview(0, np.full((18, 32, 3), 90, np.uint8))
    monitor, page = content(camera("a/b ü", preview=preview, previews=3))
    monitor.event(replace(next(told(1)), thumbnail=b"\xff\xd8jpeg"))
    with PageServer("127.0.0.1", 0) as server, server.serving(page):
        yield server.port


def test_all_of_the_page_is_served_and_nothing_else(served):
    kinds = {
        "/": "text/html",
        "/page.js": "javascript",
        "/page.css": "text/css",
        "/page.svg": "svg",
        "/state": "application/json",
    }
    for path, kind in kinds.items():
        status, _, headers = ask(served, path)
        assert (status, kind in headers["content-type"]) == (200, True), path
        assert "default-src 'none'" in headers["content-security-policy"]
    status, picture, headers = ask(served, "/picture?camera=a%2Fb%20%C3%BC&n=3")
    assert (status, picture[:2], headers["content-type"]) == (200, b"\xff\xd8", "image/jpeg")
    assert ask(served, "/picture?event=gate%2F%2Fperson%2Fperson%2F0%2F500")[1] == b"\xff\xd8jpeg"
    for path in ("/picture", "/picture?camera=x", "/picture?event=x", "/page.html", "/../setup.py", "/content.py"):
        assert ask(served, path)[0] == 404, path


def test_the_page_needs_nothing_from_elsewhere(served):
    for path in ("/", "/page.js", "/page.css", "/page.svg"):
        text = ask(served, path)[1].decode().replace("http://www.w3.org/2000/svg", "")  # a name, not a place
        assert not re.search(r"https?://|url\(|@import|innerHTML", text), path


def test_a_client_that_asks_for_nothing_is_left(monkeypatch):
    monkeypatch.setattr(page_server, "CLIENT_S", 0.2)
    _, page = content(camera())
    with (
        PageServer("127.0.0.1", 0) as server,
        server.serving(page),
        socket.create_connection(("127.0.0.1", server.port), timeout=LIMIT_S) as idle,
    ):
        assert idle.recv(1) == b""
        assert ask(server.port, "/state")[0] == 200


@pytest.mark.parametrize("sent", [b"G", b"GET /state HTTP/1.1\r\nHost: 127.0.0.1\r\n"])
def test_a_client_that_never_comes_to_the_end_of_its_request_is_left(monkeypatch, sent):
    monkeypatch.setattr(page_server, "CLIENT_S", 0.2)
    _, page = content(camera())
    with PageServer("127.0.0.1", 0) as server, server.serving(page):
        with socket.create_connection(("127.0.0.1", server.port), timeout=LIMIT_S) as slow:
            slow.sendall(sent)
            with contextlib.suppress(ConnectionError):
                assert slow.recv(1) == b""
        assert ask(server.port, "/state")[0] == 200


def test_a_browser_that_goes_on_asking_stays(monkeypatch):
    monkeypatch.setattr(page_server, "CLIENT_S", 0.3)
    _, page = content(camera())
    with (
        PageServer("127.0.0.1", 0) as server,
        server.serving(page),
        closing(http.client.HTTPConnection("127.0.0.1", server.port, timeout=LIMIT_S)) as browser,
    ):
        browser.connect()
        kept = browser.sock
        for _ in range(10):
            browser.request("GET", "/state")
            assert browser.getresponse().read()
            time.sleep(0.1)
        assert browser.sock is kept


def test_more_clients_than_are_let_in_get_no_answer_and_take_none_from_others(monkeypatch, caplog):
    monkeypatch.setattr(page_server, "MOST_CLIENTS", 3)
    _, page = content(camera())
    with PageServer("127.0.0.1", 0) as server, server.serving(page), contextlib.ExitStack() as cleanup:
        first = cleanup.enter_context(closing(http.client.HTTPConnection("127.0.0.1", server.port, timeout=LIMIT_S)))
        first.request("GET", "/state")
        assert first.getresponse().read()
        others = [
            cleanup.enter_context(socket.create_connection(("127.0.0.1", server.port), timeout=LIMIT_S))
            for _ in range(3)
        ]
        with contextlib.suppress(ConnectionError):
            assert others[-1].recv(1) == b""
        first.request("GET", "/state")
        assert first.getresponse().status == 200
    assert [record for record in caplog.records if record.name == "asyncio"] == []


def test_a_failure_of_the_page_goes_to_the_log_and_the_page_alone(monkeypatch, caplog, capfd):
    _, page = content(camera())
    monkeypatch.setattr(page, "state", lambda: 1 / 0)
    with PageServer("127.0.0.1", 0) as server, server.serving(page):
        status, text, _ = ask(server.port, "/state")
        assert ask(server.port, "/")[0] == 200
        with socket.create_connection(("127.0.0.1", server.port), timeout=LIMIT_S) as other:
            other.sendall(b"no HTTP at all\r\n\r\n")
            assert other.recv(100).startswith(b"HTTP/1.1 400")
    assert (status, text) == (500, b"failed, see the run's log\n")
    assert "page: /state cannot be shown: ZeroDivisionError" in caplog.text
    assert capfd.readouterr() == ("", "")


def test_another_name_for_this_machine_gets_nothing_without_a_token(served):
    assert ask(served, "/state", Host="localhost:80")[0] == 200
    for host in ("evil.example.org", "127.0.0.1.example.org", "", "[", "localhost@evil.example.org"):
        assert ask(served, "/state", Host=host)[0] == 421, host


def test_with_a_token_who_has_it_may_look():
    _, page = content(camera())
    with PageServer("127.0.0.1", 0, TOKEN) as server, server.serving(page):
        for path in ("/", "/state", "/page.js", "/picture?camera=gate", "/?token=wrong", "/?token=", "/?token=%FF"):
            assert ask(server.port, path)[0] == 401, path
        for bad in ({"Authorization": "Bearer wrong"}, {"Cookie": f"vpipe-{server.port}=wrong"}, {"Cookie": "\xff=;="}):
            assert ask(server.port, "/state", **bad)[0] == 401, bad
        assert ask(server.port, "/state", Authorization=f"Bearer {TOKEN}")[0] == 200
        status, _, headers = ask(server.port, "/?token=a%20token%20of%20some%20length", Host="cameras.example.org")
        assert (status, headers["location"]) == (303, "./")
        cookie = headers["set-cookie"]
        assert TOKEN not in cookie
        assert {"HttpOnly", "SameSite=strict"} <= {part.strip() for part in cookie.split(";")}
        assert ask(server.port, "/state", Cookie=f"other=1; {cookie.partition(';')[0]}")[0] == 200


def test_a_page_for_others_must_have_a_token(tmp_path):
    test_runner.configured(tmp_path, [{"path": str(clip("h264-closed.mp4", 60))}])

    def load(*overrides):
        return load_run_config(tmp_path / "run.yaml", overrides=["page.host=0.0.0.0", *overrides])

    with pytest.raises(ConfigError, match=r"page\.token: must be given where others can reach the page"):
        load()
    with pytest.raises(ConfigError, match=r"page\.token: must have 16 characters at least, got fewer"):
        load("page.token=short")
    config = load(f"page.token={TOKEN}")
    assert TOKEN not in str(config.resolved())


def test_a_port_that_is_taken_is_told_before_the_run(tmp_path):
    with PageServer("127.0.0.1", 0) as server:
        test_runner.configured(tmp_path, [{"path": str(clip("h264-closed.mp4", 60))}], page={"port": server.port})
        with pytest.raises(ConfigError, match=r"page\.port: must be free to listen at, got \d+ at 127\.0\.0\.1"):
            run(load_run_config(tmp_path / "run.yaml"))
    assert not (tmp_path / "r").exists()


@pytest.fixture
def port(caplog):
    return port_told(caplog, "page")


def test_cameras_of_a_run_are_shown_as_they_go_and_come_back(tmp_path, port, caplog):
    with serving(*[test_camera.CLOCK] * 2, user="viewer", password="canary-77") as server:
        config = test_camera.configured(tmp_path, server, more="page: {port: 0}")
        seen = ""

        def states():
            nonlocal seen
            seen = ask(port(), "/state")[1].decode()
            return {camera["name"]: camera for camera in json.loads(seen)["cameras"]}

        with running(config) as future:
            until(port, "the port is told")
            until(lambda: all(c["state"] == "live" and c["labels"] and c["picture"] for c in states().values()), "live")
            assert ask(port(), "/picture?camera=c1")[1][:2] == b"\xff\xd8"
            until(lambda: json.loads(seen)["plots"]["frames_per_s"] or not states(), "a moment")
            server.kill()
            until(lambda: {c["state"] for c in states().values()} == {"down"}, "down")
            seen_down = seen
            server.restart()
            until(lambda: {c["state"] for c in states().values()} == {"live"}, "live again")
    outcome = future.result()
    assert outcome.exit_code == 0
    assert "canary" not in seen_down + seen + caplog.text
    for path in outcome.folder.path.rglob("*"):
        assert not path.is_file() or b"canary" not in path.read_bytes(), path
    with pytest.raises(OSError):  # noqa: PT011 (refused, or reset)
        ask(port(), "/")
