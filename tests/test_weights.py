"""The weights that ship: what they are, and what they say of themselves."""

import json
from pathlib import Path

import pytest

from pipeline.config import load_train_config
from pipeline.evaluation import evaluate
from pipeline.preparation import new_card
from specialized.modelfile import file_hash, read_card
from specialized.train import settled

ROOT = Path(__file__).parents[1]
FOLDS = [1, 4]


def shipped(f: int) -> Path:
    return ROOT / f"specialized/weights/lobby-person-f{f}.safetensors"


def test_all_that_ship_are_looked_at():
    assert sorted((ROOT / "specialized/weights").iterdir()) == [shipped(f) for f in FOLDS]


@pytest.mark.parametrize("f", FOLDS)
def test_they_are_what_their_configuration_trains(f):
    config, card = load_train_config(ROOT / f"configs/train-lobby-f{f}.yaml"), read_card(shipped(f))
    assert Path(config.output) == shipped(f)
    asked = new_card(config)
    for key in ("architecture", "args", "fold", "order", "input", "classes", "task", "asks", "resize", "fit"):
        assert getattr(card, key) == getattr(asked, key)
    assert card.training["recipe"] == settled(asked, config.train).model_dump(mode="json")
    assert card.training["split"] == config.split.model_dump(mode="json")
    hashes = [(clip["video_sha256"], clip["labels_sha256"]) for clip in card.training["clips"]]
    assert hashes == [(file_hash(clip.video), file_hash(clip.labels)) for clip in config.clips]


@pytest.mark.parametrize("f", FOLDS)
def test_they_are_as_right_as_their_card_says(f):
    said = read_card(shipped(f)).accuracy
    config = load_train_config(ROOT / f"configs/train-lobby-f{f}.yaml")
    found = json.loads(evaluate(shipped(f), config, as_json=True))
    assert {key: found[key] for key in ("part", "blocks", "n", "order", "majority", "warnings")} == {
        **{key: said[key] for key in ("part", "blocks", "n", "order", "majority")},
        "warnings": [],
    }
    # The arithmetic of another processor may turn a picture that is on the border.
    assert found["accuracy_float32"] == pytest.approx(said["accuracy_float32"], abs=1.5 / said["n"])
