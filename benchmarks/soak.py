"""A million frames through one run: its memory must stay flat, and its files and threads with it.

    python -m benchmarks.soak                        eight minutes on two cores
    python -m benchmarks.soak --frames 60000

Eight files of one length are labelled by `lobby-person-f4`, with events, a csv file, JSON lines of events and a
database of rows. Each second the process is looked at from outside, and the rows of the parts that it has committed are
counted, which tells how far it is. Memory, files and threads are medians of each tenth of the frames. The exit code is
1 if the run fails or hangs, if a frame has not exactly one row in the parts, if the csv file or the database has not as
many rows as there are frames, if a tenth behind the first holds over 5 % more memory than was held about 10 % of the
frames, or if one has more files or threads than the second.
"""

from __future__ import annotations

import math
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

import click
import numpy as np
import pyarrow.parquet as pq

from benchmarks.archive import F4
from benchmarks.facts import ROOT, facts
from benchmarks.footage import clip, frames, joined
from benchmarks.live import Sampled
from benchmarks.measuring import VPIPE, Failed
from benchmarks.part import RESULTS, say
from pipeline.files import make_folder, write_json

CLIP, FILES = "lobby-person", 8
SAMPLE_S = 1.0
TENTHS = 10
AROUND = 0.05  # of the frames, on either side of the first tenth's end, for the memory that later ones are held against
MOST_GROWTH = 0.05
LIMIT_S, FRAME_S = 120.0, 0.005  # of a run, and for each of its frames: ten times what two cores take
WRITTEN = ("frames_with_one_row", "csv_lines", "database_rows")  # each as many as there are frames
Result = dict[str, object]


@click.command(help=(__doc__ or "").partition("\n")[0])
@click.option("--frames", "least", type=click.IntRange(min=1), default=1_000_000, show_default=True, help="At least.")
@click.option("--out", type=click.Path(path_type=Path), default=RESULTS, help="Folder for the result.")
def main(least: int, out: Path) -> None:
    repeats = math.ceil(least / (FILES * frames(clip(CLIP))))
    video = joined(clip(CLIP), repeats)
    total = FILES * frames(video)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_config(folder, video)
        parts = folder / "runs" / "run" / "frames"
        process = subprocess.Popen([*VPIPE, "run", "-q", str(folder / "run.yaml")], cwd=ROOT)
        try:
            sampled, done, seconds = watched(process, parts, total)
        finally:
            process.kill()
            process.wait()
        written = {
            "frames_with_one_row": with_one_row(parts, total // FILES),
            "csv_lines": csv_lines(folder / "rows.csv"),
            "database_rows": database_rows(folder / "rows.sqlite"),
        }
    found = judged(sampled, done, total) | written
    found |= {"seconds": round(seconds, 1), "exit_code": process.returncode}
    make_folder(out)
    write_json(
        out / "soak.json", {"command": f"python -m benchmarks.soak --frames {least}", **facts(), "result": found}
    )
    for key, value in found.items():
        click.echo(f"{key}: {value}")
    sys.exit(0 if is_sound(found) else 1)


def is_sound(found: Result) -> bool:
    """Whether all holds that must."""
    counts = ("rows", *WRITTEN)
    are_all = all(found[name] == found["frames"] for name in counts)
    return bool(found["is_flat"] and found["is_level"] and are_all and not found["exit_code"])


def write_config(folder: Path, video: Path) -> None:
    lines = [
        f"run: {{dir: {folder / 'runs'}}}",
        "sources:",
        *(f"  - {{name: s{k}, path: {video}}}" for k in range(FILES)),
        f"filter: {{model: {F4}, events: {{person: {{on: 0.6, off: 0.4}}}}}}",
        "sinks:",
        f"  - {{type: csv, path: {folder / 'rows.csv'}}}",
        f"  - {{type: jsonl, path: {folder / 'events.jsonl'}, events: true}}",
        f"  - {{type: sqlite, path: {folder / 'rows.sqlite'}, rows: true}}",
    ]
    (folder / "run.yaml").write_text("\n".join(lines))


def watched(process: subprocess.Popen[bytes], parts: Path, total: int) -> tuple[Sampled, list[int], float]:
    """Samples the process until it ends; how many frames were committed at each sample, and its seconds in all.

    Raises:
        Failed: it fails, or takes too long, as one that hangs.
    """
    sampled, done = Sampled(process.pid), list[int]()
    rows: dict[Path, int] = {}
    began_s = time.monotonic()
    limit_s = LIMIT_S + FRAME_S * total
    while process.poll() is None:
        if time.monotonic() - began_s > limit_s:
            raise Failed(f"vpipe run: must end within {limit_s:.0f} s, got {sum(rows.values()):,} of {total:,} frames")
        try:
            sampled.sample()
        except (OSError, KeyError):  # it ends
            process.wait()
            break
        done.append(committed(parts, rows))
        if len(done) % 60 == 0:
            say(f"soak: {done[-1]:,} of {total:,} frames, {sampled.rss_bytes[-1] / 1e6:.0f} MB")
        time.sleep(SAMPLE_S)
    seconds = time.monotonic() - began_s
    if process.returncode:
        raise Failed(f"vpipe run: exit code {process.returncode}")
    done.append(committed(parts, rows))  # after the last sample
    return sampled, done, seconds


def committed(parts: Path, rows: dict[Path, int]) -> int:
    """Rows in all parts; `rows` remembers those of each."""
    for path in parts.rglob("*.parquet"):
        if path not in rows and not path.name.startswith("."):
            rows[path] = pq.read_metadata(path).num_rows
    return sum(rows.values())


def with_one_row(parts: Path, frames: int) -> int:
    """How many frames have exactly one row in the parts, less the rows of no frame; `frames`: of each source."""
    rows = np.zeros((FILES, frames), np.int64)
    unknown = 0
    for path in parts.rglob("*.parquet"):
        if not path.name.startswith("."):
            numbers = pq.read_table(path, columns=["frame"])["frame"].to_numpy()
            known = (numbers >= 0) & (numbers < frames)
            np.add.at(rows[int(path.parent.name.removeprefix("s"))], numbers[known], 1)
            unknown += int(np.count_nonzero(~known))
    return int(np.count_nonzero(rows == 1)) - unknown


def csv_lines(path: Path) -> int:
    """Rows of a csv file, behind its heading."""
    with path.open("rb") as file:
        return sum(1 for _ in file) - 1


def database_rows(path: Path) -> int:
    """Of labels."""
    with closing(sqlite3.connect(path)) as db:
        return int(db.execute("select count(*) from labels").fetchone()[0])


def judged(sampled: Sampled, done: Sequence[int], total: int) -> Result:
    """Memory, files and threads by tenths of the frames, and whether memory is flat.

    Args:
        sampled: The samples.
        done: Frames at each, and in the end.
        total: Frames that there are.
    """
    tenths: dict[int, list[int]] = {}
    for sample, n in zip(range(len(sampled.rss_bytes)), done, strict=False):
        tenths.setdefault(min(TENTHS, 1 + TENTHS * n // total), []).append(sample)
    if set(tenths) != set(range(1, TENTHS + 1)):
        raise Failed(f"each tenth of the frames must have a sample, got some of {sorted(tenths)}; raise --frames")
    rss = np.array(sampled.rss_bytes) / 1e6
    medians = {tenth: statistics.median(rss[of].tolist()) for tenth, of in sorted(tenths.items())}
    half = [sample for tenth, of in tenths.items() if tenth > TENTHS // 2 for sample in of]
    slope = float(np.polyfit(np.array(done)[half] / 1e5, rss[half], 1)[0]) if len(half) > 1 else 0.0
    share = np.array(done[: len(rss)]) / total
    around = rss[abs(share - 1 / TENTHS) <= AROUND]
    if not len(around):
        raise Failed(f"there must be a sample about {100 // TENTHS} % of the frames, got none; raise --frames")
    reference = float(np.median(around))
    files, threads = (
        {tenth: statistics.median_low(of[k] for k in at) for tenth, at in sorted(tenths.items())}
        for of in (sampled.files, sampled.threads)
    )
    growth = max(value for tenth, value in medians.items() if tenth > 1) / reference - 1
    return {
        "frames": total,
        "rows": done[-1],
        "samples": len(rss),
        "rss_mb": {f"{10 * tenth} %": round(value, 1) for tenth, value in medians.items()},
        "rss_mb_highest": round(float(rss.max()), 1),
        "rss_mb_per_100000_frames_in_the_second_half": round(slope, 3),
        "files": {f"{10 * tenth} %": number for tenth, number in files.items()},
        "threads": {f"{10 * tenth} %": number for tenth, number in threads.items()},
        "is_level": all(number <= of[2] for of in (files, threads) for tenth, number in of.items() if tenth > 2),
        "rss_mb_at_10_percent": round(reference, 1),
        "growth": round(growth, 4),
        "most_growth": MOST_GROWTH,
        "is_flat": growth <= MOST_GROWTH,
    }


if __name__ == "__main__":
    main()
