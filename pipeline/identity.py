"""What decides the outcome of a run, so that one is only resumed as what it was."""

from __future__ import annotations

import hashlib
import json
import shlex
import stat
from collections.abc import Callable, Collection, Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path

__all__ = ["differences", "identity", "identity_changes", "stamp"]

Document = dict[str, object]

END_BYTES = 1 << 14  # of the head and of the tail of a file
STAMPED = frozenset({"path", "size", "mtime_ns", "ends", "sha256"})  # what `stamp` tells


def identity(
    sources: Mapping[str, Mapping[str, object]],
    *,
    decode: Mapping[str, object],
    fold: Mapping[str, object],
    filters: Mapping[str, Mapping[str, object]],
) -> tuple[Document, str]:
    """What decides a run's labels: an earlier run may only be resumed with the same. It holds no secrets.

    Args:
        sources: Per source what it is and which of its frames are taken; of a file its `stamp`.
        decode: The options of decoding that change pixels or cuts.
        fold: Frames per group, order, seed.
        filters: Per filter its model, how it is run and what is kept.

    Returns:
        The identity as a JSON document, and a short hash of all of it but the sources: some may be added to a run when
        it is resumed, and the parts it holds by then are still parts of the same run.
    """
    settings = {"decode": decode, "fold": fold, "filters": filters}
    sha = hashlib.sha256(json.dumps(settings, allow_nan=False, sort_keys=True).encode()).hexdigest()[:16]
    document: Document = json.loads(json.dumps({**settings, "sources": sources, "sha": sha}))  # as it is read back
    return document, sha


def stamp(path: Path, *, whole: bool = False) -> Document:
    """What tells whether a file is still the same; its path alone where it cannot be read or is no regular file.

    Args:
        path: The file.
        whole: Whether a hash of all of it is told, too: a copy may keep size and time, and be torn in its middle.
    """
    try:
        facts = path.stat()
        if not stat.S_ISREG(facts.st_mode):
            return {"path": str(path)}  # a FIFO waits for who writes it, a device may have no end
        with path.open("rb") as file:
            ends = hashlib.sha256(file.read(END_BYTES))
            file.seek(max(0, facts.st_size - END_BYTES))
            ends.update(file.read(END_BYTES))
            file.seek(0)
            everything = hashlib.file_digest(file, "sha256").hexdigest() if whole else None
    except (OSError, ValueError):  # ValueError: no name of a file, as it holds a NUL
        return {"path": str(path)}
    told: Document = {"path": str(path.resolve()), "size": facts.st_size, "mtime_ns": facts.st_mtime_ns}
    told["ends"] = ends.hexdigest()[:16]
    return told if everything is None else told | {"sha256": everything}


def identity_changes(
    before: Mapping[str, object], now: Mapping[str, object], *, untouched: Collection[str] = ()
) -> list[str]:
    """Why a run with identity `now` may not go on with one of identity `before`: a line per difference, none if it may.

    Sources may be added; one that is changed or missing is a difference. The files of those that are `untouched`, of
    which nothing is labelled, may be any by now, or gone. A file of the same hash is the same, whatever its time.
    """
    apart: dict[str, object] = {"sources": None, "sha": None}
    problems = list(differences({**before, **apart}, {**now, **apart}, kind="run"))
    then, present = before.get("sources"), now.get("sources")
    if not isinstance(then, Mapping) or not isinstance(present, Mapping):
        return [*problems, "sources: must be known of both runs; use --overwrite or another --name"]
    for name, facts in then.items():
        if name not in present:
            if name not in untouched:
                told = "must still be a source of the run to resume, got none of that name"
                problems.append(f"{name}: {told}; put it back, or give the run of what is left another --name")
        elif name in untouched or "ends" in facts:
            if name not in untouched:
                problems += _file_changes(name, facts, present[name])
            problems += differences(_unstamped(facts), _unstamped(present[name]), kind="run", where=name)
        else:
            problems += differences(facts, present[name], kind="run", where=name)
    return problems


def _file_changes(name: str, before: Mapping[str, object], now: Mapping[str, object]) -> Iterator[str]:
    """Why a file is not the one that it was: a line, or none."""
    if "sha256" in before and before["sha256"] == now.get("sha256"):
        return
    rule, cure = "must be the file that was labelled", "put that back, or give this one a run of another --name"
    if "size" not in now:
        yield f"{name}: {rule}, got none that can be read; {cure}"
        return
    changed = [key for key in _DIFFERENCES if key in before and key in now and before[key] != now[key]]
    if changed == ["mtime_ns"]:
        seconds, ns = divmod(int(str(before["mtime_ns"])), 10**9)
        cure = f"if it is the same, tell so by `touch -d @{seconds}.{ns:09} {shlex.quote(str(now['path']))}`"
    if changed:
        told = ", ".join(_DIFFERENCES[key](before[key], now[key]) for key in changed)
        yield f"{name}: {rule}, got {told}; {cure}"


_DIFFERENCES: Mapping[str, Callable[[object, object], str]] = {
    "path": lambda before, now: f"{now} in place of {before}",
    "size": lambda before, now: f"{now} bytes in place of {before}",
    "ends": lambda before, now: "other bytes at its ends",
    "sha256": lambda before, now: "other bytes",
    "mtime_ns": lambda before, now: f"one of {_date(now)} in place of {_date(before)}",
}


def _date(time_ns: object) -> str:
    try:
        return f"{datetime.fromtimestamp(int(str(time_ns)) / 1e9, UTC):%Y-%m-%d %H:%M:%S.%f}"
    except (ValueError, OverflowError):  # some file systems take a year that has five digits
        return f"{time_ns} ns since 1970"


def _unstamped(facts: object) -> object:
    return {key: facts[key] for key in facts.keys() - STAMPED} if isinstance(facts, Mapping) else facts


def differences(before: object, now: object, *, kind: str, where: str = "") -> Iterator[str]:
    """What differs between two JSON documents, a line each: `key.path: must be ... as in the run to resume, got ...`.

    Args:
        before: Of what is to be resumed.
        now: Of what was asked for.
        kind: What is to be resumed, in a word.
        where: Their key.
    """
    if isinstance(before, Mapping) and isinstance(now, Mapping):
        for key in sorted(before.keys() | now.keys()):
            yield from differences(before.get(key), now.get(key), kind=kind, where=f"{where}.{key}" if where else key)
    elif isinstance(before, list) and isinstance(now, list) and len(before) == len(now):
        for k, (one, other) in enumerate(zip(before, now, strict=True)):
            yield from differences(one, other, kind=kind, where=f"{where}.{k}")
    elif before != now:
        yield f"{where}: must be {before!r} as in the {kind} to resume, got {now!r}"
