"""Libraries that report their use to their makers, imported so that they do not.

They are Any: they have no types, or types that differ between versions.
"""

import importlib
import os
import sys
from typing import Any


def import_onnxruntime() -> Any:
    """Imports onnxruntime, without the identifier that it else keeps below the home folder.

    Raises:
        ImportError: it is not installed.
    """
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
    return importlib.import_module("onnxruntime")


def import_openvino() -> Any:
    """Imports openvino as if the package of its telemetry, which it can do without, were not installed.

    Raises:
        ImportError: it is not installed.
    """
    telemetry = "openvino_telemetry"
    if telemetry in sys.modules:  # someone else has imported it, who will want it
        return importlib.import_module("openvino")
    sys.modules[telemetry] = None  # type: ignore[assignment]  # what importing it meets is an ImportError
    try:
        return importlib.import_module("openvino")
    finally:
        del sys.modules[telemetry]
