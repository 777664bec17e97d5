"""What PyAV reads and decodes of a clip in one pass, held against what came of it.

A file is not called complete unless it is:

*Frames.* A plain reading by PyAV takes the first video stream that is no cover picture and counts its packets, but for
those that are outside of the edit list, are empty, or hold no coded picture by their own marks (NAL units, start codes,
the bit of a hidden VP8 frame). As many frames must have come. Packets before the first keyframe, and those behind it
that are shown before it, may be missing: a decoder has nothing to make them of. More frames may have come where a plain
decoding gives as many: packets that hold two pictures.

*Its end.* Where the container is one whose header says how long it is, that must not be over a second more than the
last packet of all streams has.

*Errors.* Where reading gave errors, a plain decoding must not give fewer frames than came. That alone does not see what
an error hides from vpipe and from the plain reading alike.

And what came is held against the frames that a plain decoding gives:

*Which frame.* Where vpipe numbers frames by their time stamps, numbers and times ascend together, and where the packets
have as many different times as the index has frames, frame n has the n-th of them. The picture is the one that a plain
decoding shows at that time, if it shows one: it may lose frames of its own, as nobody tells it how far frames are
reordered. Where frames are counted, the pictures must be those of the plain decoding, one after the other. Of damaged
files a plain decoding that is told how far frames are reordered may be the one that agrees: what hides damage depends
on that. It may show other pictures of as many frames as are damaged: where one field of a picture was lost, FFmpeg
leaves the other as it finds its memory. And where such a file was cut into segments, a decoder that begins anew hides
damage with other pictures. There no more of them may be those of other times than frames are damaged.

*Refused needlessly.* A file that a plain decoding gives a frame of must not be refused, but for one that asks for more
than `decode.limits`. No disk fails here, so nothing is to be tried again, either. Want of memory excuses both.

*Given up needlessly.* Every frame must have come that a plain decoding gives later in time than all that it gave
before. One that it gives behind its successors cannot be in its place any more, as batches go forward in time. A
segment that is to be tried again may lack any. (Of 3,800 damaged clips that decode, none lacked any other frame, and
17 lacked one or two such: so nothing is let pass for being smeared behind a hole.)

What is labelled by a model is not held against a plain decoding.
"""

from __future__ import annotations

import errno
import hashlib
import math
import os
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from fractions import Fraction
from itertools import pairwise
from pathlib import Path

import av
import av.error
import av.stream
import numpy as np
import numpy.typing as npt
from av.stream import Disposition

from pipeline.batch import FrameBatch, SegmentEnd
from pipeline.sources.index import Index
from pipeline.sources.orientation import UPRIGHT, Orientation
from pipeline.sources.scaler import PictureFormat, Scaler, View

VIEW = View(PictureFormat(24, 32))
PROMISING = {"mov", "matroska", "avi"}  # demuxers that tell a duration which stands in the header
LATE_S = 1.0
MOST_REORDERED = 16  # of H.264
# Of a wild size FFmpeg says this, too: nothing tells it from want of memory, which may be over the next time.
NO_MEMORY = os.strerror(errno.ENOMEM)
HOLE = 1.5  # times as long as usual between two frames
LEADING = 32  # packets behind a keyframe among which those lie that are shown before it


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
        damaged: Of the decoded, those that the decoder reports as concealed.
        shown: Times and hashes of the pictures that could be drawn, as they came; None where there is no time.
        times_s: Of the packets that hold a picture.
        all_times_s: Of all that are not empty.
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
    damaged: int = 0
    shown: list[tuple[float | None, bytes]] = field(default_factory=list)
    times_s: set[float] = field(default_factory=set)
    all_times_s: set[float] = field(default_factory=set)

    @property
    def is_sound(self) -> bool:
        """Whether nothing tells of damage; packets that vanished without a word leave a hole between the times."""
        steps = np.diff(sorted(self.times_s))
        has_hole = len(steps) > 0 and steps.max() > HOLE * np.median(steps)
        return not (self.errors or self.refused or self.damaged or has_hole)


def read_plainly(
    path: Path, orientation: Orientation = UPRIGHT, *, reorder_depth: int = 0, alone: bool = False
) -> Plain:
    """Reads and decodes a file.

    Args:
        path: The file.
        orientation: Of its pictures.
        reorder_depth: Tell an H.264 decoder that frames are reordered so far.
        alone: Leave out all other streams: what is wrong with one of them may end the reading.
    """
    scaler = Scaler(VIEW, orientation)
    with av.open(str(path), metadata_errors="replace") as container:
        streams = (one for one in container.streams.video if not one.disposition & Disposition.attached_pic)
        chosen = next(streams)
        if chosen.codec_context is None:
            raise av.error.DecoderNotFoundError(0, "no decoder")
        context = chosen.codec_context
        context.thread_count, context.thread_type = 1, "NONE"
        if context.name == "h264" and context.reorder_depth < reorder_depth <= MOST_REORDERED:
            context.reorder_depth = reorder_depth
        read = [chosen] if alone else []  # none: all
        for other in container.streams if alone else ():
            if other.index != chosen.index:
                other.discard = av.stream.Discard.all
        plain = Plain(container.format.name.split(",")[0], context.codec.canonical_name)
        length = (context.extradata or b"\0")[:1] == b"\1"  # NAL units behind their length rather than a start code
        start_s = (container.start_time or 0) / av.time_base
        key_pts: int | None = None
        behind = 0
        stream = container.demux(*read)
        progress = True
        while True:
            try:
                packet = next(stream, None)
            except (av.error.FFmpegError, IndexError):  # of PyAV, at a stream that the file did not begin with
                plain.errors += 1
                if not progress:
                    break
                stream, progress = container.demux(*read), False
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
                frames = chosen.codec_context.decode(packet)
                plain.decoded += len(frames)
                for frame in frames:
                    plain.damaged += frame.is_corrupt
                    row = np.zeros((1, VIEW.picture.height, VIEW.picture.width, 3), np.uint8)
                    with suppress(av.error.FFmpegError, ValueError):
                        scaler.draw(frame, row)
                        plain.shown.append((seconds(frame.pts, chosen.time_base), hashed(row[0])))
            except av.error.EOFError:
                pass
            except av.error.FFmpegError:
                plain.refused += 1
            if not packet.size or packet.is_discard:
                continue
            time_s = seconds(packet.pts, chosen.time_base)
            if time_s is not None:
                plain.all_times_s.add(time_s)
            if not holds_picture(plain.codec, bytes(packet), length):
                continue
            if time_s is not None:
                plain.times_s.add(time_s)
            plain.pictures += 1
            behind += key_pts is not None
            if key_pts is None and packet.is_keyframe:
                key_pts = -(2**63) if packet.pts is None else packet.pts
            elif key_pts is None or (packet.pts is not None and packet.pts < key_pts and behind <= LEADING):
                plain.headless += 1
        if plain.demuxer in PROMISING and container.duration is not None:
            plain.promised_s = container.duration / av.time_base
            if alone and chosen.duration is not None and chosen.time_base is not None:
                plain.promised_s = float(chosen.duration * chosen.time_base)
    return plain


def seconds(pts: int | None, base: Fraction) -> float | None:
    return None if pts is None else pts * base.numerator / base.denominator


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
        if decoded > max(plain.pictures, plain.decoded):
            plain = read_plainly(path, alone=True)
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


def wrongly_refused(path: Path, why: str) -> str | None:
    """Why a file that is refused should have been read.

    Args:
        path: The file.
        why: What was said of it. One that asks for more than `decode.limits` is refused whatever it holds.
    """
    if "decode.limits." in why or why.endswith(NO_MEMORY):
        return None
    with suppress(av.error.FFmpegError, StopIteration):
        plain = read_plainly(path)
        if plain.decoded:
            return f"refused, and a plain decoding gives {plain.decoded} frames: {why}"
    return None


def wrongly_retried(ends: Iterable[SegmentEnd]) -> str | None:
    """Which segment is to be tried again though no disk failed; a refusal, which counts no frame, is none."""
    told = (str(end.error) for end in ends if end.retry and end.counts.indexed)
    return next((f"to be tried again: {why}" for why in told if not why.endswith(NO_MEMORY)), None)


def misplaced(path: Path, taken: Taken, index: Index, *, segments: int) -> str | None:
    """Which frames are not what a plain decoding shows, or were given up though it shows them.

    Args:
        path: Of the clip.
        taken: What came of it, and not through a filter.
        index: The clip's.
        segments: Into how many it was cut.
    """
    try:
        plain = read_plainly(path, index.orientation, alone=True)
    except (av.error.FFmpegError, StopIteration) as error:
        return f"{len(taken.numbers)} frames came, and plain PyAV does not open it: {error}"
    found = differing(plain, taken, index, segments)
    if found is not None and not plain.is_sound:
        told = read_plainly(path, index.orientation, reorder_depth=index.reorder_depth, alone=True)
        concealed = sum(end.counts.damaged for end in taken.ends)
        return found if differing(told, taken, index, segments, concealed) else None
    return found


def differing(plain: Plain, taken: Taken, index: Index, segments: int, concealed: int = 0) -> str | None:
    """What came otherwise than a plain decoding gives it; so many of its pictures may be concealed otherwise."""
    is_whole = not any(end.retry for end in taken.ends)
    if index.numbering != "pts":
        given = [picture for _, picture in plain.shown]
        others = sum(one != other for one, other in zip(given, taken.pictures, strict=False))
        if is_whole and (len(given) != len(taken.pictures) or others > concealed):
            return f"counted: {len(taken.pictures)} frames, a plain decoding gives {len(given)}; {others} are others"
        return None
    places = list(zip(taken.numbers, taken.times_s, strict=True))
    for (number, time_s), (other, other_s) in pairwise(places):
        if number >= other or time_s >= other_s:
            return f"frame {other} at {other_s:.6f} s comes behind {number} at {time_s:.6f} s"
    times_s = next((one for one in (plain.times_s, plain.all_times_s) if len(one) == len(index.shown)), None)
    if times_s is not None:
        ordered = sorted(times_s)
        for number, time_s in places:
            if ordered[number : number + 1] != [time_s]:
                return f"frame {number} at {time_s:.6f} s, by its packets at {ordered[number : number + 1]} s"
    shown: dict[float, bytes] = {}
    last_s = -math.inf
    for given_s, picture in plain.shown:
        if given_s is not None and given_s > last_s:
            shown[given_s] = picture
            last_s = given_s
    came = dict(zip(taken.times_s, taken.pictures, strict=True))
    if is_whole and (gone := [time_s for time_s in shown if time_s not in came]):
        return f"given up needlessly: {len(gone)} frames that a plain decoding gives, at {gone[:5]} s"
    hides = segments > 1 and not plain.is_sound
    most = sum(end.counts.damaged for end in taken.ends) if hides else concealed
    return wrong_picture(came, shown, most, hides=hides)


def wrong_picture(came: Mapping[float, bytes], shown: Mapping[float, bytes], most: int, *, hides: bool) -> str | None:
    """Which pictures, by their times, are not those of the plain decoding.

    Args:
        came, shown: By their times; those that only one has are not compared.
        most: So many may be others.
        hides: Damage may be hidden by pictures that the plain decoding never shows.
    """
    wrong = [time_s for time_s, picture in came.items() if shown.get(time_s, picture) != picture]
    if hides:
        elsewhere = set(shown.values())
        wrong = [time_s for time_s in wrong if came[time_s] in elsewhere]
    return f"other pictures than a plain decoding shows, at {wrong[most:][:5]} s" if wrong[most:] else None
