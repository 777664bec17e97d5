"""From a configuration to the parts of a run. Behind this package there are no configuration objects."""

from __future__ import annotations

from pipeline.assembly.models import Model, engine_threads, open_models
from pipeline.assembly.sinks import open_sinks, try_receivers
from pipeline.assembly.sources import Sources, formats_of, open_sources

__all__ = [
    "Model",
    "Sources",
    "engine_threads",
    "formats_of",
    "open_models",
    "open_sinks",
    "open_sources",
    "try_receivers",
]
