"""Kills one run over and over at random moments, and holds what it comes to against a run that nobody disturbed.

    python -m benchmarks.kill                        a hundred times SIGKILL, five minutes on two cores
    python -m benchmarks.kill --signal TERM --kills 40

Eight files of 7,200 frames in 576 segments are labelled by `lobby-person-f4`. The run is killed, `--resume` goes on
with it, and so on. Nine in ten kills wait for a commit of the process that they hit, and then for a random moment, so
long that the run is about done at the last of them; the others hit it at any moment, its start included. Afterwards all
of this must hold: a part that was committed is the same file with the same time for ever after; no temporary file is
left; the rows, sorted, are byte for byte those of the undisturbed run.
"""

from __future__ import annotations

import hashlib
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import click
import pyarrow as pa
import pyarrow.dataset as ds

from benchmarks.archive import F4
from benchmarks.facts import ROOT, facts
from benchmarks.footage import clip, joined
from benchmarks.measuring import VPIPE, Failed
from benchmarks.part import RESULTS, say
from pipeline.runs import make_folder, write_json

FILES, REPEATS, SEGMENT = 8, 8, 100
LIMIT_S = 120.0  # of a process
POLL_S = 0.002
ANY_MOMENT = 0.1  # the share of kills that wait for no commit

Parts = dict[Path, tuple[int, int]]  # of each file its inode and its time of change


@click.command(help=(__doc__ or "").partition("\n")[0])
@click.option("--kills", type=click.IntRange(min=1), default=100, show_default=True)
@click.option("--signal", "name", type=click.Choice(["KILL", "TERM"]), default="KILL", show_default=True)
@click.option("--seed", type=int, default=0, show_default=True, help="Of the moments.")
@click.option("--out", type=click.Path(path_type=Path), default=RESULTS, help="Folder for the result.")
def main(kills: int, name: str, seed: int, out: Path) -> None:
    chance = random.Random(seed)
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        write_config(place)
        began_s = time.monotonic()
        if code := start(place, "undisturbed").wait(10 * LIMIT_S):
            raise Failed(f"the undisturbed run must end with 0, got {code}")
        say(f"kill: undisturbed, {time.monotonic() - began_s:.1f} s")
        wanted = parts(place, "undisturbed")
        found = killed(place, kills, signal.Signals[f"SIG{name}"], len(wanted), chance)
        process = start(place, "killed", "--resume")
        code = process.wait(10 * LIMIT_S)
        after = parts(place, "killed")
        found |= {
            "last_exit_code": code,
            "segments": len(wanted),
            "rows": rows(place, "killed").num_rows,
            "same_rows": digest(rows(place, "killed")) == digest(rows(place, "undisturbed")),
            "parts_done_again": found["parts_done_again"] + changed(found.pop("parts"), after),
            "temporary_files": sum(path.name.startswith(".") for path in (place / "killed").rglob("*")),
        }
    document = {
        "command": f"python -m benchmarks.kill --kills {kills} --signal {name} --seed {seed}",
        **facts(),
        "result": found,
    }
    make_folder(out)
    write_json(out / f"kill-{name.lower()}.json", document)
    for key, value in found.items():
        click.echo(f"{key}: {value}")
    sound = found["same_rows"] and not (found["parts_done_again"] or found["temporary_files"] or code)
    sys.exit(0 if sound else 1)


def write_config(place: Path) -> None:
    video = joined(clip("lobby-person"), REPEATS)
    sources = [f"  - {{name: s{k}, path: {video}}}" for k in range(FILES)]
    lines = ["sources:", *sources, f"decode: {{segment_frames: {SEGMENT}}}", f"filter: {{model: {F4}}}"]
    (place / "run.yaml").write_text("\n".join(lines))


def start(place: Path, name: str, *more: str) -> subprocess.Popen[bytes]:
    settings = ["--name", name, "--set", f"run.dir={place}"]
    return subprocess.Popen([*VPIPE, "run", "-q", str(place / "run.yaml"), *settings, *more], cwd=ROOT)


def killed(place: Path, kills: int, number: signal.Signals, segments: int, chance: random.Random) -> dict[str, object]:
    """Kills the run so many times."""
    before: Parts = {}
    when: Counter[str] = Counter()
    codes: Counter[int] = Counter()
    again = 0
    for k in range(kills):
        begun = (place / "killed" / "run.json").exists()
        process = start(place, "killed", *(["--resume"] if begun else []))
        began_s = time.monotonic()
        if chance.random() < ANY_MOMENT:
            time.sleep(chance.uniform(0, 3))
        else:
            ends_s = began_s + LIMIT_S
            while len(parts(place, "killed")) <= len(before) and process.poll() is None and time.monotonic() < ends_s:
                time.sleep(POLL_S)
            # As many segments as are left, over the kills that are left: at some 50 a second.
            share = (segments - len(before)) / (kills - k)
            time.sleep(chance.uniform(0, 2 * share / 50))
        process.send_signal(number)
        codes[process.wait(LIMIT_S)] += 1
        now = parts(place, "killed")
        again += changed(before, now)
        when["before the first commit" if not now else "after the last" if len(now) == segments else "between"] += 1
        before = now
        if k % 10 == 9:
            say(f"kill: {k + 1}, {len(now)} of {segments} segments")
    return {"kills": dict(when), "exit_codes": dict(codes), "parts_done_again": again, "parts": before}


def parts(place: Path, name: str) -> Parts:
    """What is committed."""
    found = (path for path in (place / name / "frames").rglob("*.parquet") if not path.name.startswith("."))
    return {path.relative_to(place): (facts.st_ino, facts.st_mtime_ns) for path in found for facts in [path.stat()]}


def changed(before: object, after: Parts) -> int:
    """How many parts are not what they were."""
    assert isinstance(before, dict)
    return sum(after.get(path) != facts for path, facts in before.items())


def rows(place: Path, name: str) -> pa.Table:
    """All rows of a run, sorted, without dictionaries, which Arrow does not sort by and which may differ in order."""
    found = ds.dataset(place / name / "frames").to_table()
    plain = {
        field.name: column.cast(pa.string()) if pa.types.is_dictionary(field.type) else column
        for field, column in zip(found.schema, found.columns, strict=True)
    }
    return pa.table(plain).sort_by([("source", "ascending"), ("frame", "ascending")])


def digest(table: pa.Table) -> str:
    """Of all bytes of a table."""
    out = pa.BufferOutputStream()
    with pa.ipc.new_stream(out, table.schema) as writer:
        writer.write_table(table.combine_chunks())
    return hashlib.sha256(out.getvalue()).hexdigest()


if __name__ == "__main__":
    main()
