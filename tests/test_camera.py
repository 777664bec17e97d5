"""Cameras over a real RTSP server: every frame keeps its label, whatever happens to the connection."""

import io
import json
import logging
import math
import re
import subprocess
import sys
import threading
import time
from collections import Counter
from fractions import Fraction

import av
import numpy as np
import pyarrow.dataset as ds
import pytest

from pipeline.batch import Counts
from pipeline.config import load_run_config
from pipeline.contracts import Watcher
from pipeline.errors import ConfigError
from pipeline.runner import run
from pipeline.sources.camera import Camera, _SenderClock
from pipeline.sources.hls import Turns
from pipeline.sources.scaler import PictureFormat, View
from pipeline.threads import Lanes, Request, Stop, stuck_threads
from tests.clips import read, write_clip
from tests.hls import RATE, streaming
from tests.models import BITS, numbers
from tests.rtsp import serving

CLOCK = "clock:96x64@25"
LIMIT_S = 15.0  # until what is waited for must have come
VIEWS = [View(PictureFormat(64, 96))]


class Watched:
    """A camera that is read in a thread, and what came of it."""

    def __init__(self, url, *, depth=10_000, **options):
        self.camera = Camera(url, name="gate", views=VIEWS, **options)
        self.received = []
        self._lanes = Lanes(depth=depth, drop=lambda older, newer: newer.dropping(older), name="test")

    def __enter__(self):
        self._lane = self._lanes.start(self.camera, "gate")
        return self

    def __exit__(self, *_):
        self.camera.stop.set()
        self._lanes.close()

    def until(self, holds, what):
        """Waits until something holds."""
        until_s = time.monotonic() + LIMIT_S
        while not holds(self):
            assert time.monotonic() < until_s, f"{what} must be so in {LIMIT_S} s; the camera is {self.camera.state}"
            self.received += self._lanes.take(0.05).get(self._lane, [])
        return self

    def frames(self, n):
        """Waits for n frames more."""
        wanted = len(self.shown()) + n
        return self.until(lambda w: len(w.shown()) >= wanted, f"{n} frames more")

    def shown(self):
        return [one for one in self.received if one.views is not None]

    @property
    def counts(self):
        return sum((one.counts for one in self.received), Counts())


def numbers_of(received):
    found, by = read(np.concatenate([one.views[0] for one in received]))
    return found.tolist(), set(by.tolist())


@pytest.mark.parametrize("transport", ["tcp", "udp"])
def test_the_frames_of_a_camera_come_in_order_with_their_times(transport):
    with serving(CLOCK, CLOCK) as server, Watched(server.url(1), transport=transport) as watched:
        watched.frames(40)
        assert watched.camera.state == "live"
    received = watched.shown()
    assert [one.number for one in received] == list(range(len(received)))
    found, by = numbers_of(received)
    assert by == {1}
    assert found == list(range(found[0], found[0] + len(found)))
    assert np.diff([one.pts_s for one in received[1:]]) == pytest.approx(0.04, abs=0.002)
    assert abs(received[-1].captured_s - time.time()) < 10
    assert watched.counts == Counts(indexed=len(received), decoded=len(received))


def test_a_camera_that_is_killed_comes_back_and_its_numbers_go_on(caplog):
    with serving(CLOCK) as server, Watched(server.url()) as watched:
        watched.frames(10)
        server.kill()
        watched.until(lambda w: w.camera.state == "down", "down")
        server.restart()
        back_s = time.monotonic()
        watched.frames(10)
        assert time.monotonic() - back_s < 5
        assert watched.camera.reconnects > 0
        spent_s = watched.camera.spent_s
        assert list(spent_s) == ["connecting", "live", "down"]
        assert min(spent_s.values()) > 0
    counts = watched.counts
    assert counts.indexed == counts.corrupt + counts.decoded == watched.shown()[-1].number + 1
    told = [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]
    assert len(told) == len(set(told)) > 0, told  # how the end shows, and that it is still away, each once
    assert all(line.startswith("gate: down") for line in told)


def test_what_comes_without_a_picture_is_told_within_a_second_or_so():
    with serving(CLOCK) as server, Watched(server.url(), fps=0.05) as watched:
        watched.until(lambda w: w.counts.skipped > 20, "told")
        assert len(watched.shown()) <= 2  # the first has no time


def test_a_camera_that_does_not_know_the_time_is_not_asked_for_it():
    class Reported:
        pts, time_base, utc_us = 90_000, Fraction(1, 90_000), 0

        def has_sidedata(self, kind):
            return kind == "prft"

        def get_sidedata(self, kind):
            return self.utc_us.to_bytes(8, sys.byteorder, signed=True) + bytes(8)

    clock, report = _SenderClock(), Reported()
    for utc_us in (
        -2_208_988_800_000_000,
        0,
        86_400_000_000,
    ):  # 1900, where NTP begins, and 1970
        report.utc_us = utc_us
        clock.heed(report)
        assert math.isnan(clock.utc_s(1.0))
    report.utc_us = 1_764_000_000_500_000
    clock.heed(report)
    assert clock.utc_s(3.0) == 1_764_000_002.5


def test_a_camera_that_stalls_goes_on_when_it_is_back():
    with serving(CLOCK) as server, Watched(server.url()) as watched:
        watched.frames(10)
        server.pause()
        watched.until(lambda w: w.camera.state == "stalled", "stalled")
        server.unpause()
        back_s = time.monotonic()
        watched.frames(10)
        assert time.monotonic() - back_s < 5
        assert watched.camera.state == "live"
        assert watched.camera.reconnects == 0


def test_a_connection_over_which_nothing_comes_is_given_up_for_a_new_one():
    with serving(CLOCK) as server, Watched(server.url(), dead_s=2.0) as watched:
        watched.frames(5)
        server.tell("stall cam0")
        watched.until(lambda w: w.camera.state == "down", "down")
        server.tell("resume cam0")
        watched.frames(5)
        assert watched.camera.reconnects > 0


@pytest.mark.parametrize(
    ("fault", "why"),
    [
        ("refuse cam0", "Server returned 404 Not Found"),
        ("mute cam0", "it did not answer in 3 s"),
        ("status cam0 503", "Server returned 5XX Server Error reply"),
    ],
)
def test_a_camera_that_cannot_be_reached_at_first_is_tried_until_it_can(fault, why):
    with serving(CLOCK) as server:
        server.tell(fault)
        with Watched(server.url()) as watched:
            watched.until(lambda w: w.camera.state == "down", "down")
            assert watched.camera.why == why
            server.tell("serve cam0")
            watched.frames(5)


def test_a_host_that_is_not_known_is_said_to_be_so():
    with Watched(f"rtsp://{'x' * 70}/cam0") as watched:  # no name server is asked for a name of that length
        watched.until(lambda w: w.camera.state == "down", "down")
        assert watched.camera.why == "the name of its host is not known"


def test_another_size_after_a_new_connection_is_taken(tmp_path):
    with serving(CLOCK) as server, Watched(server.url()) as watched:
        watched.frames(5)
        server.tell(f"change cam0 {write_clip(tmp_path / 'b.mp4', range(200), size=(192, 128), bframes=0)}")
        server.tell("kill cam0")
        watched.frames(30)
    found, _ = numbers_of(watched.shown()[-10:])
    assert found == list(range(found[0], found[0] + 10))


def test_no_frame_goes_uncounted_where_packets_are_lost():
    with serving("clock:640x360@25") as server, Watched(server.url(), transport="udp") as watched:
        watched.frames(5)
        server.tell("loss cam0 0.2")
        watched.frames(60)
    counts = watched.counts
    assert counts.indexed == counts.corrupt + counts.decoded
    assert watched.shown()[-1].number == counts.indexed - 1
    assert watched.camera.reconnects == 0


def test_each_reason_to_be_down_is_logged_once_until_the_camera_is_live_again(caplog):
    caplog.set_level(logging.INFO)
    camera = Camera("rtsp://127.0.0.1:1/x", name="gate", views=VIEWS)
    steps = [
        ("down", "refused"),
        ("down", "refused"),
        ("down", "401"),
        ("down", "refused"),
        ("live", ""),
        ("down", "401"),
    ]
    for state, why in steps:
        camera._is(state, why)
    told = [record.getMessage() for record in caplog.records]
    assert told == ["gate: down: refused", "gate: down: 401", "gate: live", "gate: down: 401"]


def test_a_password_is_never_shown(caplog):
    caplog.set_level(logging.DEBUG)
    with serving(CLOCK, user="viewer", password="canary-77") as server:
        wrong = server.url().replace("canary-77", "canary-88")
        with Watched(wrong) as watched:
            watched.until(lambda w: w.camera.state == "down", "down")
        with Watched(server.url()) as watched:
            watched.frames(5)
    assert caplog.records
    assert not any("canary" in record.getMessage() for record in caplog.records)


@pytest.fixture
def web(tmp_path):
    """A web server of a folder: the folder, and its address."""
    process = subprocess.Popen(
        [sys.executable, "-u", "-m", "http.server", "0", "--bind", "127.0.0.1", "--directory", str(tmp_path)],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    with process:
        assert process.stdout is not None
        port = re.search(r"port (\d+)", process.stdout.readline())
        assert port is not None
        yield tmp_path, f"http://127.0.0.1:{port[1]}"
        process.kill()


def test_a_camera_over_http_is_read_and_connected_to_anew(web):
    folder, address = web
    write_clip(folder / "camera.ts", range(30), source=3, size=(96, 64), bframes=0)
    with Watched(f"{address}/camera.ts", protocol="http") as watched:
        watched.frames(60)
        watched.until(lambda w: w.camera.reconnects > 1, "connected to anew")
    found, by = numbers_of(watched.shown()[:60])
    assert by == {3}
    assert found == [*range(30), *range(30)]
    assert [one.number for one in watched.shown()] == list(range(len(watched.shown())))


def test_what_a_camera_over_http_names_is_not_opened_as_a_file(web, caplog):
    folder, address = web
    clip = write_clip(folder / "secret.ts", range(30), size=(96, 64))
    (folder / "camera.m3u8").write_text(
        f"#EXTM3U\n#EXT-X-TARGETDURATION:2\n#EXTINF:1,\nfile://{clip}\n#EXT-X-ENDLIST\n"
    )
    with Watched(f"{address}/camera.m3u8", protocol="http") as watched:
        watched.until(lambda w: w.camera.state == "down", "down")
    assert not watched.shown()
    assert "secret" not in caplog.text


@pytest.mark.parametrize("uri", ["file://{}", "crypto:file://{}"])
def test_what_a_live_playlist_names_later_is_not_opened_as_a_file(web, uri):
    folder, address = web
    clip = write_clip(folder / "secret.ts", range(30), source=5, size=(96, 64))
    write_clip(folder / "camera.ts", range(30), source=3, size=(96, 64))
    head = "#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXT-X-MEDIA-SEQUENCE:0\n#EXTINF:1,\ncamera.ts\n"
    (folder / "camera.m3u8").write_text(head)
    with Watched(f"{address}/camera.m3u8", protocol="http", dead_s=2.0) as watched:
        watched.frames(10)
        (folder / "camera.m3u8").write_text(f"{head}#EXTINF:1,\n{uri.format(clip)}\n")
        watched.until(lambda w: w.camera.state == "down", "down")
    assert numbers_of(watched.shown())[1] == {3}


def test_hls_is_read_from_its_newest_segment_on_at_the_pace_of_its_frames():
    with streaming() as stream:
        begun = stream.newest
        with Watched(stream.url, protocol="http", depth=RATE) as watched:
            watched.frames(6 * RATE)
            assert (watched.camera.state, watched.camera.reconnects) == ("live", 0)
    received = watched.shown()
    found, _ = numbers_of(received)
    assert found[0] > begun - 2 * RATE
    assert found == list(range(found[0], found[0] + len(found)))
    assert watched.counts == Counts(indexed=len(received), decoded=len(received))
    assert [one.number for one in received] == list(range(len(received)))
    assert {one.captured_by for one in received} == {"arrival"}
    assert np.diff([one.captured_s for one in received]).max() < 1.5


def test_hls_whose_segments_come_late_is_waited_for():
    with streaming() as stream, Watched(stream.url, protocol="http", depth=RATE) as watched:
        watched.frames(10)
        stream.late(4.0)
        watched.frames(4 * RATE)
        assert (watched.camera.reconnects, watched.counts.dropped) == (0, 0)


@pytest.mark.parametrize("bframes", [0, 2])
def test_no_frame_of_hls_comes_twice_where_it_is_connected_to_anew(bframes):
    with streaming(bframes=bframes) as stream, Watched(stream.url, protocol="http") as watched:
        watched.frames(10)
        for _ in range(2):
            stream.go(away=True)
            watched.until(lambda w: w.camera.state == "down", "down")
            stream.go(away=False)
            watched.frames(20)
    found, _ = numbers_of(watched.shown())
    assert found == list(range(found[0], found[0] + len(found)))
    assert watched.counts == Counts(indexed=len(found), decoded=len(found))
    assert watched.camera.reconnects >= 2


def test_hls_over_which_nothing_comes_is_given_up():
    with streaming() as stream, Watched(stream.url, protocol="http", dead_s=2.0) as watched:
        watched.frames(5)
        stream.hang()
        watched.until(lambda w: w.camera.state == "down", "down")
        assert watched.camera.why == "nothing came for 2 s"


def test_of_the_variants_of_hls_one_is_read():
    with streaming() as stream:
        with Watched(stream.url.replace("camera", "master"), protocol="http") as watched:
            watched.frames(10)
            stream.asked.clear()
            watched.frames(4 * RATE)
        assert len([path for path in stream.asked if path.endswith(".ts")]) > 1
        assert not [path for path in stream.asked if "small" in path]


def test_a_run_over_hls_that_hangs_ends_in_time(tmp_path):
    with streaming() as stream:
        reads = f"model: 'tests.models:NumberReader', classes: [{', '.join(BITS)}], task: any_of, input: [64, 96]"
        (tmp_path / "run.yaml").write_text(
            f"sources: [{{type: http, name: c0, url: '{stream.url}'}}]\n"
            f"filter: {{{reads}, fold: 2, order: streams}}\nrun: {{dir: {tmp_path}}}\n"
        )
        stopped_s = []
        stop = Noted(stopped_s)

        def hang():
            stream.hang()
            threading.Timer(5.0, stop.set).start()  # by then it waits for the next segment

        scenes = Scenes(("c0", 30, hang), ("c0", 10_000, stop.set))
        outcome = run(load_run_config(tmp_path / "run.yaml"), stop=stop, watcher=scenes)
        assert time.monotonic() - stopped_s[0] < 5
        assert "camera-c0" in stuck_threads()
    assert outcome.exit_code == 0
    assert outcome.summary["sources"]["c0"]["labelled"] >= 30


def come(turns, times):
    """Which of some times are handed on over a connection, and when, where they all arrive at 0."""
    turns.begin()
    return [(at_s, turns.wait_s(at_s, 0.0)) for at_s in times if turns.is_new(at_s)]


def test_frames_that_arrive_at_once_have_their_turn_one_after_the_other():
    for times, waits in [
        ([7.0, 7.11, 7.22], [0.0, 0.1, 0.2]),
        ([7.0, 90.0, 3.0, 3.11], [0.0, 0.0, 0.0, 0.1]),  # a gap, and a time that begins anew
        ([None, None], [0.0, 0.0]),
    ]:
        assert [wait_s for _, wait_s in come(Turns(), times)] == pytest.approx(waits)


def test_a_frame_that_comes_late_delays_the_next_by_no_more_than_their_distance():
    turns = Turns()
    turns.begin()
    assert turns.wait_s(7.0, 100.0) == 0.0
    assert turns.wait_s(7.11, 105.0) == 0.0
    assert turns.wait_s(7.22, 105.0) == pytest.approx(0.1)


@pytest.mark.parametrize(
    ("again", "handed_on"),
    [
        ([8.0, 9.0, 10.0, 11.0, 12.0], [11.0, 12.0]),
        ([11.0, 12.0], [11.0, 12.0]),
        ([8.0, 11.0, 2.0, 3.0], [11.0, 2.0, 3.0]),  # its time begins anew later on
    ],
)
def test_behind_a_new_connection_only_what_is_new_is_handed_on(again, handed_on):
    turns = Turns()
    come(turns, [9.0, 10.0])
    assert [at_s for at_s, _ in come(turns, again)] == handed_on


def test_a_stream_that_was_begun_anew_is_all_new():
    turns = Turns()
    come(turns, [1000.0])
    assert [at_s for at_s, _ in come(turns, [0.0, 1.0])] == [0.0, 1.0]


class Until(Watcher):
    """Stops a run when so many frames have come."""

    def __init__(self, n):
        self.stop, self._left = Stop(), n

    def decoded(self, batch):
        self._left -= len(batch)
        if self._left <= 0:
            self.stop.set()


def configured(folder, server, *, cameras=2, more=""):
    lines = [f"  - {{type: rtsp, name: c{k}, url: '{server.url(k)}'}}" for k in range(cameras)]
    reads = f"model: 'tests.models:NumberReader', classes: [{', '.join(BITS)}], task: any_of, input: [64, 96]"
    (folder / "run.yaml").write_text(
        "\n".join(
            ["sources:", *lines, f"filter: {{{reads}, fold: 2, order: streams}}", f"run: {{dir: {folder}}}", more]
        )
    )
    return load_run_config(folder / "run.yaml")


def rows_of(outcome):
    rows = ds.dataset(outcome.folder.path / "frames").to_table().to_pylist()
    return sorted(rows, key=lambda row: (row["source"], row["frame"]))


def test_a_run_over_cameras_labels_what_each_shows_and_goes_on_where_it_ended(tmp_path, capfd):
    with serving(*[CLOCK] * 3) as server:
        config = configured(tmp_path, server, cameras=3, more="sinks: [{type: jsonl, path: '-'}]")
        before = 0
        for times in (1, 2):
            until = Until(60)
            outcome = run(config, stop=until.stop, watcher=until)
            assert (outcome.exit_code, outcome.state) == (0, "done"), outcome.summary
            assert outcome.summary["problems"] == []
            rows = rows_of(outcome)
            shown, by = numbers(np.array([row["scores"] for row in rows]))
            sources = [row["source"] for row in rows]
            assert [f"c{k}" for k in by.tolist()] == sources
            for k in range(3):
                here = np.array(sources) == f"c{k}"
                frames = np.array([row["frame"] for row in rows])[here]
                # Within a connection the camera counts as the run does; the second run comes in later.
                steps = np.diff(shown[here]) - np.diff(frames)
                assert np.count_nonzero(steps) == times - 1
                assert len(frames) == len(set(frames.tolist()))
                parts = sorted((outcome.folder.path / "frames").rglob(f"c{k}/*/*.parquet"))
                assert len(parts) == times
            counts = outcome.summary["frames"]  # since it was started
            assert counts["labelled"] == len(shown) - before == counts["indexed"] - counts["dropped"]
            before = len(shown)
    assert len(capfd.readouterr().out.splitlines()) == len(shown)


def test_a_run_ends_in_time_whatever_state_its_cameras_are_in(tmp_path):
    with serving(*[CLOCK] * 4) as server:
        config = configured(tmp_path, server, cameras=4)
        for fault in ("mute cam1", "refuse cam2"):
            server.tell(fault)
        until = Until(40)
        stopped_s = []
        until.stop = Noted(stopped_s)
        server.tell("stall cam3")
        outcome = run(config, stop=until.stop, watcher=until)
        assert time.monotonic() - stopped_s[0] < 5
        assert outcome.exit_code == 3
        sources = outcome.summary["sources"]
        assert sources["c0"]["labelled"] > 20
        assert sources["c0"]["error"] is None
        assert sources["c1"]["error"].startswith("no frame came: ")
        assert sources["c2"]["error"] == "no frame came: down: Server returned 404 Not Found"
        told = {name: one["states"] for name, one in json.loads(outcome.folder.ledger.read_text())["sources"].items()}
        assert told["c0"]["live"] > told["c0"]["connecting"] > 0
        assert list(told["c1"]) == ["connecting"]
        assert list(told["c2"]) == ["connecting", "down"]
        took_s = [sum(states.values()) for states in told.values()]
        assert max(took_s) - min(took_s) < 1


class Noted(Stop):
    """A stop that keeps in mind when it was asked for."""

    def __init__(self, when):
        super().__init__()
        self._when = when

    def set(self):
        self._when.append(time.monotonic())
        super().set()


@pytest.mark.parametrize(
    ("url", "problem"),
    [
        ("http://u:canary@10.0.0.1/a", "url: must be rtsp, as `type` is"),
        ("u:canary@10.0.0.1/a", "url: must be an address as rtsp://host/path"),
        ("rtsp://10.0.0.1/user=u&password=${SECRET}.sdp", "name: must be given, as the path of `url` holds a"),
        ("rtsp://u:canary@canary/canary@10.0.0.1/a", "url: must be an address as rtsp://host/path"),
        ("${SECRET}", "url: must be an address as rtsp://host/path"),
    ],
)
def test_what_is_wrong_with_an_address_is_said_without_its_password(tmp_path, monkeypatch, url, problem):
    monkeypatch.setenv("SECRET", "canary")
    (tmp_path / "run.yaml").write_text(f"sources: [{{type: rtsp, url: '{url}'}}]\nfilter: {{model: m.safetensors}}\n")
    with pytest.raises(ConfigError) as caught:
        load_run_config(tmp_path / "run.yaml")
    assert f"sources.0.{problem}" in str(caught.value)
    assert "canary" not in str(caught.value)


@pytest.mark.parametrize(
    ("url", "name"),
    [
        ("rtsp://u:canary@10.0.0.1:554/live/ch0", "10.0.0.1/live/ch0"),
        ("rtsp://10.0.0.1/user=u_password=canary_channel=1_stream=0.sdp", "10.0.0.1"),
        ("rtsp://u:${SECRET}@door.example.org/a?token=canary", "door.example.org/a"),
    ],
)
def test_the_name_of_a_camera_that_is_given_none_holds_no_password(tmp_path, monkeypatch, url, name):
    monkeypatch.setenv("SECRET", "canary")
    reads = f"model: 'tests.models:NumberReader', classes: [{', '.join(BITS)}], task: any_of, input: [64, 96]"
    (tmp_path / "run.yaml").write_text(f"sources: [{{type: rtsp, url: '{url}'}}]\nfilter: {{{reads}, fold: 2}}\n")
    assert [source.name for source in load_run_config(tmp_path / "run.yaml").sources] == [name]


def test_what_may_be_secret_beside_a_variable_is_not_recorded(tmp_path, monkeypatch):
    for name, value in {"HOST": "10.0.0.1", "USER": "viewer", "NAME": "x", "WHOLE": "rtsp://u:canary@h/a"}.items():
        monkeypatch.setenv(name, value)
    reads = f"model: 'tests.models:NumberReader', classes: [{', '.join(BITS)}], task: any_of, input: [64, 96]"
    hook = "url: 'http://hook:canary@${HOST}:9/canary?key=canary', headers: {Authorization: 'canary ${USER}'}"
    (tmp_path / "run.yaml").write_text(
        "sources:\n"
        "  - {type: rtsp, name: 'cam-${NAME}', url: 'rtsp://viewer:canary@${HOST}:1/cam0?token=canary'}\n"
        "  - {type: rtsp, name: b, url: '${WHOLE}'}\n"
        f"filter: {{{reads}, fold: 2}}\n"
        f"sinks: [{{type: webhook, {hook}, rows: true, secret: '${{USER}}canary'}}]\n"
    )
    told = load_run_config(tmp_path / "run.yaml").resolved()
    assert "canary" not in json.dumps(told)
    assert [source["url"] for source in told["sources"]] == ["rtsp://${HOST}:1/cam0?token=...", "${WHOLE}"]
    assert told["sources"][0]["name"] == "cam-${NAME}"
    assert told["sinks"][0]["headers"] == {"Authorization": "..."}


def test_cameras_have_a_run_of_their_own(tmp_path):
    (tmp_path / "run.yaml").write_text(
        "sources: [{type: rtsp, url: 'rtsp://10.0.0.1/a'}, {path: .}]\nfilter: {model: m.safetensors}\n"
        "run: {limit: 9}\n"
    )
    with pytest.raises(ConfigError) as caught:
        load_run_config(tmp_path / "run.yaml")
    assert "sources.1: must be a camera as others are" in str(caught.value)
    assert "run.limit: must be left out with cameras, got 9" in str(caught.value)


def test_a_run_goes_on_though_its_early_windows_were_removed(tmp_path):
    with serving(CLOCK) as server:
        config = configured(tmp_path, server, cameras=1, more="telemetry: {interval_s: 60}")
        config = config.model_copy(update={"run": config.run.model_copy(update={"window_s": 1.0})})
        for _ in range(2):
            until = Until(45)
            outcome = run(config, stop=until.stop, watcher=until)
            assert (outcome.exit_code, outcome.summary["problems"]) == (0, [])
            parts = sorted((outcome.folder.path / "frames").rglob("*.parquet"))
            assert len(parts) > 1
            parts[0].unlink()
    rows = [row["frame"] for row in rows_of(outcome)]
    assert len(rows) == len(set(rows)) == rows[-1] + 1 - rows[0]


@pytest.mark.parametrize("rtcp", [True, False])
def test_the_time_of_capture_is_the_cameras_own_where_it_tells_it(rtcp, tmp_path):
    with serving(CLOCK, rtcp=rtcp, written=tmp_path / "written") as server, Watched(server.url()) as watched:
        watched.frames(40)
        assert watched.camera.tells_time == rtcp
    sent_s = {}
    for line in (tmp_path / "written").read_text().splitlines():
        told = json.loads(line)
        sent_s[told["number"]] = told["utc_s"]
    last = watched.shown()[-20:]
    assert {one.captured_by for one in last} == {"camera" if rtcp else "arrival"}
    found, _ = numbers_of(last)
    late_s = [one.captured_s - sent_s[number] for one, number in zip(last, found, strict=True)]
    if rtcp:
        assert max(map(abs, late_s)) < 0.1
    else:
        assert 0 < min(late_s) < 1


class Scenes(Watcher):
    """Does one thing after the other, each when so many more frames have come of a source."""

    def __init__(self, *scenes):
        self.stop, self._scenes, self._came = Stop(), list(scenes), Counter()

    def decoded(self, batch):
        self._came[batch.source] += len(batch)
        if self._scenes and self._came[self._scenes[0][0]] >= self._scenes[0][1]:
            self._came.clear()
            self._scenes.pop(0)[2]()
        if not self._scenes:
            self.stop.set()


def test_cameras_are_added_and_removed_as_the_file_says_and_a_wrong_one_changes_nothing(tmp_path, caplog):
    with serving(*[CLOCK] * 3) as server:
        config = configured(tmp_path, server, cameras=2)
        file, reread = tmp_path / "run.yaml", Request()
        right = file.read_text()

        def write(text):
            file.write_text(text)
            reread.set()

        lines = {k: f"  - {{type: rtsp, name: c{k}, url: '{server.url(k)}'}}\n" for k in range(3)}
        scenes = Scenes(
            ("c0", 5, lambda: write(right.replace("type: rtsp", "type: rtps"))),
            ("c0", 25, lambda: write(right.replace("fold: 2", "keep: {b00: 0.5}, fold: 2"))),
            ("c0", 25, lambda: write(right.replace(lines[0], lines[2]))),
            ("c2", 10, lambda: None),
        )
        outcome = run(config, stop=scenes.stop, reread=reread, watcher=scenes)
        assert outcome.exit_code == 0, outcome.summary
        assert outcome.summary["problems"] == []
        assert all(outcome.summary["sources"][name]["labelled"] > 5 for name in ("c0", "c1", "c2"))
        _, by = numbers(np.array([row["scores"] for row in rows_of(outcome)]))
        assert [f"c{k}" for k in by.tolist()] == [row["source"] for row in rows_of(outcome)]
    told = [record.getMessage() for record in caplog.records]
    assert any("sources.0.type: must be" in line for line in told)
    assert any("filter: must be as when the run was started, got another" in line for line in told)
    assert any(line.endswith("must be right to be read again; the cameras stay as they are") for line in told)


@pytest.mark.parametrize("orders", [["streams"], ["consecutive", "strided"]])
def test_a_file_that_changes_is_read_again_where_it_is_watched(tmp_path, orders):
    with serving(*[CLOCK] * 2) as server:
        config = configured(tmp_path, server, cameras=1)
        file = tmp_path / "run.yaml"
        text = file.read_text().replace("run: {", "run: {watch: true, ")
        head, _, rest = text.partition("filter: {")
        reads, _, rest = rest.partition("order: streams}")
        filters = [f"{{name: {order}, {reads}order: {order}}}" for order in orders]
        file.write_text(f"{head}filters: [{', '.join(filters)}]{rest}")
        config = load_run_config(file)
        more = f"sources:\n  - {{type: rtsp, name: c1, url: '{server.url(1)}'}}"
        scenes = Scenes(
            ("c0", 5, lambda: file.write_text(file.read_text().replace("sources:", more))),
            ("c1", 5, lambda: None),
        )
        outcome = run(config, stop=scenes.stop, watcher=scenes)
        assert outcome.summary["sources"]["c1"]["labelled"] >= 5


def test_events_of_a_camera_have_a_thumbnail_of_it(tmp_path):
    with serving(CLOCK) as server:
        (tmp_path / "run.yaml").write_text(
            f"sources: [{{type: rtsp, name: gate, url: '{server.url()}'}}]\nrun: {{dir: {tmp_path}}}\n"
            "filter: {name: who, model: 'tests.models:Bright', input: [64, 96], classes: [person, none],\n"
            "         events: {none: {on: 0.00001}}}\n"
        )
        until = Until(40)
        outcome = run(load_run_config(tmp_path / "run.yaml"), stop=until.stop, watcher=until)
    assert outcome.exit_code == 0
    (row,) = ds.dataset(outcome.folder.path / "events").to_table().to_pylist()
    assert (row["source"], row["label"], row["first_frame"], row["clock"]) == ("gate", "none", 0, "utc")
    assert row["last_frame"] >= 30
    assert time.time() - row["ended_s"] < 30
    with av.open(io.BytesIO(row["thumbnail"])) as image:
        picture = next(image.decode(video=0)).reformat(width=96, height=64, format="rgb24").to_ndarray()
    number, camera = read(picture[None])
    assert (camera.tolist(), number[0] >= 0) == ([0], True)
