"""Rendered displays and digits: what a class needs to be learned, and what a sequence needs to be folded."""

from pathlib import Path

import cv2
import numpy as np
import pytest
from click.testing import CliRunner

from benchmarks.displays import DISPLAYS, TEN, Display, digits, main, sequence

SIZES = {
    "goldnumber-fraction": (22, 52, 11),
    "goldnumber-int": (22, 52, 111),
    "timer-minutes": (15, 35, 62),
    "squad-count": (19, 25, 22),
    "coin-count": (17, 40, 15),
    "timer3": (22, 30, 27),
}


def test_displays_have_the_sizes_and_classes_of_the_tasks_that_they_stand_in_for():
    assert {name: (*shown.size, len(shown.classes)) for name, shown in DISPLAYS.items()} == SIZES


@pytest.mark.parametrize("name", DISPLAYS)
def test_a_display_shows_every_class_for_a_while_and_about_equally_often(name):
    k, n = len(DISPLAYS[name].classes), 24 * len(DISPLAYS[name].classes)
    pictures, labels = sequence(DISPLAYS[name], n, seed=3)
    assert (pictures.dtype, pictures.shape) == (np.uint8, (n, *DISPLAYS[name].size, 3))
    assert (labels.dtype, labels.shape) == (np.int64, (n,))
    assert np.diff(np.flatnonzero(np.diff(labels))).min() >= 4
    seen = np.bincount(labels, minlength=k)
    assert seen.min() >= 8  # two rounds of at most 12 frames per class fit, with 4 frames each or more
    assert seen.max() <= 48


def test_every_frame_differs_from_the_one_before_and_the_background_moves():
    pictures, labels = sequence(DISPLAYS["timer3"], 400, seed=0)
    changed = np.abs(np.diff(pictures.astype(int), axis=0)).mean((1, 2, 3))
    assert changed.min() > 1
    none = DISPLAYS["timer3"].values
    assert pictures[labels == none].std((1, 2, 3)).min() > 5  # no display is not a blank


def test_a_display_of_ones_own_may_be_always_there_and_hold_its_values_for_long():
    shown = Display(size=(16, 12), values=10, text=lambda v, _: f"{v}", none=False, hold=(8, 24))
    pictures, labels = sequence(shown, 240, seed=0)
    assert pictures.shape == (240, 16, 12, 3)
    assert shown.classes == TEN
    assert set(labels) == set(range(10))
    assert 8 <= np.diff(np.flatnonzero(np.diff(labels))).min() <= np.diff(np.flatnonzero(np.diff(labels))).max() <= 24


def test_the_two_tasks_of_gold_read_the_same_display():
    fraction, gold = DISPLAYS["goldnumber-fraction"], DISPLAYS["goldnumber-int"]
    assert fraction.text(7, 104) == gold.text(104, 7) == "104.7k"
    assert DISPLAYS["timer-minutes"].text(5, 9) == "5:09"


@pytest.mark.parametrize(
    "render", [lambda n, seed: sequence(DISPLAYS["coin-count"], n, seed=seed), lambda n, seed: digits(n, seed=seed)]
)
def test_the_seed_decides_everything(render):
    one, again, other = render(60, 5), render(60, 5), render(60, 6)
    assert all(np.array_equal(a, b) for a, b in zip(one, again, strict=True))
    pictures = {picture.tobytes() for picture in np.concatenate([one[0], other[0]])}
    assert len(pictures) == 120


def test_digits_come_equally_often_in_any_size():
    pictures, labels = digits(103, size=(28, 40), seed=0)
    assert (pictures.dtype, pictures.shape, labels.dtype) == (np.uint8, (103, 28, 40, 3), np.int64)
    assert sorted(np.bincount(labels)) == [10] * 7 + [11] * 3


def test_the_command_writes_a_folder_per_class_that_is_the_sequence_in_order_of_names(tmp_path: Path):
    done = CliRunner().invoke(main, ["squad-count", str(tmp_path), "--frames", "270", "--seed", "1"])
    assert done.exit_code == 0, done.output
    pictures, labels = sequence(DISPLAYS["squad-count"], 90, seed=5)  # the test part of seed 1
    files = sorted((tmp_path / "test").glob("*/*.png"), key=lambda path: path.name)
    assert [DISPLAYS["squad-count"].classes[label] for label in labels] == [path.parent.name for path in files]
    assert np.array_equal(pictures, [cv2.imread(str(path))[..., ::-1] for path in files])
    assert len(list((tmp_path / "training").glob("*/*.png"))) == 270


def test_the_command_writes_digits_and_does_not_write_over_anything(tmp_path: Path):
    arguments = ["digits", str(tmp_path), "--frames", "30", "--size", "20x24"]
    assert CliRunner().invoke(main, arguments).exit_code == 0
    assert sorted(path.name for path in (tmp_path / "validation").iterdir()) == list(TEN)
    again = CliRunner().invoke(main, arguments)
    assert again.exit_code == 2
    assert "must not exist yet" in again.output
    assert CliRunner().invoke(main, [*arguments[:-1], "20"]).exit_code == 2
