"""What the tests of sinks with a far side share."""

from __future__ import annotations

import contextlib
import socket
import time
from collections.abc import Callable, Iterator
from dataclasses import replace

from pipeline.events import Event

LIMIT_S = 20.0


def told(n: int, source: str = "gate") -> Iterator[Event]:
    """n events, each at its begin and at its end."""
    for k in range(n):
        event = Event(
            source=source,
            region=None,
            filter="person",
            label="person",
            clock="utc",
            first_frame=10 * k,
            last_frame=10 * k,
            began_s=k + 0.5,
            ended_s=k + 0.5,
            best_frame=10 * k,
            best_score=0.75,
        )
        yield event
        yield replace(event, last_frame=10 * k + 5, ended_s=k + 0.7, best_score=0.875, is_over=True)


def states(events: list[dict[str, object]]) -> list[tuple[object, object]]:
    """Which event each is, and in what state."""
    return [(event["first_frame"], event["event"]) for event in events]


def wanted(n: int) -> list[tuple[object, object]]:
    """What `told` tells, as `states` shows it."""
    return [(10 * k, state) for k in range(n) for state in ("began", "ended")]


def first_arrivals(events: list[tuple[object, object]]) -> list[tuple[object, object]]:
    """Without repeats."""
    return list(dict.fromkeys(events))


def until(holds: Callable[[], object], limit_s: float = LIMIT_S) -> None:
    """Waits until it holds, and fails if it does not in time."""
    ends_s = time.monotonic() + limit_s
    while not holds():
        assert time.monotonic() < ends_s, "did not come to hold in time"
        time.sleep(0.01)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def listens(port: int) -> bool:
    """Whether somebody listens there."""
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
        return True
    return False
