import dataclasses
import re
from collections.abc import Callable
from pathlib import Path

import click.testing
import numpy as np
import pytest

from pipeline.cli import main
from pipeline.config import load_train_config
from pipeline.errors import ConfigError
from pipeline.preparation import prepare
from pipeline.training import train
from pipeline.trainschema import TrainConfig
from specialized.modelfile import ModelCard, network, save_model
from tests.clips import write_clip

CONFIG = """\
model: {architecture: coral, args: {filters: 4, dense: 8}, fold: 2, input: [8, 12]}
classes:
  - {name: person, object: person}
clips:
  - {video: scene.mp4, labels: scene.csv}
split: {blocks: 6, validation: [2], test: [4], gap_s: 0.2}
train: {epochs: 1, shift: 0}
"""
ODD = Path(__file__).parent / "data/odd"
HEAD = "frame,object_name,confidence,xmin,ymin,xmax,ymax\n"
ODD_NETWORK = """\
from torch import nn

class Net(nn.Module):
    def __init__(self, classes):
        super().__init__()
        self.conv, self.fc = nn.Conv2d(3, 12, (8, 12)), nn.Linear(12, classes)

    def forward(self, x):
        return self.fc(self.conv(x).view(-1, 12))
"""


@pytest.fixture(scope="module")
def video(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("scene") / "scene.mp4"
    write_clip(path, [65535 if n // 9 % 2 else 0 for n in range(120)])
    return path


@pytest.fixture
def load(video: Path, tmp_path: Path) -> Callable[..., TrainConfig]:
    (tmp_path / "scene.mp4").symlink_to(video)
    (tmp_path / "scene.csv").write_text(HEAD + "".join(f"{n},person,1,0,0,1,1\n" for n in range(120) if n // 9 % 2))
    (tmp_path / "train.yaml").write_text(CONFIG)
    places = [f"output={tmp_path}/m.safetensors", f"run.dir={tmp_path}/runs"]
    return lambda *overrides: load_train_config(tmp_path / "train.yaml", overrides=[*places, *overrides])


def teacher(folder: Path, **changes: object) -> str:
    card = ModelCard(
        architecture="coral",
        args={"filters": 4, "dense": 8},
        fold=1,
        order="consecutive",
        input=(8, 12),
        classes=("person", "none"),
    )
    card = dataclasses.replace(card, **changes)  # type: ignore[arg-type]
    save_model(folder / "teacher.safetensors", card, network(card).state_dict())
    return f"teacher={folder}/teacher.safetensors"


def checked(folder: Path, *overrides: str, command: str = "check") -> click.testing.Result:
    places = [f"output={folder}/m.safetensors", f"run.dir={folder}/runs"]
    arguments = [part for text in (*places, *overrides) for part in ("--set", text)]
    return click.testing.CliRunner().invoke(main, [command, str(folder / "train.yaml"), *arguments])


def test_an_outline_has_all_but_the_pictures(load):
    whole, outline = prepare(load()), prepare(load(), outline=True)
    assert whole.told == outline.told
    assert outline.told == (
        "coral, f = 2, consecutive; training 60 (person 30, none 30), validation 20 (person 9, none 11), "
        "test 20 (person 10, none 10)"
    )
    assert whole.card == outline.card
    for part, examples in whole.parts.items():
        assert outline.parts[part].runs == examples.runs
        assert np.array_equal(outline.parts[part].labels, examples.labels)
    assert whole.footage.examples.pictures.any()
    assert not outline.footage.examples.pictures.any()


WRONG = {
    "a label beyond the clip": (
        lambda folder: (folder / "scene.csv").write_text(f"{HEAD}3,person,1,0,0,1,1\n120,person,1,0,0,1,1\n"),
        [],
        r"scene\.csv:3: frame must be below 120, the clip's number of frames, got 120",
    ),
    "an empty file of labels": (
        lambda folder: (folder / "scene.csv").write_text(""),
        [],
        r"scene\.csv:1: labels must begin with .*, got an empty",
    ),
    "an unknown column": (
        lambda folder: (folder / "scene.csv").write_text("frame,thing\n3,person\n"),
        [],
        r"scene\.csv:1: ",
    ),
    "a class without an example": (
        lambda folder: None,
        ["classes.1={name: many, object: person, at_least: 9}"],
        r"classes\.1: must have an example of 'many' to train on",
    ),
    "an object that no box has": (
        lambda folder: None,
        ["classes.0.object=Person"],
        r"classes\.0\.object: must be the object of boxes, got 'Person', of which the labels have none; they have "
        r"person; did you mean 'person'\?",
    ),
    "no frame to train on": (lambda folder: None, ["split.gap_s=100"], "split: must leave frames for training"),
    "no frame selected": (lambda folder: None, ["clips.0.from=99"], "must have frames in the selection, got none"),
    "a network that cannot be folded": (
        lambda folder: (folder / "odd_net.py").write_text(ODD_NETWORK),
        ["model.architecture=odd_net:Net", "model.args={}"],
        r"model\.architecture: odd_net:Net: Net: must take sizes from tensors, got the fixed number 12",
    ),
    "an input that the network cannot take": (lambda folder: None, ["model.input=[1, 1]"], r"yaml:1: model\.arch"),
    "a teacher of other answers": (
        lambda folder: teacher(folder, classes=("dog", "none")),
        ["teacher=teacher.safetensors"],
        r"--set: teacher: must have classes \('person', 'none'\) as the model to train has",
    ),
    "a teacher that is no model": (
        lambda folder: (folder / "teacher.safetensors").write_bytes(b"nothing"),
        ["teacher=teacher.safetensors"],
        r"teacher: .*teacher\.safetensors: must be a safetensors file",
    ),
}


@pytest.mark.parametrize("what", WRONG)
def test_what_train_refuses_at_once_check_refuses_with_exit_code_2(load, tmp_path, monkeypatch, what):
    do, overrides, problem = WRONG[what]
    monkeypatch.syspath_prepend(tmp_path)
    do(tmp_path)
    config = load(*overrides)
    with pytest.raises(ConfigError, match=problem) as caught:
        train(config)
    assert not (tmp_path / "runs").exists()
    for command in ("check", "train"):
        told = checked(tmp_path, *overrides, command=command)
        assert (told.exit_code, told.stdout) == (2, "")
        assert told.stderr.splitlines() == [f"vpipe: {line}" for line in caught.value.problems]


def test_a_clip_that_is_damaged_breaks_check_and_training_with_exit_code_1(load, tmp_path):
    for name in ("broken-hole.mp4", "broken-cut.mp4", "not-a-video.mp4"):
        for command in ("check", "train"):
            told = checked(tmp_path, f"clips.0.video={ODD / name}", command=command)
            assert (told.exit_code, told.stderr.count("\n")) == (1, 1)
            assert f"{name}: training footage must be whole, got " in told.stderr


def test_check_tells_what_is_trained_on_what_and_warns_of_what_train_would_replace(load, tmp_path):
    told = checked(tmp_path)
    assert (told.exit_code, told.stdout) == (0, f"{tmp_path}/train.yaml: fine\n")
    assert told.stderr == prepare(load(), outline=True).told + "\n"
    (tmp_path / "m.safetensors").write_bytes(b"old")
    told = checked(tmp_path)
    assert told.exit_code == 0
    assert "\nwarning: --set: output: must not exist yet, got " in told.stderr
    assert sorted(path.name for path in tmp_path.iterdir()) == ["m.safetensors", "scene.csv", "scene.mp4", "train.yaml"]


def test_settings_that_are_surely_a_mistake_are_warnings(load):
    larger = r"should not be larger than the frames of scene\.mp4, 80x96 \(height x width\), got 81x12"
    (warning,) = prepare(load("model.input=[81, 12]"), outline=True).warnings
    assert re.search(rf"model\.input: {larger}$", warning)
    assert prepare(load("model.input=[80, 96]"), outline=True).warnings == ()
    assert load("model.fold=64").warnings == ()
    (warning,) = load("model.fold=65").warnings
    assert "model.fold: should be at most 64, for the network has about f times the weights, got 65" in warning
    warnings = prepare(load("model.fold=32"), outline=True).warnings
    assert warnings == tuple(
        f"{part}: has 20 pictures, fewer than a group of 32, which they are to fill" for part in ("validation", "test")
    )
