"""Leaving out frames by the part that they play in their stream, and packets that no selected frame needs.

    packets, decode order     K    p    b'   b    b    p    ...       K: keyframe;  b: nothing refers to it
    frames: reference, fed    K    p    b'   -    -    p    ...       others' pixels do not change
    frames: key, fed          K |  -    -    -    -    -    ... K |   the decoder is emptied behind each (|)
    limit: 2, fed             K    p    b'   b    -    -    ...       frames K and b, shown first

Not emptied, a decoder of H.264 would take the distance between two keyframes for less than it is (the counter of its
pictures wraps) and drop some. The number of a frame is its rank in the file's index, whatever is left out.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from pipeline.errors import SourceError
from pipeline.sources.cuts import Cut
from pipeline.sources.index import Index
from pipeline.sources.selection import Frames

__all__ = ["check_frames", "fed_packets", "frames_on_offer"]

Mask = npt.NDArray[np.bool_]


def check_frames(frames: Frames, index: Index, source: str) -> None:
    """Raises SourceError where a file does not tell which of its frames are referred to."""
    if frames != "reference":
        return
    where = f"{index.path}: decode.frames: reference"
    if index.numbering == "counted":
        raise SourceError(
            source, f"{where} must have frames with times of their own, got {index.whole_because}; use all or key"
        )
    if index.disposable is None:
        raise SourceError(source, f"{where} must have a codec that marks them, got {index.codec}; use all or key")


def frames_on_offer(frames: Frames, index: Index) -> Mask:
    """Which frames may be selected: bool (frames,). For files whose frames are numbered by their time stamps."""
    if frames == "all":
        return np.ones(len(index.shown), np.bool_)
    if frames == "key":
        places = np.array(index.entries, np.intp)
    else:
        assert index.disposable is not None  # see check_frames
        places = np.flatnonzero(~(index.silent | index.disposable))
    return np.isin(index.shown, index.pts[places])


def fed_packets(frames: Frames, index: Index, cut: Cut, selected: Mask) -> Mask | None:
    """Which packets of a cut its decoder needs for the selected frames, which must be on offer.

    Args:
        frames: What was on offer.
        index: The file's.
        cut: What is decoded.
        selected: bool (frames of the file,).

    Returns:
        bool (cut.stop - cut.first,); None: all.
    """
    selected = selected[cut.first_frame : cut.last_frame]
    if index.numbering == "counted" or selected.all():
        return None
    packets = slice(cut.first, cut.stop)
    wanted = index.shown[cut.first_frame : cut.last_frame][selected]
    fed: Mask = np.isin(index.pts[packets], wanted) & ~index.silent[packets]
    if frames != "key":
        last = np.flatnonzero(fed).max(initial=-1)
        fed[: last + 1] |= True if index.disposable is None else ~index.disposable[packets][: last + 1]
    return fed
