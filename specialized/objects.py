"""Objects named in configurations: `package.module:Name`. Importing one runs its code."""

import hashlib
import importlib.util
import inspect
import os
import sys
from collections.abc import Callable, Iterable
from difflib import get_close_matches
from pathlib import Path

from specialized.errors import ModelError

__all__ = ["OWN_CODE", "close_to", "code_hash", "load_object", "one_line", "search_beside", "search_in"]


# What code of a user's own may raise: to end the program is not its part.
OWN_CODE: tuple[type[BaseException], ...] = (Exception, SystemExit)


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
    except OWN_CODE as exc:  # importing runs the user's code
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


def search_beside(path: str | os.PathLike[str], architecture: str) -> None:
    """Lets a model file's `package.module:Class` be found beside it as `search_in` does, and nothing else in its place.

    Raises:
        ModelError: its module lies beside the file, but one of the same name and other code is found before it.
    """
    folder, (module_name, colon, _) = Path(path).absolute().parent, architecture.partition(":")
    if not colon:
        return
    place = folder.joinpath(*module_name.split("."))
    # Unlike that of a Path, this answers for any text: a name may be too long for the file system.
    own = next((file for file in (place.with_suffix(".py"), place / "__init__.py") if os.path.isfile(file)), None)
    if own is None:
        return
    search_in(folder)
    found = _file_of(module_name)
    if found is not None and found.read_bytes() != own.read_bytes():
        raise ModelError(
            f"{path}: module {module_name!r} must be {own}, which lies beside the model file, got {found}, which is "
            "found before it; rename one of them, or use them in runs of their own"
        )


def code_hash(name: str) -> str | None:
    """A hash of the file that `package.module:Name` is written in, SHA-256 in hex; None where there is no such file."""
    try:
        file = inspect.getsourcefile(load_object(name))
        return None if file is None else hashlib.sha256(Path(file).read_bytes()).hexdigest()
    except (ImportError, TypeError, OSError):  # what has no file: built-in, made by a function, typed in
        return None


def _file_of(module_name: str) -> Path | None:
    try:
        spec = importlib.util.find_spec(module_name)
        return Path(spec.origin) if spec is not None and spec.origin is not None else None
    except Exception:  # finding a module runs the code of the packages that it lies in
        return None


def close_to(name: str, known: Iterable[str]) -> str:
    """Asks whether the known name most like this one was meant; empty where none is like it."""
    close = get_close_matches(name, known, n=1)
    return f"did you mean {close[0]!r}?" if close else ""


def one_line(exc: BaseException) -> str:
    """What an exception of the user's code says, in one line."""
    return " ".join(f"{type(exc).__name__}: {exc}".split())
