"""What `vpipe tune` found, as a person reads it."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from pipeline.benchtable import medians
from pipeline.text import aligned
from pipeline.tunefile import settings_of

__all__ = ["table", "verdict"]

Document = Mapping[str, Any]

LITTLE = 0.05  # of throughput: less is not worth another model
CHEAPER = "`decode.frames`, `decode.fast`, `every`, a cheaper resize"


def table(document: Document) -> str:
    """A line per way to run, the fastest first."""
    head = ["", "model", "f", "engine", "dtype", "batch", "workers", "threads", "alone/s", "frames/s", "lowest"]
    cells = [[*head, "highest", "bound by", "accuracy", "95 %"]]
    picked = document["picked"]
    for row in sorted(document["rows"], key=lambda row: -row["frames_per_s"]):
        mark = (">" if row == picked else " ") + ("*" if row["pareto"] else " ") + ("c" if row["configured"] else "")
        line = [mark, Path(row["model"]).name, row["fold"], row["engine"], row["dtype"], row["batch"], row["workers"]]
        line += [row["torch_threads"], _count(row["images_per_s"]), _count(row["frames_per_s"])]
        line += [*map(_count, row["spread"]), row["bound_by"] or "-", _share(row["accuracy"])]
        cells.append([*map(str, line), " to ".join(map(_share, row["accuracy_interval"] or ())) or "-"])
    if len(cells) == 1:
        return "nothing was measured to the end"
    lines = aligned(cells, left=2)
    lines.append("> picked, * on the Pareto front of frames/s and accuracy, c: CONFIG as it stands")
    if not document["final"]:
        return "\n".join([*lines, "the best trials so far: they were not measured together"])
    rounds, footage = medians(document["rows"][0]["rounds"]), document["footage"]
    over = f", {footage['files']} file(s) {footage['times_over']} times over" if footage["times_over"] > 1 else ""
    lines.append(f"frames/s: whole runs of {footage['frames']:,} frames{over}; {rounds}. alone/s: without decoding")
    return "\n".join(lines)


def verdict(document: Document, *, config: str | None = None) -> str:
    """What was picked, what bounds it, what another f would gain, and how to run so."""
    picked = document["picked"]
    if picked is None:
        return "nothing but CONFIG as it stands could be measured" if document["final"] else "nothing was picked"
    return "\n".join([_picked(document), *_bound(document), *_others(document), *_command(document, config)])


def _picked(document: Document) -> str:
    picked, loss = document["picked"], document["settings"]["max_accuracy_loss"]
    told = f"picked: {Path(picked['model']).name}, f = {picked['fold']}: {_count(picked['frames_per_s'])} frames/s"
    if (ratio := document["against_configured"]) is not None:
        told += ", CONFIG as it stands" if picked["configured"] else f", {ratio:.2f} times CONFIG as it stands"
        told += _chance(document)
    if picked["accuracy"] is None:
        return f"{told}; no model carries an accuracy, so the fastest was picked"
    return f"{told}; the fastest within {loss:g} points of the most accurate"


def _chance(document: Document) -> str:
    """What makes the gain over CONFIG say less than it seems to."""
    picked = document["picked"]
    configured = next(row for row in document["rows"] if row["configured"])
    if picked["configured"]:
        return ""
    if picked["rounds"] == 1:
        return " (perhaps by chance: there was one round)"
    if picked["spread"][0] <= configured["spread"][1]:
        return " (perhaps by chance: within the spread of the rounds)"
    return ""


def _bound(document: Document) -> Iterator[str]:
    picked, wall, share = document["picked"], document["wall"], document["against_wall"]
    told = f"bound by {picked['bound_by'] or 'nothing that was measured'}"
    if wall is None or share is None:
        yield told
    elif share > 1 + LITTLE:
        told += f"; decoding alone measured slower, {_count(wall['frames_per_s'])} frames/s, which cannot be"
        yield f"{told}: label more --frames on a machine that does nothing else"
    elif share > 1:
        yield (
            f"{told}; decoding alone measured no faster, {_count(wall['frames_per_s'])} frames/s: "
            f"only cheaper decoding would gain much ({CHEAPER})"
        )
    elif share >= 1 - LITTLE:
        yield (
            f"{told}; decoding alone reaches {_count(wall['frames_per_s'])} frames/s here: no model, engine or f "
            f"gains more than that, so only cheaper decoding would ({CHEAPER})"
        )
    else:
        yield (
            f"{told}; decoding alone reaches {_count(wall['frames_per_s'])} frames/s: a model that costs nothing would "
            f"gain {100 * (1 / share - 1):.0f} %"
        )


def _others(document: Document) -> Iterator[str]:
    for other in document["others"]:
        gain = other["end_to_end"] - 1
        told = f"f = {other['fold']} ({Path(other['model']).name}): {100 * gain:+.0f} % end to end"
        if other["alone"] is not None:
            told += f", {other['alone']:.2f} times as fast alone"
        if abs(gain) < LITTLE:
            told += "; no difference worth having"
            told += ", as decoding decides" if document["picked"]["bound_by"] == "decode" else ""
        yield told


def _command(document: Document, config: str | None) -> Iterator[str]:
    if config is not None:
        picked, own = document["picked"], document["settings"]["models"][0]
        settings = settings_of(picked, model=None if picked["model"] == own else picked["model"])
        sets = " ".join(f"--set {shlex.quote('.'.join(steps) + f'={value}')}" for steps, value in settings)
        yield f"run so: vpipe run {shlex.quote(config)} {sets}"


def _count(value: float | None) -> str:
    return "-" if value is None else f"{value:,.0f}"


def _share(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"
