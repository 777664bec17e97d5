"""What the RTSP server sends: a file in a loop, or pictures that are drawn and encoded as their time comes.

A feed gives pictures in the order in which they are decoded, each as the RTP packets (RFC 3550) that FFmpeg's muxer
makes of it, and says how they are described to a client (SDP, RFC 8866; H.264: RFC 6184, HEVC: RFC 7798, JPEG: RFC
2435).
"""

from __future__ import annotations

import base64
import itertools
import math
import re
import time
from collections.abc import Callable, Generator
from dataclasses import dataclass
from fractions import Fraction
from typing import Protocol, TypeAlias

import av
import numpy as np
import numpy.typing as npt
from av.codec.context import Flags
from av.container import OutputContainer
from av.video.stream import VideoStream

from pipeline.errors import VpipeError

__all__ = ["LATE_S", "ClockFeed", "Draw", "Feed", "FileFeed", "Picture", "clock_shape", "parameter_sets"]

Draw: TypeAlias = Callable[[int, int, int, int], npt.NDArray[np.uint8]]
"""What a clock feed shows: of camera, number, height and width a picture (H, W, 3), RGB."""

RTP_BYTES = 1400  # a packet: what fits an Ethernet frame, with room for tunnels
LATE_S = 1.0  # behind its time by more, a feed leaves out what it missed, as a camera does; by less, it catches up


@dataclass(frozen=True)
class Picture:
    """One picture on its way.

    Attributes:
        due_s: When it is to be sent, `time.monotonic()`; time stamps of RTP are linear in it.
        key: Whether decoding can begin with it.
        number: Which one it is, where it is drawn.
        packets: Its RTP packets.
    """

    due_s: float
    key: bool
    number: int | None
    packets: list[bytes]


class Feed(Protocol):
    """Where pictures come from."""

    @property
    def media(self) -> list[str]:
        """Lines of SDP that describe the pictures, from `m=` on."""

    def pictures(self) -> Generator[Picture]:
        """The pictures from now on, each some time before it is due; they never end."""


class FileFeed:
    """The pictures of a video file, over and over; from one pass to the next the time stamps go on without a gap.

    RTP cannot say that a picture is not to be shown: clients show those that an edit list hides, too.
    """

    def __init__(self, path: str) -> None:
        self._path = path
        taken = _Taken()
        try:
            with av.open(path) as clip, _muxer(taken) as muxer:
                stream = next(iter(clip.streams.video), None)
                if stream is None:
                    raise VpipeError(f"{path}: must hold pictures, got none; name a video file")
                first, rate = next(clip.demux(stream)), stream.average_rate
                if first.pts is None or rate is None:
                    raise VpipeError(f"{path}: must hold time stamps, got none; copy it into an MP4 or a Matroska file")
                context = stream.codec_context
                self._media = _media(path, context.name, context.extradata or b"", rate)
                first.stream, first.dts = muxer.add_stream_from_template(stream), first.pts
                muxer.mux(first)
        except (av.error.FFmpegError, OSError) as error:
            raise VpipeError(f"{path}: must be a video file that can be read, got {error}; check the name") from error
        if not taken.take():
            raise VpipeError(f"{path}: must be JPEG with standard Huffman tables, got others; encode it with them")

    @property
    def media(self) -> list[str]:
        return self._media

    def pictures(self) -> Generator[Picture]:
        taken = _Taken()
        begun_s = time.monotonic()
        shift = 0  # ticks from a time stamp within the file to the same since `begun_s`
        target: VideoStream | None = None
        with _muxer(taken) as muxer:
            while True:
                with av.open(self._path) as clip:
                    source = clip.streams.video[0]
                    if target is None:
                        target = muxer.add_stream_from_template(source)
                    tick, rate = source.time_base, source.average_rate
                    assert tick is not None
                    assert rate is not None
                    first: int | None = None
                    end = 0
                    for packet in clip.demux(source):
                        if packet.pts is None:  # the empty one behind the last
                            continue
                        if first is None:
                            first = end = packet.pts
                            shift -= first
                        end = max(end, packet.pts + (packet.duration or round(1 / (rate * tick))))
                        due_s = begun_s + float((packet.pts + shift) * tick)
                        late_s = time.monotonic() - due_s
                        if late_s > LATE_S:
                            missed = math.ceil(late_s / tick)
                            shift, due_s = shift + missed, due_s + float(missed * tick)
                        # RTP carries no decoding time, and not all files tell it: the muxer wants one that never falls
                        # and is no later than the picture's, some of which may come before the first.
                        packet.pts, packet.dts = packet.pts + shift + math.ceil(1 / tick), 0
                        packet.stream = target
                        key = packet.is_keyframe
                        muxer.mux(packet)
                        yield Picture(due_s, key, None, taken.take())
                    if first is None:
                        raise VpipeError(f"{self._path}: must hold pictures as it did, got none")
                    shift += end


class ClockFeed:
    """Pictures that are drawn and encoded live; their numbers count the time since the feed was made.

    Each is encoded before it is due and sent when it is, so that what it takes to encode it delays nobody.
    """

    def __init__(self, camera: int, draw: Draw, *, width: int = 640, height: int = 360, rate: int = 25) -> None:
        """A camera that begins now.

        Args:
            camera: Its number, which is drawn.
            draw: Draws a picture.
            width: Pixels, even.
            height: Pixels, even.
            rate: Frames/s.
        """
        self._camera, self._draw = camera, draw
        self._width, self._height, self._rate = width, height, rate
        self._begun_s = time.monotonic()
        with _muxer(_Taken()) as muxer:
            encoder = self._encoder(muxer)
            muxer.start_encoding()
            extradata = encoder.codec_context.extradata or b""
        self._media = _media(f"camera {camera}", "h264", extradata, Fraction(rate))

    @property
    def media(self) -> list[str]:
        return self._media

    def pictures(self) -> Generator[Picture]:
        taken = _Taken()
        number = self._now()
        with _muxer(taken) as muxer:
            encoder = self._encoder(muxer)
            while True:
                picture = self._draw(self._camera, number, self._height, self._width)
                frame = av.VideoFrame.from_ndarray(picture, "rgb24").reformat(format="yuv420p")
                frame.pts, frame.time_base = number, Fraction(1, self._rate)
                packets = encoder.encode(frame)
                key = any(packet.is_keyframe for packet in packets)
                muxer.mux(packets)
                yield Picture(self._begun_s + number / self._rate, key, number, taken.take())
                number += 1
                if self._now() - number > LATE_S * self._rate:
                    number = self._now()

    def _now(self) -> int:
        """The number of the next picture that is due."""
        return math.ceil((time.monotonic() - self._begun_s) * self._rate)

    def _encoder(self, muxer: OutputContainer) -> VideoStream:
        options = {"preset": "ultrafast", "tune": "zerolatency", "x264-params": "scenecut=0:repeat-headers=1"}
        encoder = muxer.add_stream("libx264", rate=self._rate, options=options)
        encoder.width, encoder.height, encoder.pix_fmt = self._width, self._height, "yuv420p"
        context = encoder.codec_context
        context.time_base = Fraction(1, self._rate)
        context.gop_size = self._rate  # a keyframe each second
        context.max_b_frames = 0
        context.thread_count = 1
        context.flags |= Flags.global_header  # the parameter sets are described and, as cameras do, sent as well
        return encoder


def clock_shape(text: str) -> dict[str, int] | None:
    """Width, height and rate in `clock`, `clock:WIDTHxHEIGHT` or `clock:WIDTHxHEIGHT@RATE`; None for other text."""
    found = re.fullmatch(r"clock(?::(?P<width>\d+)x(?P<height>\d+)(?:@(?P<rate>\d+))?)?", text)
    if found is None:
        return None
    shape = {name: int(value) for name, value in found.groupdict().items() if value is not None}
    if any(value % 2 or not 16 <= value <= 4096 for name, value in shape.items() if name != "rate"):
        raise VpipeError(f"{text}: must have even sides in 16..4096, got others; take clock:640x360@25")
    if not 1 <= shape.get("rate", 1) <= 240:
        raise VpipeError(f"{text}: must have a rate in 1..240 frames/s, got another; take clock:640x360@25")
    return shape


class _Taken:
    """The file that FFmpeg's muxer writes to, one packet a call."""

    def __init__(self) -> None:
        self._packets: list[bytes] = []

    def write(self, packet: bytes) -> int:
        self._packets.append(bytes(packet))
        return len(packet)

    def take(self) -> list[bytes]:
        taken, self._packets = self._packets, []
        return taken


def _muxer(taken: _Taken) -> OutputContainer:
    return av.open(taken, "w", format="rtp", options={"rtpflags": "skip_rtcp"}, buffer_size=RTP_BYTES)


def _media(where: str, codec: str, extradata: bytes, rate: Fraction | None) -> list[str]:
    """Lines of SDP; the payload types are those that FFmpeg's muxer gives, 96 but for those with one of their own."""
    units = parameter_sets(codec, extradata)
    sets = [base64.b64encode(unit).decode() for unit in units]
    match codec:
        case "h264" if len(sets) >= 2:
            profile = units[0][1:4].hex()
            told = f"packetization-mode=1; profile-level-id={profile}; sprop-parameter-sets={','.join(sets)}"
            lines = ["m=video 0 RTP/AVP 96", "a=rtpmap:96 H264/90000", f"a=fmtp:96 {told}"]
        case "hevc" if len(sets) == 3:
            told = "; ".join(f"sprop-{kind}={unit}" for kind, unit in zip(("vps", "sps", "pps"), sets, strict=True))
            lines = ["m=video 0 RTP/AVP 96", "a=rtpmap:96 H265/90000", f"a=fmtp:96 {told}"]
        case "mjpeg":
            lines = ["m=video 0 RTP/AVP 26"]
        case "h264" | "hevc":
            raise VpipeError(f"{where}: must have its parameter sets in its header, got none; copy it into an MP4 file")
        case _:
            raise VpipeError(f"{where}: must be H.264, HEVC or Motion JPEG, got {codec}; name another file")
    return lines if rate is None else [*lines, f"a=framerate:{float(rate):g}"]


def parameter_sets(codec: str, extradata: bytes) -> list[bytes]:
    """The parameter sets of H.264 (sequence, picture) or HEVC (video, sequence, picture), in this order.

    Args:
        codec: FFmpeg's name; others than h264 and hevc have none.
        extradata: As FFmpeg gives it: an avcC or hvcC box, or units behind start codes.
    """
    kinds = {"h264": (7, 8), "hevc": (32, 33, 34)}.get(codec, ())
    if not kinds:
        return []
    if extradata[:1] != b"\x01":
        units = [unit.rstrip(b"\x00") for unit in re.split(b"\x00\x00\x01", extradata)[1:]]
    elif codec == "h264":
        units, at = _counted(extradata, 6, extradata[5] & 31)
        units += _counted(extradata, at + 1, extradata[at])[0]
    else:
        units, at = [], 23
        for _ in range(extradata[22]):
            more, at = _counted(extradata, at + 3, int.from_bytes(extradata[at + 1 : at + 3], "big"))
            units += more
    kind_of: Callable[[bytes], int] = (lambda unit: unit[0] & 31) if codec == "h264" else lambda unit: unit[0] >> 1 & 63
    return [unit for kind, unit in itertools.product(kinds, units) if unit and kind_of(unit) == kind]


def _counted(data: bytes, at: int, count: int) -> tuple[list[bytes], int]:
    """So many units from a place on, each behind its length of two bytes; and where they end."""
    units = []
    for _ in range(count):
        size = int.from_bytes(data[at : at + 2], "big")
        units.append(data[at + 2 : at + 2 + size])
        at += 2 + size
    return units, at
