"""Writes docs/config.md from the types of the configurations."""

import inspect
from collections.abc import Iterator
from types import UnionType
from typing import Annotated, Literal, Union, get_args, get_origin

from annotated_types import Ge, Gt, Le, Lt
from pydantic import BaseModel, JsonValue
from pydantic.fields import FieldInfo

from pipeline.schema import RunConfig
from pipeline.section import sections_in
from pipeline.trainschema import TrainConfig

_HEAD = """\
# Configuration

Every key of `vpipe run` and of `vpipe train` and `vpipe eval`. This page is generated from the types of the
configuration: `python -m pipeline.config > docs/config.md`.

- The file is YAML 1.2: `no` and `on` are texts, a key that is given twice is an error.
- Relative paths start at the folder of the file; only `run.dir` starts where you stand.
- `${VARIABLE}` in a text is taken from the environment, and what a run records of it is `${VARIABLE}` again: the place
  for passwords. `$${` stands for `${`.
- `--set fold.frames=8` or `--set sources.0.path=other.mp4` sets one value over what the file says; what follows the `=`
  is YAML.
- `package.module:Name` is imported and called with the other keys as keyword arguments. Modules beside the
  configuration are found too. A configuration names code to run, so trust it as you trust code.
- All problems are reported at once, each as `file:line: key: what must hold, got what`.
"""


def markdown() -> str:
    """The page."""
    parts = [_HEAD]
    for title, kind in (("`vpipe run`", RunConfig), ("`vpipe train` and `vpipe eval`", TrainConfig)):
        parts.append(f"\n## {title}\n\n{_table(kind)}")
        parts += [f"\n### {key}\n\n{_doc(section)}\n\n{_table(section)}" for key, section in _sections(kind, "")]
    return "".join(parts)


def _sections(kind: type[BaseModel], above: str) -> Iterator[tuple[str, type[BaseModel]]]:
    for name, field in kind.model_fields.items():
        found = sections_in(field.annotation)
        for section in found:
            title = f"`{above}{field.alias or name}`"
            yield (title if len(found) == 1 else f"{title}, {_form(section)}"), section
            yield from _sections(section, f"{above}{field.alias or name}.")


def _form(section: type[BaseModel]) -> str:
    annotation = section.model_fields["type"].annotation
    return _type(annotation) if get_origin(annotation) is Literal else "`package.module:Name`"


def _doc(section: type[BaseModel]) -> str:
    return " ".join(inspect.cleandoc(section.__doc__ or "").split())


def _table(kind: type[BaseModel]) -> str:
    rows = ["| key | type | default | meaning |", "| --- | --- | --- | --- |"]
    inherited = [name for name in kind.model_fields if name not in kind.__annotations__]
    for name in (*kind.__annotations__, *inherited):
        if name not in kind.model_fields:
            continue
        field = kind.model_fields[name]
        cells = (f"`{field.alias or name}`", _field_type(field), _default(field), field.description or "")
        rows.append("| " + " | ".join(cell.replace("|", r"\|") for cell in cells) + " |")
    return "\n".join(rows) + "\n"


def _default(field: FieldInfo) -> str:
    if field.is_required():
        return "must be given"
    value = field.default
    if "Default:" in (field.description or "") or value is None or isinstance(value, BaseModel):
        return ""
    if value in ((), {}):
        return "none"
    if isinstance(value, bool):
        return f"`{str(value).lower()}`"  # as YAML has it
    return f"`{list(value) if isinstance(value, tuple) else value}`"


def _field_type(field: FieldInfo) -> str:
    return _type(field.annotation) + _bounds(tuple(field.metadata))


def _type(annotation: object) -> str:
    """A type in words."""
    origin, args = get_origin(annotation), get_args(annotation)
    if annotation is JsonValue:
        return "any value"
    if origin is Annotated:
        return _type(args[0]) + _bounds(args[1:])
    if origin is Literal:
        return ", ".join(f"`{arg}`" for arg in args)
    if origin in (UnionType, Union):
        return " or ".join(dict.fromkeys(_type(arg) for arg in args if arg is not type(None)))
    if origin is tuple:
        return f"list of {_type(args[0])}" if args[-1] is Ellipsis else f"list of {len(args)}: {_type(args[0])}"
    if origin is dict:
        return f"mapping to {_type(args[1])}"
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return "mapping"
    return {str: "text", int: "whole number", float: "number", bool: "true or false"}.get(
        annotation if isinstance(annotation, type) else object, str(annotation)
    )


def _bounds(metadata: tuple[object, ...]) -> str:
    """What the numbers of a type are bound to."""
    said = []
    for part in metadata:
        for bound in part.metadata if isinstance(part, FieldInfo) else [part]:
            match bound:
                case Ge(ge):
                    said.append(f"at least {ge}")
                case Gt(gt):
                    said.append(f"over {gt}")
                case Le(le):
                    said.append(f"at most {le}")
                case Lt(lt):
                    said.append(f"under {lt}")
    return f" ({', '.join(said)})" if said else ""
