"""A part of the suite: cases that are measured one after the other, a JSON document and a picture.

A case that is done is not done again while commit, machine, versions and settings are the same; `--again` does it.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TypeVar

import click

from benchmarks.facts import ROOT
from benchmarks.measuring import Result
from pipeline.drawing import drawn
from pipeline.files import make_folder, write_json
from pipeline.text import aligned

T = TypeVar("T")

RESULTS = ROOT / "benchmarks" / "results"
NAMED = 24  # cases, where there are more
# Figures that are shown: heading, factor, digits.
SHOWN = {
    "frames_per_s": ("frames/s", 1.0, 0),
    "frames_per_cpu_s": ("frames/CPU-s", 1.0, 0),
    "images_per_s": ("images/s", 1.0, 0),
    "start_up_s": ("start-up s", 1.0, 1),
    "first_label_s": ("first label s", 1.0, 2),
    "peak_bytes_short": ("peak MB, short", 1e-6, 0),
    "peak_bytes_long": ("peak MB, long", 1e-6, 0),
}


def options(command: Callable[..., None]) -> Callable[..., None]:
    """What the command of a part can be told."""
    for option in (
        click.option("--out", type=click.Path(path_type=Path), default=RESULTS, help="Folder for the results."),
        click.option("--again", is_flag=True, help="Measure again what was measured."),
        click.option("--only", default="", metavar="TEXT", help="Only cases whose name holds this."),
        click.option("--rounds", type=click.IntRange(min=1), default=5, show_default=True, help="In alternation."),
    ):
        command = option(command)
    return command


def chosen(cases: Mapping[str, T], only: str) -> dict[str, T]:
    """The cases whose name holds this text. Raises UsageError if there is none."""
    found = {name: case for name, case in cases.items() if only in name}
    if not found:
        names = "; ".join(list(cases)[:NAMED]) + (f" and {len(cases) - NAMED} more" if len(cases) > NAMED else "")
        raise click.UsageError(f"--only: must be in the name of a case, of {names}, got {only!r}")
    return found


seconds_option = click.option(
    "--seconds",
    type=click.FloatRange(min=0.1),
    default=2.5,
    show_default=True,
    help="By which a long run is longer than a short one.",
)


def run_part(
    name: str,
    cases: Mapping[str, Callable[[], Result]],
    *,
    origin: Mapping[str, object],
    settings: Mapping[str, object],
    out: Path,
    again: bool,
) -> None:
    """Measures the cases that are not done yet, and writes NAME.json and NAME.png.

    Args:
        name: Of the part.
        cases: A function that measures, for each.
        origin: Commit, machine and versions, as of `benchmarks.facts`.
        settings: What decides the figures but the code and the machine.
        out: Folder for the results.
        again: Cases that are done are done again.
    """
    path = out / f"{name}.json"
    document: Result = {"command": f"python -m benchmarks.{name}", **origin, "settings": dict(settings)}
    document["cases"] = {}
    if (earlier := read(path)) is not None:
        if are_alike(earlier, document):
            document["cases"] = earlier["cases"]
        elif (lost := sorted(set(earlier["cases"]) - set(cases))) and not again:
            told = f"holds cases of another state or other settings, {', '.join(lost)}, which would be lost"
            raise click.ClickException(f"{path}: {told}; choose another --out, or replace it with --again")
    for case, measure in cases.items():
        if case in document["cases"] and not again:
            say(f"{name}: {case}: done before")
            continue
        say(f"{name}: {case}")
        document["cases"][case] = measure()
        make_folder(out)
        write_json(path, document)
        click.echo("\n".join(table(case, document["cases"][case])) + "\n")
    if document["cases"]:
        picture(document, out / f"{name}.png", title=name)
        say(f"{name}: {path}, {path.with_suffix('.png')}")


def say(line: str) -> None:
    click.echo(line, err=True)


def read(path: Path) -> Result | None:
    """The document of an earlier run; None if there is none of this form."""
    try:
        found = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) and "cases" in found else None


def are_alike(one: Result, other: Result) -> bool:
    """Whether two documents come from one committed state of the code, one machine and the same settings."""
    keys = ("commit", "machine", "versions", "ffmpeg", "settings")
    known = one["commit"] != "unknown" and not one["commit"].endswith("-dirty")
    return known and all(one.get(key) == json.loads(json.dumps(other.get(key))) for key in keys)


def table(case: str, of: Result) -> list[str]:
    """A case as it is read."""
    keys = [key for key in SHOWN if any(key in arm["medians"] for arm in of["arms"].values())]
    rows = [[case, *(SHOWN[key][0] for key in keys)]]
    rows += [[name, *(_shown(arm["medians"], key) for key in keys)] for name, arm in of["arms"].items()]
    lines = aligned(rows)
    lines += [
        f"{name}: {r['value']:.2f}" + (f" ({r['lowest']:.2f} to {r['highest']:.2f})" if "lowest" in r else "")
        for name, r in of["ratios"].items()
    ]
    return [*lines, *(f"{name}: left out: {why}" for name, why in of["left_out"].items())]


def _shown(figures: Mapping[str, float], key: str) -> str:
    _, factor, digits = SHOWN[key]
    return f"{figures[key] * factor:,.{digits}f}" if key in figures else "-"


def picture(document: Result, out: Path, *, title: str) -> None:
    """A panel of bars per case; a thin line over each bar spans its rounds."""
    cases = document["cases"]
    heights = [len(case["drawn"]) + 1.5 for case in cases.values()]
    with drawn(out, (8.0, 0.8 + 0.24 * sum(heights)), given_by="--out", constrained=True) as figure:
        at, cpu = str(document["commit"])[:12], document["machine"]["cpu"]
        figure.suptitle(
            f"{title}: medians, commit {at}, {cpu}, {document['machine']['cores']} cores", x=0.01, ha="left"
        )
        panels = figure.subplots(len(cases), 1, squeeze=False, height_ratios=heights)[:, 0]
        for axes, (name, case) in zip(panels, cases.items(), strict=True):
            key, arms = case["figure"], {arm: case["arms"][arm] for arm in case["drawn"]}
            values = [arm["medians"][key] for arm in arms.values()]
            rounds = [
                [one[key] for one in arm["rounds"]] or [value] for arm, value in zip(arms.values(), values, strict=True)
            ]
            axes.barh(list(arms), values, color="#9FB3C8", height=0.7)
            axes.hlines(list(arms), list(map(min, rounds)), list(map(max, rounds)), color="#1F2933", linewidth=1)
            for row, value in enumerate(values):
                text = f" {value * SHOWN[key][1]:,.{SHOWN[key][2]}f} "
                axes.annotate(text, (max(rounds[row] + [value]), row), va="center")
            axes.invert_yaxis()
            axes.margins(x=0.12)
            axes.set_title(f"{name}: {SHOWN[key][0]}", loc="left", fontsize=9)
            axes.spines[["top", "right"]].set_visible(False)
