"""What flows through a pipeline: batches of pictures, and the end of a segment riding on the last of them.

    Segment ── a stretch of one source, cut at keyframes: the unit of work and of commit
    FrameBatch ── N pictures of one segment, in order; later with the scores of one filter. A picture is a region of a
                  frame, or the frame
    SegmentEnd ── rides on the last batch of a segment and says what became of its frames
    FoldedBatch ── B groups of f pictures, formed of one or more FrameBatches

All of them are values: nobody changes a batch after it was yielded. Stages make new ones with `dataclasses.replace`.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Literal

import numpy as np
import numpy.typing as npt

__all__ = [
    "CapturedBy",
    "Counts",
    "FoldedBatch",
    "FrameBatch",
    "Lost",
    "Segment",
    "SegmentEnd",
    "lost_ranges",
    "with_lost",
]

Pixels = npt.NDArray[np.uint8]
CapturedBy = Literal["camera", "arrival", "start"]


@dataclass(frozen=True, slots=True)
class Segment:
    """A stretch of one source between two clean entry points.

    Attributes:
        source: Name of the source.
        number: Position of the segment in its source, from 0.
        first_frame: Number of its first frame in presentation order; with `source` the segment's identity.
        start_s: Time of its first frame in seconds; None where it is not known before decoding.
        end_s: Time at which the next segment begins; None for the last one.
        bundle: Names of the sources that are folded across each other (order `streams`), else empty.
        slot: Position of this source in its bundle.
        window_utc_s: Of a camera, when its window of time begins, in seconds since 1970; None: it is of a file.
    """

    source: str
    number: int = 0
    first_frame: int = 0
    start_s: float | None = None
    end_s: float | None = None
    bundle: tuple[str, ...] = ()
    slot: int = 0
    window_utc_s: float | None = None


@dataclass(frozen=True, slots=True)
class Counts:
    """What became of the frames of a segment, as whole frames.

    A segment adds up when `indexed = skipped + corrupt + unread + dropped + decoded`, `decoded = labelled + failed` and
    `labelled = written + filtered`. With several filters or regions a frame is
    labelled when every filter labelled all of its regions, and written when at least one row of it is kept.

    Attributes:
        indexed: Frames that the file holds, by its own packets or, where data is missing, by its index; those that came
            of a camera.
        skipped: Left out on request (`decode.frames`, `every`, `fps`, `from`, `to`, `limit`).
        corrupt: Lost to damage: their packets gave no picture.
        unread: Promised by the container's index, but their data is not there.
        dropped: Of a camera, given up for newer ones as they came faster than they were labelled. Files never drop.
        decoded: Handed on to be labelled.
        damaged: Of the decoded, those that the decoder reports as concealed.
        failed: Decoded, but a filter gave no score, or not of all of its regions.
        labelled: Decoded and scored by every filter.
        filtered: Labelled, but no filter's `keep` lets them pass.
        written: Frames of which a row reaches the sinks.
        pictures: Scores that the filters gave: one for every region of a frame, or for the frame.
    """

    indexed: int = 0
    skipped: int = 0
    corrupt: int = 0
    unread: int = 0
    dropped: int = 0
    decoded: int = 0
    damaged: int = 0
    failed: int = 0
    labelled: int = 0
    filtered: int = 0
    written: int = 0
    pictures: int = 0

    def __add__(self, other: Counts) -> Counts:
        return Counts(**{f.name: getattr(self, f.name) + getattr(other, f.name) for f in fields(Counts)})

    def as_dict(self) -> dict[str, int]:
        return {f.name: getattr(self, f.name) for f in fields(Counts)}

    @property
    def complete(self) -> bool:
        """Whether every frame that was asked for has a label."""
        return not (self.corrupt or self.unread or self.failed)

    def imbalance(self) -> str | None:
        """The equation that does not hold, or None when everything adds up."""
        if self.indexed != self.skipped + self.corrupt + self.unread + self.dropped + self.decoded:
            return "indexed = skipped + corrupt + unread + dropped + decoded"
        if self.decoded != self.labelled + self.failed:
            return "decoded = labelled + failed"
        if self.labelled != self.written + self.filtered:
            return "labelled = written + filtered"
        return None


@dataclass(frozen=True, slots=True)
class Lost:
    """Frames `first` to `last` (both included) without a label, and why: corrupt, unread, dropped or failed."""

    first: int
    last: int
    why: str

    def as_dict(self) -> dict[str, int | str]:
        return {"first": self.first, "last": self.last, "why": self.why}


def with_lost(lost: tuple[Lost, ...], numbers: Collection[int], why: str) -> tuple[Lost, ...]:
    """Ranges of lost frames, and those of more frames among them, in order."""
    more = lost_ranges(np.array(sorted(numbers), np.int64), why)
    return tuple(sorted((*lost, *more), key=lambda part: part.first))


def lost_ranges(numbers: npt.NDArray[np.int64], why: str) -> tuple[Lost, ...]:
    """Ascending frame numbers as ranges."""
    if not len(numbers):
        return ()
    breaks = np.flatnonzero(np.diff(numbers) > 1)
    firsts = numbers[np.concatenate(([0], breaks + 1))]
    lasts = numbers[np.concatenate((breaks, [len(numbers) - 1]))]
    return tuple(Lost(int(first), int(last), why) for first, last in zip(firsts, lasts, strict=True))


@dataclass(frozen=True, slots=True)
class SegmentEnd:
    """Rides on the last batch of a segment, behind every frame of it.

    Attributes:
        counts: The source fills in what it knows (up to `damaged`), the filter the rest.
        lost: Ranges of frames without a label, in order.
        error: What went wrong, in one line, or None.
        retry: True when the segment was cut short by its disk or network rather than by damage in the file: it is
            not committed, so that a later run tries it again.
        filters: Rows written per filter, by its name.
        per_frame: Scores that the filters owe for every frame, by the regions that they were to see.
        states: Of a camera, seconds that it spent in each of its states since the end of the segment before.
    """

    segment: Segment
    counts: Counts = Counts()
    lost: tuple[Lost, ...] = ()
    error: str | None = None
    retry: bool = False
    filters: Mapping[str, int] = field(default_factory=dict)
    per_frame: int = 0
    states: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, repr=False, eq=False)
class FrameBatch:
    """N pictures of one segment, in order. N = 0 is a tick: deadlines are checked, and it is passed on.

    Attributes:
        segment: Where the pictures come from.
        frames: uint8 (N, H, W, 3), RGB, C-contiguous, at the model's input size. Owned by the batch: a source never
            writes to it again.
        index: int64 (N,), frame number in presentation order from 0. The regions of a frame follow each other.
        pts_s: float64 (N,), presentation time in seconds; NaN where it is not known.
        captured_s: float64 (N,), UTC time of capture in seconds since 1970, or None.
        captured_by: What those times are by: the camera's own clock, the arrival of its packets, or the `start` of a
            file and its time stamps. None: there are none, or a source of one's own gave them.
        end: Set on the last batch of a segment.
        view: Which of the run's views the pictures are of; see `pipeline.sources.scaler.View`.
        regions: Names of the regions that the view has in this source; empty: whole frames. A source of one's own gives
            whole frames.
        region: int16 (N,), place of each picture's region in `regions`, or None.
        scores: float32 (N, K), or None before the filter.
        filter: Name of the filter that gave the scores, empty before it.
        fold_slot: int16 (N,), the slot of its group in which each picture was classified, or None before the filter.
    """

    segment: Segment
    frames: Pixels
    index: npt.NDArray[np.int64]
    pts_s: npt.NDArray[np.float64]
    captured_s: npt.NDArray[np.float64] | None = None
    end: SegmentEnd | None = None
    captured_by: CapturedBy | None = None
    view: int = 0
    regions: tuple[str, ...] = ()
    region: npt.NDArray[np.int16] | None = None
    scores: npt.NDArray[np.float32] | None = None
    filter: str = ""
    fold_slot: npt.NDArray[np.int16] | None = None

    def __post_init__(self) -> None:
        n = len(self.index)
        expect("frames", self.frames, np.uint8, (n, None, None, 3))
        if not self.frames.flags.c_contiguous:
            raise ValueError("FrameBatch.frames must be C-contiguous")
        expect("index", self.index, np.int64, (n,))
        expect("pts_s", self.pts_s, np.float64, (n,))
        if self.captured_s is not None:
            expect("captured_s", self.captured_s, np.float64, (n,))
        if self.region is not None:
            expect("region", self.region, np.int16, (n,))
        elif self.regions and n:
            raise ValueError(f"FrameBatch.region must tell which of {len(self.regions)} regions each row is, got None")
        if self.scores is not None:
            expect("scores", self.scores, np.float32, (n, None))
        if self.fold_slot is not None:
            expect("fold_slot", self.fold_slot, np.int16, (n,))
        if self.end is not None and self.end.segment != self.segment:
            raise ValueError(f"FrameBatch.end must be that of {self.segment}, got {self.end.segment}")

    @property
    def source(self) -> str:
        return self.segment.source

    @property
    def whole_frames(self) -> int:
        """How many frames its pictures are of."""
        return int(np.count_nonzero(np.diff(self.index, prepend=-1)))

    def __len__(self) -> int:
        return len(self.index)

    def __repr__(self) -> str:
        scored = "" if self.scores is None else f", scores {self.scores.shape} by {self.filter}"
        ending = "" if self.end is None else ", end"
        return f"FrameBatch({self.source!r}, segment {self.segment.number}, frames {self.frames.shape}{scored}{ending})"

    def rows(self, which: slice | npt.NDArray[np.bool_] | npt.NDArray[np.intp]) -> FrameBatch:
        """The rows chosen by a slice (views), a mask or positions (copies). The end of the segment stays behind the
        last row: it goes along unless a slice leaves the last rows out."""
        return replace(
            self,
            frames=self.frames[which],
            index=self.index[which],
            pts_s=self.pts_s[which],
            captured_s=None if self.captured_s is None else self.captured_s[which],
            region=None if self.region is None else self.region[which],
            scores=None if self.scores is None else self.scores[which],
            fold_slot=None if self.fold_slot is None else self.fold_slot[which],
            end=None if isinstance(which, slice) and which.stop is not None else self.end,
        )

    @staticmethod
    def tick(segment: Segment, *, size: tuple[int, int] = (1, 1), end: SegmentEnd | None = None) -> FrameBatch:
        """A batch without pictures."""
        return FrameBatch(
            segment,
            frames=np.empty((0, *size, 3), np.uint8),
            index=np.empty(0, np.int64),
            pts_s=np.empty(0, np.float64),
            end=end,
        )


@dataclass(frozen=True, slots=True, repr=False, eq=False)
class FoldedBatch:
    """B groups of f pictures, on their way to one forward pass.

    Attributes:
        frames: uint8 (B, f, H, W, 3). With consecutive groups a view of the decoded memory; read only.
        parts: The batches whose pictures these are, each exactly once and whole.
        slot: int32 (B·f,), position of each picture in the concatenated parts; -1 is padding, which repeats a picture
            and whose scores are thrown away.
        grouping: Place of the `Grouping` that formed them among those of the run.
    """

    frames: Pixels
    parts: tuple[FrameBatch, ...]
    slot: npt.NDArray[np.int32]
    grouping: int = 0

    def __post_init__(self) -> None:
        expect("frames", self.frames, np.uint8, (None, None, None, None, 3))
        groups, fold = self.frames.shape[:2]
        expect("slot", self.slot, np.int32, (groups * fold,))

    @property
    def padded(self) -> int:
        """Number of slots that hold no picture of their own."""
        return int(np.count_nonzero(self.slot < 0))

    def __repr__(self) -> str:
        return f"FoldedBatch(frames {self.frames.shape}, {len(self.parts)} parts, {self.padded} padded)"


def expect(name: str, array: npt.NDArray[np.generic], dtype: type, shape: tuple[int | None, ...]) -> None:
    """Raises ValueError unless the array has this dtype and shape; None stands for any length."""
    fits = array.ndim == len(shape) and all(want in (None, got) for want, got in zip(shape, array.shape, strict=True))
    if array.dtype != dtype or not fits:
        wanted = ", ".join("any" if n is None else str(n) for n in shape)
        raise ValueError(
            f"{name} must be {np.dtype(dtype)} of shape ({wanted}), got {array.dtype} of shape {array.shape}"
        )
