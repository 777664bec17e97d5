"""Loads a configuration: every problem at once, each as `file:line: key: what must hold, got what`.

    text ──parse──▶ tree ──--set, ${VARIABLE}──▶ tree ──types──▶ RunConfig ──checks──▶ RunConfig
                         every step adds its problems; a wrong value is cut out and the rest goes on

`python -m pipeline.config` prints docs/config.md.
"""

import difflib
import os
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TypeVar

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from pipeline.configcheck import check_run_config
from pipeline.errors import ConfigError
from pipeline.filtercheck import card_of
from pipeline.schema import CameraSource, FileSource, FilterSection, RunConfig, SourceObject
from pipeline.section import Configuration, sections_in
from pipeline.sinkschema import FileSink, SinkObject
from pipeline.traincheck import check_train_config
from pipeline.trainschema import TrainConfig
from pipeline.yamlfile import Node, Plain, Step, did_you_mean, fill_in, override, read, tree

__all__ = [
    "CameraSource",
    "FileSink",
    "FileSource",
    "FilterSection",
    "RunConfig",
    "SinkObject",
    "SourceObject",
    "TrainConfig",
    "card_of",
    "check_run_config",
    "check_train_config",
    "load_config",
    "load_run_config",
    "load_train_config",
    "run_config_from",
]

Loaded = TypeVar("Loaded", bound=Configuration)

_TRAINING = ("clips", "images", "output", "train")  # keys that only a configuration for training has


def load_run_config(
    path: str | os.PathLike[str], *, overrides: Sequence[str] = (), env: Mapping[str, str] = os.environ
) -> RunConfig:
    """Loads and checks the configuration of a run.

    Args:
        path: A YAML file. Relative paths in it start at its folder.
        overrides: `key.path=value` each, over what the file says; positions in lists are numbers.
        env: Where ${VARIABLE} is looked up.

    Raises:
        ConfigError: all that is wrong with it.
    """
    content, problems = _read(Path(path))
    if _is_training(content):
        raise ConfigError([f"{path}: must be the configuration of a run, got one for training; use `vpipe train`"])
    return _made(RunConfig, content, Path(path), overrides, env, problems, check_run_config)


def load_train_config(
    path: str | os.PathLike[str],
    *,
    overrides: Sequence[str] = (),
    env: Mapping[str, str] = os.environ,
    cure: str = "use `vpipe run`",
) -> TrainConfig:
    """Loads and checks the configuration of a training or an evaluation; see `load_run_config`.

    `cure` says what to do about one of a run.
    """
    content, problems = _read(Path(path))
    if content.child("sources") and not any(content.child(key) for key in _TRAINING):
        raise ConfigError([f"{path}: must be a configuration for training, got that of a run; {cure}"])
    return _made(TrainConfig, content, Path(path), overrides, env, problems, check_train_config)


def load_config(
    path: str | os.PathLike[str], *, overrides: Sequence[str] = (), env: Mapping[str, str] = os.environ
) -> RunConfig | TrainConfig:
    """Loads and checks a configuration of either kind, which its keys tell; see `load_run_config`."""
    content, problems = _read(Path(path))
    if _is_training(content):
        return _made(TrainConfig, content, Path(path), overrides, env, problems, check_train_config)
    return _made(RunConfig, content, Path(path), overrides, env, problems, check_run_config)


def _is_training(content: Node) -> bool:
    return any(content.child(key) for key in _TRAINING) and not content.child("sources")


def run_config_from(
    videos: Sequence[str | os.PathLike[str]],
    model: str | os.PathLike[str],
    *,
    overrides: Sequence[str] = (),
    env: Mapping[str, str] = os.environ,
) -> RunConfig:
    """Makes the configuration of a run without a file: videos, a model, defaults. Paths start where you stand.

    Raises:
        ConfigError: all that is wrong with it.
    """
    paths = [os.fspath(video) for video in videos]
    stems = Counter(Path(path).stem for path in paths)
    sources: list[Plain] = [
        {"path": path} if stems[Path(path).stem] == 1 else {"path": path, "name": path} for path in paths
    ]
    run: Plain = {"name": Path(paths[0]).stem if paths else "run"}
    content = tree({"run": run, "sources": sources, "filters": [{"model": os.fspath(model)}]}, "command line")
    return _made(RunConfig, content, None, overrides, env, [], check_run_config)


def _read(path: Path) -> tuple[Node, list[str]]:
    """A file's tree, and what is wrong with its text."""
    problems: list[str] = []
    content = read(path, problems)
    if content is None:
        raise ConfigError(problems)
    return content, problems


def _made(
    kind: type[Loaded],
    content: Node,
    path: Path | None,
    overrides: Sequence[str],
    env: Mapping[str, str],
    problems: list[str],
    check: Callable[[Loaded], list[str]],
) -> Loaded:
    if kind is RunConfig:
        _spell_out_filter(content, problems)
    for assignment in overrides:
        if kind is RunConfig and re.match(r"\s*filter\s*[.=]", assignment):
            assignment = assignment.replace("filter", "filters.0", 1)
        override(content, assignment, problems)
    fill_in(content, env, problems)
    _fill_up(kind, content, path, problems)
    config = _validated(kind, content, path.absolute().parent if path else Path.cwd(), problems)
    if config is not None:
        config._tree, config._path, config._overrides = content, path, tuple(overrides)
        problems += check(config)
    if problems or config is None:
        raise ConfigError(sorted(dict.fromkeys(problems), key=lambda problem: _line(problem, path)))
    return config


def _spell_out_filter(content: Node, problems: list[str]) -> None:
    """Turns `filter: {...}` into `filters` of one; messages keep calling it `filter`."""
    sections = content.value
    if not isinstance(sections, dict) or "filter" not in sections:
        return
    short = sections.pop("filter")
    if "filters" in sections:
        problems.append(short.problem("must not stand beside 'filters', got both; remove one"))
    elif short.value is not None:
        sections["filters"] = Node([short], short.where, short.key)


def _fill_up(kind: type[Configuration], content: Node, path: Path | None, problems: list[str]) -> None:
    """An empty section is a section of defaults; lists that must have content are asked for; a run has a name."""
    sections = content.value
    if not isinstance(sections, dict):
        return
    for key in [key for key, node in sections.items() if node.value is None and not node.broken]:
        del sections[key]
    images = content.child("images")
    needed = ("sources", "filters") if kind is RunConfig else () if images else ("classes", "clips")
    for key in needed:
        node = sections.get(key)
        if node is None or node.value == []:
            problems.append((node or content).problem("must hold one or more, got none", *(() if node else (key,))))
    if kind is TrainConfig and "split" not in sections and (images is None or images.child("folder")):
        problems.append(content.problem("must be given", "split"))
    if path is not None:
        run = sections.setdefault("run", Node({}, content.where, "run"))
        if isinstance(run.value, dict):
            name = run.value.get("name")
            if name is None or (name.value is None and not name.broken):
                run.value["name"] = Node(path.stem, run.where, "run.name")


def _line(problem: str, path: Path | None) -> float:
    """The place of a problem in the report: by line, those about the whole or the command line last."""
    head, _, rest = problem.partition(f"{path}:")
    number = re.match(r"\d+", rest)
    return int(number.group()) if number and not head else float("inf")


def _validated(kind: type[Loaded], content: Node, folder: Path, problems: list[str]) -> Loaded | None:
    """Reads the tree as the type. What is wrong is reported and cut out of the tree, and the rest is read again, so
    that later checks see all that is right; None if nothing is left.
    """
    gone = content.prune()
    while True:
        try:
            return kind.model_validate(content.plain(), context={"folder": folder})
        except ValidationError as exc:
            errors = exc.errors(include_url=False)
        for error in errors:
            if error["type"] == "default_factory_not_called":  # of a field that was wrong itself
                continue
            steps = [step for step in error["loc"] if not str(step).startswith("<")]
            node, missing = content.reach(steps)
            if node.key_of(*missing) not in gone:  # else it is missing because it was wrong
                problems.append(node.problem(_wording(kind, error, node), *missing))
            node.broken = True
        if content.broken:
            return None
        gone |= content.prune()


_TYPES = {
    "string_type": "a text",
    "int_type": "a whole number",
    "int_from_float": "a whole number",
    "float_type": "a number",
    "bool_type": "true or false",
    "list_type": "a list",
    "tuple_type": "a list",
    "dict_type": "a mapping",
    "model_type": "a mapping",
    "model_attributes_type": "a mapping",
}
_BOUNDS = {
    "greater_than": ("over", "gt"),
    "greater_than_equal": ("at least", "ge"),
    "less_than": ("under", "lt"),
    "less_than_equal": ("at most", "le"),
}


def _wording(kind: type[BaseModel], error: ErrorDetails, node: Node) -> str:
    """What pydantic found, in our words."""
    context, got = error.get("ctx", {}), node.shown()
    match error["type"]:
        case "url" | "secret":
            return error["msg"]
        case "extra_forbidden":
            return f"unknown key{did_you_mean(str(error['loc'][-1]), _known_keys(kind, error['loc'][:-1]))}"
        case "missing":
            return "must be given"
        case "literal_error":
            choices = re.findall(r"'([^']*)'", context["expected"])
            close = difflib.get_close_matches(str(node.value), choices, n=1)
            advice = f"; did you mean {close[0]!r}?" if close and node.raw is None else ""
            return f"must be {' or '.join(choices)}, got {got}{advice}"
        case "too_short" | "too_long":
            word = "at least" if error["type"] == "too_short" else "at most"
            count = context.get("min_length", context.get("max_length"))
            return f"must hold {word} {count}, got {context['actual_length']}"
        case "string_too_short":
            return f"must not be empty, got {got}"
        case "value_error":
            rule, _, advice = str(context["error"]).partition("; ")
            return f"{rule}, got {got}" + (f"; {advice}" if advice else "")
        case name if name in _TYPES:
            return f"must be {_TYPES[name]}, got {got}"
        case name if name in _BOUNDS:
            word, bound = _BOUNDS[name]
            return f"must be {word} {context[bound]:g}, got {got}"
    return f"must be otherwise ({error['msg']}), got {got}"


def _known_keys(kind: type[BaseModel], loc: Sequence[Step]) -> list[str]:
    """The keys of the section that an error's path leads to."""
    sections: Sequence[type[BaseModel]] = [kind]
    for step in loc:
        if str(step).startswith("<"):
            sections = [section for section in sections if f"<{section.__name__}>" == step]
        elif isinstance(step, str):
            fields = {field.alias or name: field for name, field in sections[0].model_fields.items()}
            if step in fields:  # else a key of a mapping of sections
                sections = sections_in(fields[step].annotation)
    return [field.alias or name for name, field in sections[0].model_fields.items()]


if __name__ == "__main__":
    from pipeline.configdocs import markdown

    print(markdown(), end="")
