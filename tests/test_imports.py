"""The import direction: pipeline may use specialized and never the other way; torch and threads have one home each."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FILES = sorted(path.relative_to(ROOT) for top in ("pipeline", "specialized") for path in (ROOT / top).rglob("*.py"))


def imported(source: str) -> Iterator[tuple[int, str]]:
    """Yields (line, module) of every import, those inside functions too."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            if node.level:
                yield node.lineno, "." * node.level
            elif node.module:
                yield node.lineno, node.module


def violations(path: Path, source: str) -> list[str]:
    package = path.parts[0]
    found = []
    for line, module in imported(source):
        top = module.partition(".")[0]
        if not top:
            found.append(f"{path}:{line}: relative import")
        if package == "specialized" and top == "pipeline":
            found.append(f"{path}:{line}: specialized must not import {module}")
        if package == "pipeline" and (top == "torch" or module == "safetensors.torch"):
            found.append(f"{path}:{line}: {module} is imported in specialized alone")
        if top in ("threading", "queue", "_thread") and path.parent != Path("pipeline/threads"):
            found.append(f"{path}:{line}: {module} is imported in pipeline/threads alone")
    return found


@pytest.mark.parametrize("path", FILES, ids=str)
def test_imports_point_downwards(path: Path) -> None:
    assert violations(path, (ROOT / path).read_text(encoding="utf-8")) == []


@pytest.mark.parametrize(
    ("path", "source", "found"),
    [
        ("specialized/train.py", "import pipeline", "specialized must not import pipeline"),
        ("specialized/train.py", "from pipeline.batch import X", "specialized must not import pipeline.batch"),
        ("specialized/train.py", "def f():\n    import pipeline.run", "specialized must not import pipeline.run"),
        ("pipeline/filter.py", "import torch.nn as nn", "torch.nn is imported in specialized alone"),
        ("pipeline/filter.py", "from safetensors.torch import save", "safetensors.torch is imported in specialized"),
        ("pipeline/filter.py", "from queue import Queue", "queue is imported in pipeline/threads alone"),
        ("specialized/train.py", "import threading", "threading is imported in pipeline/threads alone"),
        ("pipeline/filter.py", "from . import batch", "relative import"),
    ],
)
def test_a_violation_is_found(path: str, source: str, found: str) -> None:
    (violation,) = violations(Path(path), source)
    assert found in violation
    assert violation.startswith(f"{path}:{source.count(chr(10)) + 1}: ")


@pytest.mark.parametrize(
    ("path", "source"),
    [
        ("pipeline/filter.py", "import specialized.engines\nfrom specialized.torchlike import x"),
        ("pipeline/threads/lanes.py", "import queue\nimport threading"),
        ("specialized/train.py", "import torch\nimport pipelines"),
    ],
)
def test_what_is_allowed_is_not_a_violation(path: str, source: str) -> None:
    assert violations(Path(path), source) == []


def test_there_is_something_to_check() -> None:
    assert len(FILES) > 5
