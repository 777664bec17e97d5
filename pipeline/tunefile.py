"""A configuration with what tuning chose, all else as its author wrote it: comments, order and quotes stay."""

from __future__ import annotations

import io
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

from pipeline.errors import ConfigError
from pipeline.files import whole_file
from pipeline.outputs import check_output
from pipeline.yamlfile import Plain, parse

__all__ = ["check_place", "settings_of", "write"]

_OWN_HEADING = re.compile(r"\A# *(Written by )?`?vpipe (run|tune)\b.*\n")

Setting = tuple[tuple[str, ...], str | int]


def settings_of(picked: Mapping[str, Any], *, model: str | None) -> list[Setting]:
    """The keys of a configuration that make a run as it was measured.

    Args:
        picked: A row of the document of docs/tune.md.
        model: The path to write, None if the model stays.
    """
    found: list[Setting] = [] if model is None else [(("filter", "model"), model), (("fold", "frames"), picked["fold"])]
    found += [(("filter", key), picked[key]) for key in ("engine", "dtype", "batch")]
    return [*found, (("decode", "workers"), picked["workers"]), (("run", "torch_threads"), picked["torch_threads"])]


def check_place(out: Path, config: Path, *, overwrite: bool) -> None:
    """Refuses a file that cannot be written, or in which the paths of the configuration would mean others.

    Raises:
        ConfigError: see `pipeline.outputs.check_output`.
    """
    if not os.path.samefile(config.parent, out.parent if out.parent.is_dir() else config.parent):
        place = os.path.abspath(config.parent)
        told = f"must lie in {place}, where the relative paths of {config.name} start; choose another --out"
        raise ConfigError([f"{out}: {told}"])
    if out.exists() and os.path.samefile(config, out):
        raise ConfigError([f"{out}: must not be CONFIG itself, which is wanted again; choose another --out"])
    check_output(out, given_by="--out", overwrite=overwrite, suffix=".yaml")


def write(out: Path, config: Path, settings: Sequence[Setting], *, heading: str) -> None:
    """Writes the configuration of the file `config` with these settings to `out`.

    Args:
        out: The file to write.
        config: What is changed.
        settings: The keys that are set.
        heading: The comment to begin with; one that says how `config` is run, or was tuned, goes.

    Raises:
        ConfigError: it could not be kept as it was written; nothing is written.
        OSError: the disk does not take it.
    """
    yaml = YAML(typ="rt")
    yaml.preserve_quotes = True
    yaml.width = 1 << 16  # lines stay as long as they are
    text = config.read_text(encoding="utf-8")
    document, wanted = yaml.load(text), _plain(text)
    for steps, value in settings:
        for content in (document, wanted):
            _put(content, steps, value)
    changed = io.StringIO()
    yaml.dump(document, changed)
    if _plain(changed.getvalue()) != wanted:  # one value stands for two, by an anchor
        keys = ", ".join(f"{'.'.join(steps)}: {value}" for steps, value in settings)
        raise ConfigError([f"{config}: must be YAML in which each value stands for itself; set by hand: {keys}"])
    with whole_file(out) as file:
        file.write(f"# {heading}\n{_OWN_HEADING.sub('', changed.getvalue())}".encode())


def _plain(text: str) -> Plain:
    node = parse(text, "", [])
    return None if node is None else node.plain()


def _put(content: Any, steps: tuple[str, ...], value: object) -> None:
    """Sets a key of a section, which is made if it is not there; `filter` may be written as `filters` of one."""
    section, key = steps
    if section == "filter" and content.get("filter") is None:
        content["filters"][0][key] = value
        return
    if section == "fold" and "frames" not in (content.get("fold") or {}):
        return  # the model's own f
    if content.get(section) is None:
        content[section] = {}
    content[section][key] = value
