"""What the benchmarks label: the clips of videos/, larger ones made of them, and any of these joined to itself.

All is made once, in `benchmarks/cache`, which git ignores.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from fractions import Fraction
from itertools import islice
from multiprocessing import get_context
from pathlib import Path

from benchmarks.facts import ROOT

VIDEOS = ROOT / "videos"
CACHE = ROOT / "benchmarks" / "cache"
# Larger clips show the busy junction, enlarged: real motion and noise. Enlarged footage is softer than what a camera
# of that size records, so its packets are small and it decodes faster than that would. Eight whole GOPs: so many
# segments of one length can be cut of any number of repeats.
LARGER = {
    "intersection-1280x720": ("intersection", 1280, 720),
    "intersection-1920x1080": ("intersection", 1920, 1080),
}
GOP, GOPS = 60, 8
LADDER = (1, *sorted(step << k for k in range(16) for step in (2, 3)))


def clip(name: str, *, cache: Path = CACHE) -> Path:
    """A clip by its name, made if need be."""
    if name not in LARGER:
        return VIDEOS / f"{name}.mp4"
    of, width, height = LARGER[name]
    path = cache / f"{name}.mp4"
    if not path.exists():
        # In a process of its own: what an encoder holds would count as the memory of all that is measured after it.
        with _whole(path) as target, ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
            made = pool.submit(enlarge, VIDEOS / f"{of}.mp4", target, width=width, height=height, most=GOP * GOPS)
            made.result()
    return path


def joined(source: Path, times: int, *, cache: Path = CACHE) -> Path:
    """A clip `times` times in a row in one file, without encoding it again."""
    path = cache / f"{source.stem}-x{times}.mp4"
    if not path.exists():
        with _whole(path) as target:
            _repeat(source, target, times)
    return path


def rung(times: float) -> int:
    """The next of 1, 2, 3, 4, 6, 8, 12, 16, 24 ...: few lengths, so that few files are made."""
    return next((step for step in LADDER if step >= times), LADDER[-1])


def frames(path: Path) -> int:
    """Frames of a clip, each in a packet of its own."""
    import av

    with av.open(str(path)) as container:
        return sum(1 for packet in container.demux(container.streams.video[0]) if packet.size)


def enlarge(source: Path, target: Path, *, width: int, height: int, most: int | None = None) -> None:
    """Encodes a clip in another size: x264 with B-frames at its default quality.

    Args:
        source: Clip.
        target: MP4 file.
        width: Pixels.
        height: Pixels.
        most: So many frames of it; None is all.
    """
    import av

    with av.open(str(source)) as reader, av.open(str(target), "w", format="mp4") as writer:
        stream = reader.streams.video[0]
        rate = stream.average_rate or Fraction(25)
        options = {"crf": "23", "preset": "medium", "g": str(GOP), "sc_threshold": "0", "threads": "2"}
        encoder = writer.add_stream(
            "libx264", rate=rate, width=width, height=height, pix_fmt="yuv420p", options=options
        )
        for number, frame in enumerate(islice(reader.decode(stream), most)):
            larger = frame.reformat(width, height, "yuv420p", interpolation="BICUBIC")
            larger.pts, larger.time_base = number, 1 / rate
            larger.pict_type = 0  # the encoder's own choice, not that of the source
            writer.mux(encoder.encode(larger))
        writer.mux(encoder.encode(None))


def _repeat(source: Path, target: Path, times: int) -> None:
    import av

    with av.open(str(source)) as reader, av.open(str(target), "w", format="mp4") as writer:
        stream = reader.streams.video[0]
        copy = writer.add_stream_from_template(stream)
        packets = [packet for packet in reader.demux(stream) if packet.size]
        begins = min(packet.pts for packet in packets)
        span = max(packet.pts + packet.duration for packet in packets) - begins
        for number in range(times):
            reader.seek(0)
            for packet in reader.demux(stream):
                if packet.size:
                    packet.pts += number * span
                    packet.dts += number * span
                    packet.stream = copy
                    writer.mux(packet)


@contextmanager
def _whole(path: Path) -> Iterator[Path]:
    """A file to write, which appears at `path` once it is whole."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{os.getpid()}-{path.name}")
    try:
        yield temporary
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
