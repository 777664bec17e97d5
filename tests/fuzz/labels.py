"""Damaged label files and files of regions: taken with sane content, or refused with lines that name the file."""

from __future__ import annotations

import csv
import io
import json
import math
import random
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

from pipeline.errors import ConfigError
from pipeline.labels import answers, read_labels
from pipeline.regionfile import regions_of
from pipeline.regions import Region
from specialized.modelfile import Ask
from tests.fuzz.harness import Tried, told, wrong_report
from tests.fuzz.mutate import ENCODINGS, damaged, nested, regrown, reworded

FRAMES = 40
BOXES = [
    ["frame", "object_name", "confidence", "xmin", "ymin", "xmax", "ymax", "ind"],
    *[[k, ("person", "car")[k % 2], f"0.{k % 10}", f"0.{k % 7}", 0.1, f"0.{7 + k % 3}", 0.9, k] for k in range(FRAMES)],
]
SHOWN = [["frame", "region", "label"], *[[k, at, "car" * (k % 2)] for k in range(FRAMES) for at in ("left", "right")]]
PLACES = [["name", "x", "y", "w", "h"], *[[f"r{k}", f"0.{k}", "0.1", "0.05", "0.2"] for k in range(9)]]
COCO = {
    "images": [{"id": k, "frame_id": k, "file_name": f"f{k:05}.jpg", "width": 320, "height": 240} for k in range(9)],
    "annotations": [
        {"id": k, "image_id": k % 9, "category_id": k % 2, "bbox": [10, 20, 30, 40], "score": 0.5, "ignore": 0}
        for k in range(FRAMES)
    ],
    "categories": [{"id": 0, "name": "person"}, {"id": 1, "name": "car"}],
}
REGIONS = {
    "bay": [0.1, 0.2, 0.3, 0.4],
    "gate": {"polygon": [[0, 0], [0.5, 0], [0.5, 0.5]]},
    "shelf": {"grid": [2, 3, 0, 0, 0.6, 0.6]},
}
LABELS: dict[str, Any] = {"boxes.csv": BOXES, "shown.csv": SHOWN, "coco.json": COCO}
OF_REGIONS: dict[str, Any] = {"places.csv": PLACES, "regions.yaml": REGIONS, "regions.json": REGIONS}
HALVES = (Region("left", 0, 0, 0.5, 1, False), Region("right", 0.5, 0, 0.5, 1, False))
ASKS = (Ask(name="person", object="person"), Ask(name="car", object="car", min_confidence=0.3))


def stock(folder: Path) -> None:
    """Nothing: all of it is made anew."""


class Labels:
    limit_mb = 500
    crash_is_finding = True

    def __init__(self, stock: Path, own: Path) -> None:
        self._own = own
        self._path = own

    @staticmethod
    def limit_s(number: int) -> float:
        return 5.0

    def prepared(self, number: int, chance: random.Random) -> str:
        name = chance.choice([*LABELS, *OF_REGIONS])
        content, mutation = changed(name, (LABELS | OF_REGIONS)[name], chance)
        self._path = self._own / name
        self._path.write_bytes(content)
        return f"{name}: {mutation}"

    def tried(self, number: int, chance: random.Random) -> Tried:
        name = self._path.name
        try:
            if name in LABELS:
                finding = wrong_labels(self._path, chance)
            else:
                finding = wrong_regions(self._path, chance.choice(("regions", "regions_px")))
        except ConfigError as error:
            return Tried(f"refused: ConfigError, {name}", finding=wrong_report(error.problems, self._path))
        except Exception as error:
            return Tried("another exception", finding=told(error))
        return Tried(f"taken: {name}", finding=finding)

    def isolated(self) -> str:
        return ""


CASE = Labels


def changed(name: str, content: Any, chance: random.Random) -> tuple[bytes, str]:
    kind = chance.random()
    mutation = ""
    if kind < 0.4:
        content, mutation = regrown(content, chance)
    text = written(name, content, chance)
    if mutation:
        return text.encode("utf-8", "replace"), mutation
    if kind < 0.7:
        text, mutation = reworded(text, chance)
        return text.encode("utf-8", "replace"), mutation
    if kind < 0.85:
        return damaged(text.encode(), chance)
    if kind < 0.92:
        encoding = chance.choice(ENCODINGS)
        return text.replace("person", "pérson").encode(encoding, "replace"), f"in {encoding}"
    deep, times = 10 ** chance.randint(1, 5), chance.choice((30, 300))
    others = {
        "lists that do not end": "[" * deep,
        "objects that do not end": '{"a":' * deep,
        "lists in lists": json.dumps(nested(400)),
        "other quotes": text.replace('"', "'"),
        "a quote behind": f'{text}"',
        "a quote before": f'"{text}',
        f"{times} times": text * times,
        "nothing": "",
        "only a mark of the order of bytes": "\ufeff",
        "semicolons": text.replace(",", ";"),
        "tabs": text.replace(",", "\t"),
        "carriage returns": text.replace("\n", "\r"),
        "digits": text.replace("1", "9" * deep),
        "out of range": text.replace("0.1", "1e400"),
        "below all": text.replace("0.1", "1e-400"),
        "a long field": text.replace("r", "x" * deep, 1),
        "formulas": text.replace("person", "=1+1").replace("left", "=1+1"),
    }
    mutation = chance.choice(list(others))
    return others[mutation].encode(), mutation


def written(name: str, content: Any, chance: random.Random) -> str:
    """A table as CSV, all else as JSON, which is YAML too."""
    if not name.endswith(".csv"):
        return json.dumps(content, indent=chance.choice((None, 1)))
    out = io.StringIO()
    csv.writer(out).writerows(row if isinstance(row, list) else [row] for row in content)
    return out.getvalue()


def wrong_labels(path: Path, chance: random.Random) -> str | None:
    """What is not sane about labels that are taken. Raises ConfigError."""
    boxes = read_labels(path)
    if {len(boxes.frame), len(boxes.confidence)} != {len(boxes.object_name)} or len(boxes.told) != len(boxes.place):
        return "arrays of different lengths"
    if (boxes.frame < 0).any() or (boxes.told < 0).any():
        return "a frame below 0"
    if not ((boxes.confidence >= 0) & (boxes.confidence <= 1)).all():
        return "a confidence out of 0..1"
    if boxes.corners is not None and (len(boxes.corners) != len(boxes) or np.isinf(boxes.corners).any()):
        return "corners that are infinite, or not of each box"
    if boxes.region is None and not all(boxes.object_name):
        return "a box without a name"
    with np.errstate(all="raise"):
        given = answers(
            boxes,
            np.arange(FRAMES),
            ASKS,
            "any_of",
            regions=HALVES if boxes.region is not None or boxes.corners is not None else None,
            size=(240, 320),
            inside=chance.choice(("centre", 0.5)),
        )
    return None if np.isin(given, (0, 1)).all() else "an answer that is neither yes nor no"


def wrong_regions(path: Path, key: str) -> str | None:
    """What is not sane about regions that are taken. Raises ConfigError."""
    section = SimpleNamespace(**{"regions": None, "regions_px": None, key: str(path)})
    regions = regions_of(section) or ()
    if not regions or len({region.name for region in regions}) != len(regions):
        return "no region, or two of one name"
    for region in regions:
        numbers = (region.x, region.y, region.w, region.h)
        if not all(map(math.isfinite, numbers)) or min(numbers) < 0 or 0 in numbers[2:]:
            return f"a region of {numbers}"
    return None
