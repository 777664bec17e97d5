"""Opening a video file with PyAV, and the one place where its errors become ours."""

from __future__ import annotations

import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import av
import av.container
import av.error
import av.stream
import av.video.stream
from av.codec.hwaccel import HWAccel

from pipeline.errors import SourceError
from pipeline.threads import alive
from specialized.objects import one_line

__all__ = ["Limits", "Packet", "accelerator", "is_io_error", "open_decoder", "open_video", "packets", "reason"]

Packet: TypeAlias = "av.Packet[av.video.stream.VideoStream]"

# A video is untrusted: nothing in it may make FFmpeg open another file, a network address or a device.
LISTS = {"concat", "dash", "hls", "imf", "lavfi", "rtp", "rtsp", "sap", "sdp", "vobsub", "webm_dash_manifest"}
OPEN_OPTIONS = {
    "protocol_whitelist": "file",
    "format_whitelist": ",".join(sorted(av.formats_available - LISTS)),
    "pattern_type": "none",  # of the name of a picture: % counts nothing
}


@dataclass(frozen=True, slots=True)
class Limits:
    """What a file may ask for, see `decode.limits` of the configuration."""

    pixels: int = 1 << 26
    streams: int = 64
    hours: float = 1000.0
    frames: int = 100_000_000
    segment_frames: int = 20_000_000

    def refusal(self, key: str, got: str) -> str:
        """What is said of a file that asks for more."""
        most = getattr(self, key)
        return f"asks for {got}, where {most:,} are let through; if it is to be trusted, raise decode.limits.{key}"


NO_MORE = Limits()
INVALID_DATA = 1094995529  # FFmpeg's number of an error
ROOM, PICTURES = 1 << 24, 8  # bytes and pictures that a decoder must have room for

av.logging.set_level(av.logging.PANIC)  # what matters is reported through exceptions and the ledger


def open_video(
    path: Path, source: str, *, device: str = "cpu", limits: Limits = NO_MORE
) -> tuple[av.container.InputContainer, av.video.stream.VideoStream]:
    """Opens a file and picks its first video stream that is not a cover picture; the other streams are not read.

    Args:
        path: The file.
        source: Name of the source, for errors.
        device: Where it would be decoded: cpu, cuda, cuda:1.
        limits: What it may ask for.

    Raises:
        SourceError: The file cannot be opened, holds no video or asks for too much, or the GPU is not there or does not
            decode it.
    """
    if (kind := _no_file(path)) is not None:
        raise SourceError(source, f"{path}: must be a video file, got {kind}")
    try:
        hwaccel = None if device == "cpu" else accelerator(device)
        container = av.open(str(path), options=OPEN_OPTIONS, metadata_errors="replace", hwaccel=hwaccel)
    except av.error.FFmpegError as error:
        what = "opened as a video" if device == "cpu" else f"decoded on {device}"
        raise SourceError(source, f"{path}: cannot be {what}: {reason(error, path)}") from error
    except (NotImplementedError, RuntimeError, ValueError) as error:
        if device == "cpu":
            raise
        raise SourceError(source, f"{path}: cannot be decoded on {device}: {one_line(error)}") from error
    chosen = None
    for stream in container.streams:
        is_cover = bool(stream.disposition & av.stream.Disposition.attached_pic)
        if chosen is None and isinstance(stream, av.video.stream.VideoStream) and not is_cover:
            chosen = stream
        else:
            # Never `nonkey` for the chosen one: mov then reports other time stamps.
            stream.discard = av.stream.Discard.all
    if chosen is None or chosen.codec_context is None:
        kinds = ", ".join(stream.type for stream in container.streams) or "nothing"
        container.close()
        missing = "no video stream" if chosen is None else "a video stream, but no decoder for its codec"
        raise SourceError(source, f"{path}: holds {missing} (found: {kinds}); give a file with a picture")
    context = chosen.codec_context
    too_much = None
    if len(container.streams) > limits.streams:
        too_much = limits.refusal("streams", f"{len(container.streams)} streams")
    elif context.width * context.height > limits.pixels:
        too_much = limits.refusal("pixels", f"pictures of {context.width}x{context.height} pixels")
    if too_much is not None:
        container.close()
        raise SourceError(source, f"{path}: {too_much}")
    if device != "cpu" and not is_accelerated(chosen):
        container.close()
        raise SourceError(source, f"{path}: cannot be decoded on {device}: it has no decoder for {chosen.codec.name}")
    return container, chosen


def _no_file(path: Path) -> str | None:
    """What a path stands for that must not be opened, as that might never end; None: a file, or what FFmpeg refuses."""
    if "\0" in str(path):
        return "a name that holds a NUL"  # FFmpeg would open what stands before it
    try:
        mode = path.stat().st_mode
    except OSError:
        return None
    if stat.S_ISFIFO(mode):
        return "a FIFO"
    if stat.S_ISSOCK(mode):
        return "a socket"
    return "a device" if stat.S_ISCHR(mode) or stat.S_ISBLK(mode) else None


def accelerator(device: str) -> HWAccel:
    """The decoder of a GPU, whose frames PyAV brings to the CPU's memory."""
    kind, _, number = device.partition(":")
    # One context for all decoders of the process: each of its own would take hundreds of megabytes.
    options: dict[str, object] = {"primary_ctx": "1"}
    return HWAccel(kind, device=number or None, allow_software_fallback=False, options=options)


def is_accelerated(stream: av.video.stream.VideoStream) -> bool:
    """Whether the decoder of a stream is the GPU's: PyAV is content if that of any stream of the file is."""
    return bool(stream.codec_context.is_hwaccel)


def open_decoder(
    path: Path,
    source: str,
    *,
    reorder_depth: int = 0,
    fast: bool = False,
    device: str = "cpu",
    limits: Limits = NO_MORE,
) -> tuple[av.container.InputContainer, av.video.stream.VideoStream]:
    """Opens a file for decoding in one thread: vpipe's parallelism is one such decoder per core.

    Args:
        path: The file.
        source: Name of the source, for errors.
        reorder_depth: How many frames are decoded before one that is shown earlier, by the file's index. H.264 streams
            that do not say it themselves would lose frames at their start.
        fast: Leave out the loop filter, where the codec has one that its decoder can leave out: other pixels, sooner.
            A GPU does not.
        device: Of the decoder: cpu, cuda, cuda:1.
        limits: What the file may ask for. Of much larger pictures that come later the decoder makes errors.
    """
    container, stream = open_video(path, source, device=device, limits=limits)
    context = stream.codec_context
    context.thread_type = "NONE"
    context.thread_count = 1  # libdav1d heeds only this one
    if context.codec.name == "h264" and context.reorder_depth < reorder_depth <= 16:
        context.reorder_depth = reorder_depth
    # Heeded only before the first packet. Decoders round widths up before they count.
    context.options = {"max_pixels": str(min(2 * limits.pixels + (1 << 16), 2**31 - 1))} | (
        {"skip_loop_filter": "all"} if fast else {}
    )
    return container, stream


def packets(
    container: av.container.InputContainer, stream: av.video.stream.VideoStream
) -> Iterator[Packet | av.error.FFmpegError]:
    """The stream's packets from where the container stands, and the errors between them.

    A damaged place ends PyAV's own generator; reading goes on behind it until two attempts in a row give nothing.
    """
    while True:
        progress = False
        try:
            for packet in container.demux(stream):
                alive()
                if packet.size or packet.pts is not None or packet.dts is not None:
                    progress = True
                    yield packet  # the empty packet that PyAV adds at the end is not a frame
            return
        except av.error.FFmpegError as error:
            yield error
            if not progress or is_io_error(error):
                return
        except IndexError:  # of PyAV, at a packet of a stream that the file did not begin with
            yield av.error.InvalidDataError(INVALID_DATA, "a packet of a stream that is not known")
            if not progress:
                return


def is_io_error(error: BaseException) -> bool:
    """Whether reading failed, for the disk or for want of memory, rather than what was read being damaged."""
    is_damage = isinstance(error, EOFError | BlockingIOError)  # the decoder wants other data
    return isinstance(error, OSError | av.error.MemoryError) and not is_damage


def of_data(error: av.error.FFmpegError, width: int, height: int) -> av.error.FFmpegError:
    """What a decoder of pictures of this size says, which reads no disk: but for want of memory it is of the data,
    whatever it is called."""
    if isinstance(error, av.error.MemoryError) and not has_room(width, height):
        return error
    return av.error.InvalidDataError(INVALID_DATA, error.strerror or str(error))


def has_room(width: int, height: int) -> bool:
    """Whether there is memory for some pictures. Decoders say that there is none where damage asks for absurdly much,
    and that the data is damaged where there is none."""
    try:
        bytearray(ROOM + PICTURES * 4 * width * height)
    except MemoryError:
        return False
    return True


def reason(error: av.error.FFmpegError, path: Path) -> str:
    """What FFmpeg says, in words for a user."""
    if isinstance(error, av.error.ArgumentError) and _is_list(path):
        return "it is a list of other files or addresses, of which none is read; give those"
    if not isinstance(error, av.error.InvalidDataError):
        return (error.strerror or str(error)).strip()
    try:
        if path.stat().st_size == 0:
            return "it is empty"
    except OSError:
        pass  # it has gone since; what was read of it was no video
    detail = f" ({str(error.log[-1]).strip()})" if error.log else ""
    return f"its data is damaged or in no known video format{detail}"


def _is_list(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            head = file.read(4096).lstrip(b"\xef\xbb\xbf \t\r\n")
    except OSError:
        return False
    return head.startswith((b"#EXTM3U", b"ffconcat", b"v=0")) or b"<MPD" in head
