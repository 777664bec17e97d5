"""Cameras of another maker: GStreamer's RTSP server."""

import contextlib
import itertools
import subprocess
from pathlib import Path

import numpy as np
import pytest

from tests.clips import draw
from tests.test_camera import LIMIT_S, Watched, numbers_of

SERVER = Path(__file__).with_name("gstreamer_server.py")
WIDTH, HEIGHT, RATE, FRAMES = 96, 64, 25, 250


class Served:
    """A server in a process of its own."""

    def __init__(self, python, frames):
        self._command = [python, SERVER, frames, str(WIDTH), str(HEIGHT), str(RATE)]
        self.start()

    def start(self):
        self._process = subprocess.Popen(self._command, stdout=subprocess.PIPE, text=True)
        self.url = f"rtsp://127.0.0.1:{int(self._process.stdout.readline())}/camera"

    def kill(self):
        self._process.kill()
        self._process.wait(LIMIT_S)
        self._process.stdout.close()


@pytest.fixture
def server(gstreamer, tmp_path):
    frames = tmp_path / "frames.rgb"
    frames.write_bytes(np.stack([draw(k, 5, height=HEIGHT, width=WIDTH) for k in range(FRAMES)]).tobytes())
    made = Served(gstreamer, frames)
    yield made
    made.kill()


@pytest.mark.parametrize("transport", ["tcp", "udp"])
def test_its_frames_come_in_order_with_the_time_of_its_clock(server, transport):
    with Watched(server.url, transport=transport) as watched:
        watched.until(lambda w: w.camera.tells_time, "its clock")  # it sends a report every few seconds
        shown = watched.frames(20).shown()
        found, by = numbers_of(shown)
        assert by == {5}
        assert [one.number for one in shown] == list(range(len(shown)))
        assert [number % FRAMES for number in range(found[0], found[0] + len(found))] == found
        times = [one.pts_s for one in shown[1:]]  # of the first FFmpeg knows no time
        assert np.allclose(np.diff(times), 1 / RATE, atol=0.002)
        told = [one.captured_s for one in shown[-20:]]
        assert np.allclose(np.diff(told), 1 / RATE, atol=0.002)
        assert watched.counts.corrupt == 0


def test_it_is_killed_and_a_new_one_is_read_on(server):
    with Watched(server.url) as watched:
        watched.frames(10)
        for _ in range(3):
            server.kill()
            watched.until(lambda w: w.camera.state == "down", "down")
            with contextlib.suppress(ValueError):
                server.start()
            watched.camera._url = server.url  # its port is another one
            watched.frames(10)
        shown = watched.shown()
        _, by = numbers_of(shown)
        assert by == {5}
        assert all(later.number > one.number for one, later in itertools.pairwise(shown))
