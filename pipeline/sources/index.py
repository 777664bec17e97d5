"""The index of a video file: one pass over its packets, decoding nothing, that gives every frame its number.

The number of a frame is its rank in presentation order: the rank of its time stamp among those of all packets that give
a picture. Where the container's time stamps cannot be trusted, frames are counted as they come out of the decoder
instead (`numbering = "counted"`), and the file is not cut.
"""

from __future__ import annotations

import dataclasses
from array import array
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Literal

import av
import av.codec
import av.error
import av.video.frame
import av.video.stream
import numpy as np
import numpy.typing as npt

from pipeline.errors import SourceError
from pipeline.sources.container import NO_MORE, Limits, is_io_error, of_data, open_decoder, open_video, packets, reason
from pipeline.sources.disposable import TELLING_CODECS, disposable_packets, is_referred_to
from pipeline.sources.entry import is_clean_entry, nal_length_size
from pipeline.sources.orientation import UPRIGHT, Orientation, orientation_of
from pipeline.threads import alive

__all__ = ["NO_PTS", "Index", "index_file"]

Int64s = npt.NDArray[np.int64]

NO_PTS = -(2**63)

# Where a seek followed by a decode was measured to give the very pictures of a straight pass.
SEEKABLE_DEMUXERS = frozenset({"mov", "matroska", "mpegts"})
CUTTABLE_CODECS = frozenset({"h264", "hevc", "vp8", "vp9", "av1", "mpeg2video", "mpeg4", "mjpeg", "ffv1", "prores"})
# Containers that store no presentation times: what FFmpeg reports for them is made up.
TIMELESS_DEMUXERS = frozenset({"avi", "h264", "hevc", "mpegvideo", "m4v", "mjpeg", "obu", "image2"})

LISTING_DEMUXERS = frozenset({"mov", "avi"})  # their own index lists every packet

TRIAL_PACKETS = 64
NOT_ONE_EACH = "its first packets do not give one frame each"
TRUNCATION_S = 1.0  # a header that promises this much more than the file holds means that its end is missing


@dataclass(frozen=True, slots=True, repr=False, eq=False)
class Index:
    """What one pass over the packets of a file's video stream tells. Arrays are in decode order, one entry a packet.

    Attributes:
        path: The file.
        demuxer: FFmpeg's name of the container format.
        codec: FFmpeg's name of the codec.
        width, height: Size of the pictures as coded, before `orientation`.
        time_base: Seconds per unit of `pts` and `dts`.
        average_rate: Frames per second that the container states, or None.
        pts, dts: int64, NO_PTS where the packet has none.
        size, pos: int64, bytes of the packet and where it lies in the file.
        silent: bool, the packet gives no picture of its own.
        disposable: bool, no other picture refers to the packet's; None if that was not asked, or cannot be told.
        entries: Places of clean entry points (see `entry`), ascending.
        keys: How many packets the container flags as key.
        shown: int64, pts of the packets that give a picture, in presentation order. Empty if `numbering` is counted.
        reorder_depth: How many frames are decoded before one that is shown earlier, at most.
        numbering: "pts": a frame's number is the rank of its pts in `shown`; "counted": its place in the output.
        whole_because: Why the file must be decoded in one piece, or None if it may be cut.
        orientation: How players turn the pictures.
        unread: Frames that the container's own index lists beyond the data.
        truncated: The evidence that the end of the file is missing, or None.
        io_error: Reading broke off: what the disk or network said, or None.
        unreadable: Damaged places between packets.
        creation_time: The container's own, ISO 8601, or None.
        limits: What the file may ask for.
    """

    path: Path
    demuxer: str
    codec: str
    width: int
    height: int
    time_base: Fraction
    average_rate: Fraction | None
    pts: Int64s
    dts: Int64s
    size: Int64s
    pos: Int64s
    silent: npt.NDArray[np.bool_]
    disposable: npt.NDArray[np.bool_] | None
    entries: tuple[int, ...]
    keys: int
    shown: Int64s
    reorder_depth: int
    numbering: Literal["pts", "counted"]
    whole_because: str | None
    orientation: Orientation
    unread: int
    truncated: str | None
    io_error: str | None
    unreadable: int
    creation_time: str | None
    limits: Limits

    @property
    def frames(self) -> int:
        """Frames that the packets promise; for counted numbering an expectation, not a fact."""
        return len(self.shown) if self.numbering == "pts" else int(np.count_nonzero(~self.silent))

    @property
    def is_sound(self) -> bool:
        """Whether decoding the file is to give the frames that the index lists, each at its time."""
        damage = self.unread or self.truncated or self.io_error or self.unreadable
        return self.numbering == "pts" and self.whole_because is None and not damage

    @property
    def shown_size(self) -> tuple[int, int]:
        """(H, W) of the pictures as players show them."""
        upright = self.height, self.width
        return upright[::-1] if self.orientation.transposed else upright

    def seconds(self, pts: Int64s) -> npt.NDArray[np.float64]:
        """Time stamps in seconds."""
        return pts * self.time_base.numerator / self.time_base.denominator

    @property
    def counted_rate(self) -> Fraction | None:
        """The rate that gives frames their time where the container stores none."""
        return self.average_rate if self.demuxer in TIMELESS_DEMUXERS else None


def index_file(path: Path, source: str, *, disposable: bool = False, limits: Limits = NO_MORE) -> Index:
    """Reads all packets of a file's video stream, then decodes the first few to see whether frames match packets.

    Args:
        path: The file.
        source: Name of the source, for errors.
        disposable: Find out which pictures no other refers to, too.
        limits: What the file may ask for.

    Raises:
        SourceError: The file cannot be opened, holds no video, or asks for too much.
    """
    scanned = _scan(path, source, disposable, limits)
    return _try_head(scanned, source)


def _scan(path: Path, source: str, disposable: bool, limits: Limits) -> Index:
    container, stream = open_video(path, source, limits=limits)
    try:
        demuxer = container.format.name.split(",")[0]
        codec = av.codec.Codec(stream.codec_context.codec.name, "r").canonical_name
        length_size = nal_length_size(codec, stream.codec_context.extradata)
        pts, dts, size, pos = array("q"), array("q"), array("q"), array("q")
        silent: list[int] = []
        marks: list[tuple[bool, int]] | None = [] if disposable and codec in TELLING_CODECS else None
        entries: list[int] = []
        keys = corrupt = unreadable = parameter_changes = 0
        last_end = 0  # in units of the time base
        io_error = None
        for packet in packets(container, stream):
            if isinstance(packet, av.error.FFmpegError):
                if is_io_error(packet):
                    io_error = reason(packet, path)
                else:
                    unreadable += 1
                continue
            place = len(pts)
            if place == limits.frames:
                raise SourceError(source, f"{path}: {limits.refusal('frames', 'more frames')}")
            pts.append(NO_PTS if packet.pts is None else packet.pts)
            dts.append(NO_PTS if packet.dts is None else packet.dts)
            size.append(packet.size)
            pos.append(-1 if packet.pos is None else packet.pos)
            # Outside the edit list, or a VP8 frame that is not shown.
            if packet.is_discard or (codec == "vp8" and packet.size and not memoryview(packet)[0] & 0x10):
                silent.append(place)
            last_end = max(last_end, pts[-1] + (packet.duration or 0))
            if packet.is_keyframe:
                keys += 1
                if is_clean_entry(codec, bytes(packet), length_size):
                    entries.append(place)
            if marks is not None:
                marks.append(is_referred_to(codec, bytes(packet), length_size))
            corrupt += packet.is_corrupt
            parameter_changes += packet.has_sidedata("new_extradata") or packet.has_sidedata("param_change")
        promised = 0
        if demuxer in LISTING_DEMUXERS:
            promised = sum(not entry.is_discard and entry.size > 0 for entry in stream.index_entries)
        is_silent = np.zeros(len(pts), np.bool_)
        is_silent[silent] = True
        unneeded = None if marks is None else disposable_packets(marks)
        if disposable and keys == len(pts):
            unneeded = np.zeros(keys, np.bool_)
        index = Index(
            path=path,
            demuxer=demuxer,
            codec=codec,
            width=stream.codec_context.width,
            height=stream.codec_context.height,
            time_base=stream.time_base or Fraction(1, 1),
            average_rate=stream.average_rate,
            pts=np.array(pts, np.int64),
            dts=np.array(dts, np.int64),
            size=np.array(size, np.int64),
            pos=np.array(pos, np.int64),
            silent=is_silent,
            disposable=unneeded,
            entries=tuple(place for place in entries if not is_silent[place]),
            keys=keys,
            shown=np.empty(0, np.int64),
            reorder_depth=0,
            numbering="pts",
            whole_because=None,
            orientation=UPRIGHT,
            unread=max(0, promised - int(np.count_nonzero(~is_silent))),
            truncated=_truncation(container, stream, path, source, last_end, limits),
            io_error=io_error,
            unreadable=unreadable,
            creation_time=container.metadata.get("creation_time"),
            limits=limits,
        )
    finally:
        container.close()
    if (hours := _hours(index)) > limits.hours:
        raise SourceError(source, f"{path}: {limits.refusal('hours', f'{hours:,.1f} hours')}")
    untimed = _why_counted(index)
    return dataclasses.replace(
        index,
        shown=np.empty(0, np.int64) if untimed else np.sort(index.pts[~index.silent]),
        reorder_depth=0 if untimed else _reorder_depth(index.pts),
        numbering="counted" if untimed else "pts",
        whole_because=untimed or _why_whole(index, corrupt + unreadable, parameter_changes),
    )


def _hours(index: Index) -> float:
    """How long it is by its time stamps, but for one in a hundred at either end: damage makes wild ones."""
    pts = index.pts[index.pts != NO_PTS]
    if not len(pts):
        return 0.0
    first, last = (np.partition(pts, at)[at] for at in (len(pts) // 100, len(pts) - 1 - len(pts) // 100))
    return float((int(last) - int(first)) * index.time_base / 3600)


def _why_counted(index: Index) -> str | None:
    """Why the packets' time stamps cannot number the frames, or None if they can."""
    shown = index.pts[~index.silent]
    if not len(shown):
        return "no packet gives a picture"
    if index.demuxer in TIMELESS_DEMUXERS and index.keys < len(index.pts):
        return f"container {index.demuxer} stores no presentation times"
    if (index.pts == NO_PTS).any():
        return "a packet without time stamp"
    if len(np.unique(shown)) < len(shown):
        return "several packets with one time stamp"
    known = index.dts[index.dts != NO_PTS]
    if (np.diff(known) < 0).any():
        return "decoding times that go back"
    return None


def _why_whole(index: Index, corrupt: int, parameter_changes: int) -> str | None:
    """Why a file with sound time stamps must be decoded in one piece, or None if it may be cut."""
    all_key = index.keys == len(index.pts)
    if index.demuxer not in SEEKABLE_DEMUXERS and not (all_key and index.demuxer == "avi"):
        return f"cutting is not exact in container {index.demuxer}"
    if index.codec not in CUTTABLE_CODECS:
        return f"cutting is not exact for codec {index.codec}"
    if corrupt:
        return "damaged packets"
    if parameter_changes:
        return "coding parameters that change"
    return None


def _reorder_depth(pts: Int64s) -> int:
    """The most frames that are decoded before a frame and shown after it."""
    earlier = np.zeros(len(pts), np.int32)
    for distance in range(1, min(33, len(pts))):
        earlier[distance:] += pts[:-distance] > pts[distance:]
    return int(earlier.max(initial=0))


def _truncation(
    container: av.container.InputContainer,
    stream: av.video.stream.VideoStream,
    path: Path,
    source: str,
    last_end: int,
    limits: Limits,
) -> str | None:
    """Compares the duration in the header with the last packet; the other streams are read only if it looks short."""
    if stream.time_base is None:
        return None
    last_s = float((last_end - (stream.start_time or 0)) * stream.time_base)
    if stream.duration is not None:
        promised_s = float(stream.duration * stream.time_base)
    elif container.duration is not None:
        promised_s = container.duration / av.time_base
    else:
        return None
    if promised_s - last_s <= TRUNCATION_S:
        return None
    if stream.duration is None:
        last_s = max(last_s, _last_packet_s(path, source, limits))
        if promised_s - last_s <= TRUNCATION_S:
            return None
    return f"the header promises {promised_s:.1f} s, but the data ends at {last_s:.1f} s: its end is missing"


def _last_packet_s(path: Path, source: str, limits: Limits) -> float:
    """Time of the last packet of all streams, in seconds from the container's start."""
    container, _ = open_video(path, source, limits=limits)
    start_s = (container.start_time or 0) / av.time_base
    last_s = 0.0
    try:
        for stream in container.streams:
            stream.discard = av.stream.Discard.default
        for packet in container.demux():
            alive()
            if packet.pts is not None and packet.time_base is not None:
                last_s = max(last_s, float((packet.pts + (packet.duration or 0)) * packet.time_base) - start_s)
    except av.error.FFmpegError:
        pass  # what could be read is what there is
    finally:
        container.close()
    return last_s


def _try_head(index: Index, source: str) -> Index:
    """Decodes the first packets: do frames match packets, and which way up are they?

    When a file begins in the middle of a stream, the decoder drops packets before its first key packet and leading
    pictures behind it. They hold no frame, and only the decoder knows which ones they are.
    """
    timed = index.numbering == "pts"
    first_key = index.entries[0] if index.entries else 0
    doubtful = np.zeros(len(index.pts), np.bool_)
    if timed:
        doubtful = ~index.silent & (index.pts < index.pts[first_key])
        doubtful[first_key:] &= np.arange(len(index.pts) - first_key) <= 32  # leading pictures follow their key closely
        doubtful[:first_key] = ~index.silent[:first_key]
    stop = int(max(np.flatnonzero(doubtful).max(initial=0), first_key)) + 1 + TRIAL_PACKETS
    decoded: list[int | None] = []
    orientation: Orientation | None = None
    errors = 0
    # Nobody looks at the pixels.
    container, stream = open_decoder(
        index.path, source, reorder_depth=index.reorder_depth, fast=True, limits=index.limits
    )
    try:
        for place, packet in enumerate(packets(container, stream)):
            if place >= (stop if timed else TRIAL_PACKETS) or (not timed and orientation is not None):
                break
            if isinstance(packet, av.error.FFmpegError):
                _refuse_io_error(packet, index, source)
                errors += 1
                continue
            try:
                for frame in stream.codec_context.decode(packet):
                    orientation = orientation or orientation_of(frame)
                    decoded.append(frame.pts)
            except av.error.FFmpegError as error:
                _refuse_io_error(of_data(error, index.width, index.height), index, source)
                errors += place > first_key
    finally:
        container.close()
    index = dataclasses.replace(index, orientation=orientation or UPRIGHT)
    if not timed:
        return index
    silent = index.silent | (doubtful & ~np.isin(index.pts, [p for p in decoded if p is not None]))
    if silent.all():
        return index  # nothing could be decoded at all: the ledger will name every frame
    shown = np.sort(index.pts[~silent])
    enough = min(stop, len(index.pts)) - int(silent[:stop].sum()) - index.reorder_depth - 17
    matches = decoded == shown[: len(decoded)].tolist() and len(decoded) >= enough
    if matches:
        return dataclasses.replace(
            index, silent=silent, shown=shown, entries=tuple(e for e in index.entries if not silent[e])
        )
    if errors:
        return dataclasses.replace(index, whole_because=index.whole_because or "damage in its first frames")
    return dataclasses.replace(
        index,
        shown=np.empty(0, np.int64),
        numbering="counted",
        whole_because=NOT_ONE_EACH,
    )


def _refuse_io_error(error: av.error.FFmpegError, index: Index, source: str) -> None:
    """A disk that fails for a moment does not make a file a damaged one, which is cut and numbered otherwise."""
    if is_io_error(error) and index.io_error is None:
        raise SourceError(source, f"{index.path}: {reason(error, index.path)}") from error
