"""Where labels go. The run's own record, `parts`, is always written; the others are named in the configuration.

A sink is loaded when it is first asked for, so that naming one costs nothing.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.batch import FrameBatch, SegmentEnd
from pipeline.contracts import Sink
from pipeline.errors import ConfigError, SinkError, VpipeError
from pipeline.events import Event
from pipeline.threads import Stop
from specialized.objects import OWN_CODE, load_object, one_line

if TYPE_CHECKING:
    from pipeline.rows import Labelling  # loads Arrow

__all__ = ["SINKS", "open_sink", "sink_class"]

SINKS = {
    "csv": "pipeline.sinks.text:CsvSink",
    "jsonl": "pipeline.sinks.text:JsonlSink",
    "callback": "pipeline.sinks.callback:CallbackSink",
    "webhook": "pipeline.sinks.webhook:WebhookSink",
    "mqtt": "pipeline.sinks.mqtt:MqttSink",
    "sqlite": "pipeline.sinks.database:SqliteSink",
    "postgres": "pipeline.sinks.database:PostgresSink",
}
"""The short names that `type:` knows; anything else is `package.module:Name`."""

LIVE_SINKS = {
    "live-csv": "pipeline.sinks.live:LiveCsvSink",
    "live-jsonl": "pipeline.sinks.live:LiveJsonlSink",
    "live-events": "pipeline.sinks.live:LiveEventsSink",
}
"""What stands in the place of csv and jsonl in a run over cameras, and for events."""


def sink_class(type: str) -> Callable[..., object]:
    """The class behind a sink's `type:`, whose keyword arguments are the keys beside it.

    Raises:
        ConfigError: there is none.
    """
    if type not in SINKS | LIVE_SINKS and ":" not in type:
        raise ConfigError([f"sink {type!r}: must be one of {', '.join(SINKS)}, or package.module:Name"])
    try:
        return load_object((SINKS | LIVE_SINKS).get(type, type))
    except ImportError as exc:
        raise ConfigError([f"sink {type!r}: {exc}; correct the name or set PYTHONPATH"]) from exc


def open_sink(
    type: str,
    *,
    folder: Path,
    sources: Sequence[str],
    stop: Stop | None = None,
    live: Mapping[str, Labelling] | None = None,
    **options: object,
) -> Sink:
    """A sink as the configuration asks for it.

    Args:
        type: Short name, or `package.module:Name`.
        folder: The run's folder; given to a sink whose constructor has a parameter `folder`.
        sources: Names of the run's sources in the order given; likewise.
        stop: Set when the run is asked to stop; likewise.
        live: Where there are cameras, how the scores of each filter become labels, by its name; likewise.
        options: The sink's own keyword arguments.

    Raises:
        ConfigError: there is no such sink, or it does not take these options.
    """
    make = sink_class(type)
    offered = {"folder": folder, "sources": sources, "stop": stop, "live": live}
    try:
        signature = inspect.signature(make)
        arguments = {name: value for name, value in offered.items() if name in signature.parameters} | options
        signature.bind(**arguments)
    except (TypeError, ValueError) as exc:
        raise ConfigError([f"sink {type!r}: must be given its own options, got {exc}"]) from exc
    try:
        sink = make(**arguments)
    except VpipeError:
        raise
    except OWN_CODE as exc:  # the constructor of a user's sink may raise anything
        raise ConfigError([f"sink {type!r}: must be made of its options, got {one_line(exc)}"]) from exc
    if not isinstance(sink, Sink):
        raise ConfigError(
            [f"sink {type!r}: must be a pipeline.contracts.Sink, got {sink!r}; derive its class from Sink"]
        )
    return sink if type in SINKS | LIVE_SINKS else GuardedSink(type, sink)


class GuardedSink(Sink):
    """A sink of the user's own, whose exceptions become SinkErrors that name it."""

    def __init__(self, name: str, sink: Sink) -> None:
        self._name = name
        self._sink = sink
        self.takes_again = sink.takes_again

    def resume(self, ends: Sequence[SegmentEnd]) -> None:
        with self._guarded():
            self._sink.resume(ends)

    def write(self, batch: FrameBatch) -> None:
        with self._guarded():
            self._sink.write(batch)

    def commit(self, end: SegmentEnd) -> None:
        with self._guarded():
            self._sink.commit(end)

    def event(self, event: Event) -> None:
        with self._guarded():
            self._sink.event(event)

    def sync(self) -> None:
        with self._guarded():
            self._sink.sync()

    def finish(self) -> None:
        with self._guarded():
            self._sink.finish()

    def close(self) -> None:
        with self._guarded():
            self._sink.close()

    @contextmanager
    def _guarded(self) -> Generator[None]:
        try:
            yield
        except VpipeError:
            raise
        except OWN_CODE as exc:  # the user's code may raise anything
            raise SinkError(f"sink {self._name}: must take what a run sends, got {one_line(exc)}; mend it") from exc
