"""Damaged configurations, loaded as `vpipe check` does: taken, or refused with lines that name the file, and soon.

One training in `PREPARED` that is taken is prepared too, as the command does; what that refuses is of other files.
"""

from __future__ import annotations

import json
import random
import shutil
from pathlib import Path

import numpy as np
from ruamel.yaml import YAML

from benchmarks.displays import DISPLAYS, TEN, write
from pipeline.config import TrainConfig, load_config, load_run_config, load_train_config
from pipeline.configcheck import absent_decoder, taken_sinks
from pipeline.errors import ConfigError, VpipeError
from pipeline.preparation import prepare
from tests.fuzz.harness import Tried, told, wrong_report
from tests.fuzz.mutate import damaged, nested, nudged, regrown, reworded, values_by_key

ROOT = Path(__file__).parents[2]
LOADERS = (load_config, load_config, load_run_config, load_train_config)
PREPARED = 10

WRITTEN = {
    "run.yaml": """\
# vpipe run
run: {name: much, dir: ../runs}
sources:
  - path: ../videos/lobby-person.mp4
    name: lobby
    from: 1.5
    to: 60
    every: 2
    regions: {desk: [0.1, 0.2, 0.3, 0.4], door: {polygon: [[0, 0], [0.5, 0], [0.5, 0.5]]}}
  - {path: ../videos/parking-*.mp4, fps: 5}
  - {path: ../videos/table-bottles.mp4, regions_px: {shelf: {grid: [2, 3, 0, 0, 120, 60]}}, start: mtime}
decode: {workers: 2, fast: false, isolate: true, tries: 2, limit_s: 20, segment_frames: 500, limits: {streams: 9}}
fold: {frames: 4, order: consecutive}
filters:
  - {name: person, model: ../specialized/weights/lobby-person-f4.safetensors, keep: {person: 0.4}}
  - name: again
    model: ../specialized/weights/lobby-person-f4.safetensors
    events: {person: {}}
sinks:
  - {type: csv, path: "-"}
  - {type: jsonl, path: ../runs/much.jsonl}
  - {type: sqlite, path: ../runs/much.sqlite}
  - {type: webhook, url: "http://127.0.0.1:9/x"}
metrics: {port: 9100}
telemetry: {interval_s: 0.5}
""",
    "own.yaml": """\
# vpipe run
sources: [{path: ../videos/table-bottles.mp4}]
filter: {model: "tests.models:Tiny", input: [24, 32], classes: [a, b], task: any_of, thresholds: [0.5, 0.5], fold: 2}
""",
    "training.yaml": """\
# vpipe train
clips:
  - {video: ../videos/lobby-person.mp4, labels: ../videos/labels/lobby-person.csv, every: 4}
  - {video: ../videos/parking-car.mp4, labels: ../videos/labels/parking-car.csv, from: 2, to: 30}
classes:
  - {name: person, object: person, at_least: 1, min_confidence: 0.5}
task: one_of
model: {architecture: coral, args: {dense: 32}, fold: 4, input: [32, 32]}
split: {blocks: 10, validation: [7], test: [8, 9], gap_s: 2}
train: {seed: 3, epochs: 5}
operating: {false_negative_rate: 0.05}
output: ../runs/out.safetensors
""",
}


def stock(folder: Path) -> None:
    """The project in small, as far as configurations name it."""
    for name in ("videos", "specialized"):
        (folder / name).symlink_to(ROOT / name)
    shutil.copytree(ROOT / "configs", folder / "configs")
    for name, text in WRITTEN.items():
        (folder / "configs" / name).write_text(text, encoding="utf-8")
    for name, classes in (("displays", DISPLAYS["goldnumber-fraction"].classes), ("digits", TEN)):
        for part in ("training", "validation", "test"):
            pictures = np.zeros((len(classes), 4, 4, 3), np.uint8)
            write(folder / "runs" / name / part, pictures, np.arange(len(classes)), classes)
    (folder / "runs" / "display").mkdir()
    (folder / "runs" / "display" / "test.mp4").symlink_to(ROOT / "videos" / "intersection.mp4")


class Configs:
    limit_mb = 500
    crash_is_finding = True

    def __init__(self, stock: Path, own: Path) -> None:
        self._texts = {path.name: path.read_text("utf-8") for path in sorted((stock / "configs").glob("*.yaml"))}
        self._trees = {name: YAML(typ="safe").load(text) for name, text in self._texts.items()}
        self._held = values_by_key(self._trees.values())
        for name in ("videos", "specialized", "runs"):
            (own / name).symlink_to(stock / name)
        (own / "configs").mkdir()
        for path in (stock / "configs").glob("*.csv"):
            shutil.copy(path, own / "configs")
        self._path = own / "configs" / "case.yaml"
        for text in self._texts.values():  # what is imported at first is no case's to pay for
            self._path.write_text(text, encoding="utf-8")
            config = load_config(self._path)
            if isinstance(config, TrainConfig) and config.images is None:
                prepare(config, outline=True)

    @staticmethod
    def limit_s(number: int) -> float:
        return 5.0

    def prepared(self, number: int, chance: random.Random) -> str:
        name = chance.choice(list(self._texts))
        text = self._texts[name]
        kind = chance.random()
        if kind < 0.3:
            text, mutation = reworded(text, chance)
            content = text.encode("utf-8", "replace")
        elif kind < 0.8:
            tree = self._trees[name]
            tree, mutation = nudged(tree, self._held, chance) if kind < 0.6 else regrown(tree, chance)
            content = json.dumps(tree, default=str, ensure_ascii=chance.random() < 0.5).encode()
        elif kind < 0.9:
            content, mutation = damaged(text.encode(), chance)
        else:
            mutation, strange = chance.choice(strange_texts(chance))
            content = (text + strange if chance.random() < 0.7 else strange + text).encode()
        self._path.write_bytes(content)
        return f"{name}: {mutation}"

    def tried(self, number: int, chance: random.Random) -> Tried:
        load = chance.choice(LOADERS)
        try:
            config = load(self._path)
        except ConfigError as error:
            return Tried("refused: ConfigError", finding=wrong_report(error.problems, self._path))
        except Exception as error:
            return Tried("another exception", finding=told(error))
        try:
            if not isinstance(config, TrainConfig):
                absent_decoder(config)
                taken_sinks(config)
                return Tried("taken: run")
            if number % PREPARED:
                return Tried("taken: training")
            prepare(config, outline=True)
        except VpipeError as error:
            return Tried(f"taken: training, not prepared: {type(error).__name__}")
        except Exception as error:
            return Tried("another exception", finding=told(error))
        return Tried("taken: training, prepared")

    def isolated(self) -> str:
        return ""


CASE = Configs


def strange_texts(chance: random.Random) -> list[tuple[str, str]]:
    """YAML that stands for more than it is long, or for something else than values."""
    n = chance.randint(2, 60)
    tag = chance.choice(("!!python/object:os.system", "!!python/object/apply:os.system", "!!binary", "!own", "!!set"))
    aliases = [f"a{k}: &a{k} [{', '.join([f'*a{k - 1}'] * 9) if k else 'x'}]\n" for k in range(n)]
    return [
        ("aliases of aliases", "".join(aliases)),
        ("an alias of itself", "a: &a [*a]\n"),
        ("an alias of nothing", "a: *b\n"),
        ("lists that do not end", f"a: {'[' * 10 ** chance.randint(1, 5)}\n"),
        ("lists in lists", f"a: {json.dumps(nested(chance.randint(10, 400)))}\n"),
        ("mappings in mappings", "".join(f"{' ' * k}a:\n" for k in range(chance.randint(10, 800)))),
        ("many keys", "".join(f"k{k}: {k}\n" for k in range(10 ** chance.randint(1, 4)))),
        ("many sources", f"sources: [{'{path: x}, ' * 10 ** chance.randint(1, 4)}]\n"),
        ("a key again", "sources: []\n" * n),
        ("a tag", f"sinks: {tag} [ls]\n"),
        ("a merge", "a: &a {b: c}\nrun: {<<: *a, <<: *a}\n"),
        ("documents", "---\na: b\n...\n" * n),
        ("a directive", "%YAML 9.9\n---\n"),
        ("a long key", f"{'k' * 10 ** chance.randint(2, 5)}: 1\n"),
        ("a long value", f"output: {'v' * 10 ** chance.randint(2, 5)}\n"),
        ("a key that is none", "? [a, b]\n: c\n"),
        ("digits", f"output: {'9' * 10 ** chance.randint(2, 5)}\n"),
        ("escapes", 'output: "\\0\\x07\\ud800\\U0010ffff"\n'),
    ]
