"""The study of lanes: nothing is tested twice or near what was trained on, and its figures are what they say."""

import json

import numpy as np
import pytest

from benchmarks import lanes
from benchmarks.lanes import BLOCKS, GAP_S, MODELS, ROTATIONS, SEEDS, Cell, cells, report, run_cell, split
from pipeline.footage import Footage
from pipeline.labelled import footage_of
from specialized.examples import Examples
from specialized.recipe import Recipe

NAMES = ("a", "b", "c")


@pytest.fixture
def film():
    """500 frames of three regions at 25/s; what they show is their label."""
    labels = np.tile(np.array([0, 1, 1], np.int64), 500)
    pictures = np.broadcast_to(labels[:, None, None, None].astype(np.uint8) * 255, (1500, 8, 8, 3))
    region = np.tile(np.arange(3, dtype=np.int16), 500)
    examples = Examples(pictures, labels, ((0, 1500),), region=region, regions=NAMES)
    return Footage(examples=examples, pts_s=np.repeat(np.arange(500) / 25, 3), videos=(lanes.REGIONS,))


def test_cells_differ_in_what_they_say():
    every = list(cells())
    assert len({cell.path for cell in every}) == len(every) == SEEDS * len(MODELS)
    one, *others = [Cell(*model, 0).settings for model in MODELS]
    assert json.loads(json.dumps(one)) == one
    assert all(other != one for other in others)
    assert [Cell(*model, 0).recipe.fold_epochs for model in MODELS] == [0, 10, 10, 0, 0]


def test_the_labels_of_the_clip_fit_its_regions():
    cell = Cell("regions", 4, "", 0)
    found = footage_of(cell.config, cell.card, outline=True)
    assert (len(found.examples), len(found.examples.regions), found.warnings) == (499 * 14, 14, ())
    shares = [float((found.examples.labels[place::14] == 0).mean()) for place in range(14)]
    assert 0.25 < min(shares) < max(shares) < 0.85  # neither answer is rare anywhere


def test_every_frame_is_tested_once_and_a_second_away_from_all_others(film):
    tested = np.zeros(500, int)
    for rotation in range(ROTATIONS):
        parts = film.split(blocks=BLOCKS, gap_s=GAP_S, **split(rotation))
        frames = {
            part: np.concatenate([np.arange(a // 3, b // 3) for a, b in examples.runs])
            for part, examples in parts.items()
        }
        tested[frames["test"]] += 1
        for one, other in (("test", "training"), ("test", "validation"), ("validation", "training")):
            assert np.abs(frames[one][:, None] - frames[other]).min() >= 25
    assert (tested == 1).all()


def test_a_cell_counts_each_region_by_itself(film, monkeypatch):
    monkeypatch.setattr(lanes, "footage", lambda: film)
    monkeypatch.setattr(Cell, "recipe", Recipe(epochs=1, least_steps=1, shift=0))
    monkeypatch.setattr(Cell, "card", lanes.dataclasses.replace(Cell("regions", 4, "", 0).card, input=(8, 8)))
    found = run_cell(Cell("regions", 4, "", 0))
    assert len(found["blocks"]) == BLOCKS
    for block in found["blocks"]:
        assert {name: (one["n"], one["cars"]) for name, one in block["regions"].items()} == {
            "a": (50, 50),
            "b": (50, 0),
            "c": (50, 0),
        }
        assert sum(one["right"] for one in block["regions"].values()) == block["right"]


def result(order: str, f: int, seed: int, right: list[int]) -> dict[str, object]:
    """20 frames of two regions in each block; the first is right throughout, half of the second's show a car."""
    blocks = [
        {
            "n": 40,
            "right": 20 + some,
            "regions": {"a": {"n": 20, "right": 20, "cars": 2}, "b": {"n": 20, "right": some, "cars": 10}},
        }
        for some in right
    ]
    return {
        "cell": {"order": order, "f": f, "variant": "", "seed": seed},
        "blocks": blocks,
        "parameters": 10 * f,
        "flops_per_picture": 7.0,
        "seconds": 1.2,
        "commit": "c",
        "cpu": "x",
        "versions": {"torch": "2"},
    }


def test_figures_are_sums_over_blocks_and_seeds():
    right = [10, 20] * 5
    done = [
        result("consecutive", 1, 0, right),
        result("consecutive", 1, 1, [20] * 10),
        result("regions", 4, 1, [18] * 10),
    ]
    summary, told = report(done)
    assert summary["regions"]["a"] == {"cars": 0.1, "commoner_answer": 0.9}
    one, four = (summary["models"][name] for name in ("consecutive-f1", "regions-f4"))
    assert (one["seeds"], one["pictures"], one["of_seeds"]) == (2, 400, [0.875, 1.0])
    assert one["accuracy"] == pytest.approx(0.9375)
    assert one["interval"][0] < 0.9375 < one["interval"][1]
    assert one["regions"]["a"] == {"accuracy": 1.0, "interval": (1.0, 1.0)}
    assert one["of_rotations"] == pytest.approx([0.9375] * 5)  # blocks k and k + 5
    assert four["regions"]["b"]["accuracy"] == pytest.approx(0.9)
    [(name, difference)] = summary["points_to_f1"].items()
    assert name == "regions-f4"
    assert (difference["seeds"], difference["points"]) == (1, pytest.approx(-5.0))  # of the seed that both have
    assert "regions-f4 against f1: -5.00 (-5.00 to -5.00) points, 1 seeds" in told
