"""Damaged clips through the Python API, and one in a hundred through the command, too.

What must hold: nothing is raised but VpipeError; the equations of the ledger hold; what came is what was counted. And a
file is not called complete unless it is:

*Frames.* A plain reading by PyAV takes the first video stream that is no cover picture and counts its packets, but for
those that are outside of the edit list, are empty, or hold no coded picture by their own marks (NAL units, start codes,
the bit of a hidden VP8 frame). As many frames must have come. Packets before the first keyframe, and those behind it
that are shown before it, may be missing: a decoder has nothing to make them of. More frames may have come where a plain
decoding gives as many: packets that hold two pictures.

*Its end.* Where the container is one whose header says how long it is, that must not be over a second more than the
last packet of all streams has.

*Errors.* Where reading gave errors, a plain decoding must not give fewer frames than came. That alone does not see what
an error hides from vpipe and from the plain reading alike.

One case in twenty is decoded in a process of its own, too: the same frames, times, pictures and ends must come.
"""

from __future__ import annotations

import hashlib
import json
import os
import random
import subprocess
import sys
import time
from collections.abc import Iterable
from contextlib import closing
from dataclasses import dataclass, field, replace
from pathlib import Path

import av
import av.error
import numpy as np
import numpy.typing as npt
from av.stream import Disposition

import pipeline
from pipeline.batch import FrameBatch, SegmentEnd
from pipeline.errors import VpipeError
from pipeline.ledger import Ledger
from pipeline.sources.file import FileSource
from pipeline.sources.isolate import Isolated
from pipeline.sources.scaler import PictureFormat, View
from pipeline.threads import Stop
from tests.clips import KINDS, write_clip
from tests.fuzz.harness import Tried, told
from tests.fuzz.mutate import BYTES, damaged, place_in

ROOT = Path(__file__).parents[2]
MODEL = ROOT / "specialized" / "weights" / "lobby-person-f1.safetensors"
FRAMES = 48
LABELLED = 10  # one in so many is labelled by a model rather than decoded alone
COMMANDED = 100  # one in so many goes through the command, too
ISOLATED = 20  # one in so many is decoded in a process of its own, too
LIMIT_S, COMMAND_S = 30.0, 120.0
PROMISING = {"mov", "matroska", "avi"}  # demuxers that tell a duration which stands in the header
LATE_S = 1.0
LEADING = 32  # packets behind a keyframe among which those lie that are shown before it
EXACT = {"fflags": "+bitexact"}  # no number by chance: a case is the same each time
COPIES = ("mp4", "mkv", "ts")
PROGRAM = "from pipeline.cli import main; main()"


# ------------------------------------------------------------------------------------------ what is damaged


def stock(folder: Path) -> None:
    """Clips of all kinds, odd files, and beginnings of the clips with labels in three containers."""
    for kind, how in KINDS.items():
        options = dict(how.get("container_options", {})) | EXACT
        write_clip(folder / kind, range(FRAMES), **how | {"container_options": options})
    for path in (ROOT / "tests" / "data" / "odd").iterdir():
        if path.suffix != ".md" and path.stat().st_size:
            (folder / f"odd-{path.name}").write_bytes(path.read_bytes())
    for path in sorted((ROOT / "videos").glob("*.mp4")):
        for suffix in COPIES:
            beginning(path, folder / f"{path.stem}.{suffix}")


def beginning(path: Path, copy: Path) -> None:
    """The first packets of a clip, as they are."""
    with av.open(str(path)) as container, av.open(str(copy), "w", options=EXACT) as out:
        stream = container.streams.video[0]
        into = out.add_stream_from_template(stream)
        for number, packet in enumerate(container.demux(stream)):
            if number == FRAMES or packet.dts is None:
                break
            packet.stream = into
            out.mux(packet)


def sized(data: bytes, chance: random.Random) -> tuple[bytes, str]:
    """Another 32-bit number: of a box, or anywhere."""
    boxes = [at for at in range(len(data) - 8) if data[at + 4 : at + 8].isalpha() and data[at] == 0]
    at = chance.choice(boxes) if boxes and chance.random() < 0.8 else place_in(len(data), chance)
    at = max(0, min(at, len(data) - 4))
    was = int.from_bytes(data[at : at + 4], "big")
    some = (0, 1, 7, 8, 2**31, 2**32 - 1, was + 1, was - 1, 2 * was, was // 2, was + 256, chance.randrange(2**32))
    now = chance.choice(some) % 2**32
    return data[:at] + now.to_bytes(4, "big") + data[at + 4 :], f"size at {at} from {was} to {now}"


WAYS = (*BYTES, sized, sized)


# ------------------------------------------------------------------------------------------ a case


class Videos:
    limit_mb = 1000
    crash_is_finding = False

    def __init__(self, stock: Path, own: Path) -> None:
        self._own = own
        self._stock = {path.name: path.read_bytes() for path in sorted(stock.iterdir())}
        self._path = own / "clip"
        av.logging.set_level(av.logging.PANIC)

    @staticmethod
    def limit_s(number: int) -> float:
        return LIMIT_S + (COMMAND_S if number % COMMANDED == 0 else 0.0)

    def prepared(self, number: int, chance: random.Random) -> str:
        name = chance.choice(list(self._stock))
        data = self._stock[name]
        if chance.random() < 0.05:
            other = chance.choice(list(self._stock))
            at, on = (place_in(len(one), chance) for one in (data, self._stock[other]))
            data, mutation = data[:at] + self._stock[other][on:], f"up to {at}, then {other} from {on}"
        else:
            data, mutation = damaged(data, chance, WAYS)
        self._path = self._own / f"clip{Path(name).suffix}"
        for old in self._own.glob("clip*"):
            old.unlink()
        self._path.write_bytes(data)
        return f"{name}: {mutation}"

    def tried(self, number: int, chance: random.Random) -> Tried:
        began_s = time.monotonic()
        by_model = number % LABELLED == 0
        try:
            if by_model:
                batches: Iterable[FrameBatch] = pipeline.label(self._path, model=MODEL, overrides=["sources.0.name=c"])
            else:
                batches = source(self._path)
            taken = Taken.of(batches)
        except VpipeError as error:
            return Tried(f"refused: {type(error).__name__}")
        except Exception as error:
            return Tried("another exception", finding=told(error))
        outcome, finding = judged(self._path, taken.numbers, taken.ends, by_model=by_model)
        if number % ISOLATED == 1:  # none that is labelled by a model
            finding = finding or differing(taken, self._path)
            outcome += ", and isolated"
        took_s = time.monotonic() - began_s
        if number % COMMANDED == 0:
            if took_s > LIMIT_S:
                finding = finding or f"took {took_s:.0f} s"
            finding = finding or commanded(self._path, self._own)
            outcome += ", and by the command"
        return Tried(outcome, finding=finding)

    def isolated(self) -> str:
        try:
            taken = taken_apart(self._path)
            outcome, finding = judged(self._path, taken.numbers, taken.ends, by_model=False, plain=False)
        except Exception as error:
            return f"isolated: wrong, {told(error)}"
        return f"isolated: wrong, {finding}" if finding else f"isolated: {outcome}"


CASE = Videos


def source(path: Path) -> FileSource:
    return FileSource(path, name="c", views=[View(PictureFormat(24, 32))], batch_frames=32, segment_frames=24)


@dataclass(slots=True)
class Taken:
    """What came of a clip.

    Attributes:
        numbers, times_s: Of its frames.
        pictures: A hash of each.
        ends: Of its segments.
    """

    numbers: list[int] = field(default_factory=list)
    times_s: list[float] = field(default_factory=list)
    pictures: list[bytes] = field(default_factory=list)
    ends: list[SegmentEnd] = field(default_factory=list)

    @classmethod
    def of(cls, batches: Iterable[FrameBatch]) -> Taken:
        taken = cls()
        for batch in batches:
            taken.numbers += batch.index.tolist()
            taken.times_s += batch.pts_s.tolist()
            taken.pictures += map(hashed, batch.frames)
            if batch.end is not None:
                taken.ends.append(batch.end)
        return taken


def hashed(picture: npt.NDArray[np.uint8]) -> bytes:
    return hashlib.blake2b(picture.tobytes(), digest_size=8).digest()


def taken_apart(path: Path) -> Taken:
    """What comes of a clip from a decoder in a process of its own."""
    with closing(Isolated(limit_s=LIMIT_S, tries=2, memory_mb=1000, stop=Stop())) as decoder:
        return Taken.of(batch for task in decoder.segments(source(path)) for batch in decoder.frames(task))


def differing(here: Taken, path: Path) -> str | None:
    """What a decoder in a process of its own gives otherwise than one in this."""
    there = taken_apart(path)
    if here.numbers != there.numbers:
        other = sorted(set(here.numbers) ^ set(there.numbers))
        return f"isolated: {len(there.numbers)} frames, here {len(here.numbers)}; {other[:5]} in one alone"
    if not np.array_equal(here.times_s, there.times_s, equal_nan=True) or here.pictures != there.pictures:
        return "isolated: other times or pictures than here"
    for ours, theirs in zip(here.ends, there.ends, strict=False):
        if ours != theirs:
            return f"isolated: an end with {theirs}, here with {ours}"
    return None if len(here.ends) == len(there.ends) else f"isolated: {len(there.ends)} ends, here {len(here.ends)}"


def judged(
    path: Path, came: list[int], ends: list[SegmentEnd], *, by_model: bool, plain: bool = True
) -> tuple[str, str | None]:
    """What came of a clip, and what is wrong with that.

    Args:
        path: Of the clip.
        came: Numbers of its frames.
        ends: Of its segments.
        by_model: They passed a filter.
        plain: Hold it against a plain reading, in this process.
    """
    if not by_model:  # as a filter would leave them that labels all
        ends = [
            replace(
                end,
                counts=replace(
                    end.counts, labelled=(n := end.counts.decoded), written=n, pictures=n
                ),
                per_frame=1,
            )
            for end in ends
        ]  # fmt: skip
    ledger = Ledger(ends, sources=["c"])
    of = ledger.sources["c"]
    if problems := ledger.check():
        return "wrong ledger", problems[0]
    if len(ledger.sources) != 1 or not of.ends:
        return "wrong ledger", f"ends of {[end.segment.source for end in ends]}"
    if (problem := of.counts.imbalance()) is not None:
        return "wrong ledger", problem
    if by_model and of.counts.labelled != of.counts.written:
        return "wrong ledger", f"all must be written, got {of.counts.as_dict()}"
    lost = {n for end in ends for one in end.lost for n in range(one.first, one.last + 1)} if not by_model else set()
    if len(came) != of.counts.decoded and not any(end.retry for end in ends):
        return "wrong ledger", f"{len(came)} frames came, {of.counts.decoded} were counted"
    if sorted(set(came)) != came or lost & set(came):
        return "wrong ledger", "frames came twice, out of order, or though they are called lost"
    if of.counts.indexed == 0 and of.error is not None:
        return "refused", None if "\n" not in of.error else f"in several lines: {of.error!r}"
    if of.error is not None or not of.complete:
        kind = "with losses" if of.counts.decoded else "nothing decoded"
        return f"partial: {kind}, {'damage named' if of.error is None else 'with an error'}", None
    if not ledger.complete:
        return "wrong ledger", "complete and not"
    return ("complete", wrongly_complete(path, of.counts.decoded)) if plain else ("complete", None)


# ------------------------------------------------------------------------------------------ a plain reading


@dataclass(slots=True)
class Plain:
    """What PyAV reads of a file.

    Attributes:
        demuxer, codec: FFmpeg's names.
        pictures: Packets that hold one.
        headless: Of them those that may give none as they come before the first keyframe.
        errors: While reading.
        promised_s: By the header, or None.
        last_s: End of the last packet of all streams, from the start.
        decoded: Frames of a plain decoding.
        refused: Packets that the decoder refused.
    """

    demuxer: str
    codec: str
    pictures: int = 0
    headless: int = 0
    errors: int = 0
    promised_s: float | None = None
    last_s: float = 0.0
    decoded: int = 0
    refused: int = 0


def read_plainly(path: Path) -> Plain:
    with av.open(str(path), metadata_errors="replace") as container:
        chosen = next(one for one in container.streams.video if not one.disposition & Disposition.attached_pic)
        context = chosen.codec_context
        context.thread_count, context.thread_type = 1, "NONE"
        plain = Plain(container.format.name.split(",")[0], context.codec.canonical_name)
        length = (context.extradata or b"\0")[:1] == b"\1"  # NAL units behind their length rather than a start code
        start_s = (container.start_time or 0) / av.time_base
        key_pts: int | None = None
        behind = 0
        stream = container.demux()
        progress = True
        while True:
            try:
                packet = next(stream, None)
            except av.error.FFmpegError:
                plain.errors += 1
                if not progress:
                    break
                stream, progress = container.demux(), False
                continue
            if packet is None:
                break
            if packet.pts is not None and packet.time_base is not None:
                end = packet.pts + (packet.duration or 0)
                plain.last_s = max(plain.last_s, float(end * packet.time_base) - start_s)
            if packet.stream.index != chosen.index:
                continue
            progress = progress or bool(packet.size)
            try:
                plain.decoded += len(chosen.codec_context.decode(packet))
            except av.error.EOFError:
                pass
            except av.error.FFmpegError:
                plain.refused += 1
            if not packet.size or packet.is_discard or not holds_picture(plain.codec, bytes(packet), length):
                continue
            plain.pictures += 1
            behind += key_pts is not None
            if key_pts is None and packet.is_keyframe:
                key_pts = -(2**63) if packet.pts is None else packet.pts
            elif key_pts is None or (packet.pts is not None and packet.pts < key_pts and behind <= LEADING):
                plain.headless += 1
        if plain.demuxer in PROMISING and container.duration is not None:
            plain.promised_s = container.duration / av.time_base
    return plain


def holds_picture(codec: str, data: bytes, length: bool) -> bool:
    """Whether a packet holds a coded picture by its own marks; True where they are not looked for."""
    match codec:
        case "h264":
            return any(unit[0] & 31 in (1, 2, 5) for unit in units(data, length))
        case "hevc":
            return any(unit[0] >> 1 & 63 < 32 for unit in units(data, length))
        case "mpeg2video" | "mpeg1video":
            return b"\0\0\1\0" in data
        case "mpeg4":
            return b"\0\0\1\xb6" in data
        case "vp8":
            return bool(data[0] & 0x10)
    return True


def units(data: bytes, length: bool) -> list[bytes]:
    """The NAL units of a packet that are not empty, by their first bytes."""
    if not length:
        return [part for part in data.split(b"\0\0\1")[1:] if part]
    found, at = [], 0
    while at + 4 < len(data):
        n = int.from_bytes(data[at : at + 4], "big")
        found.append(data[at + 4 : at + 6])
        at += 4 + n
    return found


def wrongly_complete(path: Path, decoded: int) -> str | None:
    """Why a file that is called complete is not."""
    try:
        plain = read_plainly(path)
    except (av.error.FFmpegError, StopIteration) as error:
        return f"complete, and plain PyAV does not open it: {error}"
    about = f"{plain.demuxer}, {plain.codec}; a plain decoding gives {plain.decoded}, {plain.refused} packets refused"
    if decoded == 0:
        return f"complete without a frame, of {plain.pictures} packets ({about})"
    if not plain.pictures - plain.headless <= decoded <= max(plain.pictures, plain.decoded):
        return f"complete with {decoded} frames of {plain.pictures} packets, {plain.headless} without a key ({about})"
    if plain.promised_s is not None and plain.promised_s - plain.last_s > LATE_S:
        return f"complete with {plain.last_s:.2f} s of {plain.promised_s:.2f} s ({about})"
    if plain.errors and plain.decoded < decoded:
        return f"complete, and reading it gave {plain.errors} errors ({about})"
    return None


# ------------------------------------------------------------------------------------------ the command


def commanded(path: Path, own: Path) -> str | None:
    """What is wrong with a run of `vpipe run`."""
    run = [sys.executable, "-c", PROGRAM, "run", str(path), "--model", str(MODEL), "--overwrite", "--name", "fuzz"]
    try:
        done = subprocess.run(
            [*run, "--set", f"run.dir={own}"],
            cwd=own,
            env=os.environ | {"PYTHONPATH": str(ROOT)},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=COMMAND_S - 10,
        )
    except subprocess.TimeoutExpired:
        return f"the command took over {COMMAND_S - 10:g} s"
    said = done.stderr.decode(errors="replace")
    log = own / "fuzz" / "log.txt"
    logged = log.read_text(errors="replace") if log.exists() else ""
    if done.returncode not in (0, 1, 2, 3):
        return f"the command ended with {done.returncode}: {said[-300:]}"
    if "Traceback" in said + logged:
        return f"the command told a traceback: {(said + logged)[-500:]}"
    try:
        ledger = json.loads((own / "fuzz" / "ledger.json").read_text("utf-8"))
        counts = ledger["counts"]
        if counts["indexed"] != counts["skipped"] + counts["corrupt"] + counts["unread"] + counts["decoded"]:
            return f"ledger.json does not add up: {counts}"
        if done.returncode == 0 and np.any([counts[name] for name in ("corrupt", "unread", "failed")]):
            return f"exit code 0 with {counts}"
    except (OSError, ValueError, KeyError) as error:
        return f"ledger.json cannot be read: {error}; exit code {done.returncode}: {said[-300:]}"
    return None
