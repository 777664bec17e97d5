import dataclasses
import json
import math
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import av
import click.testing
import cv2
import numpy as np
import pyarrow.dataset as ds
import pytest

from pipeline.accuracy import measure
from pipeline.calibration import calibrate
from pipeline.cli import main
from pipeline.config import load_run_config, load_train_config
from pipeline.errors import ConfigError, ModelError, VpipeError
from pipeline.evaluation import evaluate
from pipeline.labelled import clips_of, footage_of, other_regions
from pipeline.preparation import new_card
from pipeline.quantization import quantize
from pipeline.runner import run
from pipeline.runs import RunFolder
from pipeline.training import train
from pipeline.trainschema import TrainConfig
from specialized.modelfile import ModelCard, file_hash, load_model, read_card
from specialized.stage import Epoch, Stage
from tests.clips import write_clip

ROOT = Path(__file__).parents[1]
CONFIG = """\
model: {architecture: coral, args: {filters: 4, dense: 8}, fold: 2, input: [8, 12]}
classes:
  - {name: person, object: person}
clips:
  - {video: scene.mp4, labels: scene.csv}
split: {blocks: 6, validation: [2], test: [4], gap_s: 0.2}
train: {epochs: 4, fold_epochs: 0, lr: 0.01, shift: 0, seed: 3}
output: made/model.safetensors
"""
NETWORK = """\
from torch import nn

class Net(nn.Module):
    def __init__(self, classes):
        super().__init__()
        self.conv = nn.Conv2d(3, 12, 3, stride=2)
        self.pool = nn.AdaptiveMaxPool2d(1)
        self.fc = nn.Linear(12, classes)

    def forward(self, x):
        return self.fc(self.pool(self.conv(x).relu()).flatten(1))
"""


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a clip in which a person (the picture of 65535) comes and goes, and its labels."""
    folder = tmp_path_factory.mktemp("scene")
    present = [n for n in range(180) if n // 9 % 2]
    write_clip(folder / "scene.mp4", [65535 if n in present else 0 for n in range(180)])
    boxes = [f"{n},person,1,0,0,1,1" for n in present]
    (folder / "scene.csv").write_text("\n".join(["frame,object_name,confidence,xmin,ymin,xmax,ymax", *boxes]))
    return folder


@pytest.fixture
def load(scene: Path, tmp_path: Path) -> Callable[..., TrainConfig]:
    def loaded(*overrides: str, text: str = CONFIG) -> TrainConfig:
        (scene / "train.yaml").write_text(text)
        places = [f"output={tmp_path / 'm.safetensors'}", f"run.dir={tmp_path / 'runs'}"]
        return load_train_config(scene / "train.yaml", overrides=[*places, *overrides])

    return loaded


@pytest.fixture(scope="module")
def model(scene: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model trained by CONFIG; tests leave it as it is."""
    (scene / "train.yaml").write_text(CONFIG)
    path = tmp_path_factory.mktemp("model") / "model.safetensors"
    train(load_train_config(scene / "train.yaml", overrides=[f"output={path}", f"run.dir={path.parent}"]))
    return path


def test_training_writes_a_model_that_has_learned(load, tmp_path):
    lines: list[str] = []
    config = load("output=" + str(tmp_path / "runs/new/m.safetensors"))
    told = train(config, say=lines.append)
    accuracy = read_card(tmp_path / "runs/new/m.safetensors").accuracy
    assert accuracy is not None
    assert accuracy["accuracy"] > 0.9  # type: ignore[operator]  # always the same answer: 0.5
    assert f"m.safetensors: accuracy {accuracy['accuracy']:.4f} on 30 pictures" in told
    assert "part test: blocks [4] of 6" in told
    assert [line.partition(":")[0] for line in lines[1:5]] == [f"epoch {n} of 4" for n in range(1, 5)]
    assert [path.name for path in (tmp_path / "runs/new").iterdir()] == ["m.safetensors"]


@pytest.mark.parametrize(("lr", "patience", "said"), [("1e-9", 0, 1), ("1e-9", 1, 1), ("0.01", 0, 0)])
def test_it_is_said_that_a_slot_has_learned_nothing(load, lr, patience, said):
    lines: list[str] = []
    short = ["train.epochs=4", "train.fold_epochs=2", f"train.lr={lr}", f"train.patience={patience}"]
    train(load(*short), say=lines.append)
    told = "one slot has learned no more than the commonest answer: the network starts from random weights"
    assert lines.count(told) == said
    if said:
        at = lines.index(told)
        assert ", one slot: " in lines[at - 1]
        assert ", one slot: " not in lines[at + 1]


def test_the_card_says_what_was_trained_and_nothing_of_this_machine(model, scene):
    card = read_card(model)
    assert (card.classes, card.fold, card.input, card.step_s) == (("person", "none"), 2, (8, 12), 1 / 25)
    assert card.asks[0].object == "person"
    provenance = json.loads(json.dumps(card.training))
    assert provenance["recipe"]["seed"] == 3
    assert provenance["recipe"]["batch"] == 32
    assert provenance["split"] == {"blocks": 6, "validation": [2], "test": [4], "gap_s": 0.2}
    assert provenance["clips"][0]["video"] == "scene.mp4"
    assert len(provenance["clips"][0]["video_sha256"]) == 64
    assert provenance["versions"]["torch"]
    assert str(scene) not in repr(card)


def test_the_accuracy_in_the_card_is_that_of_the_file_on_the_test_blocks(model, load):
    card, config = read_card(model), load()
    part = footage_of(config, card).split(blocks=6, validation=[2], test=[4], gap_s=0.2)["test"]
    assert part.runs == ((120, 150),)
    expected = {"part": "test", "blocks": [4], "of_blocks": 6, **measure(model, part).as_dict()}
    assert card.accuracy == json.loads(json.dumps(expected))
    told = json.loads(evaluate(model, config, as_json=True))
    assert {key: told[key] for key in expected} == card.accuracy
    assert told["warnings"] == []


def test_the_same_configuration_gives_the_same_file(model, load, tmp_path):
    train(load())
    assert (tmp_path / "m.safetensors").read_bytes() == model.read_bytes()


def test_an_existing_file_is_refused_before_training_and_replaced_on_request(load, tmp_path):
    output = tmp_path / "m.safetensors"
    output.write_bytes(b"old")
    lines: list[str] = []
    with pytest.raises(ConfigError, match=r"output: must not exist yet, .*; --overwrite replaces it, --set output="):
        train(load("train.epochs=1"), say=lines.append)
    assert (lines, output.read_bytes()) == ([], b"old")
    train(load("train.epochs=1"), mode="overwrite")
    assert read_card(output).accuracy is not None


def interrupt_at(start: str) -> Callable[[str], None]:
    """What takes the lines of a training and interrupts it at the first that starts so."""

    def say(line: str) -> None:
        if line.startswith(start):
            raise KeyboardInterrupt

    return say


def test_an_interrupted_overwrite_leaves_the_old_model_and_is_resumed_to_the_same_file(model, load, tmp_path):
    output = tmp_path / "m.safetensors"
    output.write_bytes(b"old")
    with pytest.raises(KeyboardInterrupt):
        train(load(), mode="overwrite", say=interrupt_at("epoch 2"))
    assert output.read_bytes() == b"old"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["m.safetensors", "runs"]
    folder = RunFolder(tmp_path / "runs/train")
    assert folder.way_on() == "--resume goes on after the last epoch that was finished"
    assert sorted(path.name for path in folder.path.iterdir()) == ["checkpoint.pt", "run.json"]
    lines: list[str] = []
    train(load(), mode="resume", say=lines.append)
    at = lines.index("going on after epoch 2 of 4")
    assert [line.partition(":")[0] for line in lines if line.startswith("epoch")] == ["epoch 3 of 4", "epoch 4 of 4"]
    assert lines[at + 1].startswith("epoch 3 of 4: ")
    assert output.read_bytes() == model.read_bytes()
    record = json.loads(folder.training.read_bytes())
    assert [epoch["number"] for epoch in record["epochs"]] == [1, 2, 3, 4]


def test_a_second_training_in_the_same_folder_is_refused(load, tmp_path):
    config = load(f"output={tmp_path / 'm.safetensors'}")
    refused = []

    def say(line):
        for mode in ("resume", "overwrite"):
            with pytest.raises(ConfigError, match="must be of one run at a time"):
                train(config, mode=mode)
            refused.append(mode)

    train(config, say=say)
    assert refused
    assert not [path for path in (Path(config.run.dir) / config.run.name).iterdir() if path.name.startswith(".")]


def test_a_training_that_is_interrupted_before_its_first_epoch_is_done_begins_anew(model, load, tmp_path):
    with pytest.raises(KeyboardInterrupt):
        train(load(), say=interrupt_at("coral, f = 2"))
    assert RunFolder(tmp_path / "runs/train").way_on() == "no epoch was finished, so --resume begins anew"
    lines: list[str] = []
    train(load(), mode="resume", say=lines.append)
    assert "no epoch was finished before: beginning anew" in lines
    assert (tmp_path / "m.safetensors").read_bytes() == model.read_bytes()


def test_another_configuration_does_not_resume_a_training_and_each_change_is_named(load, own_scene, tmp_path):
    (tmp_path / "labels.csv").write_bytes((own_scene / "scene.csv").read_bytes())
    overrides = ["run.name=one", f"clips.0.labels={tmp_path / 'labels.csv'}"]
    with pytest.raises(KeyboardInterrupt):
        train(load(*overrides), say=interrupt_at("coral, f = 2"))
    (tmp_path / "labels.csv").write_text((tmp_path / "labels.csv").read_text() + "\n")
    with pytest.raises(ConfigError) as caught:
        train(load(*overrides, "train.lr=0.1", "model.fold=1", "operating.false_positive_rate=0.1"), mode="resume")
    found = [problem.removeprefix(f"{tmp_path}/runs/one: another training: ") for problem in caught.value.problems]
    assert [problem.partition(":")[0] for problem in found] == [
        "clips.0.labels_sha256",
        "model.fold",
        "operating.false_positive_rate",
        "train.lr",
    ]
    told = "train.lr: must be 0.01 as in the training to resume, got 0.1; --overwrite trains anew"
    assert found[-1] == f"{told}, --set run.name=NAME elsewhere"


def test_the_code_of_a_network_of_ones_own_may_not_change_under_a_training(load, scene):
    own = CONFIG.replace("architecture: coral, args: {filters: 4, dense: 8}", "architecture: their_nets:Net")
    (scene / "their_nets.py").write_text(NETWORK)
    with pytest.raises(KeyboardInterrupt):
        train(load(text=own), say=interrupt_at("their_nets:Net, f = 2"))
    (scene / "their_nets.py").write_text(NETWORK + "# another\n")
    with pytest.raises(ConfigError, match=r"another training: model\.code_sha256: must be '[0-9a-f]{64}' as in"):
        train(load(text=own), mode="resume")


def test_resuming_what_is_finished_says_so_and_where_the_model_is(load, tmp_path):
    config = load("train.epochs=1")
    train(config)
    before = (tmp_path / "m.safetensors").read_bytes()
    lines: list[str] = []
    told = train(config, mode="resume", say=lines.append)
    way_on = f"its model is {tmp_path}/m.safetensors; --overwrite trains anew"
    assert (told, lines) == (f"{tmp_path}/runs/train: this training is finished, {way_on}", [])
    assert (tmp_path / "m.safetensors").read_bytes() == before
    with pytest.raises(ConfigError, match=r"must not hold a training yet, got an earlier one; --overwrite to replace"):
        train(config)
    (tmp_path / "m.safetensors").unlink()
    with pytest.raises(ConfigError, match=r"m\.safetensors: this training is finished, its model must be a file, got"):
        train(config, mode="resume")


def test_a_training_that_is_resumed_replaces_no_file_that_it_was_not_to_write(model, load, tmp_path):
    with pytest.raises(KeyboardInterrupt):
        train(load(), say=interrupt_at("epoch 2"))
    other = tmp_path / "other.safetensors"
    other.write_bytes(b"mine")
    with pytest.raises(
        ConfigError, match=r"output: must not exist yet, or be .*/m\.safetensors, where the training to"
    ):
        train(load(f"output={other}"), mode="resume")
    assert other.read_bytes() == b"mine"
    train(load(f"output={tmp_path}/new.safetensors"), mode="resume")
    assert (tmp_path / "new.safetensors").read_bytes() == model.read_bytes()
    told = train(load(f"output={other}"), mode="resume")
    assert f"this training is finished, its model is {tmp_path}/new.safetensors;" in told


def test_a_class_without_an_example_to_train_on_is_refused(load):
    config = load("classes.1={name: many, object: person, at_least: 9}")
    with pytest.raises(ConfigError, match=r"--set: classes\.1: must have an example of 'many' to train on, got none"):
        train(config)
    config = load("classes.0.min_confidence=0", "clips.0.from=0.36", "clips.0.to=0.72", "split.gap_s=0")
    with pytest.raises(ConfigError, match=r"yaml:6: split: must have an example of 'none' to train on, got none"):
        train(config)


def test_a_part_without_an_example_of_a_class_is_a_warning(load):
    lines: list[str] = []
    train(load("split.blocks=20", "split.validation=[8]", "split.test=[]", "split.gap_s=0"), say=lines.append)
    assert lines[0] == "warning: validation: has no example of person, so it says nothing about that"


def test_without_test_blocks_nothing_is_measured(load, tmp_path):
    told = train(load("split.test=[]", "train.epochs=1"))
    assert told == "m.safetensors: accuracy not measured, since split.test names no block"
    assert read_card(tmp_path / "m.safetensors").accuracy is None


def test_the_step_is_that_between_selected_frames(load, tmp_path):
    train(load("clips.0.every=3", "train.epochs=1", "split.gap_s=0"))
    card = read_card(tmp_path / "m.safetensors")
    assert card.step_s == pytest.approx(3 / 25)
    assert card.training["clips"][0]["every"] == 3  # type: ignore[index]


def test_a_model_of_several_answers_is_trained_and_measured(load, tmp_path):
    told = train(load("task=any_of", "classes.1={name: crowd, object: person, min_confidence: 0.5}"))
    card = read_card(tmp_path / "m.safetensors")
    assert (card.task, card.classes, card.thresholds) == ("any_of", ("person", "crowd"), (0.5, 0.5))
    assert "crowd" in told


def test_the_card_says_what_validation_settled(model, load):
    card, config = read_card(model), load()
    settled = card.training["calibration"]
    parts = footage_of(config, card).split(blocks=6, validation=[2], test=[4], gap_s=0.2)
    assert set(card.keep) == {"person"}
    assert settled["target"] == {"false_negative_rate": 0.01}  # type: ignore[index]
    found = calibrate(model, parts["validation"], ("false_negative_rate", 0.01))
    assert (found.temperature, found.keep) == (card.temperature, card.keep)
    assert json.loads(json.dumps(found.as_dict())) == settled
    before, after = found.log_loss
    assert after <= before
    assert found.rates["person"].positives == 18  # of 30 frames
    assert found.rates["person"].false_negative_rate == 0.0  # one frame would be more than 0.01
    tested = card.accuracy["classes"]["person"]["keep"]  # type: ignore[index]
    assert tested["threshold"] == card.keep["person"]
    assert (tested["positives"], tested["negatives"]) == (15, 15)


def test_thresholds_are_for_the_rate_that_is_asked_for(load, tmp_path):
    lines: list[str] = []
    told = train(load("operating.false_positive_rate=0.5", "train.epochs=1"), say=lines.append)
    rates = read_card(tmp_path / "m.safetensors").training["calibration"]["classes"]["person"]  # type: ignore[index]
    assert rates["false_positive_rate"] <= 0.5
    assert any(line.startswith("validation: keep: auto takes person from ") for line in lines)
    assert f"keep: auto takes person from {rates['threshold']:g} on: misses " in told


def test_a_class_that_validation_does_not_show_gets_no_threshold_and_a_warning(load, tmp_path):
    lines: list[str] = []
    train(load("split.blocks=20", "split.validation=[8]", "split.gap_s=0", "train.epochs=1"), say=lines.append)
    assert "warning: keep: auto will not know person, since no validation picture shows it" in lines
    card = read_card(tmp_path / "m.safetensors")
    assert (card.keep, card.temperature) == ({}, 1.0)


def test_a_run_keeps_the_frames_at_the_stored_threshold(model, scene, tmp_path):
    def run_with(keep: str) -> dict[int, float]:
        config = {"run": {"name": keep, "dir": str(tmp_path)}, "sources": [{"path": str(scene / "scene.mp4")}]}
        config["filters"] = [{"model": str(model), "name": "m", "dtype": "float32"} | ({"keep": keep} if keep else {})]
        path = tmp_path / "run.yaml"
        path.write_text(json.dumps(config))
        outcome = run(load_run_config(path, overrides=[f"run.name=r{keep}"]))
        assert outcome.exit_code == 0
        assert outcome.summary["filters"]["m"]["keep"] == (read_card(model).keep if keep else {})
        table = ds.dataset(outcome.folder.frames / "m").to_table()
        scores = np.array(table["scores"].combine_chunks().flatten()).reshape(len(table), 2)[:, 0]
        return dict(zip(table["frame"].to_pylist(), scores.tolist(), strict=True))

    least = read_card(model).keep["person"]
    everything, kept = run_with(""), run_with("auto")
    assert kept == {frame: score for frame, score in everything.items() if score >= np.float32(least)}
    present = {n for n in range(180) if n // 9 % 2}
    assert len(kept.keys() & present) > 0.9 * len(present)  # it has learned
    assert len(kept) < 150


def test_evaluation_measures_each_part_and_order(model, load):
    told = {
        part: json.loads(evaluate(model, load(), part=part, order=order, as_json=True))
        for part, order in {"test": None, "validation": "strided", "training": "shuffled", "all": "streams"}.items()
    }
    assert {part: one["n"] for part, one in told.items()} == {"test": 30, "validation": 30, "training": 100, "all": 180}
    assert [one["order"] for one in told.values()] == ["consecutive", "strided", "shuffled", "streams"]
    assert told["training"]["blocks"] == [0, 1, 3, 5]
    seen = "the model was trained or chosen on this footage"
    assert [one["warnings"] for one in told.values()] == [[], [seen], [seen], [seen]]


def test_a_quantized_model_is_written_with_its_own_accuracy(model, scene, load, tmp_path):
    load()
    command = ["quantize", str(model), str(scene / "train.yaml"), "--out", str(tmp_path / "q.safetensors")]
    told = click.testing.CliRunner().invoke(main, [*command, "--set", f"output={tmp_path}/m.safetensors"])
    assert told.exit_code == 0, told.output
    made, before = read_card(tmp_path / "q.safetensors"), read_card(model)
    assert made.ranges.keys() == {"features.0", "features.2", "classifier.1", "classifier.3"}
    assert made.ranges["features.0"] == pytest.approx((-2.0, 2.0), abs=0.2)  # pictures from black to white
    assert made.accuracy["dtype"] == "float32"
    assert made.accuracy["accuracy"] == pytest.approx(before.accuracy["accuracy"], abs=0.05)
    assert f"q.safetensors: accuracy {made.accuracy['accuracy']:.4f} on 30 pictures" in told.output
    assert f"before, model.safetensors: accuracy {before.accuracy['accuracy']:.4f}" in told.output
    assert made.training["quantized"]["model_sha256"] == file_hash(model)
    assert " of 30 answers differ, scores by 0." in told.output
    assert "keep: auto takes person from" in told.output
    shown = click.testing.CliRunner().invoke(main, ["info", str(tmp_path / "q.safetensors")])
    assert shown.stdout.startswith(f"{tmp_path}/q.safetensors: quantized to 8 bits, for engine openvino\n")
    of_its_own = {"accuracy": before.accuracy, "training": before.training}
    assert dataclasses.replace(made, ranges={}, **of_its_own) == before  # temperature and thresholds among the rest
    assert evaluate(tmp_path / "q.safetensors", load(), as_json=False).startswith("q.safetensors: accuracy")


def test_what_cannot_be_quantized_is_refused_and_nothing_is_replaced(model, scene, load, tmp_path):
    load()
    out = tmp_path / "q.safetensors"

    def quantized(path, *options):
        command = ["quantize", str(path), str(scene / "train.yaml"), "--out", str(out)]
        options = ["--set", f"output={tmp_path}/m.safetensors", *options]
        return click.testing.CliRunner().invoke(main, [*command, *options])

    assert quantized(model, "--set", "split.validation=[]").exit_code == 2
    assert not out.exists()
    untested = quantized(model, "--set", "split.test=[]")
    assert untested.exit_code == 0
    assert "q.safetensors: accuracy not measured" in untested.output
    assert read_card(out).accuracy is None
    taken = quantized(model)
    assert (taken.exit_code, "must not exist yet; --overwrite replaces it" in taken.output) == (2, True)
    before = out.read_bytes()
    command = ["quantize", str(model), str(scene / "train.yaml"), "--out", str(model), "--overwrite"]
    itself = click.testing.CliRunner().invoke(main, [*command, "--set", f"output={tmp_path}/m.safetensors"])
    assert (itself.exit_code, "must not be the model itself" in itself.output) == (2, True)
    assert out.read_bytes() == before
    again = quantized(out, "--overwrite")
    assert (again.exit_code, "must not be quantized yet" in again.output) == (2, True)
    other = quantized(model, "--overwrite", "--set", "classes.0.name=dog")
    assert (other.exit_code, "must be those of" in other.output) == (2, True)
    gone = quantized(tmp_path / "gone.safetensors", "--overwrite")
    assert (gone.exit_code, "gone.safetensors: must be a file, got nothing" in gone.output) == (2, True)
    (tmp_path / "run.yaml").write_text("sources: [{path: a.mp4}]\n")
    command = ["quantize", str(model), str(tmp_path / "run.yaml"), "--out", str(tmp_path / "new.safetensors")]
    of_a_run = click.testing.CliRunner().invoke(main, command)
    said = "got that of a run; take the one that trained the model"
    assert (of_a_run.exit_code, said in of_a_run.output) == (2, True)


def test_a_run_of_a_quantized_model_says_which_engine_it_is_for(model, scene, load, tmp_path):
    quantize(model, load(), tmp_path / "q.safetensors")
    (tmp_path / "run.yaml").write_text(
        f"run: {{dir: {tmp_path}/runs}}\nsources: [{{path: {scene}/scene.mp4}}]\n"
        f"filter: {{model: q.safetensors, engine: openvino}}\n"
    )
    config = load_run_config(tmp_path / "run.yaml")
    assert config.warnings == ()
    assert run(config).exit_code == 0
    slow = load_run_config(tmp_path / "run.yaml", overrides=["filters.0.engine=torch"])
    [warning] = slow.warnings
    assert "filter.engine: should be openvino, got torch: the model is quantized" in warning
    with pytest.raises(ConfigError, match=r"dtype: must be auto or float32 for a quantized model in engine onnx"):
        load_run_config(tmp_path / "run.yaml", overrides=["filters.0.engine=onnx", "filters.0.dtype=bfloat16"])


def test_evaluation_warns_of_frames_that_may_have_been_trained_on(model, load):
    assert "warning: the model was trained on other parts" in evaluate(model, load("split.test=[3]"))
    assert "warning: the model was trained for other questions" in evaluate(model, load("classes.0.min_confidence=0.2"))


@pytest.mark.parametrize(
    ("override", "options", "problem"),
    [
        ("classes.0.name=dog", {}, "classes: must be those of .*, one_of of person, none, got one_of of dog, none"),
        ("task=any_of", {}, "must be those of .*, one_of of person, none, got any_of of person"),
        ("split.test=[]", {}, "split: must leave frames for test, got none; choose another --part"),
        ("split.test=[1]", {"part": "rest"}, "--part: must be one of training, validation, test, all, got 'rest'"),
        ("split.test=[1]", {"order": "random"}, "--order: must be one of consecutive, .*, got 'random'"),
    ],
)
def test_an_evaluation_that_makes_no_sense_is_refused(model, load, override, options, problem):
    with pytest.raises(ConfigError, match=problem):
        evaluate(model, load(override), **options)


def test_the_commands_print_the_table_and_refuse_in_one_line(scene, tmp_path):
    (scene / "train.yaml").write_text(CONFIG)
    output = tmp_path / "m.safetensors"
    arguments = [str(scene / "train.yaml"), "--set", f"output={output}", "--set", "train.epochs=1"]
    arguments += ["--set", f"run.dir={tmp_path}"]
    runner = click.testing.CliRunner()
    made = runner.invoke(main, ["train", *arguments])
    assert (made.exit_code, made.stdout.partition(":")[0]) == (0, "m.safetensors")
    assert "epoch 1 of 1" in made.stderr
    again = runner.invoke(main, ["train", *arguments])
    assert (again.exit_code, again.stdout, again.stderr.count("\n")) == (2, "", 1)
    finished = runner.invoke(main, ["train", *arguments, "--resume"])
    assert (finished.exit_code, finished.stderr) == (0, "")
    assert "this training is finished, its model is " in finished.stdout
    measured = runner.invoke(main, ["eval", str(output), *arguments, "--json"])
    assert measured.exit_code == 0
    assert json.loads(measured.stdout)["n"] == 30


def test_a_training_that_diverges_late_keeps_what_was_good_and_says_so(load, monkeypatch):
    epoch = Stage._epoch

    def diverging(training: Stage) -> Epoch:
        done = epoch(training)
        return dataclasses.replace(done, loss=math.nan) if training.history else done

    monkeypatch.setattr(Stage, "_epoch", diverging)
    lines: list[str] = []
    train(load(), say=lines.append)
    (told,) = [line for line in lines if line.startswith("warning: training")]
    assert told == "warning: training diverged in epoch 2 and was stopped; lower train.lr"
    assert not any(line.startswith("epoch 3") for line in lines)


def test_a_training_that_breaks_is_exit_code_1(scene, tmp_path):
    (scene / "train.yaml").write_text(CONFIG)
    recipe = "train={optimizer: rmsprop, lr: 1.0e+30, warmup_epochs: 0, epochs: 1}"
    arguments = ["train", str(scene / "train.yaml"), "--set", f"output={tmp_path}/m.safetensors", "--set", recipe]
    arguments += ["--set", f"run.dir={tmp_path}"]
    runner = click.testing.CliRunner()
    diverged = runner.invoke(main, arguments)
    assert (diverged.exit_code, diverged.stdout) == (1, "")
    assert "vpipe: training: must end in finite weights, got" in diverged.stderr
    (tmp_path / "train/checkpoint.pt").write_bytes(b"torn")
    torn = runner.invoke(main, [*arguments, "--resume"])
    assert (torn.exit_code, "checkpoint.pt: must be a checkpoint of a training" in torn.stderr) == (1, True)
    assert not (tmp_path / "m.safetensors").exists()


def stopped(folder: Path, number: signal.Signals, checkpoint_s: float) -> tuple[list[str], int, list[str]]:
    """A training that got a signal after its third epoch: its command, its return code, its last lines."""
    (folder / "train.yaml").write_text(CONFIG)
    code = f"import specialized.stage as s; s._CHECKPOINT_S = {checkpoint_s}; from pipeline.cli import main; main()"
    command = [sys.executable, "-c", code, "train", str(folder / "train.yaml")]
    command += ["--set", f"output={folder}/m.safetensors", "--set", f"run.dir={folder}", "--set", "train.epochs=20"]
    command += ["--set", "train.fold_epochs=20"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, cwd=ROOT) as process:
        assert process.stderr is not None
        next(line for line in process.stderr if line.startswith("epoch 3"))
        process.send_signal(number)
        lines = process.stderr.read().splitlines()
    assert not (folder / "m.safetensors").exists()
    return command, process.returncode, lines


@pytest.fixture
def own_scene(scene: Path, tmp_path: Path) -> Path:
    for name in ("scene.mp4", "scene.csv"):
        (tmp_path / name).symlink_to(scene / name)
    return tmp_path


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_the_command_with_130_and_a_checkpoint(own_scene, number):
    _, code, lines = stopped(own_scene, number, 3600.0)
    assert (code, lines[-1]) == (130, "vpipe: interrupted: --resume goes on after the last epoch that was finished")
    assert (own_scene / "train/checkpoint.pt").exists()


def test_a_training_that_ends_before_it_begins_says_so_whatever_was_there(own_scene):
    own = CONFIG.replace("architecture: coral, args: {filters: 4, dense: 8}", "architecture: slow_nets:Net")
    (own_scene / "slow_nets.py").write_text(NETWORK.replace("super().__init__()", "raise KeyboardInterrupt"))
    (own_scene / "train.yaml").write_text(own)
    (own_scene / "train").mkdir()
    for name, text in {"run.json": '{"kind": "training"}', "training.json": "{}"}.items():
        (own_scene / "train" / name).write_text(text)
    arguments = ["train", str(own_scene / "train.yaml"), "--overwrite", "--set", f"run.dir={own_scene}"]
    arguments += ["--set", f"output={own_scene}/m.safetensors"]
    done = click.testing.CliRunner().invoke(main, arguments)
    said = "vpipe: interrupted: nothing was begun, and the earlier training is as it was\n"
    assert (done.exit_code, done.stderr) == (130, said)


def test_a_killed_training_is_resumed_to_the_same_weights(own_scene):
    command, code, _ = stopped(own_scene, signal.SIGKILL, 0.0)
    assert code == -signal.SIGKILL
    refused = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT)
    assert (refused.returncode, "got an earlier one; --resume to go on with it" in refused.stderr) == (2, True)
    done = subprocess.run([*command, "--resume"], capture_output=True, text=True, check=True, cwd=ROOT)
    assert "epoch 40 of 40" in done.stderr
    whole = ["--set", f"output={own_scene}/whole.safetensors", "--set", "run.name=whole"]
    subprocess.run([*command, *whole], capture_output=True, check=True, cwd=ROOT)
    assert (own_scene / "m.safetensors").read_bytes() == (own_scene / "whole.safetensors").read_bytes()


def test_a_training_leaves_its_record_and_its_pictures(load, tmp_path):
    lines: list[str] = []
    train(load(), say=lines.append)
    folder = tmp_path / "runs/train"
    left = sorted(path.name for path in folder.iterdir())
    assert left == ["confusion.png", "curves.png", "run.json", "training.json"]
    record = json.loads((folder / "training.json").read_bytes())
    assert [epoch["number"] for epoch in record["epochs"]] == [1, 2, 3, 4]
    card = read_card(tmp_path / "m.safetensors")
    assert f"kept epoch {record['best_epoch']}" in lines
    assert (record["best_epoch"], record["accuracy"]) == (card.training["best_epoch"], card.accuracy)
    for name in ("confusion.png", "curves.png"):
        assert cv2.imread(str(folder / name)).shape[1] > 300
    again = RunFolder.create(tmp_path / "runs", "train", overwrite=True, kind="training")
    assert list(again.path.iterdir()) == []


def test_nothing_is_resumed_where_nothing_was_begun_or_the_checkpoint_is_torn(load, tmp_path):
    with pytest.raises(
        ConfigError, match=r"runs/train: must hold the training that --resume goes on with, got no run\.json"
    ):
        train(load(), mode="resume")
    with pytest.raises(KeyboardInterrupt):
        train(load(), say=interrupt_at("epoch 1"))
    (tmp_path / "runs/train/checkpoint.pt").write_bytes(b"torn")
    with pytest.raises(ModelError, match=r"checkpoint\.pt: must be a checkpoint of a training, got"):
        train(load(), mode="resume")


def test_a_folded_model_is_taught_by_the_same_network_unfolded(load, tmp_path):
    lines: list[str] = []
    train(load("teacher=unfolded"), say=lines.append)
    assert lines[1] == "first the teacher: the same network, unfolded"
    taught = read_card(tmp_path / "m.safetensors")
    assert (taught.fold, taught.training["teacher"]) == (2, "unfolded")
    train(load("model.fold=1", f"output={tmp_path}/one.safetensors", "run.name=one"))
    train(load(f"teacher={tmp_path}/one.safetensors", f"output={tmp_path}/two.safetensors", "run.name=two"))
    given = read_card(tmp_path / "two.safetensors").training["teacher"]
    assert given == {"file": "one.safetensors", "sha256": file_hash(tmp_path / "one.safetensors")}


def test_a_network_that_knows_nothing_of_folding_is_folded_trained_and_loaded_again(load, scene, tmp_path):
    (scene / "my_nets.py").write_text(NETWORK)
    text = CONFIG.replace(
        "architecture: coral, args: {filters: 4, dense: 8}", "architecture: my_nets:Net, multiple_of: 8"
    )
    train(load("train.epochs=2", text=text))
    card, module = load_model(tmp_path / "m.safetensors")
    assert (card.architecture, card.fold, card.multiple_of) == ("my_nets:Net", 2, 8)
    assert [tuple(p.shape) for p in module.parameters()] == [(16, 6, 3, 3), (16,), (4, 16), (4,)]
    assert card.accuracy is not None


@pytest.mark.parametrize(
    ("overrides", "problem"),
    [
        (["teacher=unfolded", "model.fold=1"], "teacher: must be left out where model.fold is 1"),
        (["teacher=nothing.safetensors"], "teacher: must be 'unfolded' or a model file, got none at"),
        (["task=any_of", "train.curriculum_share=0.5"], "curriculum_share: must be 0 for any_of"),
    ],
)
def test_a_teacher_or_curriculum_that_makes_no_sense_is_refused(load, overrides, problem):
    with pytest.raises(ConfigError, match=problem):
        load(*overrides)


@pytest.mark.parametrize("fold", [1, 4])
def test_the_training_configurations_of_the_lobby_see_both_classes_in_each_part(fold):
    config = load_train_config(ROOT / f"configs/train-lobby-f{fold}.yaml")
    card = ModelCard(architecture="coral", fold=fold, order="consecutive", input=(8, 8), classes=("person", "none"))
    parts = footage_of(config, card).split(**config.split.model_dump())
    for examples in parts.values():
        assert set(examples.labels_in_runs().tolist()) == {0, 1}
    assert (config.model.fold, config.train.seed) == (fold, 0)


@pytest.mark.parametrize("name", ["train-lobby-f1", "train-lobby-f4", "lobby"])
def test_a_configuration_opens_with_the_command_that_runs_it(name):
    first = (ROOT / f"configs/{name}.yaml").read_text().partition("\n")[0]
    assert first.startswith(f"# vpipe {'train' if 'train' in name else 'run'} configs/{name}.yaml ")


def test_a_training_and_a_run_do_not_take_each_others_folder(load, tmp_path):
    run = RunFolder.create(tmp_path / "runs", "train")
    run.write_run_json({}, {})
    for mode in ("overwrite", "resume"):
        with pytest.raises(ConfigError, match="must be the folder of a training, got that of a run"):
            train(load(), mode=mode)
    assert run.run_json.exists()


def test_the_card_says_what_was_trained_on_whatever_becomes_of_the_files(load, own_scene, tmp_path):
    shutil.copy(own_scene / "scene.csv", tmp_path / "labels.csv")
    config = load(f"clips.0.labels={tmp_path / 'labels.csv'}")
    before = file_hash(tmp_path / "labels.csv")

    def remove(line: str) -> None:
        if line.startswith("epoch 2"):
            (tmp_path / "labels.csv").unlink()

    train(config, say=remove)
    assert read_card(config.output).training["clips"][0]["labels_sha256"] == before  # type: ignore[index]


def test_a_teacher_that_may_have_seen_the_test_is_a_warning(load, tmp_path):
    train(load("model.fold=1", f"output={tmp_path}/one.safetensors", "run.name=one", "split.test=[5]"))
    lines: list[str] = []
    config = load(f"teacher={tmp_path}/one.safetensors", "run.name=two", "train.epochs=1")
    train(config, say=lines.append)
    assert lines[0].startswith("warning: teacher: was trained on other parts of this footage")


def test_a_run_folder_that_goes_away_is_said_in_one_line(load, tmp_path):
    def remove(line: str) -> None:
        if line.startswith("epoch 2"):
            shutil.rmtree(tmp_path / "runs")

    with pytest.raises(VpipeError, match="must be readable and writable, got No such file or directory"):
        train(load(), say=remove)


BAYS = [(0, 0, 48, 40), (50, 0, 46, 40), (0, 41, 48, 39)]
OF_REGIONS = CONFIG.replace(
    "split:", "regions_px: {a: [0, 0, 48, 40], b: [50, 0, 46, 40], c: [0, 41, 48, 39]}\nsplit:"
).replace("input: [8, 12]", "input: [8, 12], order: regions")


@pytest.fixture(scope="module")
def bays(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a clip of three bays, in each of which a car (a white picture) comes and goes, and its labels."""
    folder = tmp_path_factory.mktemp("bays")
    boxes, white = [], {}
    for n in range(180):
        white[n] = [place for place in range(3) if n // (7 + 2 * place) % 2]
        for place in white[n]:
            x, y, w, h = BAYS[place]
            boxes.append(f"{n},car,1,{x / 96},{y / 80},{(x + w) / 96},{(y + h) / 80}")
    path = folder / "scene.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=25)
        stream.width, stream.height, stream.pix_fmt = 96, 80, "yuv420p"
        for n in range(180):
            picture = np.full((80, 96, 3), 40, np.uint8)
            for place in white[n]:
                x, y, w, h = BAYS[place]
                picture[y : y + h, x : x + w] = 220
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, "rgb24")))
        container.mux(stream.encode(None))
    (folder / "scene.csv").write_text("\n".join(["frame,object_name,confidence,xmin,ymin,xmax,ymax", *boxes]))
    return folder


@pytest.mark.parametrize("order", ["regions", "consecutive"])
def test_a_model_of_regions_learns_from_each_of_them_and_runs_on_each(bays, tmp_path, order):
    (bays / "train.yaml").write_text(OF_REGIONS.replace("object: person", "object: car"))
    model = tmp_path / "m.safetensors"
    config = load_train_config(
        bays / "train.yaml", overrides=[f"output={model}", f"run.dir={tmp_path}", f"model.order={order}"]
    )
    train(config)
    card = read_card(model)
    assert card.order == order
    assert set(card.accuracy["regions"]) == {"a", "b", "c"}
    assert card.accuracy["accuracy"] > 0.9
    assert card.accuracy["n"] == 3 * 30
    told = evaluate(model, config)
    assert ("c         " in told, "in training" in told) == (True, False)

    def others(*overrides):
        return evaluate(model, load_train_config(bays / "train.yaml", overrides=[f"output={model}", *overrides]))

    assert 'by `inside: "centre"` in training, here by `inside: 0.5`' in others("inside=0.5")
    assert "warning: the regions of scene.mp4 were others in training" in others("regions_px.a=[0, 0, 46, 40]")
    whole = [{key: value for key, value in clip.items() if key != "regions"} for clip in clips_of(config)]
    assert other_regions(card, whole) == ["the model was trained on regions of frames, and is measured on whole frames"]
    (bays / "run.yaml").write_text(
        f"run: {{dir: {tmp_path}}}\nsources: [{{path: scene.mp4}}]\nfilter: {{model: {model}}}\n"
        "regions_px: {a: [0, 0, 48, 40], b: [50, 0, 46, 40], c: [0, 41, 48, 39]}\n"
    )
    outcome = run(load_run_config(bays / "run.yaml"))
    rows = ds.dataset(outcome.folder.path / "frames").to_table().to_pylist()
    truth = {(row["frame"], row["region"]): row["frame"] // (7 + 2 * "abc".index(row["region"])) % 2 for row in rows}
    right = [(row["label"] == "person") == truth[row["frame"], row["region"]] for row in rows]
    assert len(rows) == 540
    assert np.mean(right) > 0.9


def test_labels_of_regions_must_tell_of_each_in_each_frame(bays, tmp_path):
    (bays / "by_region.csv").write_text(
        "frame,region,label\n" + "\n".join(f"{n},{name},car" for n in range(180) for name in "ab")
    )
    (bays / "train.yaml").write_text(
        OF_REGIONS.replace("object: person", "object: car").replace("scene.csv", "by_region.csv")
    )
    config = load_train_config(bays / "train.yaml", overrides=[f"output={tmp_path / 'm.safetensors'}"])
    with pytest.raises(ConfigError, match="a row for region 'c' in every frame that is taken, got none for 180"):
        footage_of(config, new_card(config))


def test_a_region_shows_one_thing_where_one_is_asked_for(bays, tmp_path):
    rows = [f"{n},{name},{'car' if n % 2 else ''}" for n in range(180) for name in "abc"]
    (bays / "twice.csv").write_text("\n".join(["frame,region,label", *rows, "7,b,car", "7,b,car"]))
    (bays / "train.yaml").write_text(
        OF_REGIONS.replace("object: person", "object: car").replace("scene.csv", "twice.csv")
    )
    config = load_train_config(bays / "train.yaml", overrides=[f"output={tmp_path / 'm.safetensors'}"])
    with pytest.raises(ConfigError, match=r"twice\.csv:24: region 'b' must have one row in frame 7, got 3; one_of"):
        footage_of(config, new_card(config))
    many = load_train_config(bays / "train.yaml", overrides=[f"output={tmp_path / 'm.safetensors'}", "task=any_of"])
    assert footage_of(many, new_card(many)).examples.labels.reshape(180, 3)[7].tolist() == [1, 1, 1]


def test_a_class_counts_boxes_of_its_own_name_where_it_names_no_object(bays, tmp_path):
    (bays / "train.yaml").write_text(OF_REGIONS.replace("name: person, object: person", "name: car"))
    config = load_train_config(bays / "train.yaml", overrides=[f"output={tmp_path / 'm.safetensors'}"])
    labels = footage_of(config, new_card(config), outline=True).examples.labels.reshape(180, 3)
    assert labels.tolist() == [[1 - n // (7 + 2 * place) % 2 for place in range(3)] for n in range(180)]


def test_all_clips_have_regions_or_none(bays):
    one = "labels: scene.csv, regions: {a: [0, 0, 1, 1]}}\n  - {video: scene.mp4, labels: scene.csv}"
    (bays / "train.yaml").write_text(CONFIG.replace("labels: scene.csv}", one))
    with pytest.raises(ConfigError, match=r"clips\.1: must have regions as other clips have, got none"):
        load_train_config(bays / "train.yaml")


def test_a_box_of_which_the_place_is_unknown_is_in_no_region_and_said(bays, tmp_path):
    images = [{"id": n, "frame_id": n, "width": 96, "height": 80} for n in range(180)]
    boxes = [
        {"id": 1, "image_id": 5, "category_id": 1, "bbox": [0, 0, 9, 9]},
        {"id": 2, "image_id": 7, "category_id": 1},
    ]
    document = {"categories": [{"id": 1, "name": "car"}], "images": images, "annotations": boxes}
    (bays / "boxes.json").write_text(json.dumps(document))
    (bays / "train.yaml").write_text(
        OF_REGIONS.replace("object: person", "object: car").replace("scene.csv", "boxes.json")
    )
    config = load_train_config(bays / "train.yaml", overrides=[f"output={tmp_path / 'm.safetensors'}"])
    with pytest.raises(ConfigError, match=r"where there are regions, got 1 of 2 without, first in frame 7"):
        footage_of(config, new_card(config))


def of_table(folder, rows, tmp_path, *more):
    (folder / "told.csv").write_text("\n".join(["frame,region,label", *rows]))
    (folder / "train.yaml").write_text(
        OF_REGIONS.replace("object: person", "object: car").replace("scene.csv", "told.csv")
    )
    return load_train_config(folder / "train.yaml", overrides=[f"output={tmp_path / 'm.safetensors'}", *more])


def test_what_a_table_of_regions_tells_to_no_effect_is_said(bays, tmp_path):
    rows = [f"{n},{name},{'car' if n % 2 else 'Car'}" for n in range(180) for name in "abc"]
    config = of_table(bays, [*rows, "7,nowhere,car"], tmp_path)
    told = footage_of(config, new_card(config), outline=True).warnings
    assert [line.partition("told.csv: ")[2] for line in told] == [
        "has the label 'Car' in 270 rows, which no class asks for: it counts as nothing",
        "tells of region 'nowhere' in 1 rows, which the clip has not; they are left out",
    ]


@pytest.mark.parametrize("task", ["one_of", "any_of"])
def test_a_region_does_not_show_nothing_and_something(bays, tmp_path, task):
    rows = [f"{n},{name},{'car' if n % 2 else ''}" for n in range(180) for name in "abc"]
    config = of_table(bays, [*rows, "7,b,"], tmp_path, f"task={task}")
    with pytest.raises(ConfigError, match=r"told\.csv:542: region 'b' must show nothing in frame 7, or something"):
        footage_of(config, new_card(config))


def test_a_region_outside_of_a_clip_is_refused_as_a_mistake_of_the_configuration(bays, tmp_path):
    (bays / "train.yaml").write_text(
        OF_REGIONS.replace("object: person", "object: car").replace("50, 0, 46", "51, 0, 46")
    )
    config = load_train_config(bays / "train.yaml", overrides=[f"output={tmp_path / 'm.safetensors'}"])
    with pytest.raises(ConfigError, match=r"scene\.mp4: region 'b': must lie in the picture of 96x80, got \[51"):
        footage_of(config, new_card(config), outline=True)


def test_what_counts_in_regions_is_left_out_where_there_are_none(bays):
    (bays / "train.yaml").write_text(CONFIG.replace("split:", "inside: 0.5\nsplit:"))
    with pytest.raises(ConfigError, match="inside: must be left out where there are no regions"):
        load_train_config(bays / "train.yaml")
