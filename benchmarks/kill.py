"""Disturbs one run over and over at random moments, and holds what it comes to against a run that nobody disturbed.

    python -m benchmarks.kill                        a hundred times SIGKILL, five minutes on two cores
    python -m benchmarks.kill --isolate --times 20   the same, where decoders are processes of their own
    python -m benchmarks.kill --by term --times 40   SIGTERM
    python -m benchmarks.kill --by disk              its disk is full until it has broken off; needs root, for a tmpfs
    python -m benchmarks.kill --by receiver          a receiver of its rows goes and comes, and SIGKILL

Eight files of 7,200 frames in 576 segments are labelled by `lobby-person-f4` and `-f1`: a segment is committed when
each of the two has its part. The run is disturbed, `--resume` goes on with it, and so on. Nine in ten moments wait for
a commit of the process that they hit, and then for a random time, so long that the run is about done at the last of
them; the others are any moment, its start included. Afterwards all of this must hold: the parts of a segment that was
committed are the same files with the same times for ever after; no temporary file is left, and no part too many; the
rows, sorted, are byte for byte those of the undisturbed run; footers and `ledger.json` tell the same of each segment;
each process ended as it must, without a traceback; and of SIGKILL and SIGTERM, seven in ten moments at least lay
between the first commit and the last.

*disk*: the run must break off by itself, with exit code 1 and a message that names a file, and without a traceback; a
sink with a spool and a csv file are on that disk, too, and what they wrote must be as undisturbed. *receiver*: each row
must arrive at least once with the undisturbed run's label and score, and none that is not the run's.
"""

from __future__ import annotations

import hashlib
import json
import os
import random
import re
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager, suppress
from pathlib import Path

import click
import numpy as np
import pyarrow as pa
import pyarrow.dataset as ds

from benchmarks.archive import F1, F4
from benchmarks.facts import ROOT, facts
from benchmarks.footage import clip, joined
from benchmarks.live import Receiver
from benchmarks.measuring import VPIPE, Failed
from benchmarks.part import RESULTS, say
from pipeline.batch import SegmentEnd
from pipeline.files import make_folder, write_json
from pipeline.sinks.database import OF_ROWS
from pipeline.sinks.parts import read_end

FILES, REPEATS, SEGMENT = 8, 8, 100
LIMIT_S = 120.0  # of a process
POLL_S = 0.002
FILL_S = 0.05  # between two looks at what became free
ANY_MOMENT = 0.1  # the share of moments that wait for no commit
DISK_MB = 64  # several times what the run leaves
LEFT_BYTES = 1 << 16  # of room that a filled disk may have left, so that it runs out in different places
FOLDER = "the run's folder"
BETWEEN = 0.7  # the least share of moments between the first commit and the last
FILTERS = {"four": F4, "one": F1}
ENDS = {  # with what processes may end; SIGTERM may come before the program has begun
    "kill": {-signal.SIGKILL, 0},
    "term": {-signal.SIGTERM, 130, 0},
    "disk": {1, 0},
    "receiver": {-signal.SIGKILL, 0},
}
KILLED_OF = 3  # one in so many moments of the receiver is a SIGKILL, too

Parts = dict[Path, tuple[int, int]]  # of each file its inode and its time of change
Found = dict[str, object]
Id = tuple[object, ...]  # of a row: filter, source, frame
Told = tuple[object, ...]  # label, score


@click.command(help=(__doc__ or "").partition("\n")[0])
@click.option("--by", type=click.Choice(["kill", "term", "disk", "receiver"]), default="kill", show_default=True)
@click.option("--isolate", is_flag=True, help="Decode in processes of their own.")
@click.option("--times", type=click.IntRange(min=1), default=100, show_default=True)
@click.option("--seed", type=int, default=0, show_default=True, help="Of the moments.")
@click.option("--out", type=click.Path(path_type=Path), default=RESULTS, help="Folder for the result.")
def main(by: str, isolate: bool, times: int, seed: int, out: Path) -> None:
    chance = random.Random(seed)
    with tempfile.TemporaryDirectory() as folder, ExitStack() as cleanup:
        place, receiver = Path(folder), None
        if by == "disk":
            place = cleanup.enter_context(small_disk(place / "disk"))
        if by == "receiver":
            receiver = Receiver(place)
            receiver.start()
            cleanup.callback(receiver.stop)
        for name in ("undisturbed", "killed"):
            write_config(place, name, sinks(by, Path(folder), name, receiver), isolate=isolate)
        began_s = time.monotonic()
        if code := start(place, "undisturbed").wait(10 * LIMIT_S):
            raise Failed(f"the undisturbed run must end with 0, got {code}")
        say(f"kill: undisturbed, {time.monotonic() - began_s:.1f} s")
        segments = len(parts(place, "undisturbed")) // len(FILTERS)
        run = Disturbed(place, times, segments, chance)
        if by == "disk":
            found = filled(run)
        elif receiver is not None:
            found = left_alone(run, receiver)
        else:
            found = killed(run, signal.Signals[f"SIG{by.upper()}"])
        code = start(place, "killed", "--resume").wait(10 * LIMIT_S)
        run.look()
        found |= {
            "last_exit_code": code,
            "when": dict(run.when),
            "segments": segments,
            "rows": rows(place, "killed").num_rows,
            "same_rows": digest(rows(place, "killed")) == digest(rows(place, "undisturbed")),
            "same_parts": files(place, "killed") == files(place, "undisturbed"),
            "same_footers": footers(place, "killed") == footers(place, "undisturbed"),
            "same_ledger": ledger(place, "killed") == ledger(place, "undisturbed"),
            "parts_done_again": run.again,
            "half_committed": run.halves,
            "temporary_files": sum(path.name.startswith(".") for path in (place / "killed").rglob("*")),
        }
        found["ended_otherwise"] = sum(n for code, n in found["exit_codes"].items() if code not in ENDS[by])
        if by in ("kill", "term"):
            found["too_few_between"] = run.when["between"] < BETWEEN * times
        if by == "disk":
            found |= written(place, Path(folder))
        if receiver is not None:
            found |= arrivals(place, Path(folder) / "received")
    command = f"python -m benchmarks.kill --by {by}{' --isolate' * isolate} --times {times} --seed {seed}"
    make_folder(out)
    write_json(out / f"kill-{by}{'-isolated' * isolate}.json", {"command": command, **facts(), "result": found})
    for key, value in found.items():
        click.echo(f"{key}: {value}")
    sys.exit(0 if is_sound(found) else 1)


def is_sound(found: Found) -> bool:
    """Whether all holds that must."""
    wrong = ("last_exit_code", "parts_done_again", "temporary_files", "not_broken_off_well", "rows_lost")
    wrong += ("rows_unknown", "rows_otherwise", "ended_otherwise", "tracebacks", "too_few_between")
    right = ("same_rows", "same_parts", "same_footers", "same_ledger", "same_csv", "same_database")
    return all(found.get(key, True) for key in right) and not any(found.get(key) for key in wrong)


def sinks(by: str, folder: Path, name: str, receiver: Receiver | None) -> list[str]:
    """Those that the run has beside its parts."""
    if receiver is not None:
        return [f"{{type: webhook, url: '{receiver.url}', rows: true}}"]
    if by == "disk":  # the database lies elsewhere: its own full disk it waits out
        csv = folder / "disk" / f"{name}.csv"
        return [f"{{type: csv, path: {csv}}}", f"{{type: sqlite, path: {folder / name}.sqlite, rows: true}}"]
    return []


def write_config(place: Path, name: str, sinks: list[str], *, isolate: bool) -> None:
    video = joined(clip("lobby-person"), REPEATS)
    sources = [f"  - {{name: s{k}, path: {video}}}" for k in range(FILES)]
    decode = f"decode: {{segment_frames: {SEGMENT}, isolate: {str(isolate).lower()}}}"
    filters = [f"  - {{name: {name}, model: {model}}}" for name, model in FILTERS.items()]
    lines = ["sources:", *sources, decode, "filters:", *filters]
    lines += ["telemetry: {interval_s: 0.5}", *(["sinks:"] if sinks else []), *(f"  - {sink}" for sink in sinks)]
    (place / f"{name}.yaml").write_text("\n".join(lines))


def start(place: Path, name: str, *more: str, err: int | None = None) -> subprocess.Popen[bytes]:
    settings = ["--name", name, "--set", f"run.dir={place}"]
    command = [*VPIPE, "run", "-q", str(place / f"{name}.yaml"), *settings, *more]
    return subprocess.Popen(command, cwd=ROOT, stderr=err)


class Disturbed:
    """The run, and what was seen of it at each moment.

    Attributes:
        before: What was committed when it was looked at last.
        again: Parts that were not what they had been.
        halves: Moments behind which one filter had a part that the other had not.
        when: How far it was, counted.
    """

    def __init__(self, place: Path, times: int, segments: int, chance: random.Random) -> None:
        self.place, self.times, self.segments, self.chance = place, times, segments, chance
        self.before: Parts = {}  # of whole segments
        self.again = self.halves = 0
        self.when: Counter[str] = Counter()

    def start(self, err: int | None = None) -> subprocess.Popen[bytes]:
        begun = (self.place / "killed" / "run.json").exists()
        return start(self.place, "killed", *(["--resume"] if begun else []), err=err)

    def wait(self, process: subprocess.Popen[bytes], k: int) -> None:
        """Waits for the k-th moment."""
        ends_s = time.monotonic() + LIMIT_S
        if self.chance.random() < ANY_MOMENT or self.is_whole(self.before):
            time.sleep(self.chance.uniform(0, 3))
            return
        while len(parts(self.place, "killed")) <= len(self.before) and process.poll() is None:
            if time.monotonic() > ends_s:
                raise Failed(f"a segment must be committed within {LIMIT_S:g} s, got none")
            time.sleep(POLL_S)
        # As many segments as are left, over the moments that are left: at some 50 a second.
        share = (self.segments - len(self.before) / len(FILTERS)) / (self.times - k)
        time.sleep(self.chance.uniform(0, 2 * share / 50))

    def look(self, k: int | None = None) -> Parts:
        """Compares what is committed with what was; k: after the k-th moment."""
        now = parts(self.place, "killed")
        self.again += changed(self.before, now)
        self.halves += len(files(self.place, "killed")) > len(now)
        self.before = now
        if k is not None:
            whole = self.is_whole(now)
            self.when["before the first commit" if not now else "after the last" if whole else "between"] += 1
            if k % 10 == 9:
                say(f"kill: {k + 1}, {len(now) // len(FILTERS)} of {self.segments} segments")
        return now

    def is_whole(self, now: Parts) -> bool:
        return len(now) == len(FILTERS) * self.segments


def killed(run: Disturbed, number: signal.Signals) -> Found:
    """Kills the run so many times."""
    codes: Counter[int] = Counter()
    tracebacks = 0
    for k in range(run.times):
        with tempfile.TemporaryFile() as told:
            process = run.start(told.fileno())
            run.wait(process, k)
            process.send_signal(number)
            codes[process.wait(LIMIT_S)] += 1
            told.seek(0)
            tracebacks += b"Traceback" in told.read()
        run.look(k)
    return {"exit_codes": dict(codes), "tracebacks": tracebacks}


# ------------------------------------------------------------------------------------------ a full disk


@contextmanager
def small_disk(place: Path) -> Iterator[Path]:
    """A small file system at this place."""
    make_folder(place)
    mount = ["mount", "-t", "tmpfs", "-o", f"size={DISK_MB}m", "vpipe-kill", str(place)]
    done = subprocess.run(mount, capture_output=True, text=True) if shutil.which("mount") else None
    if done is None or done.returncode:
        why = "no program mount" if done is None else done.stderr.strip()
        raise Failed(f"--by disk: must be able to mount a tmpfs, got {why}; run it on Linux as root")
    try:
        yield place
    finally:
        subprocess.run(["umount", "-l", str(place)], check=True)


def filled(run: Disturbed) -> Found:
    """Fills the disk so many times, and makes room once the run has broken off."""
    codes: Counter[int] = Counter()
    where: Counter[str] = Counter()
    ended: Counter[str] = Counter()  # with a message that names this
    filler, wrong = run.place / "filler", []
    for k in range(run.times):
        with tempfile.TemporaryFile() as told:
            process = run.start(told.fileno())
            run.wait(process, k)
            fill(filler, left=run.chance.randrange(LEFT_BYTES))
            ends_s = time.monotonic() + LIMIT_S
            while process.poll() is None:
                if time.monotonic() > ends_s:
                    process.kill()
                with suppress(subprocess.TimeoutExpired):
                    process.wait(FILL_S)
                fill(filler)  # what the run freed meanwhile
            told.seek(0)
            said = told.read().decode(errors="replace")
        filler.unlink()
        codes[process.returncode] += 1
        where[at := broke_at(said, run.place) if process.returncode else "nowhere: it was done"] += 1
        ended.update(named(said, run.place)[-1:] if process.returncode else [])
        if (
            process.returncode not in (0, 1)
            or (process.returncode and not at)
            or "Traceback" in said
            or "Error in" in said
        ):
            wrong.append(f"exit code {process.returncode}: {said[-2000:]}")
        run.look(k)
    return {
        "exit_codes": dict(codes),
        "broke_at": dict(where),
        "last_message_names": dict(ended),
        "not_broken_off_well": wrong,
    }


def fill(filler: Path, left: int = 0) -> None:
    """Takes the room of a disk but for so many bytes."""
    with open(filler, "ab") as file, suppress(OSError):  # the run takes some at the same time
        size = os.fstat(file.fileno()).st_size
        disk = os.statvfs(filler.parent)
        if (more := disk.f_bavail * disk.f_frsize - left) > 0:
            os.posix_fallocate(file.fileno(), size, more)


def named(said: str, place: Path) -> list[str]:
    """The kinds of files that messages say must be writable, in order."""
    paths = re.findall(rf"{re.escape(str(place))}/(\S+): must be", said)
    kinds = [Path(path).relative_to("killed") if Path(path).parts[0] == "killed" else Path(path) for path in paths]
    return ["a part" if kind.parts[:1] == ("frames",) else str(kind) if kind.parts else FOLDER for kind in kinds]


def broke_at(said: str, place: Path) -> str:
    """The first file that does not take what the run needs, so not its telemetry; empty if none is named."""
    of = [kind for kind in named(said, place) if not kind.startswith("telemetry")]
    return next((kind for kind in of if kind != FOLDER), FOLDER if of else "")


def written(place: Path, folder: Path) -> Found:
    """Whether the csv file and the database hold what they hold undisturbed."""
    csv = [(place / f"{name}.csv").read_bytes() for name in ("killed", "undisturbed")]
    databases = [labels(folder / f"{name}.sqlite") for name in ("killed", "undisturbed")]
    return {"same_csv": csv[0] == csv[1], "same_database": databases[0] == databases[1]}


def labels(path: Path) -> list[tuple[object, ...]]:
    """The rows of a database."""
    with closing(sqlite3.connect(path)) as db:
        return db.execute(f"select {', '.join(OF_ROWS[1:])} from labels order by source, frame, filter").fetchall()


# ------------------------------------------------------------------------------------------ a receiver


def left_alone(run: Disturbed, receiver: Receiver) -> Found:
    """Stops and starts the receiver so many times in all, and every few times kills the run."""
    codes: Counter[int] = Counter()
    process = run.start()
    is_there = True
    for k in range(run.times):
        run.wait(process, k)
        (receiver.stop if is_there else receiver.start)()
        is_there = not is_there
        if k % KILLED_OF == KILLED_OF - 1:
            process.kill()
        if k % KILLED_OF == KILLED_OF - 1 or process.poll() is not None:
            codes[process.wait()] += 1
            process = run.start()
        run.look(k)
    if not is_there:
        receiver.start()
    codes[process.wait(LIMIT_S)] += 1
    return {"exit_codes": dict(codes), "receiver_stops": (run.times + 1) // 2}


def arrivals(place: Path, received: Path) -> Found:
    """What came of the rows of the disturbed run, as the receiver wrote it, beside those of the undisturbed one."""
    wanted = answers(rows(place, "undisturbed"))
    came: Counter[Id] = Counter()
    otherwise = 0
    for row in arrived(received, "killed"):
        came[id := (row["filter"], row["source"], row["frame"])] += 1
        otherwise += id in wanted and not is_same(wanted[id], (row["label"], row["score"]))
    return {
        "rows_arrived": len(wanted.keys() & came.keys()),
        "rows_repeated": came.total() - len(came),
        "rows_unknown": len(came.keys() - wanted.keys()),
        "rows_lost": len(wanted.keys() - came.keys()),
        "rows_otherwise": otherwise,
    }


def arrived(received: Path, run: str) -> Iterator[dict[str, object]]:
    """The rows that came of a run. A line that the end of the receiver cut off stands before the next one."""
    for line in received.read_text().splitlines():
        with suppress(ValueError):
            body = json.loads(line[line.rfind('{"answer": ') :])["body"]
            if body["run"] == run:
                yield from body.get("rows", ())


def answers(table: pa.Table) -> dict[Id, Told]:
    """Of each row its label and its score."""
    ids, of = (
        zip(*(table[name].to_pylist() for name in names), strict=True)
        for names in (("filter", "source", "frame"), ("label", "score"))
    )
    return dict(zip(ids, of, strict=True))


def is_same(one: Told, other: Told) -> bool:
    """Whether labels and scores are the same, these as the float32 numbers that they were before they were written."""
    scores = np.array([one[1], other[1]], np.float32)  # None is NaN, which is like nothing
    return one[0] == other[0] and bool(scores[0] == scores[1])


# ------------------------------------------------------------------------------------------ what is committed


def files(place: Path, name: str) -> set[Path]:
    """The parts that are in place, below the folder of the run."""
    found = (path for path in (place / name / "frames").rglob("*.parquet") if not path.name.startswith("."))
    return {path.relative_to(place / name) for path in found}


def footers(place: Path, name: str) -> dict[Path, SegmentEnd]:
    """What the parts tell of their segments."""
    return {path: read_end(place / name / path) for path in files(place, name)}


def ledger(place: Path, name: str) -> dict[str, object]:
    """What became of all frames, and how the run ended; when and how fast may differ."""
    found, summary = (json.loads((place / name / f"{of}.json").read_text("utf-8")) for of in ("ledger", "summary"))
    return {**found, "state": summary["state"]}


def parts(place: Path, name: str) -> Parts:
    """What is committed: the parts of segments of which each filter has its own."""
    found = files(place, name)
    filters = Counter(Path(*path.parts[2:]) for path in found)
    paths = [place / name / path for path in found if filters[Path(*path.parts[2:])] == len(FILTERS)]
    return {path.relative_to(place): (facts.st_ino, facts.st_mtime_ns) for path in paths for facts in [path.stat()]}


def changed(before: Parts, after: Parts) -> int:
    """How many parts are not what they were."""
    return sum(after.get(path) != facts for path, facts in before.items())


def rows(place: Path, name: str) -> pa.Table:
    """All rows of a run, sorted, without dictionaries, which Arrow does not sort by and which may differ in order."""
    tables = []
    for filter in FILTERS:
        found = ds.dataset(place / name / "frames" / filter).to_table()
        plain = {
            field.name: column.cast(pa.string()) if pa.types.is_dictionary(field.type) else column
            for field, column in zip(found.schema, found.columns, strict=True)
        }
        tables.append(pa.table({"filter": [filter] * found.num_rows, **plain}))
    return pa.concat_tables(tables).sort_by([(key, "ascending") for key in ("filter", "source", "frame")])


def digest(table: pa.Table) -> str:
    """Of all bytes of a table."""
    out = pa.BufferOutputStream()
    with pa.ipc.new_stream(out, table.schema) as writer:
        writer.write_table(table.combine_chunks())
    return hashlib.sha256(out.getvalue()).hexdigest()


if __name__ == "__main__":
    main()
