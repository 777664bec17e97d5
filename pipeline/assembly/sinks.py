"""The sinks of a run, beside its own parts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from pipeline.config import RunConfig
from pipeline.contracts import Sink
from pipeline.regionfile import names_of_each
from pipeline.regions import Column, columns_of
from pipeline.rows import Labelling
from pipeline.sinks import open_sink
from pipeline.sinks.delivery import SpooledSink
from pipeline.sinkschema import CallbackSink, SinkObject, SpooledSection
from pipeline.threads import Stop


def open_sinks(
    config: RunConfig,
    *,
    folder: Path,
    sources: Sequence[str],
    stop: Stop,
    live: Mapping[str, Labelling] | None = None,
) -> list[Sink]:
    """The sinks beside the run's own parts; see `open_sink`.

    Raises:
        ConfigError: one of them does not take its options.
    """
    sinks = []
    for section in config.sinks:
        options: Mapping[str, object]
        kind = section.type
        match section:
            case SinkObject():
                options = section.arguments
            case CallbackSink():
                options = {"call": section.call}
            case SpooledSection():
                options = {key: getattr(section, key) for key in type(section).model_fields if key != "type"}
            case _ if live is not None or section.events:
                kind = "live-events" if section.events else f"live-{section.type}"
                options = {"path": section.path, "rotate_mb": section.rotate_mb, "keep_files": section.keep_files}
            case _:
                options = {"path": section.path, "columns": _columns(config) if section.wide else None}
        sinks.append(open_sink(kind, folder=folder, sources=sources, stop=stop, live=live, **options))
    return sinks


def try_receivers(config: RunConfig) -> dict[str, str | None]:
    """Sends an event of the source `test` to each receiver; by the name of its sink, why it did not arrive, or None.

    Raises:
        ConfigError: one of the sinks does not take its options.
    """
    alone = config.model_copy(update={"sinks": [one for one in config.sinks if isinstance(one, SpooledSection)]})
    folder = Path(config.run.dir) / config.run.name
    sinks = open_sinks(alone, folder=folder, sources=(), stop=Stop())
    return {sink.name: sink.trial() for sink in sinks if isinstance(sink, SpooledSink)}


def _columns(config: RunConfig) -> dict[Column, str]:
    """Those of the run, whatever its sources: a sink writes their names before it has seen a row."""
    return columns_of(
        {section.name: section.regions or () for section in config.filters},
        names_of_each(config, config.sources),
    )
