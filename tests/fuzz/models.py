"""Damaged headers of model files: refused in a line that names the file, or taken, and in little memory."""

from __future__ import annotations

import json
import random
import struct
from pathlib import Path
from typing import Any

import torch

from specialized.errors import ModelError
from specialized.modelfile import ModelCard, load_model, network, read_card, save_model
from tests.fuzz.harness import Tried, told, wrong_report
from tests.fuzz.mutate import damaged, regrown, reworded

KEY = "vpipe-model-v1"
DTYPES = ("F64", "F32", "F16", "BF16", "I64", "I8", "U8", "BOOL", "F8_E4M3", "X", "")
ASKED: tuple[dict[str, Any], ...] = (
    {"args": {"filters": 10**9}},
    {"args": {"filters": 8000}},
    {"args": {"filters": 10**5, "dense": 10**5}},
    {"args": {"dense": 10**6}},
    {"args": {"dense": 10**9}},
    {"args": {"dense": -1}},
    {"args": {"layers": 10**6}},
    {"args": {"filters": 2.5, "layers": None}},
    {"args": {"classes": 10**9}},
    {"args": {"classes": 10**6}},
    {"args": {"fold": 10**6}},
    {"args": {"input": [10**6, 10**6]}},
    {"input": [10**6, 10**6]},
    {"input": [8000, 8000]},
    {"input": [1, 1]},
    {"fold": 10**4},
    {"fold": 10**9},
    {"multiple_of": 10**4},
    {"multiple_of": 2**62},
    {"classes": [f"c{k}" for k in range(100_000)]},
    {"architecture": "goldnumber-int"},
    {"architecture": "goldnumber-int", "args": {"units": 10**6}, "input": [22, 52]},
    {"architecture": "goldnumber-int", "args": {"units": 1, "width": 10**5}, "input": [22, 52]},
    {"architecture": "resnet18"},
    {"architecture": "resnet50", "args": {}, "input": [50, 50]},
    {"architecture": "os:system"},
    {"architecture": "torch.nn:Linear", "args": {"in_features": 10**5, "out_features": 10**5}},
    {"architecture": "torch.nn:Linear", "args": {"in_features": 30_000, "out_features": 30_000}},
    {"architecture": "antigravity:geohash", "args": {}},
    {"architecture": "torch.nn:Identity", "args": {}},
    {"architecture": "../x:Y"},
    {"architecture": "nowhere.x:Y"},
    {"ranges": {"features.0": [0.0, 1.0]}},
    {"ranges": {"nothing": [-1e308, 1e308]}},
)


def stock(folder: Path) -> None:
    """Two small models."""
    torch.manual_seed(0)
    small: dict[str, Any] = {"architecture": "coral", "order": "consecutive", "input": (16, 16)}
    cards = {
        "one-of": ModelCard(**small, args={"dense": 8, "filters": 4}, fold=2, classes=("person", "none")),
        "any-of": ModelCard(
            **small,
            args={"dense": 4, "filters": 4},
            fold=1,
            classes=("a", "b"),
            task="any_of",
            thresholds=(0.5, 0.4),
            keep={"a": 0.2},
            step_s=0.04,
        ),
    }
    for name, card in cards.items():
        save_model(folder / f"{name}.safetensors", card, network(card).state_dict())


class Models:
    limit_mb = 500
    crash_is_finding = True

    def __init__(self, stock: Path, own: Path) -> None:
        torch.set_num_threads(1)
        paths = sorted(stock.glob("*.safetensors"))
        self._stock = {path.name: path.read_bytes() for path in paths}
        self._path = own / "case.safetensors"
        for path in paths:
            load_model(path)

    @staticmethod
    def limit_s(number: int) -> float:
        return 10.0

    def prepared(self, number: int, chance: random.Random) -> str:
        name = chance.choice(list(self._stock))
        content, mutation = changed(self._stock[name], chance)
        self._path.write_bytes(content)
        return f"{name}: {mutation}"

    def tried(self, number: int, chance: random.Random) -> Tried:
        outcome = "refused: ModelError of the card"
        try:
            read_card(self._path)
            outcome = "refused: ModelError of the network or its weights"
            load_model(self._path)
        except ModelError as error:
            return Tried(outcome, finding=wrong_report([str(error)], self._path))
        except Exception as error:
            return Tried("another exception", finding=told(error))
        return Tried("taken")

    def isolated(self) -> str:
        return ""


CASE = Models


def changed(data: bytes, chance: random.Random) -> tuple[bytes, str]:
    (length,) = struct.unpack("<Q", data[:8])
    header, rest = data[8 : 8 + length], data[8 + length :]
    document = json.loads(header)
    match chance.randrange(8):
        case 0:
            some = (0, 1, length - 1, length + 1, 10**8, 10**9, 2**31, 2**60, 2**63, 2**64 - 1, len(data))
            claimed = chance.choice(some)
            return struct.pack("<Q", claimed) + header + rest, f"length {claimed}"
        case 1:
            begin, mutation = damaged(data[: 8 + length], chance)
            return begin + rest, f"header: {mutation}"
        case 2:
            return damaged(data, chance)
        case 3:
            tree, mutation = regrown(document, chance)
            return joined(tree, rest), f"header: {mutation}"
        case 4:
            name = chance.choice([key for key in document if key != "__metadata__"])
            what = chance.choice(("dtype", "shape", "data_offsets"))
            sizes = (0, 1, -1, 2**31, 2**60, 2**63, 2**64, len(rest), len(rest) + 1, *document[name]["shape"])
            numbers = [chance.choice(sizes) for _ in range(chance.choice((0, 1, 2, 2, 4, 4)))]
            document[name][what] = chance.choice(DTYPES) if what == "dtype" else numbers
            return joined(document, rest), f"{name}: {what} {document[name][what]}"
        case 5:
            card, mutation = regrown(json.loads(document["__metadata__"][KEY]), chance)
            text = json.dumps(card)
        case 6:
            text, mutation = reworded(json.dumps(json.loads(document["__metadata__"][KEY]), indent=1), chance)
        case _:
            asked = chance.choice(ASKED)
            text, mutation = json.dumps(json.loads(document["__metadata__"][KEY]) | asked), f"{asked!s:.100}"
    document["__metadata__"][KEY] = text
    return joined(document, rest), f"card: {mutation}"


def joined(document: Any, rest: bytes) -> bytes:
    header = json.dumps(document).encode()
    return struct.pack("<Q", len(header)) + header + rest
