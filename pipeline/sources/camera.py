"""Reading one camera: connecting, decoding, and connecting anew for as long as it is asked for.

    connecting ──▶ live ◀──▶ stalled      nothing has come for a while
        ▲           │           │
        └── down ◀──┴───────────┘          the stream ended, or nothing came for too long

A camera never fails: whatever happens to it is a state, said once in the log, and it is tried again.
"""

from __future__ import annotations

import errno
import logging
import math
import random
import socket
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal, NamedTuple, cast
from urllib.parse import urlsplit

import av
import av.container
import av.error
import av.video.stream
import numpy as np
from av.stream import Discard
from av.video.frame import VideoFrame

from pipeline.batch import CapturedBy, Counts, Lost, Pixels
from pipeline.errors import SourceError
from pipeline.sources import hls
from pipeline.sources.container import Packet
from pipeline.sources.scaler import PictureFormat, Scaler, View
from pipeline.threads import Stop
from specialized.objects import one_line

__all__ = ["Camera", "Preview", "Received", "State", "joined"]

log = logging.getLogger(__name__)

State = Literal["connecting", "live", "stalled", "down", "ended"]

OPEN_S = {"rtsp": 3.0, "http": 10.0}  # until an attempt to connect is given up; HLS asks for several files
READ_S = 1.0  # FFmpeg comes back after about twice that when nothing arrives. It can be read on, but forgets times then
STALLED_S = 1.5  # without a packet
FIRST_WAIT_S, LONGEST_WAIT_S = 0.25, 2.0  # between attempts
JITTER = 0.2  # of a wait, so that cameras do not all come back at once
SOUND_S = 5.0  # a connection that lasts for so long is none that fails at once
SLACK = 0.1  # of a step, by which a frame may come early
TELL_S = 1.0  # without a picture, until what else came is told
PREVIEW_S, PREVIEW_WIDTH = 1.0, 320  # pixels
NO_ADDRESS = (socket.EAI_NONAME, getattr(socket, "EAI_NODATA", socket.EAI_NONAME))  # answers of name servers
NAP_S = 0.05  # how soon a stop is seen while waiting

# The description of an RTSP stream says nearly all. FFmpeg would look at it for a second, and begin a second late.
LITTLE_PROBING = {"analyzeduration": "100000", "fpsprobesize": "0"}

# A stream is untrusted: nothing in it may make FFmpeg open a file or another protocol.
PROTOCOLS = {"rtsp": "rtsp,rtp,tcp,udp,tls,srtp", "http": "http,https,tcp,tls,crypto"}


@dataclass(frozen=True, slots=True, eq=False)
class Received:
    """What came of a camera since the one before: a frame that is to be labelled, if any, and what came beside it.

    Attributes:
        number: Of the frame, in presentation order.
        pts_s: Its time in the stream, in seconds; NaN where it has none.
        captured_s: UTC time of capture in seconds since 1970.
        captured_by: What that is by: the camera's clock, or else its packet's arrival.
        views: Of each view the frame's pictures, uint8 (pictures, H, W, 3); None: there is no frame.
        counts: This frame and those that were skipped, lost or dropped before it.
        lost: Those of them without a label, that should have one.
    """

    number: int
    pts_s: float
    captured_s: float
    captured_by: CapturedBy
    views: Sequence[Pixels] | None
    counts: Counts
    lost: tuple[Lost, ...] = ()

    def dropping(self, older: Received) -> Received:
        """This one, standing for an older one too, whose frame is given up."""
        counts, lost = older.counts, older.lost
        if older.views is not None:
            counts = replace(counts, decoded=0, damaged=0, dropped=counts.dropped + 1)
            lost = joined(lost, (Lost(older.number, older.number, "dropped"),))
        return replace(self, counts=counts + self.counts, lost=joined(lost, self.lost))


def joined(lost: tuple[Lost, ...], later: tuple[Lost, ...]) -> tuple[Lost, ...]:
    """Both, in as few ranges as will do."""
    if lost and later and lost[-1].why == later[0].why and lost[-1].last + 1 == later[0].first:
        return (*lost[:-1], Lost(lost[-1].first, later[0].last, later[0].why), *later[1:])
    return lost + later


class _Spent(NamedTuple):
    """Time in states: in one since a monotonic time, and in each before that, in seconds."""

    state: State
    since_s: float | None = None
    before: Mapping[str, float] = {}

    def until(self, now_s: float) -> Mapping[str, float]:
        if self.since_s is None or self.state == "ended":
            return self.before
        return {**self.before, self.state: self.before.get(self.state, 0.0) + now_s - self.since_s}


class Preview(NamedTuple):
    """What one frame of a camera looked like.

    Attributes:
        frame: Its number.
        picture: uint8 (H, W, 3), `PREVIEW_WIDTH` wide.
    """

    frame: int
    picture: Pixels


class Camera:
    """A live camera. Iterating it reads it, in the thread that iterates, until `stop` is set.

    Args:
        url: Where it is.
        name: Name of the source.
        views: What is shown of every frame.
        protocol: What the address must be, and what FFmpeg may open.
        transport: Of RTSP: tcp or udp.
        fps: Frames per second that are labelled at most; None: all.
        dead_s: Without a packet for so long, a connection is given up.
        regions: Names of all its regions; none: whole frames.

    Attributes:
        stop: Ends it.
        next_frame: Number of the next frame. Who iterates it may set it before.
        state, why: How it is, and what made it so.
        reconnects: How often it was tried again.
        tells_time: Whether the times of its frames are those of its own clock.
        size: Width and height of its pictures, as they were last; None: none came yet.
        preview, previews: Of a recent frame, replaced once a second; how often it was.
        last_frame_s: When its last frame was decoded, by `time.monotonic`; None: none was yet.
        taken: What became of all that was taken of it so far; who takes replaces it as a whole.

    Any thread may look at them.
    """

    def __init__(
        self,
        url: str,
        *,
        name: str,
        views: Sequence[View],
        protocol: Literal["rtsp", "http"] = "rtsp",
        transport: Literal["tcp", "udp"] = "tcp",
        fps: float | None = None,
        dead_s: float = 10.0,
        regions: tuple[str, ...] = (),
    ) -> None:
        self.name = name
        self.views, self.regions = tuple(views), regions
        self.state: State = "connecting"
        self.why = ""
        self._spent = _Spent("connecting")
        self._logged: set[str] = set()  # reasons to be down, of which the log knows since it was live last
        self.reconnects = 0
        self.size: tuple[int, int] | None = None
        self.preview: Preview | None = None
        self.previews = 0
        self.tells_time = False
        self.last_frame_s: float | None = None
        self.taken = Counts()
        self._url, self._protocol, self._fps, self._dead_s = url, protocol, fps, dead_s
        self._options = {"protocol_whitelist": PROTOCOLS[protocol]}
        if protocol == "rtsp":
            self._options |= {"rtsp_transport": transport, "allowed_media_types": "video", **LITTLE_PROBING}
        self._turns: hls.Turns | None = None  # of HLS alone
        self.stop = Stop()
        self.next_frame = 0
        self._jitter = random.Random(name)
        self._told = (url, protocol, transport, fps, dead_s, self.views, regions)
        self._pending, self._lost = Counts(), tuple[Lost, ...]()  # of what came since the last frame that was handed on

    def is_like(self, other: Camera) -> bool:
        """Whether another would be read in the same way, from the same place."""
        return (self.name, self._told) == (other.name, other._told)

    @property
    def spent_s(self) -> Mapping[str, float]:
        """Seconds that it has been in each state so far, since it is read."""
        return self._spent.until(time.monotonic())

    def __iter__(self) -> Iterator[Received]:
        self._spent = _Spent(self.state, time.monotonic())
        wait_s = FIRST_WAIT_S
        while not self.stop:
            began_s = time.monotonic()
            try:
                with self._opened() as container:
                    for received in self._received(container):
                        if time.monotonic() - began_s > SOUND_S:
                            wait_s = FIRST_WAIT_S
                        yield received
                why = "it ended the stream"
            except SourceError as error:
                why = str(error)
            except av.error.FFmpegError as error:
                why = error.strerror or type(error).__name__  # what FFmpeg logged may hold the address
            except Exception as error:  # a camera never fails
                why = type(error).__name__ if self._url in str(error) else one_line(error)
            if self._pending.indexed:
                yield self._taken(None, math.nan, time.time())
            if self.stop:
                break
            self._is("down", why)
            self._wait(wait_s * self._jitter.uniform(1 - JITTER, 1 + JITTER))
            wait_s = min(2 * wait_s, LONGEST_WAIT_S)
            self.reconnects += 1
        self._is("ended")

    def _opened(self) -> av.container.InputContainer:
        container = self._open()
        if container.format.name == "hls" and self._turns is None:  # which only a connection tells
            container.close()
            self._turns = hls.Turns()
            self._options |= hls.OPTIONS
            container = self._open()
        if self._turns is not None:
            self._turns.begin()
        return container

    def _open(self) -> av.container.InputContainer:
        # Of HLS a read may last until there is a segment, and FFmpeg does not read on behind one that was cut short.
        read_s = READ_S if self._turns is None else self._dead_s
        open_s, began_s = OPEN_S[self._protocol], time.monotonic()
        try:
            return av.open(self._url, options=dict(self._options), timeout=(open_s, read_s), metadata_errors="replace")
        except av.error.FFmpegError as error:
            if time.monotonic() - began_s >= open_s:  # FFmpeg calls it invalid data
                raise SourceError(self.name, f"it did not answer in {open_s:g} s") from error
            if error.errno == errno.EIO and not _is_known(self._url):  # which is all that FFmpeg says of it
                raise SourceError(self.name, "the name of its host is not known") from error
            raise

    def _received(self, container: av.container.InputContainer) -> Iterator[Received]:
        """What comes over one connection."""
        stream = next(iter(container.streams.video), None)
        if stream is None:
            raise SourceError(self.name, "it sends no video")
        if stream.codec_context is None:
            raise SourceError(self.name, "it sends video of a codec for which there is no decoder")
        stream.codec_context.thread_type = "NONE"
        stream.codec_context.thread_count = 1
        if self._turns is not None:
            for other in set(container.streams) - {stream}:  # FFmpeg would ask for them all
                other.discard = Discard.all
        scalers = [Scaler(view) for view in self.views]
        cap = None if self._fps is None else Cap(self._fps)
        awaits_key = False
        clock = _SenderClock()
        previewed_s = -math.inf
        told_s = time.monotonic()
        for packet in self._packets(container, stream):
            arrived_s, now_s = time.time(), time.monotonic()
            if self._pending.indexed and now_s - told_s > TELL_S:
                told_s = now_s
                yield self._taken(None, math.nan, arrived_s)
            clock.heed(packet)
            if awaits_key and packet.size and not packet.is_keyframe:
                self._lose(packet)
                continue
            awaits_key = False
            try:
                frames = packet.decode()
            except av.error.FFmpegError:
                self._lose(packet)
                awaits_key = True
                continue
            for frame in frames:
                if self._turns is not None:
                    if not self._turns.is_new(frame.time):
                        continue
                    self._wait(self._turns.wait_s(frame.time, time.monotonic()))
                    arrived_s, now_s = time.time(), time.monotonic()  # those of a segment come at one time
                self.last_frame_s = time.monotonic()
                if cap is not None and not cap.lets_pass(arrived_s if frame.time is None else frame.time):
                    self._pending += Counts(indexed=1, skipped=1)
                    self.next_frame += 1
                    continue
                rows = [np.empty((v.pictures, v.picture.height, v.picture.width, 3), np.uint8) for v in self.views]
                try:
                    for scaler, row in zip(scalers, rows, strict=True):
                        scaler.draw(frame, row)
                except (av.error.FFmpegError, ValueError):
                    self._lose(packet)
                    raise
                if now_s - previewed_s >= PREVIEW_S:
                    previewed_s = now_s
                    self.size = frame.width, frame.height
                    self.preview = Preview(self.next_frame, _small(frame))
                    self.previews += 1
                self._is("live")
                self._pending += Counts(indexed=1, decoded=1, damaged=int(frame.is_corrupt))
                pts_s = math.nan if frame.time is None else frame.time
                captured_s = clock.utc_s(pts_s)
                self.tells_time = not math.isnan(captured_s)
                told_s = now_s
                yield self._taken(rows, pts_s, captured_s if self.tells_time else arrived_s)

    def _taken(self, views: Sequence[Pixels] | None, pts_s: float, captured_s: float) -> Received:
        """What came up to here."""
        by: CapturedBy = "camera" if self.tells_time else "arrival"
        taken = Received(self.next_frame, pts_s, captured_s, by, views, self._pending, self._lost)
        self.next_frame += views is not None
        self._pending, self._lost = Counts(), ()
        return taken

    def _lose(self, packet: Packet) -> None:
        """The next frame gives no picture."""
        if self._turns is not None and not self._turns.is_new(packet.pts and float(packet.pts * packet.time_base)):
            return
        self._lost = joined(self._lost, (Lost(self.next_frame, self.next_frame, "corrupt"),))
        self._pending += Counts(indexed=1, corrupt=1)
        self.next_frame += 1

    def _packets(self, container: av.container.InputContainer, stream: av.video.stream.VideoStream) -> Iterator[Packet]:
        """Packets, for as long as some come."""
        last_s = time.monotonic()
        while not self.stop:
            try:
                for packet in container.demux():  # of all streams: sound may go on where pictures do not
                    if packet.stream_index == stream.index:
                        if packet.size:
                            last_s = time.monotonic()
                        yield cast("Packet", packet)  # an empty one at the end, for the frames that the decoder holds
                    else:
                        self._look_at_silence(time.monotonic() - last_s)
                    if self.stop:
                        return
                if self._turns is not None:
                    self._look_at_silence(time.monotonic() - last_s)  # FFmpeg calls it the end
                return
            except av.error.ExitError:  # nothing came for a while; the connection is still there
                self._look_at_silence(time.monotonic() - last_s)
                if self._protocol == "http":  # FFmpeg does not read on
                    raise

    def _look_at_silence(self, silent_s: float) -> None:
        if silent_s > self._dead_s:
            raise SourceError(self.name, f"nothing came for {silent_s:.0f} s")
        if silent_s > STALLED_S:
            self._is("stalled", "nothing comes")

    def _wait(self, seconds: float) -> None:
        until = time.monotonic() + seconds
        while not self.stop and time.monotonic() < until:
            time.sleep(min(NAP_S, max(0.0, until - time.monotonic())))

    def _is(self, state: State, why: str = "") -> None:
        """Takes a state on; the log is told when it is another, and of a camera that is down once for each reason."""
        if state == "live":
            self._logged.clear()
        is_new = state == "down" and why not in self._logged
        if state != self.state or is_new:
            level = logging.WARNING if state == "down" else logging.INFO
            log.log(level, "%s: %s%s", self.name, state, why and f": {why}")
        if is_new:
            self._logged.add(why)
        if state != self.state:
            now_s = time.monotonic()
            self._spent = _Spent(state, now_s, self._spent.until(now_s))
        self.state, self.why = state, why


def _is_known(url: str) -> bool:
    """Whether the name of a host may stand for an address."""
    host = urlsplit(url).hostname
    try:
        if host is not None:
            socket.getaddrinfo(host, None)
    except socket.gaierror as error:
        return error.errno not in NO_ADDRESS
    except ValueError:  # a name that cannot be one
        return False
    return True


def _small(frame: VideoFrame) -> Pixels:
    height = max(1, round(PREVIEW_WIDTH * frame.height / frame.width))
    out = np.empty((1, height, PREVIEW_WIDTH, 3), np.uint8)
    Scaler(View(PictureFormat(height, PREVIEW_WIDTH))).draw(frame, out)
    (picture,) = out
    return np.asarray(picture, np.uint8)


EARLIEST_S = 946_684_800.0  # the year 2000: a camera that does not know the time says none, or 1970


class _SenderClock:
    """The time of capture by the camera's own clock, which it tells in the sender reports of RTCP (RFC 3550)."""

    def __init__(self) -> None:
        self._offset_s = math.nan  # of its UTC to the stream's time

    def heed(self, packet: Packet) -> None:
        """Looks at what FFmpeg made of the last report: microseconds since 1970, at the head of `prft`."""
        if packet.pts is not None and packet.has_sidedata("prft"):
            utc_s = int.from_bytes(bytes(packet.get_sidedata("prft"))[:8], sys.byteorder, signed=True) / 1e6
            if utc_s >= EARLIEST_S:
                self._offset_s = utc_s - float(packet.pts * packet.time_base)

    def utc_s(self, pts_s: float) -> float:
        """Seconds since 1970 of a frame; NaN where it is not known."""
        return pts_s + self._offset_s


class Cap:
    """Lets frames pass at a rate.

    Args:
        fps: Frames per second, at most.
    """

    def __init__(self, fps: float) -> None:
        self._step_s = 1 / fps
        self._next_s = -math.inf

    def lets_pass(self, at_s: float) -> bool:
        """Whether a frame of this time does. Times that jump, in either direction, begin anew."""
        ahead_s = self._next_s - at_s
        if SLACK * self._step_s < ahead_s <= (1 + 2 * SLACK) * self._step_s:
            return False
        self._next_s = (self._next_s if abs(ahead_s) < self._step_s else at_s) + self._step_s
        return True
