"""`vpipe eval --compare`: several model files side by side, in one table and one picture."""

from __future__ import annotations

import json
import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from pipeline.accuracy import rests_on
from pipeline.comparisonpicture import draw
from pipeline.errors import ConfigError
from pipeline.evaluation import Measured, measured
from pipeline.labelled import Document, clips_of, told, where_of
from pipeline.text import aligned
from pipeline.trainschema import TrainConfig
from specialized.evaluate import ClassScore, Difference, difference
from specialized.intervals import Interval

__all__ = ["compare"]


@dataclass(frozen=True, slots=True)
class Row:
    """A model of the comparison."""

    name: str
    found: Measured
    difference: Difference  # to the first model, on the same pictures


def compare(
    models: Sequence[str | Path],
    config: TrainConfig,
    *,
    out: Path,
    part: str = "test",
    order: str | None = None,
    as_json: bool = False,
) -> str:
    """Measures model files on the same labelled footage, each with pictures and groups as its own card says.

    Args:
        models: Two files or more; differences are those to the first.
        config: Clips, classes and split.
        out: The PNG to write.
        part: See `pipeline.evaluation.evaluate`, as for the errors.
        order: How to form groups; None: each as in its training.
        as_json: One JSON document instead of a table.

    Raises:
        VpipeError: the picture cannot be written.
    """
    if len(models) < 2:
        raise ConfigError([f"--compare: must have two models or more, got {len(models)}"])
    found = measured([Path(model) for model in models], config, part=part, order=order)
    first = found[0]
    rows = [
        Row(name, one, difference(one.accuracy.scored, first.accuracy.scored, block_frames=first.block_frames))
        for name, one in zip(_names(found), found, strict=True)
    ]
    where = where_of(config, part)
    draw([(row.name, row.found.accuracy) for row in rows], told(where), out)
    if as_json:
        documents = [row.found.as_dict() | _cost(row.found) | {"difference": asdict(row.difference)} for row in rows]
        return json.dumps(where | {"clips": clips_of(config), "models": documents})
    return _table(rows, told(where))


def _names(found: Sequence[Measured]) -> list[str]:
    """Stems of the files, or the paths as given where stems are shared."""
    stems = [one.model.stem for one in found]
    return stems if len(set(stems)) == len(stems) else [str(one.model) for one in found]


def _cost(found: Measured) -> Document:
    cost = found.accuracy.cost
    return {
        "fold": found.card.fold,
        "parameters": cost.parameters,
        "flops_per_picture": cost.flops_per_picture,
        "intensity": cost.intensity,
    }


# --------------------------------------------------------------------------------------------- for reading

_HEAD = ("model", "f", "accuracy", "95 %", "to the first", "95 %", "F1", "AP", "ECE")


def _table(rows: Sequence[Row], where: str) -> str:
    first = rows[0].found.accuracy.evaluation
    columns, told_of = (("found", "false"), "found, false: their appearances; ") if first.in_time else ((), "")
    cells = [(*_HEAD, *columns, "parameters", "MFLOP"), *(_cells(row, row is rows[0]) for row in rows)]
    lines = [
        f"{len(rows)} models on {first.n:,} pictures",
        where,
        f"always the commoner answer: {first.majority:.4f}",
        "",
    ]
    lines += [
        *aligned(cells, left=_HEAD.index("accuracy")),
        "",
        f"F1, AP: mean over the classes that are looked for; {told_of}MFLOP: per picture",
        *rests_on(first),
        "to the first: paired, over the same resamples for both; an interval around 0 does not tell them apart",
    ]
    lines += [f"warning: {row.name}: {warning}" for row in rows for warning in row.found.warnings]
    return "\n  ".join(lines).replace("\n  \n", "\n\n")


def _cells(row: Row, is_first: bool) -> tuple[str, ...]:
    card, accuracy = row.found.card, row.found.accuracy
    found = accuracy.evaluation
    classes = [found.classes[name] for name in card.sought]
    return (
        row.name,
        str(card.fold) if card.fold == 1 or found.order == "consecutive" else f"{card.fold} {found.order}",
        f"{found.accuracy:.4f}",
        _within(found.accuracy_interval),
        "-" if is_first else f"{row.difference.accuracy:+.4f}",
        "-" if is_first else _within(row.difference.interval, sign="+"),
        _mean([one.f1 for one in classes]),
        _mean([one.average_precision for one in classes]),
        f"{found.calibration_error:.4f}",
        *(_appearances(classes) if found.in_time else ()),
        f"{accuracy.cost.parameters:,}",
        f"{accuracy.cost.flops_per_picture / 1e6:.2f}",
    )


def _appearances(classes: Sequence[ClassScore]) -> tuple[str, ...]:
    """Found of all, and false ones."""
    known = [one.events for one in classes if one.events is not None]
    found = f"{sum(one.found for one in known)}/{sum(one.total for one in known)}"
    return found, str(sum(one.false for one in known))


def _mean(values: Sequence[float | None]) -> str:
    known = [value for value in values if value is not None]
    return f"{statistics.fmean(known):.4f}" if known else "-"


def _within(interval: Interval | None, sign: str = "") -> str:
    return "-" if interval is None else f"[{interval[0]:{sign}.3f} {interval[1]:{sign}.3f}]"
