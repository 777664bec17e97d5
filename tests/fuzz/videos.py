"""Damaged clips through the Python API, and one in a hundred through the command, too.

What must hold: nothing is raised but VpipeError, a line for each problem that names the file; the equations of the
ledger hold; what came is what was counted; it is what a plain reading by PyAV shows, and a file is not called complete
unless it is, for both of which see `plain`.

One case in twenty is decoded in a process of its own, too: the same frames, times, pictures and ends must come.
"""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import av
import numpy as np

import pipeline
from pipeline.batch import FrameBatch, SegmentEnd
from pipeline.errors import ConfigError, VpipeError
from pipeline.ledger import Ledger
from pipeline.sources.decode import SegmentTask
from pipeline.sources.file import FileSource, Refusal
from pipeline.sources.isolate import Isolated
from pipeline.sources.pool import Here
from pipeline.threads import Stop
from tests.clips import KINDS, write_clip
from tests.fuzz.harness import Tried, told, wrong_report
from tests.fuzz.mutate import BYTES, damaged, place_in
from tests.fuzz.plain import VIEW, Taken, misplaced, wrongly_complete, wrongly_refused, wrongly_retried

ROOT = Path(__file__).parents[2]
MODEL = ROOT / "specialized" / "weights" / "lobby-person-f1.safetensors"
FRAMES = 48
LABELLED = 10  # one in so many is labelled by a model rather than decoded alone
COMMANDED = 100  # one in so many goes through the command, too
ISOLATED = 20  # one in so many is decoded in a process of its own, too
LIMIT_S, COMMAND_S = 30.0, 120.0
EXACT = {"fflags": "+bitexact"}  # no number by chance: a case is the same each time
COPIES = ("mp4", "mkv", "ts")
PROGRAM = "from pipeline.cli import main; main()"


# ------------------------------------------------------------------------------------------ what is damaged


def stock(folder: Path) -> None:
    """Clips of all kinds, odd files, and beginnings of the clips with labels in three containers."""
    for kind, how in KINDS.items():
        options = dict(how.get("container_options", {})) | EXACT
        write_clip(folder / kind, range(FRAMES), **how | {"container_options": options})
    for path in (ROOT / "tests" / "data" / "odd").iterdir():
        if path.suffix != ".md" and path.stat().st_size:
            (folder / f"odd-{path.name}").write_bytes(path.read_bytes())
    for path in sorted((ROOT / "videos").glob("*.mp4")):
        for suffix in COPIES:
            beginning(path, folder / f"{path.stem}.{suffix}")


def beginning(path: Path, copy: Path) -> None:
    """The first packets of a clip, as they are."""
    with av.open(str(path)) as container, av.open(str(copy), "w", options=EXACT) as out:
        stream = container.streams.video[0]
        into = out.add_stream_from_template(stream)
        for number, packet in enumerate(container.demux(stream)):
            if number == FRAMES or packet.dts is None:
                break
            packet.stream = into
            out.mux(packet)


def sized(data: bytes, chance: random.Random) -> tuple[bytes, str]:
    """Another 32-bit number: of a box, or anywhere."""
    boxes = [at for at in range(len(data) - 8) if data[at + 4 : at + 8].isalpha() and data[at] == 0]
    at = chance.choice(boxes) if boxes and chance.random() < 0.8 else place_in(len(data), chance)
    at = max(0, min(at, len(data) - 4))
    was = int.from_bytes(data[at : at + 4], "big")
    some = (0, 1, 7, 8, 2**31, 2**32 - 1, was + 1, was - 1, 2 * was, was // 2, was + 256, chance.randrange(2**32))
    now = chance.choice(some) % 2**32
    return data[:at] + now.to_bytes(4, "big") + data[at + 4 :], f"size at {at} from {was} to {now}"


WAYS = (*BYTES, sized, sized)


# ------------------------------------------------------------------------------------------ a case


class Videos:
    limit_mb = 1000
    crash_is_finding = False

    def __init__(self, stock: Path, own: Path) -> None:
        self._own = own
        self._stock = {path.name: path.read_bytes() for path in sorted(stock.iterdir())}
        self._path = own / "clip"
        av.logging.set_level(av.logging.PANIC)

    @staticmethod
    def limit_s(number: int) -> float:
        return LIMIT_S + (COMMAND_S if number % COMMANDED == 0 else 0.0)

    def prepared(self, number: int, chance: random.Random) -> str:
        name = chance.choice(list(self._stock))
        data = self._stock[name]
        if chance.random() < 0.05:
            other = chance.choice(list(self._stock))
            at, on = (place_in(len(one), chance) for one in (data, self._stock[other]))
            data, mutation = data[:at] + self._stock[other][on:], f"up to {at}, then {other} from {on}"
        else:
            data, mutation = damaged(data, chance, WAYS)
        self._path = self._own / f"clip{Path(name).suffix}"
        for old in self._own.glob("clip*"):
            old.unlink()
        self._path.write_bytes(data)
        return f"{name}: {mutation}"

    def tried(self, number: int, chance: random.Random) -> Tried:
        began_s = time.monotonic()
        by_model = number % LABELLED == 0
        tasks: list[SegmentTask | Refusal] = []
        try:
            if by_model:
                batches: Iterable[FrameBatch] = pipeline.label(self._path, model=MODEL, overrides=["sources.0.name=c"])
            else:
                tasks = list(source(self._path).segments())
                batches = decoded(tasks)
            taken = Taken.of(batches)
        except VpipeError as error:
            lines = error.problems if isinstance(error, ConfigError) else [str(error)]
            finding = wrong_report(lines, self._path) or wrongly_refused(self._path, "; ".join(lines))
            return Tried(f"refused: {type(error).__name__}", finding=finding)
        except Exception as error:
            return Tried("another exception", finding=told(error))
        outcome, finding = judged(self._path, taken.numbers, taken.ends, by_model=by_model)
        if tasks and isinstance(tasks[0], SegmentTask):
            finding = finding or misplaced(self._path, taken, tasks[0].index, segments=len(tasks))
        if number % ISOLATED == 1:  # none that is labelled by a model
            finding = finding or differing(taken, self._path)
            outcome += ", and isolated"
        took_s = time.monotonic() - began_s
        if number % COMMANDED == 0:
            if took_s > LIMIT_S:
                finding = finding or f"took {took_s:.0f} s"
            finding = finding or commanded(self._path, self._own)
            outcome += ", and by the command"
        return Tried(outcome, finding=finding)

    def isolated(self) -> str:
        try:
            taken = taken_apart(self._path)
            outcome, finding = judged(self._path, taken.numbers, taken.ends, by_model=False, plain=False)
        except Exception as error:
            return f"isolated: wrong, {told(error)}"
        return f"isolated: wrong, {finding}" if finding else f"isolated: {outcome}"


CASE = Videos


def source(path: Path) -> FileSource:
    return FileSource(path, name="c", views=[VIEW], batch_frames=32, segment_frames=24)


def decoded(tasks: Iterable[SegmentTask | Refusal]) -> Iterator[FrameBatch]:
    with closing(Here()) as decoder:
        for task in tasks:
            yield from decoder.frames(task)


def taken_apart(path: Path) -> Taken:
    """What comes of a clip from a decoder in a process of its own."""
    with closing(Isolated(limit_s=LIMIT_S, tries=2, memory_mb=1000, stop=Stop())) as decoder:
        return Taken.of(batch for task in decoder.segments(source(path)) for batch in decoder.frames(task))


def differing(here: Taken, path: Path) -> str | None:
    """What a decoder in a process of its own gives otherwise than one in this."""
    there = taken_apart(path)
    if here.numbers != there.numbers:
        other = sorted(set(here.numbers) ^ set(there.numbers))
        return f"isolated: {len(there.numbers)} frames, here {len(here.numbers)}; {other[:5]} in one alone"
    if not np.array_equal(here.times_s, there.times_s, equal_nan=True) or here.pictures != there.pictures:
        return "isolated: other times or pictures than here"
    for ours, theirs in zip(here.ends, there.ends, strict=False):
        if ours != theirs:
            return f"isolated: an end with {theirs}, here with {ours}"
    return None if len(here.ends) == len(there.ends) else f"isolated: {len(there.ends)} ends, here {len(here.ends)}"


def judged(
    path: Path, came: list[int], ends: list[SegmentEnd], *, by_model: bool, plain: bool = True
) -> tuple[str, str | None]:
    """What came of a clip, and what is wrong with that.

    Args:
        path: Of the clip.
        came: Numbers of its frames.
        ends: Of its segments.
        by_model: They passed a filter.
        plain: Hold it against a plain reading, in this process.
    """
    if not by_model:  # as a filter would leave them that labels all
        ends = [
            replace(
                end,
                counts=replace(
                    end.counts, labelled=(n := end.counts.decoded), written=n, pictures=n
                ),
                per_frame=1,
            )
            for end in ends
        ]  # fmt: skip
    ledger = Ledger(ends, sources=["c"])
    of = ledger.sources["c"]
    if problems := ledger.check():
        return "wrong ledger", problems[0]
    if len(ledger.sources) != 1 or not of.ends:
        return "wrong ledger", f"ends of {[end.segment.source for end in ends]}"
    if (problem := of.counts.imbalance()) is not None:
        return "wrong ledger", problem
    if by_model and of.counts.labelled != of.counts.written:
        return "wrong ledger", f"all must be written, got {of.counts.as_dict()}"
    lost = {n for end in ends for one in end.lost for n in range(one.first, one.last + 1)} if not by_model else set()
    if len(came) != of.counts.decoded and not any(end.retry for end in ends):
        return "wrong ledger", f"{len(came)} frames came, {of.counts.decoded} were counted"
    if sorted(set(came)) != came or lost & set(came):
        return "wrong ledger", "frames came twice, out of order, or though they are called lost"
    report = next((wrong for end in of.ends if end.error and (wrong := wrong_report([end.error], path))), None)
    if plain:
        report = report or wrongly_retried(ends)
    if of.counts.indexed == 0 and of.error is not None:
        return "refused", report or (wrongly_refused(path, of.error) if plain else None)
    if of.error is not None or not of.complete:
        kind = "with losses" if of.counts.decoded else "nothing decoded"
        return f"partial: {kind}, {'damage named' if of.error is None else 'with an error'}", report
    if not ledger.complete:
        return "wrong ledger", "complete and not"
    return ("complete", wrongly_complete(path, of.counts.decoded)) if plain else ("complete", None)


# ------------------------------------------------------------------------------------------ the command


def commanded(path: Path, own: Path) -> str | None:
    """What is wrong with a run of `vpipe run`."""
    run = [sys.executable, "-c", PROGRAM, "run", str(path), "--model", str(MODEL), "--overwrite", "--name", "fuzz"]
    try:
        done = subprocess.run(
            [*run, "--set", f"run.dir={own}"],
            cwd=own,
            env=os.environ | {"PYTHONPATH": str(ROOT)},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=COMMAND_S - 10,
        )
    except subprocess.TimeoutExpired:
        return f"the command took over {COMMAND_S - 10:g} s"
    said = done.stderr.decode(errors="replace")
    log = own / "fuzz" / "log.txt"
    logged = log.read_text(errors="replace") if log.exists() else ""
    if done.returncode not in (0, 1, 2, 3):
        return f"the command ended with {done.returncode}: {said[-300:]}"
    if "Traceback" in said + logged:
        return f"the command told a traceback: {(said + logged)[-500:]}"
    try:
        ledger = json.loads((own / "fuzz" / "ledger.json").read_text("utf-8"))
        counts = ledger["counts"]
        if counts["indexed"] != counts["skipped"] + counts["corrupt"] + counts["unread"] + counts["decoded"]:
            return f"ledger.json does not add up: {counts}"
        if done.returncode == 0 and np.any([counts[name] for name in ("corrupt", "unread", "failed")]):
            return f"exit code 0 with {counts}"
    except (OSError, ValueError, KeyError) as error:
        return f"ledger.json cannot be read: {error}; exit code {done.returncode}: {said[-300:]}"
    return None
