"""Labels as COCO JSON (https://cocodataset.org/#format-data): one file per clip, whose images are its frames."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Container, Mapping
from pathlib import Path, PurePosixPath
from typing import TypeGuard

import numpy as np

from pipeline.errors import ConfigError, refuse
from pipeline.labels.boxes import LONGEST_NAME, Boxes, as_number
from pipeline.yamlfile import shown

__all__ = ["read_coco"]

Entry = Mapping[str, object]

FRAME_KEYS = ("frame_id", "frame", "frame_number")  # of an image: the first that is there says its frame
COPY = re.compile(r"\.rf\.[0-9A-Za-z]+$")  # Roboflow hangs a hash on the stem of a file: its digits number nothing


def read_coco(path: Path, text: str) -> Boxes:
    """Reads a COCO document.

        images       id, and the frame's number from 0: `frame_id`, `frame` or `frame_number`, else the last digits in
                     the stem of `file_name`
        annotations  image_id, category_id, and a detector's `score`, else 1; those with `ignore` are passed over, a
                     crowd counts as one box. Where there are regions, its place: `bbox`, in pixels of the image, whose
                     `width` and `height` must be there too
        categories   id, name

    Everything else is not looked at. An image without annotations shows nothing; of a frame without an image nothing
    is known.

    Raises:
        ConfigError: the first problems of the file, each with its place: line and column, or images[3].id.
    """
    lists = _lists(path, text)
    names: dict[int, str] = {}  # by the id of the category
    frames: dict[int, int] = {}  # by the id of the image
    places: dict[int, str] = {}  # by the number of the frame
    boxes: list[tuple[int, str, float, list[float]]] = []
    sizes: dict[int, Entry] = {}  # by the id of the image
    problems: list[str] = []

    def read(name: str, entry: Callable[[str, Entry], None]) -> None:
        for k, one in enumerate(lists[name]):
            try:
                if not isinstance(one, dict):
                    raise _Wrong("", "an object", one)
                entry(f"{name}[{k}]", one)
            except _Wrong as exc:
                problems.append(f"{path}: {name}[{k}]{exc}")

    def category(place: str, one: Entry) -> None:
        names[_new_id(one, names)] = _name(one)

    def image(place: str, one: Entry) -> None:
        id_, number = _new_id(one, frames), _frame(one)
        if number in places:
            raise _Wrong("", f"of another frame than {places[number]} (each clip needs a file of its own)", number)
        frames[id_], places[number], sizes[id_] = number, place, one

    def annotation(place: str, one: Entry) -> None:
        image_id = _known_id(one, "image_id", frames, "image")
        frame = frames[image_id]
        name = names[_known_id(one, "category_id", names, "category")]
        score = _score(one)
        if not _is_ignored(one):
            boxes.append((frame, name, score, _corners(one, sizes[image_id])))

    read("categories", category)
    read("images", image)
    if lists["annotations"]:
        empty = [name for name, ids in (("categories", names), ("images", frames)) if not ids]
        problems += [f"{path}: {name}: must hold those of the annotations, got an empty list" for name in empty]
    refuse(path, problems)  # before the annotations: those of a wrong image would all be wrong too
    read("annotations", annotation)
    refuse(path, problems)
    return Boxes(
        path=path,
        frame=np.array([frame for frame, *_ in boxes], np.int64),
        object_name=np.array([name for _, name, *_ in boxes], np.str_),
        confidence=np.array([score for *_, score, _ in boxes], np.float64),
        told=np.array(list(places), np.int64),
        place=np.array([f": {place}" for place in places.values()], np.str_),
        complete=False,
        corners=np.array([corners for *_, corners in boxes], np.float64).reshape(-1, 4),
    )


def _lists(path: Path, text: str) -> dict[str, list[object]]:
    """The three lists of the document."""
    try:
        document = json.loads(text)
    except json.JSONDecodeError as exc:
        raise ConfigError([f"{path}:{exc.lineno}:{exc.colno}: labels must be JSON, got: {exc.msg}"]) from exc
    except (ValueError, RecursionError) as exc:  # a number of thousands of digits; lists in lists in lists
        raise ConfigError([f"{path}: labels must be JSON of a sane shape, got: {exc}"]) from exc
    names = ("categories", "images", "annotations")
    if not isinstance(document, dict):
        raise ConfigError(
            [f"{path}: labels must be COCO JSON, an object with {', '.join(names)}, got {shown(document)}"]
        )
    found = {name: document.get(name) for name in names}
    problems = [
        f"{path}: {name}: must be a list, got {shown(v)}" for name, v in found.items() if not isinstance(v, list)
    ]
    refuse(path, problems)
    return {name: value for name, value in found.items() if isinstance(value, list)}


class _Wrong(Exception):  # noqa: N818
    """What a key of an entry, or the entry itself, must be and is not."""

    def __init__(self, key: str, rule: str, got: object) -> None:
        super().__init__(f"{key and '.'}{key}: must be {rule}, got {shown(got)}")


def _new_id(one: Entry, seen: Container[int]) -> int:
    id_ = one.get("id")
    if not _is_whole(id_):
        raise _Wrong("id", "a whole number", id_)
    if id_ in seen:
        raise _Wrong("id", "unique", id_)
    return id_


def _known_id(one: Entry, key: str, known: Container[int], kind: str) -> int:
    id_ = one.get(key)
    if not _is_whole(id_) or id_ not in known:
        raise _Wrong(key, f"the id of one {kind}", id_)
    return id_


def _name(one: Entry) -> str:
    name = one.get("name")
    if not isinstance(name, str) or not 0 < len(name.strip()) <= LONGEST_NAME:
        raise _Wrong("name", f"a name of up to {LONGEST_NAME} characters", name)
    return name.strip()


def _frame(one: Entry) -> int:
    for key in FRAME_KEYS:
        number = one.get(key)
        if number is not None:
            if not _is_whole(number) or as_number(str(number)) is None:
                raise _Wrong(key, "a whole number from 0", number)
            return number
    name = one.get("file_name")
    stem = PurePosixPath(name.replace("\\", "/")).stem if isinstance(name, str) else ""
    runs = re.findall(r"[0-9]+", COPY.sub("", stem))
    found = as_number(runs[-1]) if runs else None
    if found is None:
        raise _Wrong("file_name", "a name with the number of the frame in it, where no frame_id says it", name)
    return found


def _score(one: Entry) -> float:
    score = one.get("score")
    if score is None:
        return 1.0
    if isinstance(score, bool) or not isinstance(score, int | float) or not 0 <= score <= 1:
        raise _Wrong("score", "a number in 0..1", score)
    return float(score)


def _corners(one: Entry, image: Entry) -> list[float]:
    """xmin, ymin, xmax, ymax in fractions of the image; NaN where it does not say."""
    box = one.get("bbox")
    numbers = [*box] if isinstance(box, list) and len(box) == 4 else []
    size = [image.get("width"), image.get("height")]
    if not all(isinstance(v, int | float) and not isinstance(v, bool) for v in [*numbers, *size]) or not numbers:
        return [math.nan] * 4
    try:
        width, height, x, y, w, h = (float(v) for v in [*size, *numbers] if isinstance(v, int | float))
    except OverflowError:  # a whole number of hundreds of digits
        return [math.nan] * 4
    if not (width > 0 and height > 0):
        return [math.nan] * 4
    corners = [x / width, y / height, (x + w) / width, (y + h) / height]
    return corners if all(map(math.isfinite, corners)) else [math.nan] * 4


def _is_ignored(one: Entry) -> bool:
    ignored = one.get("ignore", 0)
    if not isinstance(ignored, int) or ignored not in (0, 1):
        raise _Wrong("ignore", "0 or 1", ignored)
    return bool(ignored)


def _is_whole(value: object) -> TypeGuard[int]:
    return isinstance(value, int) and not isinstance(value, bool)
