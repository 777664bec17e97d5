import json
from pathlib import Path

import click.testing
import cv2
import numpy as np
import pytest

from pipeline.cli import main
from pipeline.colours import PALETTE
from specialized.modelfile import ModelCard, save_model
from specialized.models import build
from specialized.orders import ORDERS
from tests.clips import write_clip

CONFIG = """\
model: {architecture: coral, fold: 2, input: [8, 12]}
classes: [{name: person, object: person}]
clips: [{video: scene.mp4, labels: scene.csv}]
split: {blocks: 5, validation: [1], test: [0, 2, 4], gap_s: 0}
output: new.safetensors
"""


def make_model(path: Path, f: int, *, doubt: float = 0.0, **changes: object) -> Path:
    fields: dict[str, object] = {"input": (8, 12), "classes": ("person", "none"), "mean": (0, 0, 0), "std": (1, 1, 1)}
    card = ModelCard(  # type: ignore[arg-type]
        architecture="tests.models:Bright", args={"doubt": doubt}, fold=f, order="consecutive", **fields | changes
    )
    module = build(card.architecture, args=card.args, classes=2, fold=f, input=card.input)
    save_model(path, card, module.state_dict())
    return path


def make_clip(folder: Path, name: str, present: set[int], frames: int) -> None:
    """A clip that is bright where a person is, and its labels."""
    write_clip(folder / f"{name}.mp4", [65535 if n in present else 0 for n in range(frames)])
    boxes = [f"{n},person,1,0,0,1,1" for n in sorted(present)]
    (folder / f"{name}.csv").write_text("\n".join(["frame,object_name,confidence,xmin,ymin,xmax,ymax", *boxes]))


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Clips of 40 and of 4 seconds, a configuration for each, and three models."""
    folder = tmp_path_factory.mktemp("scene")
    make_clip(folder, "scene", {n for n in range(1000) if n // 40 % 2}, 1000)
    make_clip(folder, "other", {n for n in range(100) if n // 25 % 2}, 100)
    (folder / "train.yaml").write_text(CONFIG)
    (folder / "other.yaml").write_text(CONFIG.replace("scene.", "other."))
    make_model(folder / "one.safetensors", 1)
    make_model(folder / "large.safetensors", 3, input=(24, 36))
    make_model(folder / "doubting.safetensors", 4, doubt=9.0)
    make_model(folder / "dogs.safetensors", 1, classes=("dog", "none"))
    return folder


def compare(scene: Path, *arguments: object) -> click.testing.Result:
    models = [str(scene / f"{name}.safetensors") for name in ("one", "large", "doubting")]
    command = ["eval", "--compare", *models, str(scene / "train.yaml"), *map(str, arguments)]
    return click.testing.CliRunner().invoke(main, command)


def test_models_stand_side_by_side_in_one_table_and_one_picture(scene, tmp_path):
    result = compare(scene, "--out", tmp_path / "c.png")
    assert (result.exit_code, result.stderr.strip()) == (0, str(tmp_path / "c.png"))
    lines = result.stdout.splitlines()
    assert lines[0] == "3 models on 600 pictures"
    of_model = {line.split()[0]: line.split() for line in lines if line[2:].startswith(("one", "large", "doubting"))}
    assert list(of_model) == ["one", "large", "doubting"]
    assert [row[1] for row in of_model.values()] == ["1", "3", "4"]
    assert [row[2] for row in of_model.values()] == ["1.0000", "1.0000", of_model["doubting"][2]]
    assert 0.5 < float(of_model["doubting"][2]) < 0.75  # only the first slot of four sees a person
    assert "+0.0000" in of_model["large"]
    assert "6 blocks of about 125 successive frames" in result.stdout
    picture = cv2.imread(str(tmp_path / "c.png"))
    assert picture.shape[1] > 1000
    assert len(np.unique(picture.reshape(-1, 3), axis=0)) > 50


def test_the_picture_has_its_rows_in_the_order_of_the_table_and_a_legend(scene, tmp_path):
    compare(scene, "--out", tmp_path / "c.png")
    picture = cv2.imread(str(tmp_path / "c.png"))[..., ::-1].astype(int)
    height, width = picture.shape[:2]
    rows, legend = [], []
    for colour in PALETTE[:3]:
        rgb = [int(colour[at : at + 2], 16) for at in (1, 3, 5)]
        drawn = (np.abs(picture - rgb) < 12).all(axis=2)
        rows.append(np.nonzero(drawn[: height * 9 // 10, : width * 3 // 8])[0].mean())
        legend.append(np.nonzero(drawn[height * 9 // 10 :])[1].mean())
    assert rows == sorted(rows)
    assert legend == sorted(legend)


def test_as_json_all_is_given_with_paired_differences(scene, tmp_path):
    result = compare(scene, "--out", tmp_path / "c.png", "--json")
    told = json.loads(result.stdout)
    assert (told["part"], told["blocks"], told["of_blocks"]) == ("test", [0, 2, 4], 5)
    one, large, doubting = told["models"]
    assert [each["model"] for each in told["models"]] == [
        f"{name}.safetensors" for name in ("one", "large", "doubting")
    ]
    assert [each["fold"] for each in told["models"]] == [1, 3, 4]
    assert one["difference"] == large["difference"] == {"accuracy": 0.0, "interval": [0.0, 0.0]}
    assert doubting["difference"]["accuracy"] == pytest.approx(doubting["accuracy"] - one["accuracy"])
    low, high = doubting["difference"]["interval"]
    assert low <= doubting["difference"]["accuracy"] <= high < 0
    assert doubting["slots"][0] == 1.0
    assert max(doubting["slots"][1:]) < 0.7
    for each in told["models"]:
        assert (each["n"], each["interval_blocks"], each["interval_block_frames"]) == (600, 6, 125)
        assert 1 <= len(each["curves"]["person"]) <= 50
    assert (tmp_path / "c.png").read_bytes().startswith(b"\x89PNG")


def test_another_clip_of_the_camera_is_another_configuration(scene):
    command = ["eval", str(scene / "one.safetensors"), str(scene / "other.yaml"), "--part", "all", "--json"]
    told = json.loads(click.testing.CliRunner().invoke(main, command).stdout)
    assert (told["n"], told["accuracy"], told["clips"][0]["video"]) == (100, 1.0, "other.mp4")
    assert (told["interval_blocks"], told["accuracy_interval"]) == (1, None)
    table = click.testing.CliRunner().invoke(main, command[:-1]).stdout
    assert "warning: there is a single block of time, so there are no intervals; test on more" in table


def test_models_of_the_same_name_go_by_their_paths(scene, tmp_path):
    twin = make_model(tmp_path / "one.safetensors", 2)
    command = ["eval", "--compare", str(scene / "one.safetensors"), str(twin), str(scene / "train.yaml")]
    result = click.testing.CliRunner().invoke(main, [*command, "--out", str(tmp_path / "c.png")])
    assert str(twin) in result.stdout


def test_a_picture_that_is_there_is_replaced_only_if_asked(scene, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("compare.png").write_text("mine")
    refused = compare(scene)
    assert (refused.exit_code, refused.stdout) == (2, "")
    assert refused.stderr == "vpipe: compare.png: must not exist yet; --overwrite replaces it\n"
    assert Path("compare.png").read_text() == "mine"
    assert compare(scene, "--overwrite").exit_code == 0
    assert Path("compare.png").read_bytes().startswith(b"\x89PNG")


TWO = ["--compare", "one.safetensors", "large.safetensors", "train.yaml"]


@pytest.mark.parametrize(
    ("arguments", "code", "problem"),
    [
        (["--compare", "one.safetensors", "train.yaml"], 2, "--compare needs two MODELs or more before the CONFIG"),
        (["one.safetensors", "large.safetensors", "train.yaml"], 2, "several, --out and --overwrite go with --compare"),
        (["one.safetensors", "train.yaml", "--out", "c.png"], 2, "several, --out and --overwrite go with --compare"),
        (["--compare", "one.safetensors", "large.safetensors"], 2, "the last argument must be a configuration, and "),
        (["--compare", "one.safetensors", "dogs.safetensors", "train.yaml"], 2, "classes: must be those of dogs"),
        (["one.safetensors", "train.yaml", "--overwrite"], 2, "several, --out and --overwrite go with --compare"),
        (
            [*TWO, "--out", "no/c.png"],
            2,
            "no: must be a folder that is there, got none; mkdir -p no, or choose another",
        ),
        (["one.safetensors", "train.yaml", "--order", "foo"], 2, "'foo' is not one of " + ", ".join(map(repr, ORDERS))),
        ([*TWO, "--out", "c.jpg"], 2, "c.jpg: must end in .png, which is what is written; choose another --out"),
        ([*TWO, "--out", "scene.csv"], 2, "scene.csv: must end in .png"),
        (["--compare", "one.safetensors", "gone.safetensors", "train.yaml"], 1, "gone.safetensors: must be a file"),
    ],
)
def test_a_comparison_that_makes_no_sense_is_refused(scene, monkeypatch, arguments, code, problem):
    monkeypatch.chdir(scene)
    result = click.testing.CliRunner().invoke(main, ["eval", *arguments])
    assert result.exit_code == code
    assert problem in result.stderr
    assert result.stdout == ""
