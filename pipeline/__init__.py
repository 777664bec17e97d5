"""vpipe: labels every frame of footage with small, specialized CNNs, folded.

import pipeline

for batch in pipeline.label("clip.mp4", model="model.safetensors"):
    print(batch.index, batch.scores)

pipeline.run(pipeline.load_run_config("configs/lobby.yaml"))
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pipeline.config import load_run_config, run_config_from
    from pipeline.runner import label, run

__all__ = ["label", "load_run_config", "run", "run_config_from"]


def __getattr__(name: str) -> object:
    """Loads what is asked for: importing `pipeline` alone brings in neither torch nor FFmpeg."""
    import importlib

    homes = {"label": "runner", "run": "runner", "load_run_config": "config", "run_config_from": "config"}
    if name not in homes:
        raise AttributeError(f"module 'pipeline' has no attribute {name!r}")
    return getattr(importlib.import_module(f"pipeline.{homes[name]}"), name)
