"""What decides the outcome of a run, so that one is only resumed as what it was."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path

__all__ = ["identity", "identity_changes", "stamp"]

Document = dict[str, object]


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


def stamp(path: Path) -> Document:
    """What tells whether a file is still the same; without size and time where there is none."""
    try:
        facts = path.stat()
    except OSError:
        return {"path": str(path)}
    return {"path": str(path.resolve()), "size": facts.st_size, "mtime_ns": facts.st_mtime_ns}


def identity_changes(before: Mapping[str, object], now: Mapping[str, object]) -> list[str]:
    """Why a run with identity `now` may not go on with one of identity `before`: a line per difference, none if it may.

    Sources may be added; one that is changed or missing is a difference.
    """
    problems = list(_differences({**before, "sources": None, "sha": None}, {**now, "sources": None, "sha": None}))
    then, present = before.get("sources"), now.get("sources")
    if not isinstance(then, Mapping) or not isinstance(present, Mapping):
        return [*problems, "sources: must be known of both runs; use --overwrite or another --name"]
    for name, facts in then.items():
        if name not in present:
            problems.append(f"{name}: must still be a source of the run to resume, got none of that name")
        else:
            problems += _differences(facts, present[name], name)
    return problems


def _differences(before: object, now: object, where: str = "") -> Iterator[str]:
    if isinstance(before, Mapping) and isinstance(now, Mapping):
        for key in sorted(before.keys() | now.keys()):
            yield from _differences(before.get(key), now.get(key), f"{where}.{key}" if where else key)
    elif before != now:
        yield f"{where}: must be {before!r} as in the run to resume, got {now!r}"
