"""Measures everything: `make bench`. Or compares a shorter run with the results that are committed: `make bench-check`.

python -m benchmarks.suite                       40 minutes on two cores; goes on where it was stopped
python -m benchmarks.suite --check               ten minutes
python -m benchmarks.suite archive growth        some parts
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import click

from benchmarks.check import compared, told
from benchmarks.facts import ROOT
from benchmarks.footage import CACHE
from benchmarks.part import RESULTS, read, say

PARTS = ("archive", "growth", "startup", "models", "regions")
# What a check measures again: few cases in few rounds, to the ratios that are told in docs/performance.md.
CHECKED = {
    "archive": ["--only", "lobby-person, one", "--arms", "vpipe f=4,vpipe f=1,opencv,pyav,wall", "--rounds", "3"],
    "growth": ["--rounds", "3", "--only", "footage"],
    "startup": ["--rounds", "3"],
    "models": ["--rounds", "3", "--only", "coral"],
    "regions": ["--rounds", "3", "--only", "coin-count"],
}


@click.command(help=(__doc__ or "").partition("\n")[0])
@click.argument("parts", nargs=-1, type=click.Choice(PARTS))
@click.option("--check", is_flag=True, help="Compare with the committed results; exit code 1 if a ratio fell.")
@click.option("--again", is_flag=True, help="Measure again what was measured.")
@click.option("--out", type=click.Path(path_type=Path), default=RESULTS, help="Folder of the results.")
def main(parts: tuple[str, ...], check: bool, again: bool, out: Path) -> None:
    chosen = parts or PARTS
    fresh = CACHE / "check" if check else out
    for part in chosen:
        command = [sys.executable, "-m", f"benchmarks.{part}", "--out", str(fresh.absolute())]
        command += [*(CHECKED[part] if check else []), *(["--again"] if again or check else [])]
        say(f"{part}: {' '.join(command[1:])}")
        if code := subprocess.run(command, cwd=ROOT, check=False).returncode:
            raise click.ClickException(f"{part}: exit code {code}; call again to go on")
    if check:
        sys.exit(checked(chosen, fresh, out))


def checked(parts: tuple[str, ...], fresh: Path, committed: Path) -> int:
    """Tells what became of the ratios; 1 if one fell, or none of a part can be compared."""
    wrong = False
    for part in parts:
        old, new = (read(folder / f"{part}.json") for folder in (committed, fresh))
        if old is None or new is None:
            click.echo(f"{part}: nothing to compare with in {committed}; `python -m benchmarks.{part}` makes it")
            wrong = True
            continue
        changes = compared(old, new)
        click.echo("\n".join(told(part, old, new, changes)))
        wrong = wrong or not changes or any(change.fell for change in changes)
    return int(wrong)


if __name__ == "__main__":
    main()
