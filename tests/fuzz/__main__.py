"""Feeds vpipe damaged files, and holds what it does with them against what it promises; see `tests.fuzz`."""

from __future__ import annotations

import sys
import time
from pathlib import Path

import click

from benchmarks.facts import facts
from pipeline.files import make_folder, write_json
from tests.fuzz.harness import KINDS, Found, fuzz, say


@click.command(help=(__doc__ or "").partition("\n")[0])
@click.argument("kind", type=click.Choice(KINDS))
@click.option("--count", type=click.IntRange(min=1), default=1000, show_default=True, help="Cases.")
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Of all of them.")
@click.option("--only", type=click.IntRange(min=0), help="Repeat the one case of this number.")
@click.option("--seconds", type=click.FloatRange(min=0), help="Stop after so many, with what was done.")
@click.option("--out", type=click.Path(path_type=Path, file_okay=False), help="Folder for fuzz-KIND.json.")
def main(kind: str, count: int, seed: int, only: int | None, seconds: float | None, out: Path | None) -> None:
    """Exit codes: 0 nothing found; 1 findings, each with its number; 2 wrong usage."""
    began_s = time.monotonic()
    limit = "" if seconds is None else f" --seconds {seconds:g}"
    one = "" if only is None else f" --only {only}"
    about = {"command": f"python -m tests.fuzz {kind} --count {count} --seed {seed}{limit}{one}", **facts()}

    def keep(found: Found) -> None:
        if out is not None:
            took_s = round(time.monotonic() - began_s, 1)
            make_folder(out)
            write_json(out / f"fuzz-{kind}.json", {**about, "seconds": took_s, "result": found.as_dict()})

    numbers = range(count) if only is None else [only]
    found = fuzz(kind, numbers, seed=seed, seconds=seconds, keep=keep)
    keep(found)
    took_s = time.monotonic() - began_s
    say(f"{kind}: {found.cases} cases, {took_s:.0f} s; one took {found.longest_s:.1f} s and {found.most_mb} MB at most")
    for outcome, n in found.outcomes.most_common():
        click.echo(f"{n:7} {outcome}")
    for crash in found.crashes:
        click.echo(f"--only {crash['number']}: {crash['ended']}, {crash['isolated']} ({crash['mutation']})")
    for finding in found.findings:
        click.echo(f"--only {finding['number']}: {finding['finding']} ({finding['mutation']})")
    sys.exit(1 if found.findings else 0)


if __name__ == "__main__":
    main()
