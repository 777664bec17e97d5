import csv
import math
import os
import resource
import signal
import subprocess
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

import av
import click.testing
import cv2
import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from pipeline.autolabel import Found, detect, targets
from pipeline.batch import FrameBatch
from pipeline.cli import main
from pipeline.config import load_train_config
from pipeline.detector import Detector, open_detector
from pipeline.errors import ConfigError, ModelError, VpipeError
from pipeline.labels import read_labels
from pipeline.labels.table import write_table
from pipeline.sheet import chosen, draw_sheet
from pipeline.training import train
from specialized.modelfile import read_card
from tests.clips import clip, clobbered_avi, read

ROOT = Path(__file__).parents[1]
ODD = ROOT / "tests/data/odd"
NAMES = ["person", "car", "bird"]
SIZE = 96, 128  # height and width of a frame
RED, GREEN, BLUE, GRAY = (255, 0, 0), (0, 255, 0), (0, 0, 255), (114, 114, 114)


def write_detector(
    path: Path,
    *,
    classes: int = 3,
    size: Sequence[int | str] = ("height", "width"),
    batch: int | str = "batch",
    grow: float = 1.0,
    objectness: float = 1.0,
    x: float = 0.5,
) -> Path:
    """A network of YOLOX's form that sees a red cell of 32 pixels as class 0, a green one of 16 as class 1 and a blue
    one of 8 as class 2, in a box `grow` cells wide around its middle (or x cells from its left)."""
    nodes, weights = [], []
    for k, (stride, channel) in enumerate([(8, 0), (16, 1), (32, 2)]):  # BGR
        weight = np.zeros((5 + classes, 3, 1, 1), np.float32)
        weight[5 + 2 - k] = -1 / 255 / 2
        weight[5 + 2 - k, channel] = 1 / 255
        bias = np.array([x, 0.5, math.log(grow), math.log(grow), objectness, *[0] * classes], np.float32)
        weights += [numpy_helper.from_array(weight, f"w{k}"), numpy_helper.from_array(bias, f"b{k}")]
        nodes += [
            helper.make_node("AveragePool", ["images"], [f"mean{k}"], kernel_shape=[stride] * 2, strides=[stride] * 2),
            helper.make_node("Conv", [f"mean{k}", f"w{k}", f"b{k}"], [f"rows{k}"]),
            helper.make_node("Relu", [f"rows{k}"], [f"positive{k}"]),
            helper.make_node("Reshape", [f"positive{k}", "flat"], [f"flat{k}"]),
        ]
    weights.append(numpy_helper.from_array(np.array([0, 5 + classes, -1], np.int64), "flat"))
    nodes.append(helper.make_node("Concat", ["flat0", "flat1", "flat2"], ["cells"], axis=2))
    nodes.append(helper.make_node("Transpose", ["cells"], ["output"], perm=[0, 2, 1]))
    images = helper.make_tensor_value_info("images", TensorProto.FLOAT, [batch, 3, *size])
    output = helper.make_tensor_value_info("output", TensorProto.FLOAT, [batch, "cells", 5 + classes])
    graph = helper.make_graph(nodes, "squares", [images], [output], weights)
    onnx.save(helper.make_model(graph, ir_version=8, opset_imports=[helper.make_opsetid("", 17)]), path)
    return path


@pytest.fixture(scope="module")
def squares(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The file of the network."""
    return write_detector(tmp_path_factory.mktemp("detector") / "squares.onnx")


@pytest.fixture(scope="module")
def names(squares: Path) -> Path:
    path = squares.with_name("names.txt")
    path.write_text("\n".join(NAMES) + "\n")
    return path


def picture(*boxes: tuple[tuple[int, int, int], int, int, int], size: tuple[int, int] = SIZE) -> np.ndarray:
    """A gray picture (H, W, 3) with squares: colour, left, top, side."""
    drawn = np.full((*size, 3), GRAY, np.uint8)
    for colour, left, top, side in boxes:
        drawn[top : top + side, left : left + side] = colour
    return drawn


PERSON, CAR, BIRD = (RED, 32, 32, 32), (GREEN, 96, 16, 16), (BLUE, 8, 72, 8)


def write_video(path: Path, pictures: Iterable[np.ndarray]) -> Path:
    """The pictures, of SIZE, without loss, every twelfth a keyframe."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("ffv1", rate=25)
        stream.height, stream.width, stream.pix_fmt = *SIZE, "bgr0"
        stream.codec_context.gop_size = 12
        for number, shown in enumerate(pictures):
            frame = av.VideoFrame.from_ndarray(shown, "rgb24").reformat(format="bgr0")
            frame.pts = number
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def is_there(number: int) -> bool:
    """Whether a frame of the scene shows a person."""
    return number // 6 % 2 == 1


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A clip of 60 frames in which a person comes and goes, and a car stands from frame 30 on."""
    shown = [picture(*([PERSON] if is_there(n) else []), *([CAR] if n >= 30 else [])) for n in range(60)]
    return write_video(tmp_path_factory.mktemp("scene") / "scene.mkv", shown)


def opened(path: Path, **options: object) -> Detector:
    return open_detector(path, names=NAMES, size=128, **options)  # type: ignore[arg-type]


def run(*arguments: object) -> click.testing.Result:
    return click.testing.CliRunner().invoke(main, ["label", *map(str, arguments)])


# ---------------------------------------------------------------------------------------- the detector


def test_objects_of_every_stride_are_found_where_they_are(squares):
    found = opened(squares)(picture(PERSON, CAR, BIRD))
    assert sorted(found.kind.tolist()) == [0, 1, 2]
    boxes = {NAMES[k]: corners.tolist() for k, corners in zip(found.kind, found.corners, strict=True)}
    assert boxes["person"] == pytest.approx([32 / 128, 32 / 96, 64 / 128, 64 / 96])
    assert boxes["car"] == pytest.approx([96 / 128, 16 / 96, 112 / 128, 32 / 96])
    assert boxes["bird"] == pytest.approx([8 / 128, 72 / 96, 16 / 128, 80 / 96])
    assert found.confidence.tolist() == pytest.approx([1, 1, 1])


def test_a_picture_stands_at_the_top_left_and_nothing_is_seen_beside_it(squares):
    detector = opened(squares)
    assert detector.picture_size(1080, 1920) == (72, 128)
    assert detector.picture_size(50, 40) == (128, 102)
    found = detector(picture(PERSON, size=(70, 100)))
    (corners,) = found.corners.tolist()
    assert corners == pytest.approx([32 / 100, 32 / 70, 64 / 100, 64 / 70])
    assert len(detector(np.full((70, 100, 3), 114, np.uint8))) == 0


def test_boxes_beyond_the_picture_are_cut_to_it(tmp_path):
    detector = opened(write_detector(tmp_path / "large.onnx", grow=1000))
    assert detector(picture(PERSON)).corners.tolist() == [[0, 0, 1, 1]]


@pytest.mark.parametrize(("iou", "kept"), [(0.3, 1), (0.4, 2)])
def test_of_boxes_of_a_class_that_overlap_the_surest_stays(tmp_path, iou, kept):
    detector = opened(write_detector(tmp_path / "wide.onnx", grow=2), iou=iou)  # neighbours overlap by a third
    pale = (230, 0, 0)
    found = detector(picture((pale, 32, 32, 32), (RED, 64, 32, 32), (GREEN, 48, 48, 16)))
    surest, *others = found.corners[found.kind == 0].tolist()
    assert surest == pytest.approx([48 / 128, 16 / 96, 112 / 128, 80 / 96])
    assert len(others) == kept - 1
    assert np.count_nonzero(found.kind == 1) == 1  # another class is never suppressed


def test_only_wanted_classes_from_the_confidence_on_are_kept(squares):
    shown = picture(PERSON, CAR, ((160, 0, 0), 64, 64, 32))
    assert sorted(opened(squares)(shown).kind.tolist()) == [0, 0, 1]
    assert opened(squares, confidence=0.7)(shown).kind.tolist() in ([0, 1], [1, 0])
    assert opened(squares, classes=["car"])(shown).kind.tolist() == [1]


def test_a_size_that_the_file_prescribes_is_used(tmp_path):
    path = write_detector(tmp_path / "fixed.onnx", size=(96, 160), batch=1)
    detector = open_detector(path, names=NAMES)
    assert detector.picture_size(480, 640) == (96, 128)
    assert detector.picture_size(100, 1000) == (16, 160)
    (corners,) = detector(picture(PERSON)).corners.tolist()
    assert corners == pytest.approx([32 / 128, 32 / 96, 64 / 128, 64 / 96])
    with pytest.raises(ConfigError, match=r"--size: must be left out, since .* takes 96x160 alone, got 640"):
        open_detector(path, names=NAMES, size=640)


def test_the_names_are_those_of_coco_where_there_are_80(tmp_path):
    detector = open_detector(write_detector(tmp_path / "coco.onnx", classes=80), size=128)
    assert (len(detector.names), len(set(detector.names))) == (80, 80)
    assert (detector.names[0], detector.names[9], detector.names[79]) == ("person", "traffic light", "toothbrush")
    assert [detector.names[k] for k in detector(picture(PERSON)).kind] == ["person"]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({}, r"--names: must be given, since .*squares\.onnx has 3 classes, not the 80 of COCO"),
        ({"names": ["a"]}, r"--names: must be 3, as many as .* has classes, got 1"),
        (
            {"names": NAMES, "classes": ["cat"]},
            r"--classes: must be classes of the detector, got 'cat'; did you mean 'car'",
        ),
        ({"names": NAMES, "size": 100}, r"--size: must be a multiple of 32, got 100"),
    ],
)
def test_options_that_do_not_fit_the_detector_are_refused(squares, options, said):
    with pytest.raises(ConfigError, match=said):
        open_detector(squares, **options)


def write_other(path: Path, operator: str, shape: Sequence[int | str], kind: int = TensorProto.FLOAT) -> Path:
    """A network of one operator."""
    images = helper.make_tensor_value_info("images", kind, shape)
    output = helper.make_tensor_value_info("output", kind, None)
    graph = helper.make_graph([helper.make_node(operator, ["images"], ["output"])], "other", [images], [output])
    onnx.save(helper.make_model(graph, ir_version=8, opset_imports=[helper.make_opsetid("", 17)]), path)
    return path


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda path: path.write_bytes(b"no model" * 100), "must be an ONNX file, got .*InvalidProtobuf"),
        (lambda path: path.write_bytes(b""), "must be an ONNX file, got .*InvalidArgument"),
        (
            lambda path: write_other(path, "Relu", [1, 3, "h", "w"]),
            r"must give float32 \(1, cells, 5 .*got float32 \(1, 3, 64",
        ),
        (lambda path: write_other(path, "Relu", [8, 3, 64, 64]), r"must take one tensor\(float\) .*\[8, 3, 64, 64\]"),
        (lambda path: write_other(path, "Relu", [1, 3, 50, 50]), r"H and W multiples of 32, got .*\[1, 3, 50, 50\]"),
        (lambda path: write_other(path, "Relu", [1, 10]), r"must take one tensor\(float\)"),
        (lambda path: write_other(path, "Neg", [1, 3, 64, 64], TensorProto.DOUBLE), r"got tensor\(double\)"),
        (
            lambda path: write_detector(path, objectness=7.0),
            "scores in 0..1, got scores in 0 to 7; export it with its sigmoid",
        ),
        (lambda path: write_detector(path, x=60.0), "boxes in cells, got numbers up to 60; export it without decode"),
        (lambda path: write_detector(path, x=math.nan), "must give finite numbers"),
        (lambda path: write_detector(path, size=(64, 96, 1)), r"must take one tensor\(float\)|must be an ONNX file"),
    ],
)
def test_what_is_no_such_detector_is_refused_in_one_line(tmp_path, make, said):
    make(tmp_path / "other.onnx")
    with pytest.raises(ModelError, match=said) as caught:
        open_detector(tmp_path / "other.onnx", names=NAMES)
    assert str(caught.value).startswith(f"{tmp_path}/other.onnx: ")
    assert "\n" not in str(caught.value)


def test_without_onnxruntime_the_message_says_how_to_install_it(squares):
    code = (
        "import sys; sys.modules['onnxruntime'] = None\n"
        "from pipeline.cli import main\n"
        f"main(['label', 'clip.mp4', '--detector', {str(squares)!r}])"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60)
    said = "vpipe: a detector needs onnxruntime, which is not installed; pip install 'vpipe[label]'\n"
    assert (done.returncode, done.stdout, done.stderr) == (1, "", said)


# ------------------------------------------------------------------------------------------ the table


def test_labels_are_those_of_the_frames_that_show_them(scene, squares, names, tmp_path):
    done = run(scene, "--detector", squares, "--names", names, "--size", 128, "--out", tmp_path / "x.csv")
    assert (done.exit_code, done.stdout) == (0, f"{tmp_path}/x.csv\n")
    assert "scene.mkv: 60 boxes in 60 frames: person in 30, car in 30" in done.stderr
    with (tmp_path / "x.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == ["frame", "object_name", "confidence", "xmin", "ymin", "xmax", "ymax"]
    assert rows[0] == {
        "frame": "6",
        "object_name": "person",
        "confidence": "1.000",
        "xmin": "0.2500",
        "ymin": "0.3333",
        "xmax": "0.5000",
        "ymax": "0.6667",
    }
    boxes = read_labels(tmp_path / "x.csv")
    assert boxes.frame[boxes.object_name == "person"].tolist() == [n for n in range(60) if is_there(n)]
    assert boxes.frame[boxes.object_name == "car"].tolist() == list(range(30, 60))


@pytest.mark.parametrize("kind", ["h264-bframes-opengop.mp4", "h264-bframes.avi"])
def test_frames_are_numbered_as_in_training_and_every_nth_is_looked_at(tmp_path, kind):
    path = write_detector(tmp_path / "white.onnx")
    batches: list[FrameBatch] = []
    found = detect(clip(kind), opened(path), every=7, watch=batches.append)
    assert found.numbers.tolist() == list(range(0, 60, 7))
    assert found.losses == ()
    shown = np.concatenate([read(batch.frames)[0] for batch in batches if len(batch)])  # by their pixels
    assert shown.tolist() == np.concatenate([batch.index for batch in batches]).tolist() == found.numbers.tolist()


def test_training_reads_the_table_as_it_is(scene, squares, names, tmp_path):
    assert run(scene, "--detector", squares, "--names", names, "--size", 128, "--out", tmp_path).exit_code == 0
    (tmp_path / "train.yaml").write_text(
        f"""\
model: {{architecture: coral, args: {{filters: 4, dense: 8}}, fold: 2, input: [12, 16]}}
classes: [{{name: person, object: person, min_confidence: 0.5}}]
clips: [{{video: {scene}, labels: scene.csv}}]
split: {{blocks: 5, validation: [1], test: [3], gap_s: 0}}
train: {{epochs: 2}}
run: {{dir: {tmp_path}}}
output: m.safetensors
"""
    )
    train(load_train_config(tmp_path / "train.yaml"))
    accuracy = read_card(tmp_path / "m.safetensors").accuracy
    assert accuracy is not None
    assert {name: one["support"] for name, one in accuracy["classes"].items()} == {"person": 6, "none": 6}  # type: ignore[attr-defined]


def test_the_lines_printed_after_every_nth_frame_train_on_those_frames(scene, squares, names, tmp_path):
    strange = tmp_path / 'a: ["odd"], name #é.mkv'
    strange.symlink_to(scene)
    arguments = ("--detector", squares, "--names", names, "--size", 128, "--every", 5)
    done = run(strange, *arguments, "--out", tmp_path)
    said, lines = done.stderr.split("to train on these labels:\n")
    assert said.endswith("one frame in 5 was looked at; ")
    head = "model: {architecture: coral}\nclasses: [{name: person, object: person}]\noutput: m.safetensors\n"
    head += "split: {validation: [1], test: [2]}\n"
    (tmp_path / "train.yaml").write_text(head + lines)
    (one,) = load_train_config(tmp_path / "train.yaml").clips
    assert (one.video, one.labels, one.every) == (str(strange), str(strange.with_suffix(".csv")), 5)
    for silent in (("--every", 1), ("-q",)):
        again = run(strange, *arguments, *silent, "--out", tmp_path, "--overwrite")
        assert "to train on" not in again.stderr


NAME = st.text(st.characters(codec="utf-8", exclude_categories=("C", "Z")), min_size=1, max_size=20)


@given(st.lists(st.tuples(st.integers(0, 10**6), NAME, st.floats(0, 1, width=32)), max_size=8))
def test_what_is_written_is_read_again(tmp_path_factory, rows):
    path = tmp_path_factory.mktemp("t") / "t.csv"
    frame, object_name, confidence = (list(column) for column in zip(*rows, strict=True)) if rows else ([], [], [])
    corners = np.zeros((len(rows), 4), np.float32)
    write_table(path, np.array(frame, np.int64), object_name, np.array(confidence, np.float32), corners)
    boxes = read_labels(path)
    assert (boxes.frame.tolist(), boxes.object_name.tolist()) == (frame, object_name)
    assert boxes.confidence.tolist() == pytest.approx(confidence, abs=0.0006)


def test_a_table_that_cannot_be_written_is_named(tmp_path):
    with pytest.raises(VpipeError, match=r"gone/t\.csv: must be a file that can be written, got No such file"):
        write_table(
            tmp_path / "gone" / "t.csv",
            np.empty(0, np.int64),
            [],
            np.empty(0, np.float32),
            np.empty((0, 4), np.float32),
        )


# ---------------------------------------------------------------------------------------- the command


def test_each_clip_gets_files_of_its_name(tmp_path):
    clips = [tmp_path / "a.mp4", tmp_path / "b.mkv"]
    planned = targets(clips, out=str(tmp_path / "labels"), sheet=str(tmp_path / "sheets"), overwrite=False)
    assert [target.table.name for target in planned] == ["a.csv", "b.csv"]
    assert [target.sheet and target.sheet.name for target in planned] == ["a.png", "b.png"]
    assert (tmp_path / "labels").is_dir()
    (one,) = targets(clips[:1], out=str(tmp_path / "x.CSV"), sheet=str(tmp_path / "y.png"), overwrite=False)
    assert (one.table, one.sheet) == (tmp_path / "x.CSV", tmp_path / "y.png")


def test_files_that_are_there_or_would_be_shared_are_refused_before_anything_is_done(scene, squares, names, tmp_path):
    (tmp_path / "scene.csv").write_text("mine")
    common = ("--detector", squares, "--names", names, "--size", 128, "-q")
    done = run(scene, *common, "--out", tmp_path)
    assert (done.exit_code, done.stdout) == (2, "")
    assert done.stderr == f"vpipe: {tmp_path}/scene.csv: must not exist yet; --overwrite replaces it\n"
    assert (tmp_path / "scene.csv").read_text() == "mine"
    twice = run(scene, scene, *common, "--out", tmp_path / "new")
    assert (
        twice.stderr
        == f"vpipe: {tmp_path}/new/scene.csv: must be another clip's file, got it twice; label them apart\n"
    )
    many = run(scene, scene, *common, "--out", tmp_path / "a.csv")
    assert many.stderr == f"vpipe: --out: must be a folder for 2 clips, got {tmp_path}/a.csv\n"
    done = run(scene, *common, "--out", tmp_path, "--overwrite")
    assert (done.exit_code, done.stderr) == (0, "")
    assert len(read_labels(tmp_path / "scene.csv")) == 60


@pytest.mark.parametrize("option", ["--out", "--sheet"])
def test_an_empty_name_is_where_one_stands_and_nothing_there_is_replaced(
    scene, squares, names, tmp_path, monkeypatch, option
):
    monkeypatch.chdir(tmp_path)
    mine = tmp_path / ("scene.csv" if option == "--out" else "scene.png")
    mine.write_text("mine")
    done = run(scene, "--detector", squares, "--names", names, "--size", 128, "-q", option, "")
    assert (done.exit_code, done.stdout) == (2, "")
    assert done.stderr == f"vpipe: {mine.name}: must not exist yet; --overwrite replaces it\n"
    assert mine.read_text() == "mine"


def test_a_folder_that_is_named_is_made_and_what_it_lies_in_is_not(scene, squares, names, tmp_path):
    common = (scene, "--detector", squares, "--names", names, "--size", 128, "-q", "--out")
    cure = "or choose another --out"
    for out, problem in {
        "typo/x.csv": f"{tmp_path}/typo: must be a folder that is there, got none; mkdir -p {tmp_path}/typo, {cure}",
        "typo/x": f"{tmp_path}/typo: must be a folder that is there, got none; mkdir -p {tmp_path}/typo, {cure}",
        "x.txt": f"--out: must be a FILE.csv or a folder, got {tmp_path}/x.txt; mkdir it if it is one",
        "n" * 300: f"{tmp_path}/{'n' * 300}: must be a folder that can be made, got: File name too long",
    }.items():
        done = run(*common, tmp_path / out)
        assert (done.exit_code, done.stdout, done.stderr) == (2, "", f"vpipe: {problem}\n")
        assert list(tmp_path.iterdir()) == []
    assert run(*common, tmp_path / "x").stdout == f"{tmp_path}/x/scene.csv\n"
    below = run(*common, tmp_path / "x" / "scene.csv" / "y")
    assert below.stderr.startswith(f"vpipe: {tmp_path}/x/scene.csv: must be a folder to write to, got Not a directory;")


def test_a_clip_that_cannot_be_read_is_named_and_the_others_go_on(scene, squares, names, tmp_path):
    common = ("--detector", squares, "--names", names, "--size", 128, "--out", tmp_path, "-q")
    done = run(ODD / "not-a-video.mp4", scene, *common)
    assert (done.exit_code, done.stdout) == (3, f"{tmp_path}/scene.csv\n")
    assert done.stderr.startswith(f"vpipe: {ODD}/not-a-video.mp4: cannot be opened as a video")
    assert done.stderr.count("\n") == 1
    assert [path.name for path in tmp_path.iterdir()] == ["scene.csv"]
    assert run(tmp_path / "gone.mp4", *common).exit_code == 1


def test_a_sheet_that_cannot_be_drawn_is_named_and_the_others_go_on(scene, squares, names, tmp_path):
    other = tmp_path / "other.mkv"
    other.symlink_to(scene)
    (tmp_path / "scene.png").write_text("an older sheet")
    common = ("--detector", squares, "--names", names, "--size", 128, "--out", tmp_path, "-q", "--overwrite")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, before[1]))  # a table is smaller, a sheet larger
        done = run(scene, other, *common, "--sheet", tmp_path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert done.exit_code == 3
    assert done.stdout.splitlines() == [f"{tmp_path}/{name}.csv" for name in ("scene", "other")]
    assert done.stderr.splitlines() == [
        f"vpipe: {tmp_path}/{name}.png: must be writable, got File too large; choose another --sheet"
        for name in ("scene", "other")
    ]
    assert (tmp_path / "scene.png").read_text() == "an older sheet"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["other.csv", "other.mkv", "scene.csv", "scene.png"]


def test_frames_lost_to_damage_are_named(squares, names, tmp_path):
    arguments = ("--detector", squares, "--names", names, "--size", 64, "--out", tmp_path, "-q")
    done = run(ODD / "broken-hole.mp4", *arguments)
    assert done.exit_code == 3
    assert f"{ODD}/broken-hole.mp4: frames " in done.stderr
    assert " corrupt, so they have no labels" in done.stderr
    assert (tmp_path / "broken-hole.csv").exists()


def test_a_missing_end_is_named(squares, names, tmp_path):
    arguments = ("--detector", squares, "--names", names, "--size", 64, "--out", tmp_path, "-q")
    done = run(ODD / "broken-cut.mkv", *arguments)
    assert done.exit_code == 3
    said = "the header promises 7.7 s, but the data ends at 3.1 s: its end is missing"
    assert done.stderr == f"vpipe: {ODD}/broken-cut.mkv: {said}\n"
    assert (tmp_path / "broken-cut.csv").exists()


def test_numbers_that_are_too_low_behind_a_loss_are_said_to_be(squares, tmp_path):
    found = detect(clobbered_avi(tmp_path / "clobbered.avi", 60), opened(squares))
    assert found.losses[-1] == (
        "1 of 60 frames gave no picture, and nothing tells which: frames behind a loss are numbered too low"
    )


def test_a_wrong_detector_or_list_of_names_is_refused_in_one_line(scene, squares, tmp_path):
    (tmp_path / "names.txt").write_text("person\n\nperson\n")
    done = run(scene, "--detector", squares, "--names", tmp_path / "names.txt", "--out", tmp_path)
    rule = "must be a name of up to 200 characters, unlike the others, got"
    assert done.exit_code == 2
    assert done.stderr.splitlines() == [
        f"vpipe: {tmp_path}/names.txt:2: {rule} ''",
        f"vpipe: {tmp_path}/names.txt:3: {rule} 'person'",
    ]
    done = run(scene, "--detector", tmp_path / "gone.onnx", "--out", tmp_path)
    assert (done.exit_code, done.stderr) == (
        2,
        f"vpipe: {tmp_path}/gone.onnx: the detector must be an ONNX file, got none there\n",
    )
    assert [path.name for path in tmp_path.iterdir()] == ["names.txt"]


def test_ctrl_c_leaves_the_files_of_earlier_clips_and_none_of_the_one_at_work(scene, squares, names, tmp_path):
    long = write_video(tmp_path / "long.mkv", (picture() for _ in range(400)))
    command = [sys.executable, "-c", "from pipeline.cli import main; main()", "label", str(scene), str(long)]
    options = ["--detector", str(squares), "--names", str(names), "--size", "1280", "--out", str(tmp_path / "labels")]
    with subprocess.Popen(
        [*command, *options, "-q"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=ROOT,
        env=os.environ | {"PYTHONUNBUFFERED": "1"},
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert process.stdout.readline() == f"{tmp_path}/labels/scene.csv\n"
        process.send_signal(signal.SIGINT)
        said = process.stderr.read()
    assert (process.returncode, said) == (130, "vpipe: interrupted: 1 of 2 clips are labelled\n")
    assert [path.name for path in (tmp_path / "labels").iterdir()] == ["scene.csv"]


# ------------------------------------------------------------------------------------------ the sheet


def found_in(numbers: Sequence[int], boxes: Sequence[tuple[int, str]], path: Path = Path("clip.mkv")) -> Found:
    corners = np.tile(np.array([[0.25, 0.3333, 0.5, 0.6667]], np.float32), (len(boxes), 1))
    frame = np.array([number for number, _ in boxes], np.int64)
    confidence = np.full(len(boxes), 0.9, np.float32)
    return Found(path, np.array(numbers, np.int64), frame, tuple(name for _, name in boxes), confidence, corners, ())


def test_the_sheet_shows_where_labels_change_and_the_rest_evenly():
    found = found_in(range(0, 2000, 2), [(n, "person") for n in range(600, 1000, 2)])
    frames = chosen(found)
    assert [number for number, changes in frames.items() if changes] == [600, 1000]
    assert len(frames) == 30
    assert np.diff(list(frames)).max() <= 2000 / 15 + 2


@given(st.sets(st.integers(0, 200), min_size=1), st.data())
def test_whatever_was_found_the_sheet_shows_as_many_frames_as_it_can(numbers, data):
    ordered = sorted(numbers)
    boxes = sorted(data.draw(st.lists(st.tuples(st.sampled_from(ordered), st.sampled_from(NAMES)), max_size=30)))
    frames = chosen(found_in(ordered, boxes))
    assert list(frames) == sorted(frames)
    assert set(frames) <= numbers
    assert len(frames) == min(30, len(numbers))


def test_the_sheet_draws_the_boxes_on_their_frames(scene, squares, names, tmp_path):
    common = ("--detector", squares, "--names", names, "--size", 128, "--out", tmp_path)
    done = run(scene, *common, "--sheet", tmp_path / "sheet.png")
    assert (done.exit_code, done.stdout) == (0, f"{tmp_path}/scene.csv\n{tmp_path}/sheet.png\n")
    sheet = cv2.imread(str(tmp_path / "sheet.png"))[..., ::-1].astype(int)
    rows, columns = np.nonzero((np.abs(sheet - [254, 0, 0]) < 12).all(axis=2))
    top, left = rows.min(), columns[rows == rows.min()].min()
    above = sheet[top - 12 : top, left : left + 40]  # the first person's name
    assert (np.abs(above - [0xD5, 0x5E, 0x00]) < 30).all(axis=2).mean() > 0.2


def test_a_sheet_of_a_clip_without_boxes_or_with_a_strange_name_is_drawn(scene, tmp_path):
    strange = tmp_path / "a$b_\udcff^.mkv"
    strange.symlink_to(scene)
    draw_sheet(found_in(range(60), [], strange), tmp_path / "empty.png")
    assert cv2.imread(str(tmp_path / "empty.png")) is not None
    with pytest.raises(VpipeError, match=r"gone/a\.png: must be writable, got No such file or directory"):
        draw_sheet(found_in(range(60), [], strange), tmp_path / "gone" / "a.png")
