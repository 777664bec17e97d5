"""A live HLS stream on loopback: segments that were encoded up front appear in a sliding playlist, in real time."""

import contextlib
import tempfile
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from tests.clips import write_clip

RATE = 25
LISTED = 4  # segments in the playlist


class Stream:
    """A stream that begins with `LISTED` segments. Its frames show their numbers.

    Attributes:
        asked: Paths of all requests.
    """

    def __init__(self, folder: Path, segment_s: int) -> None:
        self._folder, self._segment_s = folder, segment_s
        self._begun_s = time.monotonic()
        self._late_s = 0.0
        self._answers = threading.Event()
        self._answers.set()
        self._away = threading.Event()
        self._over = threading.Event()
        self.asked: list[str] = []
        stream = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                stream.asked.append(self.path)
                stream._answers.wait()
                body = None if stream._away.is_set() else stream._body(self.path)
                self.send_response(404 if body is None else 200)
                self.send_header("Content-Length", str(len(body or b"")))
                self.end_headers()
                with contextlib.suppress(ConnectionError):
                    self.wfile.write(body or b"")

            def log_message(self, *_: object) -> None:
                pass

        self._server = _Server(("127.0.0.1", 0), Handler)
        threading.Thread(target=self._server.serve_forever, args=(0.05,), name="hls").start()

    @property
    def url(self) -> str:
        """Of its playlist. Beside it `master.m3u8` names two variants, of which the second lies in small/."""
        return f"http://127.0.0.1:{self._server.server_port}/camera.m3u8"

    @property
    def newest(self) -> int:
        """Number of the last frame that is in the playlist."""
        return self._published() * self._segment_s * RATE - 1

    def late(self, seconds: float) -> None:
        """From now on each segment appears so much later than it should."""
        self._late_s = seconds

    def go(self, away: bool) -> None:
        """Whether it finds nothing that it is asked for."""
        (self._away.set if away else self._away.clear)()

    def hang(self) -> None:
        """Answers nothing any more."""
        self._answers.clear()

    def end(self) -> None:
        self._answers.set()
        self._server.shutdown()
        self._server.server_close()

    def _published(self) -> int:
        """How many segments there are by now."""
        return LISTED + int((time.monotonic() - self._begun_s - self._late_s) // self._segment_s)

    def _body(self, path: str) -> bytes | None:
        name = path.rpartition("/")[2]
        if name.endswith(".ts"):
            file = self._folder / name
            return file.read_bytes() if file.exists() else None
        if name == "master.m3u8":
            variants = "#EXT-X-STREAM-INF:BANDWIDTH={}\n{}camera.m3u8\n"
            return ("#EXTM3U\n" + variants.format(2000, "") + variants.format(1000, "small/")).encode()
        until = self._published()
        first = until - LISTED
        head = f"#EXTM3U\n#EXT-X-VERSION:3\n#EXT-X-TARGETDURATION:{self._segment_s}\n#EXT-X-MEDIA-SEQUENCE:{first}\n"
        return (head + "".join(f"#EXTINF:{self._segment_s},\n{k}.ts\n" for k in range(first, until))).encode()


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, *_: object) -> None:
        """A peer that left is none."""


@contextlib.contextmanager
def streaming(*, segment_s: int = 2, seconds: int = 60, bframes: int = 0) -> Iterator[Stream]:
    """A stream, until the block is left.

    Args:
        segment_s: Seconds of each segment.
        seconds: Of all there is.
        bframes: How many between two others.
    """
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_clip(
            folder / "all.m3u8",
            range(seconds * RATE),
            size=(96, 64),
            rate=RATE,
            bframes=bframes,
            keyframe_every=segment_s * RATE,
            container_options={
                "hls_time": str(segment_s),
                "hls_list_size": "0",
                "hls_segment_filename": str(folder / "%d.ts"),
            },
        )
        stream = Stream(folder, segment_s)
        try:
            yield stream
        finally:
            stream.end()
