"""Where labels go. The run's own record, `parts`, is always written; the others are named in the configuration.

A sink is loaded when it is first asked for, so that naming one costs nothing.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from pathlib import Path

from pipeline.contracts import Sink
from pipeline.errors import ConfigError
from specialized.objects import load_object

__all__ = ["SINKS", "open_sink", "sink_class"]

SINKS = {
    "csv": "pipeline.sinks.text:CsvSink",
    "jsonl": "pipeline.sinks.text:JsonlSink",
    "callback": "pipeline.sinks.callback:CallbackSink",
}
"""The short names that `type:` knows; anything else is `package.module:Name`."""


def sink_class(type: str) -> Callable[..., object]:
    """The class behind a sink's `type:`, whose keyword arguments are the keys beside it.

    Raises:
        ConfigError: there is none.
    """
    if type not in SINKS and ":" not in type:
        raise ConfigError([f"sink {type!r}: must be one of {', '.join(SINKS)}, or package.module:Name"])
    try:
        return load_object(SINKS.get(type, type))
    except ImportError as exc:
        raise ConfigError([f"sink {type!r}: {exc}; correct the name or set PYTHONPATH"]) from exc


def open_sink(type: str, *, folder: Path, sources: Sequence[str], **options: object) -> Sink:
    """A sink as the configuration asks for it.

    Args:
        type: Short name, or `package.module:Name`.
        folder: The run's folder; given to a sink whose constructor has a parameter `folder`.
        sources: Names of the run's sources in the order given; likewise.
        options: The sink's own keyword arguments.

    Raises:
        ConfigError: there is no such sink, or it does not take these options.
    """
    make = sink_class(type)
    offered = {"folder": folder, "sources": sources}
    try:
        signature = inspect.signature(make)
        arguments = {name: value for name, value in offered.items() if name in signature.parameters} | options
        signature.bind(**arguments)
    except (TypeError, ValueError) as exc:
        raise ConfigError([f"sink {type!r}: must be given its own options, got {exc}"]) from exc
    try:
        sink = make(**arguments)
    except ImportError as exc:
        raise ConfigError([f"sink {type!r}: {exc}; correct the name or set PYTHONPATH"]) from exc
    if not isinstance(sink, Sink):
        raise ConfigError(
            [f"sink {type!r}: must be a pipeline.contracts.Sink, got {sink!r}; derive its class from Sink"]
        )
    return sink
