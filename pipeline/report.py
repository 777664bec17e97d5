"""A run's summary in words, for the end of `vpipe run`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import cast

__all__ = ["report"]

MOST_SOURCES = 10
RECEIVED = {"sent": "sent", "refused": "REFUSED", "lost": "GIVEN UP", "pending": "waiting for the next run"}


def report(summary: Mapping[str, object], folder: Path) -> str:
    """The summary as a person reads it: what was labelled, what was not and why, how fast, what it waited for."""
    frames = cast(Mapping[str, int], summary["frames"])
    lines = [_headline(summary, frames)]
    lost = [f"{frames[key]:,} {key}" for key in ("corrupt", "unread", "failed", "dropped") if frames[key]]
    if lost:
        lines.append("not labelled: " + ", ".join(lost))
    again = cast(Mapping[str, int], summary["again"])
    if again["segments"]:
        of = f" of {again['frames']:,} frames" if again["frames"] else ""
        lines.append(f"to be tried again by --resume: {again['segments']:,} segments{of}")
    if frames["skipped"]:
        nothing = (
            "; decode.frames, every, fps, from, to and limit leave nothing"
            if frames["skipped"] == frames["indexed"]
            else ""
        )
        lines.append(f"left out on request: {frames['skipped']:,} of {frames['indexed']:,}{nothing}")
    of_these = {"filtered": "not kept", "damaged": "damaged, as the decoder repaired them"}
    passed = [f"{frames[key]:,} {words}" for key, words in of_these.items() if frames[key]]
    if passed:
        lines.append("of the labelled: " + ", ".join(passed))
    sources = cast(Mapping[str, Mapping[str, object]], summary["sources"])
    errors = [f"  {name}: {told}" for name, source in sources.items() if (told := _trouble(source))]
    lines += errors[:MOST_SOURCES]
    if len(errors) > MOST_SOURCES:
        lines.append(f"  and {len(errors) - MOST_SOURCES} more, see ledger.json")
    if summary["state"] == "interrupted":
        lines.append(f"{_left(sources)}; --resume goes on, csv files come at the end")
    if summary.get("error"):
        lines.append(f"broken off: {summary['error']}")
    lines += [f"DOES NOT ADD UP: {problem}" for problem in cast(list[str], summary["problems"])]
    for name, counts in cast(Mapping[str, Mapping[str, int]], summary.get("receivers", {})).items():
        told = ", ".join(f"{counts[key]:,} {words}" for key, words in RECEIVED.items() if counts[key])
        lines.append(f"sink {name}: {told or 'nothing to send'}")
    for name, facts in cast(Mapping[str, Mapping[str, object]], summary["filters"]).items():
        lines.append(f"filter {name}: {_model(facts)}, {_fold(facts)}")
    if summary["bound_by"]:
        lines.append(f"bound by {summary['bound_by']}; {_gpu(summary)}")
    lines.append(f"results: {folder}")
    return "\n".join(lines)


def _left(sources: Mapping[str, Mapping[str, object]]) -> str:
    """What an interrupted run has still to do."""
    unfinished = [source for source in sources.values() if not source["finished"]]
    begun = sum(bool(source["indexed"] or source["error"]) for source in unfinished)
    counted = ((begun, "not finished"), (len(unfinished) - begun, "not begun"))
    told = ", ".join(f"{number:,} {words}" for number, words in counted if number)
    return f"sources: {told}" if told else "every source is finished"


def _trouble(source: Mapping[str, object]) -> str | None:
    """What went wrong with a source, in words."""
    keys = ("corrupt", "unread", "failed", "dropped", "damaged")
    counted = ", ".join(f"{source[key]:,} {key}" for key in keys if source[key])
    if source["error"] is None:
        return f"{counted} frames, see ledger.json for which" if counted else None
    return f"{source['error']}" + (f" ({counted} frames)" if counted else "")


def _headline(summary: Mapping[str, object], frames: Mapping[str, int]) -> str:
    rate = summary["frames_per_s"]
    speed = f", {rate:,.0f} frames/s" if isinstance(rate, float) else ""
    # How many an interrupted run would have labelled is not known: what had no turn is not counted yet.
    of = "" if summary["state"] == "interrupted" else f" of {frames['indexed'] - frames['skipped']:,}"
    # Where there are regions, a frame is many pictures.
    many = f" ({frames['pictures']:,} pictures)" if frames["pictures"] > frames["labelled"] else ""
    return f"{summary['state']}: {frames['labelled']:,}{of} frames labelled{many} in {summary['seconds']:.1f} s{speed}"


def _model(facts: Mapping[str, object]) -> str:
    dtype = f"{facts['dtype']} and 8 bits" if facts["quantized"] else facts["dtype"]
    return f"{Path(str(facts['model'])).name} on {facts['device']} ({facts['engine']}, {dtype})"


def _fold(facts: Mapping[str, object]) -> str:
    if facts["fold"] == 1:
        return "not folded"
    return f"{facts['fold']} pictures folded, {facts['order']}, {facts['padded_slots']} padded slots"


def _gpu(summary: Mapping[str, object]) -> str:
    gpu = summary["gpu"]
    if gpu is None:
        return f"no GPU telemetry: {summary['gpu_absent']}"
    mean = cast(Mapping[str, float | None], gpu)["util_mean"]
    return "GPU utilization not reported" if mean is None else f"GPU utilization {mean:.0f} % on average"
