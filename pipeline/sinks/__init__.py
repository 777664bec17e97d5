"""Where labels go. The run's own record, `parts`, is always written; the others are named in the configuration.

A sink is loaded when it is first asked for, so that naming one costs nothing.
"""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from pipeline.contracts import Sink
from pipeline.errors import ConfigError

__all__ = ["SINKS", "load", "open_sink", "sink_class"]

SINKS = {
    "csv": "pipeline.sinks.text:CsvSink",
    "jsonl": "pipeline.sinks.text:JsonlSink",
    "callback": "pipeline.sinks.callback:CallbackSink",
}
"""The short names that `type:` knows; anything else is `package.module:Name`."""


def sink_class(type: str) -> Callable[..., Sink]:
    """The class behind a sink's `type:`, whose keyword arguments are the keys beside it.

    Raises:
        ConfigError: there is none.
    """
    if type not in SINKS and ":" not in type:
        raise ConfigError([f"sink {type!r}: must be one of {', '.join(SINKS)}, or package.module:Name"])
    return load(SINKS.get(type, type))


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
    sink = make(**arguments)
    if not isinstance(sink, Sink):
        raise ConfigError(
            [f"sink {type!r}: must be a pipeline.contracts.Sink, got {sink!r}; derive its class from Sink"]
        )
    return sink


def load(target: str) -> Callable[..., Any]:
    """What `package.module:name` names.

    Raises:
        ConfigError: it cannot be imported or is nothing to call.
    """
    module_name, _, name = target.partition(":")
    try:
        found: object = getattr(importlib.import_module(module_name), name)
    except Exception as exc:  # importing runs the user's code
        cause = " ".join(f"{exc.__class__.__name__}: {exc}".split())
        raise ConfigError([f"{target}: must be importable, got {cause}; correct the name or set PYTHONPATH"]) from exc
    if not callable(found):
        raise ConfigError([f"{target}: must be a class or function, got {found!r}; correct the name"])
    return found
