"""What the types of the configurations are made of: sections, and what a file of them is loaded as."""

from collections.abc import Mapping
from pathlib import Path
from typing import get_args
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, JsonValue, PrivateAttr

from pipeline.values import HIDDEN, without_path, without_secrets
from pipeline.yamlfile import VARIABLE, Node, Step


class Section(BaseModel):
    """A mapping of known keys. Strict: a text is no number, and true is not 1."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False, protected_namespaces=())


class OwnSection(Section):
    """An object of the user's own: `type` is where to find it."""

    model_config = ConfigDict(extra="allow")

    type: str

    @property
    def arguments(self) -> dict[str, object]:
        """The keyword arguments."""
        return dict(self.model_extra or {})


def tag_of(value: object, ours: Mapping[str, type[Section]], own: type[OwnSection], *, default: str) -> str:
    """The tag of the section that a value is read as, by its `type`.

    Tags name the class; <...> cannot be taken for a key when an error's path is followed.
    """
    kind = value.get("type", default) if isinstance(value, Mapping) else getattr(value, "type", default)
    found = ours.get(kind, own) if isinstance(kind, str) else ours[default]
    return f"<{found.__name__}>"


class Configuration(Section):
    """What `pipeline.config` loads: the values, and where they came from."""

    _tree: Node = PrivateAttr(default_factory=lambda: Node({}, "", ""))
    _path: Path | None = PrivateAttr(default=None)
    _warnings: tuple[str, ...] = PrivateAttr(default=())
    _overrides: tuple[str, ...] = PrivateAttr(default=())

    @property
    def path(self) -> Path | None:
        """The configuration's file, None if there is none."""
        return self._path

    @property
    def overrides(self) -> tuple[str, ...]:
        """What was set over the file's values, `key.path=value` each."""
        return self._overrides

    @property
    def warnings(self) -> tuple[str, ...]:
        """What is allowed, and probably not meant: `file:line: key: what should hold, got what`."""
        return self._warnings

    def problem(self, text: str, *keys: Step) -> str:
        """A line for a ConfigError about the value at these keys: `file:line: key: ` and the text."""
        node, missing = self._tree.reach(keys)
        return node.problem(text, *missing)

    def resolved(self) -> dict[str, JsonValue]:
        """All values, defaults included, as JSON has them, without what may be secret; texts with ${VARIABLE} as they
        were written, likewise."""
        values: dict[str, JsonValue] = self.model_dump(mode="json", by_alias=True)
        return {key: _as_written(value, self._tree.child(key)) for key, value in values.items()}


def _as_written(value: JsonValue, node: Node | None) -> JsonValue:
    if node is None:
        return value
    if node.raw is not None:
        return _without_secrets(value, node.value, node.raw)
    if isinstance(value, dict):
        return {key: _as_written(v, node.child(key)) for key, v in value.items()}
    if isinstance(value, list):
        return [_as_written(v, node.child(k)) for k, v in enumerate(value)]
    return value


def _without_secrets(value: JsonValue, filled: object, raw: str) -> JsonValue:
    """A text as it was written, less what is left out of `value`, which it is once it is filled in."""
    if VARIABLE.fullmatch(raw):
        return raw
    if value == HIDDEN:
        return HIDDEN
    if isinstance(filled, str) and "://" in filled:
        shown = without_path(raw) if value == without_path(filled) else without_secrets(raw)
        user = urlsplit(raw).netloc.rpartition("@")[0]
        if VARIABLE.search(user):
            parts = (part if VARIABLE.fullmatch(part) else HIDDEN for part in user.split(":"))
            shown = shown.replace("//", f"//{':'.join(parts)}@", 1)
        return shown
    return raw


def sections_in(annotation: object) -> list[type[BaseModel]]:
    """The sections that a value of this type can be or hold."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [section for part in get_args(annotation) for section in sections_in(part)]
