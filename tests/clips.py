"""Clips whose every frame shows its own number, made by real encoders.

A picture is a grid of black and white cells, a bit each, row by row, most significant bit first:

    16 bits number | 4 bits source | 4 bits check

Cells survive lossy coding and a resize to any model input of `SMALLEST` or more, so a test that reads the number
back from the pixels knows which frame it holds, whatever its label claims. What is not such a picture (gray, noise,
a mix of two frames) reads as -1, never as some number.
"""

import atexit
import functools
import itertools
import shutil
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any, cast

import av
import numpy as np
from av.video.stream import VideoStream
from numpy.typing import NDArray

ROWS, COLUMNS = 4, 6
SMALLEST = (2 * ROWS, 2 * COLUMNS)  # height, width: below it no pixel lies within its cell's inner half
NUMBER_BITS, SOURCE_BITS, CHECK_BITS = 16, 4, 4
HIDDEN = 2**NUMBER_BITS - 1  # the number drawn on frames that a player must not show

# A cell counts as black or white only when its centre is nearly so: a blend of two frames must not pass for either.
BLACK_BELOW, WHITE_ABOVE = 80, 176


# ------------------------------------------------------------------------------------------ pictures


def draw(number: int, source: int = 0, *, height: int, width: int) -> NDArray[np.uint8]:
    """The picture (H, W, 3) of frame `number` (below 65536) of `source` (below 16)."""
    if not (0 <= number < 2**NUMBER_BITS and 0 <= source < 2**SOURCE_BITS):
        raise ValueError(f"number must fit {NUMBER_BITS} bits and source {SOURCE_BITS}, got {number} and {source}")
    word = (number << SOURCE_BITS | source) << CHECK_BITS
    word |= int(_check(np.array(word)))
    bits = np.array([word >> place & 1 for place in reversed(range(ROWS * COLUMNS))], np.uint8)
    row, column = np.arange(height) * ROWS // height, np.arange(width) * COLUMNS // width
    plane = 255 * bits.reshape(ROWS, COLUMNS)[row][:, column]
    return np.repeat(plane[:, :, None], 3, axis=2)


def read(pictures: NDArray[np.uint8]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The numbers (N,) and sources (N,), int64, of pictures (N, H, W, 3); -1 and -1 where a picture shows none."""
    _, height, width, _ = pictures.shape
    gray = pictures.mean(axis=3, dtype=np.float32)
    cells = centres(height, ROWS) @ gray @ centres(width, COLUMNS).T  # (N, ROWS, COLUMNS)
    bits = cells.reshape(-1, ROWS * COLUMNS) > 128
    word = bits @ (1 << np.arange(ROWS * COLUMNS, dtype=np.int64)[::-1])
    clear = ((cells < BLACK_BELOW) | (cells > WHITE_ABOVE)).all(axis=(1, 2))
    valid = clear & (word % 2**CHECK_BITS == _check(word))
    number = word >> SOURCE_BITS + CHECK_BITS
    source = (word >> CHECK_BITS) % 2**SOURCE_BITS
    return np.where(valid, number, -1), np.where(valid, source, -1)


def centres(length: int, cells: int) -> NDArray[np.float32]:
    """Weights (cells, length) that average the pixels in the inner half of each cell along one axis.

    `centres(H, ROWS) @ gray @ centres(W, COLUMNS).T` is the grid of a picture; as a matrix it serves torch too.
    """
    if length < 2 * cells:
        raise ValueError(f"length must be at least {2 * cells} pixels for {cells} cells, got {length}")
    place = (np.arange(length) + 0.5) * cells / length - np.arange(cells)[:, None]  # 0..1 within the cell
    inner = ((place >= 0.25) & (place <= 0.75)).astype(np.float32)
    return np.asarray(inner / inner.sum(axis=1, keepdims=True), np.float32)


def _check(word: NDArray[np.int64]) -> NDArray[np.int64]:
    """Complement of the exclusive or of the five upper nibbles: an all-black and an all-white picture fail it."""
    nibbles = functools.reduce(np.bitwise_xor, [word >> shift for shift in range(4, ROWS * COLUMNS, 4)])
    return np.asarray(~nibbles & 15)


def in_region(number: int, place: int) -> int:
    """What the region at `place` (below 64) shows in frame `number` (below 1024)."""
    return number << 6 | place


# --------------------------------------------------------------------------------------------- clips


def write_clip(
    path: Path,
    numbers: Iterable[int],
    *,
    source: int = 0,
    codec: str = "libx264",
    rate: int | Fraction = 25,
    size: tuple[int, int] = (96, 80),
    pix_fmt: str = "yuv420p",
    options: Mapping[str, str] | None = None,
    container_options: Mapping[str, str] | None = None,
    times: Sequence[float] | None = None,
    start_s: float = 0.0,
    hidden: int = 0,
    keyframe_every: int | None = None,
    open_gop: bool = False,
    bframes: int | None = None,
    regions: Sequence[tuple[int, int, int, int]] = (),
) -> Path:
    """Encode frames that show `numbers`, in presentation order, into `path` (container by its suffix).

    Args:
        size: width and height, pixels.
        options: the encoder's options, added to those chosen here.
        times: seconds of each frame (as many as there are numbers or more, to the millisecond) instead of `rate`.
        start_s: time of the first shown frame, seconds.
        hidden: how many frames (each showing `HIDDEN`) come before the first, at times below zero: MP4 keeps them
            in the file, since the frames after them need them, and discards them by its edit list. Not with `times`.
        keyframe_every: frames from one keyframe to the next; None leaves it to the encoder.
        open_gop: let pictures before a keyframe refer to it across the border (x264 and x265; MPEG-2 does anyway).
        bframes: most consecutive B-frames; None leaves it to the encoder.
        regions: left, top, width, height in pixels; in place of one picture the k-th of them shows
            `in_region(number, k)`, on gray.
    """
    if times is not None and hidden:
        raise ValueError(f"hidden must be 0 where times are given, got {hidden}")
    shown = [HIDDEN] * hidden + list(numbers)
    if times is None:
        time_base = 1 / Fraction(rate)
        stamps = [round(start_s * rate) + place for place in range(-hidden, len(shown) - hidden)]
    else:
        time_base = Fraction(1, 1000)
        stamps = [round(1000 * (start_s + times[place])) for place in range(len(shown))]
    width, height = size
    with av.open(str(path), "w", options=dict(container_options or {})) as container:
        stream = cast(VideoStream, container.add_stream(codec, rate=rate))
        stream.width, stream.height, stream.pix_fmt = width, height, pix_fmt
        context = stream.codec_context
        context.time_base = time_base
        context.thread_count = 1  # the same clip on every machine, and quick beside other tests
        if keyframe_every is not None:
            context.gop_size = keyframe_every
        if bframes is not None:
            context.max_b_frames = bframes
        context.options = _encoder_options(codec, keyframe_every, open_gop, bframes) | dict(options or {})
        for number, stamp in zip(shown, stamps, strict=True):
            picture = draw(number, source, height=height, width=width)
            if regions:
                picture = np.full_like(picture, 128)
            for place, (x, y, w, h) in enumerate(regions):
                picture[y : y + h, x : x + w] = draw(in_region(number, place), source, height=h, width=w)
            frame = av.VideoFrame.from_ndarray(picture, "rgb24").reformat(format=pix_fmt)
            frame.pts, frame.time_base = stamp, time_base
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def _encoder_options(codec: str, keyframe_every: int | None, open_gop: bool, bframes: int | None) -> dict[str, str]:
    """Quick, quiet settings per encoder, and the structure asked for in the encoder's own words."""
    shape = {"open-gop": int(open_gop), "scenecut": 0}
    if keyframe_every is not None:
        shape |= {"keyint": keyframe_every, "min-keyint": keyframe_every}
    if bframes is not None:
        # Always the same number of B-frames, else an encoder may find none worth having in so small a picture.
        shape |= {"bframes": bframes, "b-adapt": 0}

    def joined(**more: str | int) -> str:
        return ":".join(f"{name}={value}" for name, value in (shape | more).items())

    match codec:
        case "libx264":
            # Without mbtree, whose arithmetic may round otherwise the next time: the same bytes each time.
            exact: dict[str, str | int] = {"b-pyramid": "normal", "mbtree": 0}
            return {"preset": "veryfast", "crf": "23", "x264-params": joined(**exact)}
        case "libx265":
            quiet: dict[str, str | int] = {"log-level": "none", "pools": 1, "frame-threads": 1}
            return {"preset": "veryfast", "crf": "23", "x265-params": joined(**quiet)}
        case "libsvtav1":
            return {"preset": "8", "crf": "20", "svtav1-params": "lp=1"}
        case "libvpx-vp9":
            # In one pass only these settings give alternate references: packets that hold a hidden frame as well.
            return {"deadline": "realtime", "cpu-used": "4", "lag-in-frames": "25", "auto-alt-ref": "1", "b": "200k"}
        case "mpeg2video" | "mpeg4":
            return {"qscale": "3", "sc_threshold": "1000000000"}
        case _:
            return {}


# --------------------------------------------------------------------------------------------- kinds

# Seconds of up to 1,000 frames that come 40, 40, 120, 10 and 333 ms after each other: no average rate fits them.
UNEVEN_S = tuple(
    itertools.accumulate(itertools.islice(itertools.cycle((0.04, 0.04, 0.12, 0.01, 0.333)), 999), initial=0.0)
)

_OPEN = {"bframes": 3, "keyframe_every": 12, "open_gop": True}
_CLOSED = {"bframes": 3, "keyframe_every": 12}

# What `clip` can make: file name -> arguments of `write_clip`. Where a codec has other frames than keyframes, one in
# twelve is a keyframe.
KINDS: dict[str, dict[str, Any]] = {
    "h264-closed.mp4": {"bframes": 0, "keyframe_every": 12},
    "h264-bframes-opengop.mp4": _OPEN,
    "h264-bframes-opengop.mkv": _OPEN,
    "h264-bframes-opengop.ts": _OPEN,
    "h264-variable-rate.mp4": _CLOSED | {"times": UNEVEN_S},
    "h264-variable-rate.mkv": _CLOSED | {"times": UNEVEN_S},
    "h264-intra.mov": {"bframes": 0, "keyframe_every": 1},
    "h264-10bit.mkv": _OPEN | {"pix_fmt": "yuv420p10le"},
    "h264-444.mp4": _OPEN | {"pix_fmt": "yuv444p", "size": (97, 81)},
    "h264-gray.mkv": _OPEN | {"pix_fmt": "gray"},
    "h264-edit-list.mp4": _CLOSED | {"hidden": 5},
    "h264-late-start.mp4": _CLOSED | {"start_s": 4.0},
    "h264-late-start.ts": _OPEN | {"start_s": 50_000.0},
    "h264-fragmented.mp4": _CLOSED | {"container_options": {"movflags": "frag_keyframe+empty_moov+default_base_moof"}},
    "h264-bframes.avi": _CLOSED,
    "h264-raw.h264": _OPEN,
    "hevc-bframes.mp4": _OPEN | {"codec": "libx265"},
    "hevc.mkv": _CLOSED | {"codec": "libx265"},
    "vp9.webm": {"codec": "libvpx-vp9", "keyframe_every": 12},
    "av1.mkv": {"codec": "libsvtav1", "keyframe_every": 12},
    "mpeg2.ts": {"codec": "mpeg2video", "bframes": 2, "keyframe_every": 12},
    "mpeg2.mpg": {"codec": "mpeg2video", "bframes": 2, "keyframe_every": 12},
    "mpeg4-bframes.avi": {"codec": "mpeg4", "bframes": 2, "keyframe_every": 12},
    "mjpeg.avi": {"codec": "mjpeg", "pix_fmt": "yuvj420p"},
    "ffv1.mkv": {"codec": "ffv1"},
    "ffv1-gray.mkv": {"codec": "ffv1", "pix_fmt": "gray"},
}  # fmt: skip


def clip(kind: str, frames: int = 60, *, source: int = 0) -> Path:
    """A clip of one of `KINDS` whose frames show 0, 1, ... frames - 1.

    Made at the first call and shared by the whole test session: copy it before changing it.
    """
    return _made(kind, frames, source)


def clobbered_avi(path: Path, frames: int) -> Path:
    """Writes a clip that lost a frame in the middle, and nothing tells which: its chunk is called something else."""
    data = bytearray(clip("mpeg4-bframes.avi", frames).read_bytes())
    at = data.index(b"00dc", data.index(b"movi") + 2000)
    data[at : at + 4] = b"zzzz"
    path.write_bytes(data)
    return path


@functools.cache
def _made(kind: str, frames: int, source: int) -> Path:
    folder = _folder() / f"{frames}-frames" / f"source-{source}"
    folder.mkdir(parents=True, exist_ok=True)
    return write_clip(folder / kind, range(frames), source=source, **KINDS[kind])


@functools.cache
def _folder() -> Path:
    folder = tempfile.mkdtemp(prefix="vpipe-clips-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return Path(folder)


def many_streams(plain: Path, path: Path) -> Path:
    """A clip, with more streams beside its own than are let through by default."""
    with av.open(str(plain)) as source, av.open(str(path), "w") as made:
        streams = [made.add_stream_from_template(source.streams.video[0]) for _ in range(70)]
        for packet in source.demux(video=0):
            if packet.dts is not None:
                packet.stream = streams[0]
                made.mux(packet)
    return path
