"""Rows as lines of text: csv and JSON lines.

csv has one row per picture and filter, with the columns

    source, frame, region, pts_s, captured, filter, label, score

and, where the run has a single filter, `score_<class>` for each of its classes. JSON lines have the same fields, the
scores of every filter as one object by class, and `labels` where the task is any_of:

    {"source":"lobby","frame":7,"region":null,"pts_s":0.28,"captured":null,"filter":"person","label":"person","score":0.97,
     "scores":{"person":0.97,"none":0.03}}

(on one line). With `wide: true` both have one row per frame, with its labels side by side:

    source, frame, pts_s, captured, <a column for each region of each filter>

    {"source":"wall","frame":7,"pts_s":0.28,"captured":null,"labels":{"display-1":"7","display-2":"3"}}

A column has the name of its region, or `<filter>.<region>` where other columns would have that name; of whole frames,
that of the filter. The columns are those of the run, of all of its sources. There is no label where a region is not one
of the source's, where `keep` let the row not pass, and where an any_of model finds no class.

`captured` is ISO 8601 in UTC; what is not known is empty in csv and null in JSON.

Events are JSON lines too, see `event_json`.
"""

from __future__ import annotations

import base64
import json
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv

from pipeline.events import Event
from pipeline.regions import OF_FRAMES
from pipeline.rows import Labelling

__all__ = ["Csv", "Format", "Jsonl", "event_json"]


class Format(ABC):
    """How rows become lines."""

    @abstractmethod
    def lines(self, rows: pa.RecordBatch, labelling: Labelling, *, alone: bool) -> pa.Table:
        """What becomes lines, with the column `frame`; the same columns for every filter unless it is alone."""

    @abstractmethod
    def frame_lines(self, frames: pa.RecordBatch) -> pa.Table:
        """What becomes lines, from frames with their labels side by side."""

    @abstractmethod
    def text(self, lines: pa.Table, *, first: bool) -> pa.Buffer:
        """The bytes of these lines."""


class Csv(Format):
    """Comma-separated values, see the module."""

    def lines(self, rows: pa.RecordBatch, labelling: Labelling, *, alone: bool) -> pa.Table:
        columns = {
            "source": rows["source"],
            "frame": rows["frame"],
            "region": rows["region"],
            "pts_s": rows["pts_s"],
            "captured": _iso(rows["captured"]),
            "filter": _constant(labelling.name, len(rows)),
            "label": rows["label"],
            "score": rows["score"],
        }
        if alone:
            columns |= {f"score_{name}": scores for name, scores in _by_class(rows, labelling)}
        return pa.table(columns)

    def frame_lines(self, frames: pa.RecordBatch) -> pa.Table:
        at = OF_FRAMES.index("captured")
        return pa.Table.from_batches([frames]).set_column(at, "captured", _iso(frames["captured"]))

    def text(self, lines: pa.Table, *, first: bool) -> pa.Buffer:
        out = pa.BufferOutputStream()
        options = pyarrow.csv.WriteOptions(include_header=first, batch_size=8192)
        pyarrow.csv.write_csv(lines, out, options)
        return out.getvalue()


class Jsonl(Format):
    """JSON lines, see the module."""

    def lines(self, rows: pa.RecordBatch, labelling: Labelling, *, alone: bool) -> pa.Table:
        texts = [
            *('{"source":', _quoted(rows["source"])),
            *(',"frame":', _number(rows["frame"])),
            *(',"region":', _quoted(rows["region"])),
            *(',"pts_s":', _number(rows["pts_s"])),
            *(',"captured":', pc.binary_join_element_wise('"', _iso(rows["captured"]), '"', "")),
            *(f',"filter":{json.dumps(labelling.name, ensure_ascii=False)},"label":', _quoted(rows["label"])),
        ]
        if "labels" in rows.schema.names:
            texts += [',"labels":[', _joined(rows["labels"]), "]"]
        texts += [',"score":', _number(rows["score"])]
        before = ',"scores":{'
        for name, scores in _by_class(rows, labelling):
            texts += [f"{before}{json.dumps(name, ensure_ascii=False)}:", _number(scores)]
            before = ","
        return pa.table({"frame": rows["frame"], "line": _lines(texts)})

    def frame_lines(self, frames: pa.RecordBatch) -> pa.Table:
        texts = [
            *('{"source":', _quoted(frames["source"].dictionary_encode())),
            *(',"frame":', _number(frames["frame"])),
            *(',"pts_s":', _number(frames["pts_s"])),
            *(',"captured":', pc.binary_join_element_wise('"', _iso(frames["captured"]), '"', "")),
        ]
        before = ',"labels":{'
        for name, labels in zip(frames.schema.names[len(OF_FRAMES) :], frames.columns[len(OF_FRAMES) :], strict=True):
            texts += [f"{before}{json.dumps(name, ensure_ascii=False)}:", _quoted(labels)]
            before = ","
        return pa.table({"line": _lines(texts)})

    def text(self, lines: pa.Table, *, first: bool) -> pa.Buffer:
        # The lines of an array lie one behind the other in its memory: that is the text.
        line = lines["line"].combine_chunks()
        _, offsets, data = line.buffers()
        bounds = np.frombuffer(offsets, np.int32)[line.offset : line.offset + len(line) + 1]
        return data[int(bounds[0]) : int(bounds[-1])]


def event_json(event: Event, *, thumbnail: bool = False) -> bytes:
    """An event as JSON on one line; its thumbnail, if wanted, in base64."""
    told = {"event": "ended" if event.is_over else "began", "key": event.key, **event.told()}
    told["best_score"] = round(event.best_score, 6)
    del told["thumbnail"]
    if thumbnail:
        told["thumbnail"] = None if event.thumbnail is None else base64.b64encode(event.thumbnail).decode()
    return json.dumps(told, ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode()


def _lines(texts: Sequence[str | pa.Array]) -> pa.Array:
    """Each row's texts one behind the other."""
    return pc.binary_join_element_wise(*texts, "}}\n", "", null_handling="replace", null_replacement="null")


def _by_class(rows: pa.RecordBatch, labelling: Labelling) -> Iterator[tuple[str, pa.Array]]:
    scores = rows["scores"].flatten().to_numpy().reshape(len(rows), len(labelling.classes))  # (N·K,) -> (N, K)
    for k, name in enumerate(labelling.classes):
        yield name, pa.array(np.ascontiguousarray(scores[:, k]))


def _iso(instants: pa.Array) -> pa.Array:
    return pc.replace_substring(instants.cast(pa.string()), " ", "T")


def _constant(text: str, n: int) -> pa.Array:
    return pa.DictionaryArray.from_arrays(pa.array(np.zeros(n, np.int32)), pa.array([text]))


def _number(values: pa.Array) -> pa.Array:
    """As in JSON, which knows no NaN."""
    if pa.types.is_floating(values.type):
        values = pc.if_else(pc.is_finite(values), values, None)
    return values.cast(pa.string())


def _quoted(names: pa.DictionaryArray) -> pa.Array:
    """As in JSON; each distinct name is quoted once."""
    quoted = [json.dumps(name, ensure_ascii=False) for name in names.dictionary.to_pylist()]
    return pa.array(quoted, pa.string()).take(names.indices)


def _joined(lists: pa.ListArray) -> pa.Array:
    """Lists of names as the inside of JSON's."""
    quoted = _quoted(lists.flatten().dictionary_encode())
    offsets = pc.subtract(
        lists.offsets, lists.offsets[0]
    )  # those of a slice begin where it does, `flatten` gives that alone
    return pc.binary_join(pa.ListArray.from_arrays(offsets, quoted), ",")
