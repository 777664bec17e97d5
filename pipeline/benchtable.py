"""What `vpipe bench` found, as a person reads it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pipeline.text import aligned

__all__ = ["amount", "footer", "medians", "table"]

Row = Mapping[str, Any]

PREFIXES = ((1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"))


def table(document: Mapping[str, Any], name: str) -> str:
    """One model: the tuned f = 1, then a line per dtype and f."""
    rows = [row for row in document["models"] if row["name"] == name]
    if not rows:
        return f"{name}: nothing could be measured; see the notes"
    height, width = rows[0]["input"]
    lines = [f"{name}: {height}x{width}, {rows[0]['classes']} classes"]
    lines += [f"  tuned f = 1: {_settings(tuned)}" for tuned in document["tuned_f1"] if tuned["name"] == name]
    tuned = any(row["tuned"] for row in rows)
    columns = ["f", "dtype", "images/s", "lowest", "highest", "FLOP/s", "of peak", "FLOP/B", "vs tuned"]
    columns += [*(["tuned", "vs tuned"] if tuned else []), "engine", "vs tuned"]
    watched = any(row["nvml_utilization"] is not None for row in rows)
    columns += ["NVML"] if watched else []
    cells = [columns]
    for row in rows:
        low, high = row["spread"] or (None, None)
        line = [str(row["fold"]), row["dtype"], *map(_count, (row["images_per_s"], low, high))]
        line += [amount(row["achieved_flops"], ""), _percent(row["share_of_peak"])]
        line += [_fixed(row["intensity_as_run"], 1), _times(row["against_tuned_f1"])]
        own = row["tuned"] or {}
        line += [_count(own.get("images_per_s")), _times(own.get("against_tuned_f1"))] if tuned else []
        line += [_count(row["engine_images_per_s"]), _times(row["engine_against_tuned_f1"])]
        line += [_fixed(row["nvml_utilization"], 0) + " %"] if watched else []
        cells.append(line)
    return "\n".join([*lines, *(f"  {line}" for line in aligned(cells, left=0))])


def footer(document: Mapping[str, Any]) -> str:
    """What the tables are measured against, and what their columns mean."""
    facts, settings, bandwidth = document["machine"], document["settings"], document["bandwidth"]
    where = facts["device_name"] or facts["cpu"] or "CPU"
    lines = [f"{where}, {facts['device']}, {facts['threads']} CPU threads, torch {facts['torch']}"]
    for dtype, roof in document["peak"].items():
        told = (
            f"measured peak in {dtype}: {amount(roof['flops_per_s'], 'FLOP/s')} ({roof['size']}x{roof['size']} product)"
        )
        ridge = document["ridge"].get(dtype)
        lines.append(told if ridge is None else f"{told}, ridge at {ridge:.0f} FLOP/B")
    if bandwidth:
        lines.append(f"measured bandwidth: {amount(bandwidth['bytes_per_s'], 'B/s')} ({bandwidth['kind']})")
    lines += [
        f"images/s, FLOP/s: the model alone at {settings['pictures']:,} images a batch, input on the device already;"
        f" {medians(settings['rounds'])}",
        f"engine ({settings['engine']}): images/s from uint8 pictures to scores, both in the CPU's memory",
        "vs tuned: over the fastest f = 1 of all settings tried, within rounds; below 1 folding loses",
    ]
    if document["nvml_absent"] is None:
        lines.append(
            "NVML: percent of the time that any kernel ran, which says little about how well it used the device"
        )
    else:
        lines.append(f"no utilization by NVML: {document['nvml_absent']}")
    return "\n".join(lines)


def medians(rounds: int) -> str:
    return "one round" if rounds == 1 else f"medians of {rounds} rounds"


def amount(value: float | None, unit: str) -> str:
    """A large number with a prefix: 1.23 TFLOP/s."""
    if value is None:
        return "-"
    for scale, prefix in PREFIXES:
        if value >= scale:
            return f"{value / scale:.3g} {prefix}{unit}"
    return f"{value:.3g} {unit}".rstrip()


def _settings(record: Row) -> str:
    told = f"{_count(record['images_per_s'])} images/s ({record['dtype']}, {record['layout']}, {record['mode']}, "
    told += f"{record['pictures']:,} images a batch)"
    if record["engine_images_per_s"] is not None:
        told += f"; engine {_count(record['engine_images_per_s'])} ({record['engine_dtype']}, "
        told += f"{record['engine_pictures']:,} images a batch)"
    return told


def _count(value: float | None) -> str:
    return "-" if value is None else f"{value:,.0f}"


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{100 * share:.1f} %"


def _times(ratio: float | None) -> str:
    return "-" if ratio is None else f"{ratio:.2f}x"


def _fixed(value: float | None, digits: int) -> str:
    return "-" if value is None else f"{value:.{digits}f}"
