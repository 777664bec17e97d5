"""Libraries that report their use to their makers, imported so that they do not.

They are Any, for they have no types.
"""

import importlib
import os
from typing import Any


def import_onnxruntime() -> Any:
    """Imports onnxruntime, without the identifier that it else keeps below the home folder.

    Raises:
        ImportError: it is not installed.
    """
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
    return importlib.import_module("onnxruntime")
