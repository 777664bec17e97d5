"""Specialized CNNs: architectures, folding, training, evaluation and the model file. Knows nothing of video.

import specialized

folded = specialized.fold_cnn(model, 4)  # maps (B, 4·C, H, W) to (B, 4·K)
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from specialized.foldcnn import fold_cnn

__all__ = ["fold_cnn"]


def __getattr__(name: str) -> object:
    """Loads what is asked for: importing `specialized` alone does not bring in torch."""
    import importlib

    if name != "fold_cnn":
        raise AttributeError(f"module 'specialized' has no attribute {name!r}")
    return importlib.import_module("specialized.foldcnn").fold_cnn
