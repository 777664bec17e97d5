"""The weights that ship: what they are, and what they say of themselves."""

import json
from pathlib import Path

import pytest

from benchmarks.display import REGIONS, record, right
from pipeline.config import load_run_config, load_train_config
from pipeline.evaluation import evaluate
from pipeline.labelled import clips_of, division_of, seen_elsewhere
from pipeline.preparation import new_card
from pipeline.runner import run
from specialized.modelfile import file_hash, read_card
from specialized.train import settled

ROOT = Path(__file__).parents[1]
SHIPPED = {"intersection-f4": "intersection-f4", "lobby-person-f1": "lobby-f1", "lobby-person-f4": "lobby-f4"}


def shipped(name: str) -> Path:
    return ROOT / f"specialized/weights/{name}.safetensors"


def test_all_that_ship_are_looked_at():
    names = sorted([*SHIPPED, *(f"display-{name}" for name in REGIONS)])
    assert sorted((ROOT / "specialized/weights").iterdir()) == [shipped(name) for name in names]


def test_those_of_a_display_read_it(tmp_path):
    record(tmp_path / "screen.mp4", tmp_path / "screen.csv", frames=240, seed=101)
    told = [f"sources.0.path={tmp_path / 'screen.mp4'}", f"run.dir={tmp_path}", f"sinks.0.path={tmp_path / 'read.csv'}"]
    config = load_run_config(ROOT / "configs/display.yaml", overrides=told)
    assert config.regions_px == {name: list(box) for name, box in REGIONS.items()}
    assert run(config).exit_code == 0
    shares = right(tmp_path / "screen.csv", tmp_path / "read.csv")
    assert {name: share for name, share in shares.items() if share < 0.99} == {}


@pytest.mark.parametrize(("name", "trained"), SHIPPED.items())
def test_they_are_what_their_configuration_trains(name, trained):
    config, card = load_train_config(ROOT / f"configs/train-{trained}.yaml"), read_card(shipped(name))
    assert Path(config.output) == shipped(name)
    asked = new_card(config)
    for key in ("architecture", "args", "fold", "order", "input", "classes", "task", "asks", "resize", "fit"):
        assert getattr(card, key) == getattr(asked, key)
    assert card.training["recipe"] == settled(asked, config.train).model_dump(mode="json")
    assert card.training["split"] == config.split.model_dump(mode="json")
    hashes = [(clip["video_sha256"], clip["labels_sha256"]) for clip in card.training["clips"]]
    assert hashes == [(file_hash(clip.video), file_hash(clip.labels)) for clip in config.clips]
    assert [clip.get("regions") for clip in card.training["clips"]] == [
        plain.get("regions") for plain in json.loads(json.dumps(clips_of(config)))
    ]


@pytest.mark.parametrize(("name", "trained"), SHIPPED.items())
def test_they_are_as_right_as_their_card_says(name, trained):
    said = read_card(shipped(name)).accuracy
    config = load_train_config(ROOT / f"configs/train-{trained}.yaml")
    found = json.loads(evaluate(shipped(name), config, as_json=True))
    same = ("part", "blocks", "n", "order", "majority")
    assert {key: found[key] for key in same} == {key: said[key] for key in same}
    assert found["regions"].keys() == said.get("regions", {}).keys()
    # The arithmetic of another processor may turn a picture that is on the border.
    assert found["accuracy_float32"] == pytest.approx(said["accuracy_float32"], abs=1.5 / said["n"])


@pytest.mark.parametrize(
    "name",
    [
        "intersection-f4",
        "lobby-person-f1",
        "lobby-person-f4",
    ],
)
def test_the_footage_of_their_configuration_is_told_from_others(name):
    config = load_train_config(ROOT / f"configs/train-{SHIPPED[name]}.yaml")
    assert not seen_elsewhere(read_card(shipped(name)), clips_of(config), division_of(config))
