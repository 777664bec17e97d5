"""A YAML file as a tree that knows where each value came from.

ruamel.yaml parses the text into nodes with positions; the values are made here by the core schema of YAML 1.2
(https://yaml.org/spec/1.2.2/#103-core-schema), so `no` stays a string, `012` is twelve, and nothing in a file can name
an object to build. Mistakes are collected, not raised: a report that stops at the first one costs a run per mistake.
"""

import difflib
import math
import re
import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError, YAMLError
from ruamel.yaml.nodes import MappingNode, ScalarNode, SequenceNode
from ruamel.yaml.nodes import Node as YamlNode
from ruamel.yaml.scanner import RoundTripScanner

Scalar = str | int | float | bool | None
Plain = Scalar | list["Plain"] | dict[str, "Plain"]
Step = str | int

MAX_BYTES = 1 << 20
MAX_NODES = 20_000  # after aliases are expanded: a few lines of them can stand for billions of values
MAX_DEPTH = 50


@dataclass(slots=True)
class Node:
    """One value of a configuration: its content, and what to call it in a message."""

    value: "Scalar | list[Node] | dict[str, Node]"
    where: str  # file:line, or what on the command line it came from
    key: str  # dotted, as its author wrote it; empty for the whole file
    raw: str | None = None  # the text before ${VARIABLE} was filled in, where there was one
    broken: bool = False  # already reported: its content stands for nothing

    def child(self, step: Step) -> "Node | None":
        """The value under a key or a position of a list, None if there is none."""
        if isinstance(self.value, dict):
            return self.value.get(str(step))
        if isinstance(self.value, list) and isinstance(step, int) and step < len(self.value):
            return self.value[step]
        return None

    def plain(self) -> Plain:
        """The values alone."""
        if isinstance(self.value, dict):
            return {key: node.plain() for key, node in self.value.items()}
        if isinstance(self.value, list):
            return [node.plain() for node in self.value]
        return self.value

    def shown(self) -> str:
        """The value for a message, short and without what ${VARIABLE} stood for."""
        if self.raw is not None:
            return repr(self.raw)
        return shown(self.value)

    def key_of(self, *steps: Step) -> str:
        """The dotted key of what is missing below, or its own."""
        key = self.key
        for step in steps:
            key = _joined(key, str(step))
        return key

    def problem(self, text: str, *steps: Step) -> str:
        """One line of a report about this value, or about what is missing below it."""
        key = self.key_of(*steps)
        return f"{self.where}: {_one_line(f'{key}: {text}' if key else text)}"

    def reach(self, steps: Sequence[Step]) -> "tuple[Node, Sequence[Step]]":
        """Follows the steps as far as they lead; returns what is there and the steps left."""
        node = self
        for k, step in enumerate(steps):
            below = node.child(step)
            if below is None:
                return node, steps[k:]
            node = below
        return node, ()

    def prune(self) -> set[str]:
        """Removes all that is broken below; returns the keys of what went."""
        gone = {node.key for node in self.children() if node.broken}
        if isinstance(self.value, dict):
            self.value = {key: node for key, node in self.value.items() if not node.broken}
        elif isinstance(self.value, list):
            self.value = [node for node in self.value if not node.broken]
        return gone.union(*(node.prune() for node in self.children()))

    def children(self) -> "list[Node]":
        """The values directly below."""
        if isinstance(self.value, dict):
            return list(self.value.values())
        return list(self.value) if isinstance(self.value, list) else []


def tree(value: Plain, where: str, key: str = "") -> Node:
    """A tree of values that come from no file."""
    if isinstance(value, dict):
        return Node({name: tree(v, where, _joined(key, name)) for name, v in value.items()}, where, key)
    if isinstance(value, list):
        return Node([tree(v, where, _joined(key, str(k))) for k, v in enumerate(value)], where, key)
    return Node(value, where, key)


def _one_line(text: str) -> str:
    """A text whose signs that are none, as some that names of files hold, are escaped."""
    return "".join(sign if sign.isprintable() else sign.encode("unicode_escape").decode() for sign in text)


def shown(value: object) -> str:
    """A value as YAML would put it, cut to a readable length."""
    match value:
        case None:
            return "nothing"
        case bool():
            return str(value).lower()
        case dict():
            return "a mapping" if value else "an empty mapping"
        case list() | tuple():
            return f"a list of {len(value)}" if value else "an empty list"
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """The end of a message about a name that is not known."""
    known = list(known)
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.6)
    return f"; did you mean {close[0]!r}?" if close else f"; known here: {', '.join(known) or 'none'}"


def read(path: Path, problems: list[str], *, what: str = "the configuration", most: int = MAX_NODES) -> Node | None:
    """Reads a YAML file whose content is a mapping; None if nothing can be made of it, the reason in `problems`.

    Args:
        path: The file.
        problems: Told what is wrong.
        what: It is, for messages.
        most: Values that it may hold.
    """
    try:
        with path.open("rb") as file:
            content = file.read(MAX_BYTES + 1)
        if len(content) > MAX_BYTES:
            problems.append(f"{path}: {what} must be at most {MAX_BYTES} bytes, got more; is it another file?")
            return None
        text = content.decode("utf-8")
    except UnicodeDecodeError as exc:
        line = content[: exc.start].count(b"\n") + 1
        problems.append(f"{path}:{line}: {what} must be UTF-8 text, got byte 0x{content[exc.start]:02x}")
        return None
    except (OSError, ValueError) as exc:  # ValueError: a path with a NUL in it
        reason = exc.strerror if isinstance(exc, OSError) else exc
        problems.append(f"{path}: {what} must be a readable file, got: {reason}")
        return None
    node = parse(text, str(path), problems, what=what, most=most)
    if node is None or isinstance(node.value, dict):
        return node
    got = "an empty file" if node.value is None else shown(node.plain())
    problems.append(f"{node.where}: {what} must be a mapping (key: value), got {got}")
    return None


def parse(
    text: str, file: str, problems: list[str], *, what: str = "the configuration", most: int = MAX_NODES
) -> Node | None:
    """Parses YAML text; None if its syntax is wrong. Lesser mistakes leave a tree without the wrong parts."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of anchors used twice: allowed in YAML 1.2, the last one counts
            yaml = YAML(typ="rt")
            yaml.Scanner = _Scanner
            root: YamlNode | None = yaml.compose(text)
    except MarkedYAMLError as exc:
        mark = exc.problem_mark or exc.context_mark
        line = f":{mark.line + 1}:{mark.column + 1}" if mark is not None else ""
        said = " ".join(", ".join(part for part in (exc.context, exc.problem) if part).split())
        problems.append(f"{file}{line}: must be valid YAML, got: {said}")
        return None
    except RecursionError:
        problems.append(f"{file}: must be nested at most {MAX_DEPTH} deep, got more")
        return None
    except (YAMLError, ValueError, NotImplementedError) as exc:  # characters and escapes that YAML does not know
        problems.append(f"{file}: must be valid YAML, got {' '.join(str(exc).split())}")
        return None
    except (KeyError, AssertionError) as exc:  # how ruamel says that a directive names a version that there is not
        problems.append(f"{file}: must be YAML 1.1 or 1.2, got a directive for another: {exc}; remove it")
        return None
    if root is None:
        return Node(None, f"{file}:1", "")
    return _Builder(file, problems, what=what, most=most).node(root, "", root)


class _Scanner(RoundTripScanner):
    """Gives up where brackets are nested too deep: each may begin a key, which took it seconds to rule out."""

    def fetch_flow_collection_start(self, *args: Any, **kwargs: Any) -> None:
        if self.flow_level > MAX_DEPTH:
            raise RecursionError
        super().fetch_flow_collection_start(*args, **kwargs)


class _Builder:
    """Makes a tree of ruamel's nodes."""

    def __init__(self, file: str, problems: list[str], *, what: str, most: int) -> None:
        self.file = file
        self.problems = problems
        self.what, self.most = what, most
        self.nodes = 0
        self.depth = 0

    def node(self, yaml: YamlNode, key: str, marked: YamlNode) -> Node:
        """Args: the node, its dotted key, and the node that gives its line (its key's, where it has one)."""
        where = f"{self.file}:{marked.start_mark.line + 1}"
        self.nodes += 1
        if self.nodes > self.most or self.depth >= MAX_DEPTH:
            if self.nodes <= self.most + 1:  # said once; all later nodes are over the limit as well
                most = f"at most {self.most} values, nested at most {MAX_DEPTH} deep"
                self.problems.append(f"{where}: {self.what} must hold {most} (aliases expanded), got more")
            self.nodes = self.most + 1
            return Node(None, where, key, broken=True)
        self.depth += 1
        try:
            return self._made(yaml, where, key)
        finally:
            self.depth -= 1

    def _made(self, yaml: YamlNode, where: str, key: str) -> Node:
        if str(yaml.tag) not in _TAGS:
            node = Node(None, where, key, broken=True)
            self.problems.append(node.problem(f"must have no tag, got {yaml.tag}; remove it"))
            return node
        if isinstance(yaml, MappingNode):
            return Node(self._mapping(yaml, key), where, key)
        if isinstance(yaml, SequenceNode):
            made = [self.node(child, _joined(key, str(k)), child) for k, child in enumerate(yaml.value)]
            return Node(made, where, key)
        if not _is_text(yaml.value):
            node = Node(None, where, key, broken=True)
            self.problems.append(node.problem(f"must be Unicode text, got half of a surrogate pair in {yaml.value!r}"))
            return node
        quoted = isinstance(yaml, ScalarNode) and yaml.style is not None
        return Node(str(yaml.value) if quoted else _scalar(yaml.value), where, key)

    def _mapping(self, yaml: MappingNode, key: str) -> dict[str, Node]:
        content: dict[str, Node] = {}
        lines: dict[str, int] = {}
        for name, value in yaml.value:
            line = name.start_mark.line + 1
            if not isinstance(name, ScalarNode):
                self.problems.append(f"{self.file}:{line}: a key must be a word, got a list or mapping")
                continue
            if not _is_text(name.value):
                self.problems.append(f"{self.file}:{line}: a key must be Unicode text, got {name.value!r}")
                continue
            if name.value in lines:
                text = f"must be given once, got it on line {lines[name.value]} too; remove one"
                self.problems.append(Node(None, f"{self.file}:{line}", _joined(key, name.value)).problem(text))
                continue
            lines[name.value] = line
            content[str(name.value)] = self.node(value, _joined(key, name.value), name)
        return content


_TAGS = {f"tag:yaml.org,2002:{kind}" for kind in ("map", "seq", "str", "int", "float", "bool", "null", "timestamp")}
_TAGS |= {f"tag:yaml.org,2002:{kind}" for kind in ("merge", "value")}  # the plain scalars `<<` and `=`: words here


def _is_text(text: str) -> bool:
    """Whether it can be written: an escape in a quoted text may name half of a surrogate pair."""
    return not any("\ud800" <= character <= "\udfff" for character in text)


_INT = re.compile(r"[-+]?[0-9]{1,18}|0o[0-7]{1,20}|0x[0-9a-fA-F]{1,15}")
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?")


def _scalar(text: str) -> Scalar:
    """An unquoted scalar by the core schema of YAML 1.2, save that nothing is infinite or NaN: those stay texts."""
    if text in ("", "~", "null", "Null", "NULL"):
        return None
    if text in ("true", "True", "TRUE", "false", "False", "FALSE"):
        return text.lower() == "true"
    if _INT.fullmatch(text):
        return int(text, 0) if text[:2] in ("0o", "0x") else int(text)
    if _FLOAT.fullmatch(text) and math.isfinite(number := float(text)):
        return number
    return text


def _joined(key: str, name: str) -> str:
    name = name if name.isprintable() else repr(name)  # a message stays one line
    return f"{key}.{name}" if key else name


def override(root: Node, assignment: str, problems: list[str]) -> None:
    """Sets one value of the tree by `a.b.0.c=value`, the value being YAML; mappings on the way are made."""
    key, equals, text = assignment.partition("=")
    steps = key.strip().split(".")
    where = "--set"
    target = Node(None, where, key.strip())
    if not equals or not all(steps):
        got = "an empty key" if equals else "no '='"
        problems.append(target.problem(f"must have the form key.path=value, got {got}; example: --set fold.frames=8"))
        return
    found: list[str] = []
    # A bare dash is YAML for a list of nothing; who types it means the standard output.
    value = parse('"-"' if text.strip() == "-" else text, where, found)
    if value is None or found:
        problems.append(target.problem("must be given a YAML value, got text that is none; put it in quotes"))
        return
    node = root
    for n, step in enumerate(steps):
        here = ".".join(steps[:n])
        if node.value is None:
            node.value, node.broken = {}, False
        if isinstance(node.value, dict):
            empty: list[Node] | dict[str, Node] = [] if steps[n + 1 : n + 2] == ["0"] else {}
            node = node.value.setdefault(step, Node(empty, where, _joined(here, step)))
        elif isinstance(node.value, list):
            if not re.fullmatch("[0-9]{1,6}", step) or int(step) > len(node.value):
                text = f"{here} must be followed by a number up to {len(node.value)}, got {step!r}"
                problems.append(target.problem(text))
                return
            if int(step) == len(node.value):
                node.value.append(Node({}, where, _joined(here, step)))
            node = node.value[int(step)]
        else:
            problems.append(target.problem(f"{here} must be a mapping or a list to have {step!r}, got {node.shown()}"))
            return
        if n == len(steps) - 1:
            node.value, node.where, node.broken = tree(value.plain(), where, target.key).value, where, False


VARIABLE = re.compile(r"\$\$\{|\$\{([^}]*)(\}?)")


def fill_in(node: Node, env: Mapping[str, str], problems: list[str]) -> None:
    """Replaces each ${VARIABLE} in the strings of the tree; `$${` stands for `${`."""
    if isinstance(node.value, str) and "${" in node.value:
        missing: list[str] = []

        def filled(match: re.Match[str]) -> str:
            name, closed = match.group(1), match.group(2)
            if name is None:
                return "${"
            if not closed or name not in env:
                missing.append(name)
                return ""
            return env[name]

        node.raw = node.value
        node.value = VARIABLE.sub(filled, node.raw)
        node.broken = bool(missing)
        problems.extend(
            node.problem(f"${{{name}}} must be set in the environment, got no such variable; export it")
            for name in missing
        )
    for child in node.children():
        fill_in(child, env, problems)
