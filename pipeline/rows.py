"""Rows: what a labelled batch looks like as a table. The one place that knows the schema of a run's parts."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from pipeline.batch import FrameBatch
from pipeline.text import printable

__all__ = ["Labelling", "labelling_of", "labels_of", "schema", "table"]

Scores = npt.NDArray[np.float32]

NAME = pa.dictionary(pa.int32(), pa.string())

# Keys of the schema's metadata, and so of a Parquet file's footer.
FILTER_KEY = b"vpipe.filter"
TASK_KEY = b"vpipe.task"
CLASSES_KEY = b"vpipe.classes"
THRESHOLDS_KEY = b"vpipe.thresholds"


@dataclass(frozen=True, slots=True)
class Labelling:
    """How the scores of one filter become labels.

    Attributes:
        name: Name of the filter.
        classes: K names, in the order of the scores.
        task: `one_of`: the class with the highest score is the label; `any_of`: every class at or over its threshold
            is one, the highest of them is *the* label.
        thresholds: For `any_of` one per class, else empty.
    """

    name: str
    classes: tuple[str, ...]
    task: Literal["one_of", "any_of"] = "one_of"
    thresholds: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        if not self.classes:
            raise ValueError("Labelling.classes must name at least one class, got none")
        wanted = len(self.classes) if self.task == "any_of" else 0
        if len(self.thresholds) != wanted:
            raise ValueError(f"Labelling.thresholds must be {wanted} numbers for {self.task}, got {self.thresholds}")


def schema(labelling: Labelling) -> pa.Schema:
    """The columns of `table`; the metadata says which filter, task, classes and thresholds gave them."""
    columns = [
        pa.field("source", NAME, nullable=False),
        pa.field("frame", pa.int64(), nullable=False),
        pa.field("region", NAME),
        pa.field("pts_s", pa.float64()),
        pa.field("captured", pa.timestamp("us", "UTC")),
        pa.field("captured_by", NAME),
        pa.field("label", NAME),
        pa.field("score", pa.float32(), nullable=False),
        pa.field("scores", pa.list_(pa.float32(), len(labelling.classes)), nullable=False),
        pa.field("fold_slot", pa.int16()),
    ]
    if labelling.task == "any_of":
        columns.append(pa.field("labels", pa.list_(pa.string()), nullable=False))
    return pa.schema(
        columns,
        metadata={
            FILTER_KEY: labelling.name,
            TASK_KEY: labelling.task,
            CLASSES_KEY: json.dumps(labelling.classes),
            THRESHOLDS_KEY: json.dumps(labelling.thresholds),
        },
    )


def labelling_of(metadata: Mapping[bytes, bytes]) -> Labelling:
    """The labelling that a table's schema metadata or a part's footer speaks of."""
    task = metadata[TASK_KEY].decode()
    return Labelling(
        metadata[FILTER_KEY].decode(),
        tuple(json.loads(metadata[CLASSES_KEY])),
        "any_of" if task == "any_of" else "one_of",
        tuple(json.loads(metadata[THRESHOLDS_KEY])),
    )


def table(batch: FrameBatch, labelling: Labelling) -> pa.Table:
    """The rows of a labelled batch, one per picture, in its order.

    Built from the batch's arrays, some of which it shares; there is no Python per row.

    Args:
        batch: N >= 0 pictures with the scores, (N, K), of the filter that `labelling` describes.

    Raises:
        ValueError: the scores are missing or of another number of classes.
    """
    n, k = len(batch), len(labelling.classes)
    scores = np.empty((0, k), np.float32) if batch.scores is None and n == 0 else batch.scores
    if scores is None or scores.shape[1] != k:
        got = None if scores is None else scores.shape
        raise ValueError(f"scores of filter {labelling.name!r} must have shape ({n}, {k}), got {got}")
    best, unlabelled, present = _labels(scores, labelling)
    columns = {
        "source": _names(np.zeros(n, np.int32), (printable(batch.source),)),
        "frame": pa.array(batch.index),
        "region": pa.nulls(n, NAME) if batch.region is None else _names(batch.region.astype(np.int32), batch.regions),
        "pts_s": pa.array(batch.pts_s, from_pandas=True),  # NaN becomes null
        "captured": _instants(batch.captured_s, n),
        "captured_by": pa.nulls(n, NAME)
        if batch.captured_by is None
        else _names(np.zeros(n, np.int32), (batch.captured_by,)),
        "label": _names(best, labelling.classes, mask=unlabelled),
        "score": pa.array(scores[np.arange(n), best]),
        "scores": pa.FixedSizeListArray.from_arrays(pa.array(scores.reshape(-1)), k),  # (N·K,)
        "fold_slot": pa.nulls(n, pa.int16()) if batch.fold_slot is None else pa.array(batch.fold_slot),
    }
    if labelling.task == "any_of":
        columns["labels"] = _lists(present, labelling.classes)
    return pa.table(columns, schema=schema(labelling))


def labels_of(scores: Scores, labelling: Labelling) -> list[tuple[str | None, float]]:
    """Of each row of scores, (N, K), the label and its score, as `table` has them."""
    best, unlabelled, _ = _labels(scores, labelling)
    names = [labelling.classes[k] for k in best.tolist()]
    absent = [False] * len(names) if unlabelled is None else unlabelled.tolist()
    each = zip(names, absent, scores[np.arange(len(scores)), best].tolist(), strict=True)
    return [(None if is_absent else name, score) for name, is_absent, score in each]


def _labels(
    scores: Scores, labelling: Labelling
) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.bool_] | None, npt.NDArray[np.bool_]]:
    """Position of each row's label; which rows have none, and what they hold is their highest class; which classes are
    present in each row, (N, K)."""
    highest = scores.argmax(axis=1).astype(np.int32)
    if labelling.task == "one_of":
        return highest, None, np.empty((0, 0), np.bool_)
    present = scores >= np.asarray(labelling.thresholds, np.float32)
    unlabelled = np.logical_not(np.any(present, axis=1, keepdims=False))
    highest_present = np.where(present, scores, -np.inf).argmax(axis=1)
    return np.where(unlabelled, highest, highest_present).astype(np.int32), unlabelled, present


def _names(
    positions: npt.NDArray[np.int32], names: tuple[str, ...], *, mask: npt.NDArray[np.bool_] | None = None
) -> pa.DictionaryArray:
    return pa.DictionaryArray.from_arrays(pa.array(positions, mask=mask), pa.array(names, pa.string()))


def _instants(seconds: npt.NDArray[np.float64] | None, n: int) -> pa.Array:
    instant = pa.timestamp("us", "UTC")
    if seconds is None:
        return pa.nulls(n, instant)
    unknown = np.isnan(seconds)
    microseconds = np.rint(np.where(unknown, 0.0, seconds) * 1e6).astype(np.int64)
    return pa.array(microseconds, mask=unknown).cast(instant)


def _lists(present: npt.NDArray[np.bool_], classes: tuple[str, ...]) -> pa.ListArray:
    """The names of the present classes per row, from (N, K)."""
    ends = np.cumsum(present.sum(axis=1), dtype=np.int32)
    names = pa.array(classes, pa.string()).take(pa.array(np.nonzero(present)[1]))
    return pa.ListArray.from_arrays(pa.array(np.concatenate([np.zeros(1, np.int32), ends])), names)
