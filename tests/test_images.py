import json
import re
import struct
from collections.abc import Callable, Mapping
from pathlib import Path

import click.testing
import cv2
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pipeline.cli import main
from pipeline.comparison import compare
from pipeline.config import load_train_config
from pipeline.errors import ConfigError
from pipeline.evaluation import evaluate
from pipeline.images import class_names, facts, read_images
from pipeline.preparation import new_card
from pipeline.sources.file import FileSource
from pipeline.sources.scaler import PictureFormat, View
from pipeline.training import train
from specialized.modelfile import read_card
from tests.clips import draw, read, write_clip

PICTURE = PictureFormat(24, 36)
EVERY_SUFFIX = ("png", "jpg", "jpeg", "bmp", "webp")


def write(path: Path, number: int, source: int = 0, *, size: tuple[int, int] = (48, 72)) -> Path:
    """An image that shows its number."""
    path.parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(path), draw(number, source, height=size[0], width=size[1]))
    return path


def fill(folder: Path, classes: Mapping[str, int], *, first: int = 0) -> Path:
    """A folder whose class k shows the numbers first + 0, 1, ... as of source k, in images of all kinds and sizes."""
    for k, (name, count) in enumerate(classes.items()):
        for n in range(count):
            suffix = EVERY_SUFFIX[n % len(EVERY_SUFFIX)]
            write(folder / name / f"{n}.{suffix}", first + n, k, size=(48 + n % 3, 72))
    return folder


def problems(read: Callable[[], object]) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        read()
    assert all(len(problem.splitlines()) == 1 for problem in caught.value.problems)
    return list(caught.value.problems)


def test_classes_are_the_sub_folders_in_natural_order(tmp_path):
    for name in ("10", "2", "1", "b2", "b10", "a", ".hidden", "02"):
        (tmp_path / name).mkdir()
    (tmp_path / ".DS_Store").touch()
    assert class_names(tmp_path) == ("1", "02", "2", "10", "a", "b2", "b10")


def test_a_class_whose_name_is_not_utf8_is_refused(tmp_path):
    for name in ("a", "b\udcff"):
        (tmp_path / name).mkdir()
    rule = "must have a name in UTF-8, for it is a class, got other bytes; rename it"
    assert problems(lambda: class_names(tmp_path)) == [f"{tmp_path}/b\\udcff: {rule}"]


def test_every_image_is_read_once_with_its_class(tmp_path):
    folder = fill(tmp_path, {"0": 12, "1": 20, "2": 15})
    examples = read_images({"folder": folder}, picture=PICTURE, blocks=3).examples
    number, source = read(examples.pictures)
    assert source.tolist() == examples.labels.tolist()
    expected = [(k, n) for k, count in enumerate((12, 20, 15)) for n in range(count)]
    assert sorted(zip(source.tolist(), number.tolist(), strict=True)) == expected


@pytest.mark.parametrize("fit", ["stretch", "letterbox"])
@pytest.mark.parametrize("resize", ["area", "bilinear", "point"])
def test_training_sees_the_pixels_that_running_sees(tmp_path, resize, fit):
    picture = PictureFormat(40, 32, resize, fit)
    write_clip(tmp_path / "clip.mkv", range(4), codec="ffv1", pix_fmt="bgr0")
    for n in range(4):
        write(tmp_path / "images" / str(n % 2) / f"{n}.png", n, size=(80, 96))
    images = read_images({"training": tmp_path / "images"}, picture=picture, blocks=2).examples.pictures
    (running,) = FileSource(tmp_path / "clip.mkv", name="clip", views=[View(picture)])
    assert sorted(p.tobytes() for p in images) == sorted(p.tobytes() for p in running.frames)


@pytest.mark.parametrize(("exif", "turns"), [(1, 0), (3, 2), (6, 1), (8, 3)])
def test_a_photograph_is_seen_as_its_camera_was_held(tmp_path, exif, turns):
    lying = np.ascontiguousarray(np.rot90(draw(7, height=48, width=72), turns))  # to be turned clockwise as often
    jpeg = cv2.imencode(".jpg", lying)[1].tobytes()
    header = b"Exif\0\0II*\0" + struct.pack("<IHHHIHHI", 8, 1, 0x0112, 3, 1, exif, 0, 0)
    fill(tmp_path, {"a": 1, "b": 1})
    photograph = jpeg[:2] + b"\xff\xe1" + struct.pack(">H", len(header) + 2) + header + jpeg[2:]
    (tmp_path / "a" / "0.png").write_bytes(photograph)
    examples = read_images({"training": tmp_path}, picture=PICTURE, blocks=2).examples
    assert read(examples.pictures[examples.labels == 0])[0].tolist() == [7]


@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.integers(3, 6), st.data())
def test_blocks_share_out_every_class_and_no_image_is_in_two(folder_of_many, blocks, data):
    validation, test = data.draw(st.permutations(range(blocks)))[:2]
    images = read_images({"folder": folder_of_many}, picture=PICTURE, blocks=blocks)
    parts = images.split(blocks=blocks, validation=[validation], test=[test], gap_s=2)
    seen: list[tuple[int, int]] = []
    for part, examples in parts.items():
        share = {"training": blocks - 2, "validation": 1, "test": 1}[part]
        labels = examples.labels_in_runs()
        counts = np.bincount(labels, minlength=2)
        assert np.abs(counts - np.array([12, 30]) * share / blocks).max() <= share
        number, source = read(np.concatenate([examples.pictures[a:b] for a, b in examples.runs]))
        seen += zip(source.tolist(), number.tolist(), strict=True)
    expected = [(k, n) for k, count in enumerate((12, 30)) for n in range(count)]
    assert sorted(seen) == expected


@pytest.fixture(scope="module")
def folder_of_many(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return fill(tmp_path_factory.mktemp("many"), {"a": 12, "b": 30})


def test_the_order_mixes_classes_and_is_always_the_same(folder_of_many):
    one = read_images({"folder": folder_of_many}, picture=PICTURE, blocks=2).examples
    two = read_images({"folder": folder_of_many}, picture=PICTURE, blocks=2).examples
    assert (one.pictures == two.pictures).all()
    for start, stop in one.runs:
        labels = one.labels[start:stop]
        assert np.count_nonzero(np.diff(labels)) > 3  # sorted by class: 1
        assert np.diff(read(one.pictures[start:stop])[0]).tolist() != [1] * (stop - start - 1)


def test_parts_come_from_their_own_folders(tmp_path):
    folders = {
        "training": fill(tmp_path / "a", {"x": 6, "y": 6}),
        "validation": fill(tmp_path / "b", {"x": 3, "y": 2}, first=100),
        "test": fill(tmp_path / "c", {"x": 2}, first=200),  # in which nothing is a y
    }
    images = read_images(folders, picture=PICTURE, blocks=10)
    parts = images.split(blocks=10, validation=[], test=[], gap_s=2)
    firsts = {}
    for part, examples in parts.items():
        (run,) = examples.runs
        firsts[part] = sorted(read(examples.pictures[slice(*run)])[0].tolist())
    assert firsts == {
        "training": sorted([*range(6)] * 2),
        "validation": [100, 100, 101, 101, 102],
        "test": [200, 201],
    }
    assert images.step_s is None


def test_all_that_is_wrong_with_the_folders_is_told_at_once(tmp_path):
    training = fill(tmp_path / "training", {"a": 3, "b": 3})
    (training / "c").mkdir()
    (training / "readme.txt").touch()
    (training / "a" / "notes.txt").touch()
    (training / "a" / "deep.png").mkdir()
    (training / "b" / ".thumbs.db").touch()
    validation = fill(tmp_path / "validation", {"a": 1, "d": 1})
    said = problems(
        lambda: read_images(
            {"training": training, "validation": validation, "test": tmp_path / "gone"}, picture=PICTURE, blocks=2
        )
    )
    image = "must be an image (.png, .jpg, .jpeg, .bmp, .webp), got something else; remove it"
    assert sorted(said) == sorted(
        [
            f"{training}/readme.txt: must lie in a sub-folder that is named after its class, got it beside them",
            f"{training}/a/notes.txt: {image}",
            f"{training}/a/deep.png: {image}",
            f"{training}/c: must hold 1 images or more, got 0",
            f"{validation}/d: must be a class to train on, one of a, b, c, got another",
            f"{tmp_path}/gone: must be a folder that can be read, got: No such file or directory",
        ]
    )


def test_a_folder_needs_two_classes_and_an_image_of_each_for_every_block(tmp_path):
    fill(tmp_path, {"a": 3})
    folder = {"folder": tmp_path}
    (said,) = problems(lambda: read_images(folder, picture=PICTURE, blocks=3))
    assert said == f"{tmp_path}: must hold a sub-folder per class, two or more, got 1"
    fill(tmp_path, {"b": 2})
    (said,) = problems(lambda: read_images(folder, picture=PICTURE, blocks=3))
    assert said == f"{tmp_path}/b: must hold 3 images or more, got 2"


def test_a_part_without_an_image_is_refused(tmp_path):
    folders = {"training": fill(tmp_path / "t", {"a": 1, "b": 1}), "validation": tmp_path / "v"}
    (tmp_path / "v" / "a").mkdir(parents=True)
    (said,) = problems(lambda: read_images(folders, picture=PICTURE, blocks=2))
    assert said == f"{tmp_path}/v: must hold images in its sub-folders, got none"


def test_every_image_that_cannot_be_read_is_named(tmp_path):
    fill(tmp_path, {"a": 8, "b": 2})
    whole = {suffix: write(tmp_path / "tmp" / f"0.{suffix}", 9).read_bytes() for suffix in EVERY_SUFFIX}
    broken = {
        "a/0.png": whole["png"][:-40],
        "a/1.jpg": whole["jpg"][: len(whole["jpg"]) // 2],
        "a/3.bmp": whole["bmp"][:-40],
        "a/4.webp": whole["webp"][:-40],
        "a/5.png": b"",
        "a/6.jpg": b"#EXTM3U\nfile:///etc/hostname\n",
        "b/1.jpg": b"RIFF\x24\0\0\0WAVEfmt ",
    }
    for name, content in broken.items():
        (tmp_path / name).write_bytes(content)
    (tmp_path / "tmp").rename(tmp_path / ".tmp")
    said = problems(lambda: read_images({"training": tmp_path}, picture=PICTURE, blocks=2))
    assert [line.partition(": ")[0] for line in said] == [f"{tmp_path}/{name}" for name in sorted(broken)]
    assert f"{tmp_path}/a/5.png: must be an image that can be read, got: an empty file" in said
    assert f"{tmp_path}/a/6.jpg: must be an image that can be read, got: neither PNG, JPEG, BMP nor WebP" in said


def test_many_problems_are_told_up_to_a_limit(tmp_path):
    fill(tmp_path, {"a": 1, "b": 1})
    for n in range(15):
        (tmp_path / "a" / f"{n}.txt").touch()
    said = problems(lambda: read_images({"training": tmp_path}, picture=PICTURE, blocks=2))
    assert (len(said), said[-1]) == (11, "images: and 5 more")


def test_an_image_of_another_kind_than_its_name_says_is_read(tmp_path):
    fill(tmp_path, {"a": 1, "b": 1})
    write(tmp_path / "c.jpg", 5).rename(tmp_path / "a" / "0.png")
    examples = read_images({"training": tmp_path}, picture=PICTURE, blocks=2).examples
    assert sorted(read(examples.pictures)[0].tolist()) == [0, 5]


def test_the_facts_change_with_the_content_and_the_class_of_an_image_alone(tmp_path):
    fill(tmp_path / "x", {"a": 3, "b": 3})
    fill(tmp_path / "y" / "x", {"a": 3, "b": 3})
    before = facts(tmp_path / "x")
    assert before == facts(tmp_path / "y" / "x")
    assert (before["folder"], before["images"]) == ("x", 6)
    (tmp_path / "x" / "a" / "0.png").rename(tmp_path / "x" / "b" / "9.png")
    assert facts(tmp_path / "x")["images_sha256"] != before["images_sha256"]


# ---------------------------------------------------------------------------------------- training

CONFIG = """\
model: {architecture: coral, args: {filters: 4, dense: 8}, fold: 2, order: shuffled, input: [8, 12]}
images: {folder: digits}
split: {blocks: 5, validation: [1], test: [3]}
train: {epochs: 25, lr: 0.01, shift: 0, batch: 8}
output: model.safetensors
"""
PARTS = CONFIG.replace("{folder: digits}", "{training: digits, validation: val, test: test}").replace(
    "split: {blocks: 5, validation: [1], test: [3]}\n", ""
)


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folders with dark images (class 2) and bright ones (class 10)."""
    folder = tmp_path_factory.mktemp("digits")
    noise = np.random.default_rng(0)
    for part, count in {"digits": 40, "val": 10, "test": 12}.items():
        for name, level in {"2": 60, "10": 190}.items():
            (folder / part / name).mkdir(parents=True)
            for n in range(count):
                picture = noise.integers(level - 40, level + 40, (20, 30, 3), np.uint8)
                cv2.imwrite(str(folder / part / name / f"{n}.png"), picture)
    return folder


@pytest.fixture
def load(digits: Path, tmp_path: Path):
    def loaded(text: str = CONFIG, *overrides: str):
        (digits / "train.yaml").write_text(text)
        return load_train_config(
            digits / "train.yaml",
            overrides=[f"output={tmp_path / 'm.safetensors'}", f"run.dir={tmp_path / 'runs'}", *overrides],
        )

    return loaded


def test_images_are_trained_on_and_evaluated(load, tmp_path):
    config = load()
    told = train(config)
    model = tmp_path / "m.safetensors"
    card = read_card(model)
    assert (card.classes, card.order, card.step_s, card.asks) == (("2", "10"), "shuffled", None, ())
    assert card.accuracy is not None
    assert card.accuracy["accuracy"] > 0.9  # type: ignore[operator]  # always the same answer: 0.5
    assert card.accuracy["n"] == card.accuracy["interval_blocks"] == 16  # no image is another's neighbour
    assert "part test: blocks [3] of 5" in told
    (seen,) = card.training["clips"]  # type: ignore[misc,attr-defined]
    assert (seen["part"], seen["folder"], seen["images"], len(seen["images_sha256"])) == ("folder", "digits", 80, 64)
    measured = json.loads(evaluate(model, config, as_json=True))
    assert (measured["accuracy"], measured["n"], measured["warnings"]) == (card.accuracy["accuracy"], 16, [])
    assert json.loads(evaluate(model, config, part="all", as_json=True))["n"] == 80
    for found in (card.accuracy, measured):
        assert not found["in_time"]
        assert [(one["events"], one["windows"]) for one in found["classes"].values()] == [(None, None)] * 2
    side_by_side = compare([model, model], config, out=tmp_path / "c.png")
    for text in (told, evaluate(model, config), side_by_side):
        assert "resamples of 16 images" in text
        assert not re.search("appearances|windows|blocks of|found", text)
    other = json.loads(evaluate(model, load(CONFIG, "split.test=[4]"), as_json=True))
    assert other["warnings"] == [
        "the model was trained on other parts of this footage, perhaps on frames that are tested here"
    ]


def test_a_sub_folder_none_is_the_absence_of_the_other_classes(load, tmp_path):
    fill(tmp_path / "seen", {"none": 5, "2": 5, "10": 5, "person": 5})
    card = new_card(load(CONFIG.replace("folder: digits", f"folder: {tmp_path}/seen")))
    assert (card.classes, card.sought) == (("2", "10", "person", "none"), ("2", "10", "person"))


def test_parts_in_folders_of_their_own_are_trained_on_and_evaluated(load, tmp_path):
    config = load(PARTS)
    told = train(config)
    card = read_card(tmp_path / "m.safetensors")
    assert card.accuracy is not None
    assert (card.accuracy["part"], card.accuracy["n"]) == ("test", 24)
    assert "\n  part test\n" in told
    assert [one["part"] for one in card.training["clips"]] == ["training", "validation", "test"]  # type: ignore[attr-defined]
    assert card.training["split"] is None
    measured = json.loads(evaluate(tmp_path / "m.safetensors", config, as_json=True))
    assert (measured["accuracy"], measured["warnings"]) == (card.accuracy["accuracy"], [])
    fill(tmp_path / "new", {"2": 9, "10": 9})
    for part in ("test", "validation"):
        others = load(PARTS, f"images.{part}={tmp_path}/new")
        unseen = json.loads(evaluate(tmp_path / "m.safetensors", others, part=part, as_json=True))
        assert (unseen["n"], unseen["warnings"]) == (18, [])
    assert "trained or chosen on this" in evaluate(tmp_path / "m.safetensors", config, part="validation")
    swapped = load(PARTS.replace("test: test", "test: digits").replace("training: digits", "training: test"))
    assert "trained on other parts" in evaluate(tmp_path / "m.safetensors", swapped)


def test_the_confusion_of_many_classes_stays_out_of_the_model_file(load, tmp_path):
    for k in range(101):
        fill(tmp_path / "many", {f"{k}": 3}, first=3 * k)
    config = load(
        CONFIG.replace("folder: digits", f"folder: {tmp_path}/many"),
        "split={blocks: 3, validation: [1], test: [2]}",
        "train.epochs=1",
    )
    train(config)
    card = read_card(tmp_path / "m.safetensors")
    record = json.loads((tmp_path / "runs/train/training.json").read_bytes())
    assert card.accuracy is not None
    assert (card.accuracy["n"], card.accuracy["confusion"]) == (101, None)
    assert np.sum(record["accuracy"]["confusion"]) == 101
    assert record["accuracy"] | {"confusion": None} == card.accuracy
    assert (tmp_path / "runs/train/confusion.png").exists()
    measured = json.loads(evaluate(tmp_path / "m.safetensors", config, as_json=True))
    assert measured["accuracy"] == card.accuracy["accuracy"]


def test_a_class_that_validation_lacks_is_a_warning(load, digits, tmp_path):
    (tmp_path / "val").mkdir()
    (tmp_path / "val" / "2").symlink_to(digits / "val" / "2")
    lines: list[str] = []
    train(load(PARTS, f"images.validation={tmp_path}/val", "train.epochs=1"), say=lines.append)
    assert "warning: validation: has no example of 10, so it says nothing about that" in lines


def test_another_order_than_shuffled_is_a_warning(load):
    config = load(CONFIG.replace("order: shuffled", "order: consecutive"))
    lines: list[str] = []
    train(config, say=lines.append)
    said = "model.order: should be shuffled with images, which have no order of their own, got consecutive"
    assert lines[0].startswith("warning: ")
    assert lines[0].endswith(said)
    assert load(CONFIG.replace("fold: 2, order: shuffled", "fold: 1")).warnings == ()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (
            CONFIG.replace("{folder: digits}", "{folder: digits, test: test}"),
            ["2: images.test: must not stand beside 'folder', got both; remove one"],
        ),
        (
            PARTS.replace("training: digits, ", ""),
            ["2: images.training: must be given, or 'folder' alone"],
        ),
        (
            CONFIG.replace("{folder: digits}", "{folder: gone}"),
            ["2: images.folder: must be a folder, got none at {}/gone"],
        ),
        (
            CONFIG.replace("{folder: digits}", "{folder: train.yaml}"),
            ["2: images.folder: must be a folder, got a file at {}/train.yaml"],
        ),
        (
            PARTS.replace("test: test", "test: val"),
            ["2: images.validation: must be another part's folder, got {}/val again"],
        ),
        (
            PARTS + "split: {validation: [1]}\ntask: any_of\n",
            [
                "5: split: must be left out: the folders of images say what is for what",
                "6: task: must be one_of with images, which lie in one folder each, got any_of",
            ],
        ),
        (
            CONFIG + "classes: [{name: a, object: a}]\nclips: [{video: train.yaml, labels: train.yaml}]\n",
            [
                "6: classes: must be left out: the sub-folders of images are the classes",
                "7: clips: must be left out: images stand in their place",
            ],
        ),
        (
            CONFIG.replace("test: [3]", "test: [3], gap_s: 1"),
            ["3: split.gap_s: must be left out: images have no times to leave a gap between"],
        ),
        (CONFIG.replace("split: {blocks: 5, validation: [1], test: [3]}\n", ""), ["1: split: must be given"]),
        (
            CONFIG.replace("validation: [1]", "validation: [9]"),
            ["3: split.validation.0: must be below 5, the number of blocks, got 9"],
        ),
    ],
)
def test_what_does_not_go_with_images_is_refused(load, digits, text, said):
    found = problems(lambda: load(text))
    assert found == [f"{digits}/train.yaml:" + line.replace("{}", str(digits)) for line in said]


def test_the_command_names_broken_images_in_one_line_each(digits, tmp_path):
    fill(tmp_path / "digits", {"1": 5, "2": 5})
    (tmp_path / "digits" / "1" / "0.png").write_bytes(b"GIF89a")
    (tmp_path / "train.yaml").write_text(CONFIG)
    done = click.testing.CliRunner().invoke(main, ["train", str(tmp_path / "train.yaml")])
    assert (done.exit_code, done.stdout) == (2, "")
    assert done.stderr == (
        f"vpipe: {tmp_path}/digits/1/0.png: must be an image that can be read, got: neither PNG, JPEG, BMP nor WebP\n"
    )
