"""An RTSP server in a process of its own: cameras for tests, and what goes wrong with them."""

import contextlib
import json
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tests.clips import NUMBER_BITS, SOURCE_BITS, draw

ROOT = Path(__file__).parents[1]
LIMIT_S = 20.0  # until a process on a busy machine has begun, or answers
PASSWORD = "VPIPE_TEST_RTSP_PASSWORD"


def pictures(camera: int, number: int, height: int, width: int) -> NDArray[np.uint8]:
    """What clocks show: the picture of `tests.clips`; camera and number come round again."""
    return draw(number % 2**NUMBER_BITS, camera % 2**SOURCE_BITS, height=height, width=width)


class Cameras:
    """A running server. Its methods wait for what they ask for, at most `LIMIT_S`."""

    def __init__(self, options: list[str], user: str | None, password: str | None) -> None:
        self._options = options
        self._user, self._password = user, password
        self.port = 0
        self._begin()

    @property
    def pid(self) -> int:
        """Of the process."""
        return self._process.pid

    def url(self, camera: int | str = 0) -> str:
        """Where a camera is, by its number, or anything else, by its name; with name and password, if there are any."""
        account = f"{self._user}:{self._password}@" if self._user else ""
        return f"rtsp://{account}127.0.0.1:{self.port}/{f'cam{camera}' if isinstance(camera, int) else camera}"

    def tell(self, line: str) -> None:
        """Gives a command and waits until it is obeyed; ValueError says why it is not."""
        assert self._process.stdin is not None
        self._process.stdin.write(line.encode() + b"\n")
        self._process.stdin.flush()
        answer = self._answer()
        if answer.get("refused") == line:
            raise ValueError(answer["why"])
        assert answer == {"done": line}

    def kill(self) -> None:
        """Takes the process away as a cut of its power does."""
        self._process.kill()
        self._process.wait(LIMIT_S)

    def restart(self) -> None:
        """Begins again at the same port, with all as it was at first."""
        self.end()
        self._begin()

    def pause(self) -> None:
        self._process.send_signal(signal.SIGSTOP)

    def unpause(self) -> None:
        self._process.send_signal(signal.SIGCONT)

    def leave(self) -> int:
        """Closes its stdin; the exit code."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        return self._process.wait(LIMIT_S)

    def _begin(self) -> None:
        self._said = b""
        self._process = subprocess.Popen(
            [sys.executable, "-m", "pipeline.rtspserver", "--port", str(self.port), *self._options],
            cwd=ROOT,
            env=os.environ | ({PASSWORD: self._password} if self._password is not None else {}),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        try:
            self.port = self._answer()["port"]
        except BaseException:
            self.end()
            raise

    def _answer(self) -> dict[str, Any]:
        """The next line that the process says."""
        assert self._process.stdout is not None
        until_s = time.monotonic() + LIMIT_S
        while b"\n" not in self._said:
            ready, _, _ = select.select([self._process.stdout], [], [], max(0.0, until_s - time.monotonic()))
            more = os.read(self._process.stdout.fileno(), 65536) if ready else b""
            if not more:
                raise TimeoutError(f"the server said no line in {LIMIT_S} s, or has ended: {self._process.poll()}")
            self._said += more
        line, self._said = self._said.split(b"\n", 1)
        answer = json.loads(line)
        assert isinstance(answer, dict)
        return answer

    def end(self) -> None:
        """Leaves nothing behind."""
        self.kill()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                with contextlib.suppress(BrokenPipeError):
                    pipe.close()


@contextlib.contextmanager
def serving(
    *feeds: str | Path,
    rtcp: bool = False,
    user: str | None = None,
    password: str | None = None,
    written: Path | None = None,
) -> Iterator[Cameras]:
    """Cameras 0, 1, ..., one for each feed, at a port of their own, until the block is left.

    Args:
        feeds: Video files, or clocks, as `clock:320x180@25`, which show `pictures`.
        rtcp: Whether they send sender reports.
        user: Who may play; None: everybody.
        password: That user's.
        written: The file that is to name each picture of a clock, with the time at which it was sent.
    """
    options = ["--pictures", "tests.rtsp:pictures", *(["--rtcp"] if rtcp else [])]
    options += ["--user", user, "--password-env", PASSWORD] if user is not None else []
    options += ["--written", str(written)] if written is not None else []
    cameras = Cameras([*options, *map(str, feeds)], user, password)
    try:
        yield cameras
    finally:
        cameras.end()
