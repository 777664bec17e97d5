"""The recordings of a game that an example is made of: labels, regions, pictures and configurations belong together."""

import hashlib
from collections import Counter

import av
import numpy as np
import pytest
from av.video.frame import PictureType
from click.testing import CliRunner

from benchmarks.display import HEIGHT, REGIONS, WIDTH, main, pictures, record, shown
from benchmarks.displays import DISPLAYS
from pipeline.config import load_train_config

FRAMES = 40


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("display") / "game"
    done = CliRunner().invoke(
        main, ["render", str(folder), "--recordings", "2", "--frames", str(FRAMES)], catch_exceptions=False
    )
    assert done.exit_code == 0, done.output
    return folder


def test_a_recording_has_a_label_for_each_region_of_each_frame(folder):
    for name in ("game-0", "test"):
        with av.open(str(folder / f"{name}.mp4")) as video:
            decoded = list(video.decode(video=0))
        assert [(frame.width, frame.height) for frame in decoded] == [(WIDTH, HEIGHT)] * FRAMES
        assert PictureType.B in {frame.pict_type for frame in decoded}
        head, *rows = [line.split(",") for line in (folder / f"{name}.csv").read_text(encoding="utf-8").splitlines()]
        assert head == ["frame", "region", "label"]
        assert Counter((int(frame), region) for frame, region, _ in rows) == Counter(
            (frame, region) for frame in range(FRAMES) for region in REGIONS
        )
        for _, region, label in rows:
            assert (label or "none") in DISPLAYS[region].classes


def test_the_same_seed_gives_the_same_recording_and_another_one_another(folder, tmp_path):
    hashes = {hashlib.sha256((folder / f"{name}.mp4").read_bytes()).hexdigest() for name in ("game-0", "test")}
    assert len(hashes) == 2
    record(tmp_path / "again.mp4", tmp_path / "again.csv", frames=FRAMES, seed=0)
    assert hashlib.sha256((tmp_path / "again.mp4").read_bytes()).hexdigest() in hashes
    assert (tmp_path / "again.csv").read_bytes() == (folder / "game-0.csv").read_bytes()


def test_regions_lie_in_the_picture_apart_from_each_other_and_numbers_inside_of_them():
    covered = np.zeros((HEIGHT, WIDTH), int)
    for x, y, width, height in REGIONS.values():
        assert 0 <= x <= x + width <= WIDTH
        assert 0 <= y <= y + height <= HEIGHT
        covered[y : y + height, x : x + width] += 1
    assert covered.max() == 1
    longest = {name: [DISPLAYS[name].text(DISPLAYS[name].values - 1, DISPLAYS[name].others - 1)] for name in REGIONS}
    (with_them,) = pictures(longest, np.random.default_rng(0))
    (without,) = pictures({name: [""] for name in REGIONS}, np.random.default_rng(0))
    differs = (with_them != without).any(2)
    assert not differs[covered == 0].any()
    for x, y, width, height in REGIONS.values():
        assert differs[y : y + height, x : x + width].mean() > 0.2


@pytest.mark.parametrize("name", DISPLAYS)
def test_every_value_comes_about_equally_often(name):
    k = len(DISPLAYS[name].classes)
    values, texts = shown(name, 24 * k, np.random.default_rng(1))
    seen = np.bincount(values, minlength=k)
    assert (len(values), len(texts)) == (24 * k, 24 * k)
    assert seen.min() >= 8
    assert seen.max() <= 48


def test_clocks_count():
    values, texts = shown("timer-minutes", 2000, np.random.default_rng(0))
    assert set(np.diff(values)) == {0, 1, -61}
    assert (
        np.diff([int(minutes) * 60 + int(seconds) for minutes, seconds in (t.split(":") for t in texts if t)])[
            :20
        ].min()
        > 0
    )
    values, _ = shown("timer3", 2000, np.random.default_rng(0))
    assert set(np.diff(values)) == {0, -1, 26}


@pytest.mark.parametrize("name", DISPLAYS)
def test_configurations_are_valid_and_have_the_models_own_classes(folder, name):
    config = load_train_config(folder / f"train-{name}.yaml")
    assert config.warnings == ()
    assert (*(asked.name for asked in config.classes), "none") == DISPLAYS[name].classes


def test_the_score_is_the_share_of_frames_in_which_a_number_or_all_were_read(folder, tmp_path):
    rows = [line.split(",") for line in (folder / "test.csv").read_text(encoding="utf-8").splitlines()[1:]]
    shows = np.array([label or "none" for _, _, label in rows]).reshape(FRAMES, len(REGIONS))
    shows[3, :2], shows[5, 1] = "wrong", "wrong"
    lines = [",".join(("frame", *REGIONS)), *(f"{n}," + ",".join(of_frame) for n, of_frame in enumerate(shows))]
    (tmp_path / "read.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    done = CliRunner().invoke(main, ["score", str(folder / "test.csv"), str(tmp_path / "read.csv")])
    shares = dict(line.split() for line in done.output.splitlines())
    assert list(shares) == [*REGIONS, "all"]
    assert [float(share) for share in shares.values()] == [0.975, 0.95, 1, 1, 1, 1, 0.95]
    (tmp_path / "read.csv").write_text("\n".join(lines[:-1]) + "\n", encoding="utf-8")
    done = CliRunner().invoke(main, ["score", str(folder / "test.csv"), str(tmp_path / "read.csv")])
    assert "must tell of 40 frames, got 39" in done.output
