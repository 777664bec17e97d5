"""Sums up the cells of `benchmarks.accuracy`: figures of each task, order and f, and paired differences.

All figures are made of sums per block of time: (blocks, columns). What an interval holds is 95 % of the resamples of
whole blocks (`specialized.intervals`); in a mean over tasks the blocks of each clip are resampled by themselves.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.study import origin
from pipeline.text import aligned
from specialized.intervals import interval, resampled

Result = Mapping[str, Any]
Floats = NDArray[np.float64]
Key = tuple[str, str, int]  # task, order and variant, f
Draws = tuple[float, Floats, int]  # a figure, that of each resample, the number of blocks

PLAIN = "consecutive"


def report(
    results: Sequence[Result], *, real: Sequence[str], displays: Sequence[str], clips: Mapping[str, str]
) -> tuple[dict[str, Any], str]:
    """All figures for JSON, and the tables for reading.

    Args:
        results: of the cells.
        real: names of the tasks on real clips.
        displays: of those on rendered ones.
        clips: what each task is seen on; tasks of one clip are hard in the same blocks, and resampled together.
    """
    groups: dict[Key, list[Result]] = {}
    for result in results:
        cell = result["cell"]
        how = "-".join(part for part in (cell["order"], cell["variant"]) if part)
        groups.setdefault((cell["task"], how, cell["f"]), []).append(result)
    clip_numbers = {clip: number for number, clip in enumerate(sorted(set(clips.values())))}

    def against(key: Key, base: Key) -> Draws:
        return _draws(groups[key], groups[base], seed=clip_numbers[clips[key[0]]])

    solved = {task: _over_majority(groups[task, PLAIN, 1]) for task in real if (task, PLAIN, 1) in groups}
    of_interest = (
        ("real tasks that f=1 solves", [task for task, one in solved.items() if one["low"] > 0]),
        ("displays", displays),
    )
    means = {
        f"{name}, f={f}": {
            "tasks": there,
            **_interval_of(_mean([against((task, PLAIN, f), (task, PLAIN, 1)) for task in there])),
        }
        for name, tasks in of_interest
        for f in (2, 3, 4, 8)
        if (there := [task for task in tasks if _paired(groups, (task, PLAIN, f), (task, PLAIN, 1))])
    }
    summary = {
        "solved": solved,
        "figures": [
            {"task": task, "order": order, "f": f, **_figures(cells)} for (task, order, f), cells in groups.items()
        ],
        "differences": [
            {"task": key[0], "order": key[1], "f": key[2], "to": _named(base), **_interval_of(against(key, base))}
            for key in groups
            if key != (base := _base_of(key)) and _paired(groups, key, base)
        ],
        "mean_differences_to_f1": means,
        **origin(results),
    }
    return summary, _told(summary)


def _base_of(key: Key) -> Key:
    """What cells are compared with: those of f = 1; variants of the recipe with the recipe as it is."""
    task, how, f = key
    order, _, variant = how.partition("-")
    return (task, order, f) if variant else (task, PLAIN, 1)


def _named(key: Key) -> str:
    return f"{key[1]} f={key[2]}"


def _paired(groups: Mapping[Key, Sequence[Result]], key: Key, base: Key) -> bool:
    """Whether both have cells of a common seed."""
    return bool(_seeds(groups.get(key, ())) & _seeds(groups.get(base, ())))


def _seeds(cells: Sequence[Result]) -> set[int]:
    return {cell["cell"]["seed"] for cell in cells}


def _figures(cells: Sequence[Result]) -> dict[str, Any]:
    """Accuracy and F1 of one task, order and f, over its seeds."""
    k = len(cells[0]["blocks"][0]["found"])
    columns = [_columns(cell) for cell in cells]  # of each seed (blocks, 2 + 3K)
    every: Floats = np.sum(columns, axis=0)
    drawn = resampled(every, seed=0)
    asked = _asked(cells[0])
    slots = [
        np.sum([[block[key] for block in cell["blocks"]] for cell in cells], axis=(0, 1))
        for key in ("right_in_slot", "in_slot")
    ]
    return {
        "seeds": len(cells),
        "accuracy": _accuracy(every.sum(axis=0)),
        "accuracy_interval": interval(drawn[:, 1] / drawn[:, 0], len(every)),
        "accuracy_of_seeds": [_accuracy(one.sum(axis=0)) for one in columns],
        "f1": float(_f1(every.sum(axis=0)[None], k, asked)[0]),
        "f1_interval": interval(_f1(drawn, k, asked), len(every)),
        "slots": (slots[0] / slots[1]).tolist(),
        "majority": _majority(cells[0]),
        "pictures": int(columns[0][:, 0].sum()),
        "blocks": len(every),
        "parameters": cells[0]["parameters"],
        "flops_per_picture": cells[0]["flops_per_picture"],
        "dtype": sorted({cell["dtype"] for cell in cells}),
        "seconds_per_cell": round(float(np.mean([cell["seconds"] for cell in cells])), 1),
    }


def _columns(cell: Result) -> Floats:
    """(blocks, 2 + 3K): pictures, right ones, and of each class found, said, support."""
    blocks = cell["blocks"]
    return np.array([[b["n"], b["right"], *b["found"], *b["said"], *b["support"]] for b in blocks], np.float64)


def _accuracy(columns: Floats) -> float:
    return float(columns[1] / columns[0])


def _asked(cell: Result) -> list[int]:
    """The classes that count for F1: all but `none`."""
    return [k for k, name in enumerate(cell["settings"]["card"]["classes"]) if name != "none"]


def _f1(columns: Floats, k: int, asked: Sequence[int]) -> Floats:
    """Mean F1 of the classes that are asked and there, or answered, (n,), of columns (n, 2 + 3K)."""
    found, said, support = (columns[:, 2 + i * k : 2 + (i + 1) * k][:, asked] for i in range(3))
    there = said + support > 0
    f1 = np.where(there, 2 * found / np.maximum(1e-9, said + support), 0.0)
    mean: Floats = f1.sum(axis=1) / np.maximum(1, there.sum(axis=1))
    return mean


def _majority_right(cell: Result) -> Floats:
    """How much is right in each block of always giving the commoner answer, (blocks,)."""
    n = np.array([block["n"] for block in cell["blocks"]], np.float64)
    support = np.array([block["support"] for block in cell["blocks"]], np.float64)  # (blocks, K)
    if cell["settings"]["card"]["task"] == "one_of":
        commonest: Floats = support[:, support.sum(axis=0).argmax()]
        return commonest
    present = support.sum(axis=0) * 2 > n.sum()
    right: Floats = np.where(present, support, n[:, None] - support).mean(axis=1)
    return right


def _majority(cell: Result) -> float:
    return float(_majority_right(cell).sum() / sum(block["n"] for block in cell["blocks"]))


def _over_majority(cells: Sequence[Result]) -> dict[str, Any]:
    """How much better f = 1 is than the commoner answer."""
    columns: Floats = np.mean([_columns(cell) for cell in cells], axis=0)
    return _interval_of(_resampled(columns[:, 0], columns[:, 1] - _majority_right(cells[0]), seed=0))


def _draws(cells: Sequence[Result], base: Sequence[Result], *, seed: int) -> Draws:
    """How much more accurate some cells are than others, on the same blocks and by the seeds that both have."""
    common = _seeds(cells) & _seeds(base)
    one, other = (
        np.mean([_columns(cell) for cell in some if cell["cell"]["seed"] in common], axis=0) for some in (cells, base)
    )
    return _resampled(one[:, 0], one[:, 1] - other[:, 1], seed=seed)


def _resampled(n: Floats, more: Floats, *, seed: int) -> Draws:
    """A difference, that of each resample, and the number of blocks."""
    drawn = resampled(np.column_stack([n, more]), seed=seed)
    return float(more.sum() / n.sum()), drawn[:, 1] / drawn[:, 0], len(n)


def _mean(draws: Sequence[Draws]) -> Draws:
    """The mean over tasks, resample by resample."""
    values, resamples, blocks = zip(*draws, strict=True)
    return float(np.mean(values)), np.mean(resamples, axis=0), sum(blocks)


def _interval_of(draws: Draws) -> dict[str, Any]:
    value, resamples, blocks = draws
    low, high = interval(resamples, blocks) or (float("nan"), float("nan"))
    return {"difference": value, "low": low, "high": high, "blocks": blocks}


def _told(summary: Mapping[str, Any]) -> str:
    head = (
        "task",
        "order",
        "f",
        "seeds",
        "accuracy",
        "95 % over blocks",
        "F1",
        "95 % over blocks",
        "majority",
        "of seeds",
    )
    figures = sorted(summary["figures"], key=_place)
    rows = [
        (
            one["task"],
            one["order"],
            str(one["f"]),
            str(one["seeds"]),
            f"{one['accuracy']:.4f}",
            _shown(one["accuracy_interval"]),
            f"{one['f1']:.4f}",
            _shown(one["f1_interval"]),
            f"{one['majority']:.4f}",
            f"{min(one['accuracy_of_seeds']):.4f} to {max(one['accuracy_of_seeds']):.4f}",
        )
        for one in figures
    ]
    lines = aligned([head, *rows], left=2)
    lines.append("\nf = 1 over the commoner answer, points (95 % over blocks of time):")
    for task, one in summary["solved"].items():
        verdict = "solved" if one["low"] > 0 else "not clearly better: left out of the means"
        lines.append(f"  {task:<20} {_points(one)}  {verdict}")
    lines.append("\ndifferences in points, of the same seeds on the same blocks:")
    for one in sorted(summary["differences"], key=_place):
        where = f"{one['task']:<20} {one['order']:<20} f={one['f']}"
        lines.append(f"  {where}  {_points(one)} to {one['to']}")
    lines.append("\nmeans over tasks, against f = 1, points:")
    for name, one in summary["mean_differences_to_f1"].items():
        lines.append(f"  {name:<34} {_points(one)}  ({', '.join(one['tasks'])})")
    return "\n".join(lines)


def _place(one: Mapping[str, Any]) -> Key:
    return one["task"], one["order"], one["f"]


def _shown(of: tuple[float, float] | None) -> str:
    return f"{of[0]:.4f}..{of[1]:.4f}" if of else "-" * 14


def _points(one: Mapping[str, float]) -> str:
    return f"{100 * one['difference']:+.2f} ({100 * one['low']:+.2f} to {100 * one['high']:+.2f})"
