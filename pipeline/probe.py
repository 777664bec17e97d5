"""What a video file holds, and what vpipe would do with it."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from pipeline.errors import SourceError
from pipeline.sources.cuts import cut_file
from pipeline.sources.index import Index, index_file

__all__ = ["probe"]


def probe(path: Path) -> dict[str, object]:
    """Reads all packets of a file and decodes the first few.

    Returns:
        JSON values; `error` alone where the file cannot be read.
    """
    try:
        index = index_file(path, path.name, disposable=True)
    except SourceError as error:
        return {"path": str(path), "error": str(error)}
    segments = cut_file(index)
    height, width = index.shown_size
    unneeded = None  # frames that `decode.frames: reference` leaves out, where that can be told
    if index.numbering == "pts" and index.disposable is not None:
        unneeded = int(np.count_nonzero(index.disposable & ~index.silent))
    return {
        "path": str(path),
        "container": index.demuxer,
        "codec": index.codec,
        "width": width,
        "height": height,
        "frames": index.frames,
        "rate": None if index.average_rate is None else float(index.average_rate),
        "first_s": float(index.seconds(index.shown[:1])[0]) if len(index.shown) else None,
        "last_s": float(index.seconds(index.shown[-1:])[0]) if len(index.shown) else None,
        "variable_rate": _varies(index),
        "keyframes": index.keys,
        "clean_entries": len(index.entries),
        "disposable": unneeded,
        "reordered": index.reorder_depth,
        "turned": index.orientation.transposed or index.orientation.rows_reversed or index.orientation.columns_reversed,
        "numbering": index.numbering,
        "segments": len(segments),
        "whole_because": index.whole_because,
        "unread": index.unread,
        "truncated": index.truncated,
    }


def _varies(index: Index) -> bool | None:
    """Whether the distances between frames differ by more than the rounding of the time base; None if unknown."""
    if len(index.shown) < 3:
        return None
    steps = np.diff(index.shown)
    return bool(steps.max() - steps.min() > 1)
