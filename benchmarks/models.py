"""The small models of the zoo at each f, by `vpipe bench`: docs/bench.md says what is timed.

    python -m benchmarks.models                      five minutes on two cores

The ratios are those over the fastest f = 1 that was found, within rounds; below 1 folding loses.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import click

from benchmarks.facts import facts
from benchmarks.measuring import VPIPE, Result, ran
from benchmarks.part import options, run_part

FOLDS = "1,2,3,4,8,16"


@click.command(help=(__doc__ or "").partition("\n")[0])
@options
def main(rounds: int, only: str, again: bool, out: Path) -> None:
    names = json.loads(ran([*VPIPE, "models", "--json"]).said)
    settings = {"rounds": rounds, "fold": FOLDS}
    asked = ["--json", "-q", "--fold", FOLDS, "--rounds", str(rounds)]
    cases = {name: partial(measured, name, asked) for name in small(names) if only in name}
    run_part("models", cases, origin=facts(), settings=settings, out=out, again=again)


def small(listing: Iterable[Mapping[str, Any]]) -> list[str]:
    """The models that folding is for, of those that `vpipe models` lists."""
    names = [str(model["name"]) for model in listing]
    return [name for name in names if name != "resnet18" and not name.endswith("-compound")]


def measured(name: str, asked: Sequence[str]) -> Result:
    return case(json.loads(ran([*VPIPE, "bench", name, *asked]).said))


def case(document: Result) -> Result:
    """What `vpipe bench` found of one model, as a case."""
    (tuned, *_), rows = document["tuned_f1"], document["models"]
    arms = {"f = 1, tuned": {"images_per_s": tuned["engine_images_per_s"]}}
    ratios = {}
    for row in rows:
        name = f"f = {row['fold']}, {row['dtype']}"
        if row["engine_images_per_s"] is not None:
            arms[name] = {"images_per_s": row["engine_images_per_s"]}
        for key, what in (("engine_against_tuned_f1", "engine"), ("against_tuned_f1", "model alone")):
            if row["fold"] > 1 and row[key] is not None:
                ratios[f"{name} / f = 1, {what}"] = {"value": row[key]}
    return {
        "figure": "images_per_s",
        "arms": {name: {"medians": figures, "rounds": []} for name, figures in arms.items()},
        "ratios": ratios,
        "left_out": {},
        "bench": document,
    }


if __name__ == "__main__":
    main()
