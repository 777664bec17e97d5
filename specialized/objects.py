"""Objects named in configurations: `package.module:Name`. Importing one runs its code."""

import hashlib
import importlib.util
import os
import sys
from collections.abc import Callable, Iterable
from difflib import get_close_matches
from pathlib import Path

__all__ = ["close_to", "code_hash", "load_object", "one_line", "search_in"]


def search_in(folder: str | os.PathLike[str]) -> None:
    """From here on modules that lie in the folder can be imported, unless one of their name is found elsewhere: it
    comes last, so a file beside a configuration never hides an installed module.
    """
    path = os.path.abspath(folder)
    if path not in sys.path:
        sys.path.append(path)


def load_object(name: str) -> Callable[..., object]:
    """Imports a class or function by `package.module:Name`.

    Raises:
        ImportError: with one line that says why.
    """
    module_name, _, attributes = name.partition(":")
    if not (module_name and attributes):
        raise ImportError(f"{name!r} must be package.module:Name")
    try:
        found: object = importlib.import_module(module_name)
    except Exception as exc:  # importing runs the user's code
        cure = "; install it, or put it beside the configuration" if isinstance(exc, ModuleNotFoundError) else ""
        raise ImportError(f"module {module_name!r} must be importable, got {one_line(exc)}{cure}") from exc
    for attribute in attributes.split("."):
        if not hasattr(found, attribute):
            close = close_to(attribute, (other for other in dir(found) if not other.startswith("_")))
            raise ImportError(f"{module_name} must define {attribute!r}, got none of that name{close and '; '}{close}")
        found = getattr(found, attribute)
    if not callable(found):
        raise ImportError(f"{name!r} must be a class or function, got {type(found).__name__}")
    return found


def code_hash(name: str) -> str | None:
    """A hash of the file that `package.module:Name` is written in, SHA-256 in hex; None where there is no such file."""
    try:
        spec = importlib.util.find_spec(name.partition(":")[0])
        return hashlib.sha256(Path(str(spec and spec.origin)).read_bytes()).hexdigest()
    except Exception:  # finding a module runs the code of the packages that it lies in
        return None


def close_to(name: str, known: Iterable[str]) -> str:
    """Asks whether the known name most like this one was meant; empty where none is like it."""
    close = get_close_matches(name, known, n=1)
    return f"did you mean {close[0]!r}?" if close else ""


def one_line(exc: BaseException) -> str:
    """What an exception of the user's code says, in one line."""
    return " ".join(f"{type(exc).__name__}: {exc}".split())
