"""What engines make of a network and keep for the next time, below `~/.cache/vpipe`.

Each folder is its owner's alone: what another user put there would be loaded as if it were one's own.
"""

import contextlib
import functools
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TypeVar

import torch
from torch import nn

from specialized.errors import ModelError

T = TypeVar("T")

_MOST_GRAPHS = 64  # those used longest ago go: they are as large as the weights


def folder_of(name: str) -> Path:
    """A folder for what is kept. Raises OSError where none can be made, or others may write to it."""
    folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "vpipe" / name
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    about = folder.stat()
    if about.st_uid != os.getuid() or about.st_mode & 0o022:
        raise PermissionError(f"{folder}: must be written by its owner alone, and belong to who runs this; chmod go-w")
    return folder


def graph_key(module: nn.Module, made_for: Mapping[str, object]) -> str:
    """A hash of the weights, the layers with their settings, and what the graph is made for, plain values."""
    kind = type(module)
    about = {**made_for, "class": f"{kind.__module__}:{kind.__qualname__}", "layers": repr(module)}
    found = hashlib.sha256(json.dumps(about, sort_keys=True).encode())
    for name, value in module.state_dict().items():
        found.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
        found.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
    return found.hexdigest()


@functools.cache
def code_of_export() -> str:
    """A hash of vpipe's own code that graphs are made by: another version may make better ones."""
    found = hashlib.sha256()
    for path in sorted(Path(__file__).parents[1].rglob("*.py")):
        found.update(path.read_bytes())
    return found.hexdigest()


def with_graph(key: str, make: Callable[[Path], None], load: Callable[[Path], T], fits: Callable[[T], bool]) -> T:
    """Loads what was kept under the key, if it still fits, else what is made now, which is kept if it fits.

    Args:
        key: of `graph_key`.
        make: writes files into a folder.
        load: reads them; the folder may be gone afterwards.
        fits: whether what was loaded is what it should be. A key does not know everything: the code of a network may
            change and keep its names.
    """
    try:
        graphs = folder_of("graphs")
    except (OSError, RuntimeError):  # no home, or none to write to: nothing is kept
        graphs = None
    if graphs is not None and (graphs / key).is_dir():
        try:
            found = load(graphs / key)
            if fits(found):
                with contextlib.suppress(OSError):  # of a home that is read-only by now
                    os.utime(graphs / key)
                return found
        except ModelError:  # it is a graph, and this machine does not run it so
            raise
        except Exception:  # whatever a library raises about files that are damaged or of another version
            pass
        shutil.rmtree(graphs / key, ignore_errors=True)
    with tempfile.TemporaryDirectory(prefix="vpipe-") as folder:
        made = Path(folder) / key
        made.mkdir()
        make(made)
        found = load(made)
        if graphs is not None and fits(found):
            with contextlib.suppress(OSError):  # another process was quicker, or the disk is full
                _keep(made, graphs)
    return found


def _keep(made: Path, graphs: Path) -> None:
    with tempfile.TemporaryDirectory(prefix=".", dir=graphs) as folder:
        whole = shutil.copytree(made, Path(folder) / made.name)
        os.rename(whole, graphs / made.name)
    _forget_old(graphs)


def _forget_old(graphs: Path) -> None:
    def used(folder: Path) -> float:
        try:
            return folder.stat().st_mtime
        except OSError:
            return 0.0

    kept = [path for path in graphs.iterdir() if not path.name.startswith(".")]
    for path in sorted(kept, key=used)[:-_MOST_GRAPHS]:
        shutil.rmtree(path, ignore_errors=True)
