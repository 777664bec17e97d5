"""Label files: which objects a detector or a person saw in which frame of a clip, and what a model should answer.

clip.csv  ──table──┐
clip.json ──coco───┴──▶ Boxes ──answers──▶ a label per frame
"""

from __future__ import annotations

from pathlib import Path

from pipeline.errors import ConfigError
from pipeline.labels.boxes import Boxes, Inside, answers
from pipeline.labels.coco import read_coco
from pipeline.labels.table import read_table

__all__ = ["Boxes", "Inside", "answers", "read_labels"]


def read_labels(path: Path) -> Boxes:
    """Reads a label file: COCO JSON if it is called .json or begins as JSON does, else CSV.

    Raises:
        ConfigError: the first problems of the file, each with its place.
    """
    text = _text(path)
    if path.suffix.lower() == ".json" or text.lstrip()[:1] in ("{", "["):
        return read_coco(path, text)
    return read_table(path, text)


def _text(path: Path) -> str:
    try:
        content = path.read_bytes()
    except OSError as exc:
        raise ConfigError([f"{path}: labels must be a readable file, got: {exc.strerror or exc}"]) from exc
    if content.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise ConfigError([f"{path}: labels must be UTF-8 text, got UTF-16; save them anew as UTF-8"])
    if (nul := content.find(b"\0")) >= 0:
        line = content[:nul].count(b"\n") + 1
        raise ConfigError([f"{path}:{line}: labels must be text, got a NUL byte; is it another file?"])
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as exc:
        line = content[: exc.start].count(b"\n") + 1
        raise ConfigError([f"{path}:{line}: labels must be UTF-8 text, got byte 0x{content[exc.start]:02x}"]) from exc
