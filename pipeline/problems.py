"""The report that checks of a configuration write, and the checks that several kinds of it share."""

import inspect
import os
import tempfile
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Literal

from pipeline.schema import Selection
from pipeline.section import Configuration, OwnSection
from pipeline.yamlfile import Node, Step, did_you_mean
from specialized.objects import load_object, search_in


class Report:
    """Collects problems and warnings, each with the place of the value it is about."""

    def __init__(self, tree: Node) -> None:
        self.tree = tree
        self.problems: list[str] = []
        self.warnings: list[str] = []

    def problem(self, steps: Sequence[Step], text: str) -> None:
        """The value at these steps must not stay as it is."""
        node, missing = self.tree.reach(steps)
        self.problems.append(node.problem(text, *missing))

    def warning(self, steps: Sequence[Step], text: str) -> None:
        """The value at these steps is allowed, and probably not meant."""
        node, missing = self.tree.reach(steps)
        self.warnings.append(node.problem(text, *missing))

    def below(self, *steps: Step) -> Callable[[Sequence[Step], str], None]:
        """Takes problems of the section at these steps, by its own keys."""
        return lambda keys, text: self.problem((*steps, *keys), text)

    def check_there(self, steps: Sequence[Step], path: str, kind: Literal["file", "folder"]) -> None:
        """Reports a file or folder that is to be read and is not there, or is of the other kind."""
        if not (os.path.isfile(path) if kind == "file" else os.path.isdir(path)):
            got = "a folder" if os.path.isdir(path) else "a file" if os.path.isfile(path) else "none"
            self.problem(steps, f"must be a {kind}, got {got} at {self.path(steps, path)}")

    def path(self, steps: Sequence[Step], path: str) -> str:
        """A path for a message: in full, unless the environment said part of it."""
        return self.raw(steps) or path

    def raw(self, steps: Sequence[Step]) -> str | None:
        """The value as it was written, where it holds a ${VARIABLE}."""
        node, missing = self.tree.reach(steps)
        return None if missing else node.raw


def report_of(config: Configuration) -> Report:
    """An empty report. From here on modules that lie beside the configuration can be imported."""
    search_in(config.path.parent if config.path else os.getcwd())
    return Report(config._tree)


def check_unique(report: Report, section: str, names: Sequence[object]) -> None:
    counts = Counter(name for name in names if isinstance(name, str))
    for k, name in enumerate(names):
        if isinstance(name, str) and counts[name] > 1 and name in names[:k]:
            report.problem((section, k, "name"), f"must be unique, got {name!r} again; give another name")


def check_selection(report: Report, steps: tuple[Step, ...], selection: Selection) -> None:
    if {"every", "fps"} <= selection.model_fields_set and selection.fps is not None:
        report.problem((*steps, "fps"), "must not stand beside 'every', got both; remove one")
    if selection.to is not None and selection.to <= (selection.from_ or 0.0):
        report.problem((*steps, "to"), f"must be after 'from' ({selection.from_ or 0.0:g} s), got {selection.to:g} s")


def check_object(report: Report, steps: tuple[Step, ...], section: OwnSection, offered: tuple[str, ...] = ()) -> None:
    try:
        target = load_object(section.type)
    except ImportError as exc:
        report.problem((*steps, "type"), str(exc))
    else:
        check_arguments(report, steps, target, section.type, section.arguments, offered)


def check_arguments(
    report: Report,
    steps: tuple[Step, ...],
    target: Callable[..., object],
    name: str,
    arguments: Mapping[str, object],
    offered: tuple[str, ...] = (),
) -> None:
    try:
        parameters = inspect.signature(target).parameters.values()
    except (TypeError, ValueError):  # some built-in callables have none
        return
    named = [p for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)]
    known = [p.name for p in named]
    if not any(p.kind is p.VAR_KEYWORD for p in parameters):
        for key in arguments:
            if key not in known:
                report.problem((*steps, key), f"unknown argument of {name}{did_you_mean(key, known)}")
    for p in named:
        if p.default is p.empty and p.name not in (*arguments, *offered):
            report.problem((*steps, p.name), f"must be given: {name} has no default for it")


def check_file_to_write(
    report: Report, steps: tuple[Step, ...], path: str, *, run_dir: str, appended: bool = False
) -> None:
    """Whether a file can be made there, by the rule of `pipeline.outputs`: its folder is there, or lies among runs. One
    that is `appended` to may be a FIFO or a device, too."""
    folder = os.path.dirname(path)
    if os.path.isdir(path) or (os.path.exists(path) and not os.path.isfile(path) and not appended):
        got = "a folder" if os.path.isdir(path) else "something else"
        report.problem(steps, f"must be a file to write, got {got} at {report.path(steps, path)}")
    elif os.path.isdir(folder) or Path(folder).is_relative_to(run_dir):
        check_folder(report, steps, folder)
    elif os.path.exists(folder):
        report.problem(steps, f"must lie in a folder, got a file at {report.path(steps, folder)}")
    else:
        place = report.path(steps, folder)
        report.problem(steps, f"must lie in a folder that is there, got none at {place}; make it (mkdir -p)")


def check_folder(report: Report, steps: tuple[Step, ...], folder: str) -> None:
    """Whether files can be made in a folder, or the folder itself: tried out, for modes do not tell it for root."""
    existing = Path(folder)
    while not os.path.lexists(existing) and existing != existing.parent:
        existing = existing.parent
    try:
        with tempfile.TemporaryFile(dir=existing):
            pass
    except OSError as exc:
        place = report.path(steps, str(existing))
        report.problem(steps, f"must lie in a folder that can be written to, got {place}: {exc.strerror or exc}")
