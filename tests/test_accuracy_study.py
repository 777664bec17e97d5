"""The accuracy study: nothing is tested twice, nothing near what was trained on is tested, sums are what they say."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest

from benchmarks import accuracy, study
from benchmarks.accuracy import BLOCKS, REAL, Cell, card_of, cells, recipe_of, splits
from benchmarks.accuracy_report import report
from benchmarks.displays import DISPLAYS
from pipeline.footage import Footage
from specialized.examples import Examples, Runs
from specialized.recipe import Recipe

N, RATE = 905, 10.0
GAP_S = N / RATE / BLOCKS / 4


@pytest.fixture
def footage(monkeypatch):
    """A clip that its blocks cut unevenly; block 3 shows one class alone."""
    labels = np.arange(N) // 11 % 2
    labels[np.arange(N) * BLOCKS // N == 3] = 0
    examples = Examples(np.zeros((N, 2, 2, 3), np.uint8), labels, ((0, N),))
    film = Footage(examples, np.arange(N) / RATE, (Path("clip.mp4"),))
    monkeypatch.setattr(accuracy, "footage", lambda task, resize: film)
    return film


def frames(runs: Runs) -> np.ndarray:
    return np.concatenate([np.arange(start, stop) for start, stop in runs])


def test_over_the_rotations_each_frame_is_tested_once_and_never_near_training(footage):
    tested, blocks = np.zeros(N, int), []
    for numbers, parts in splits(Cell("lobby", "consecutive", 1, 0)):
        training, validation, test = (frames(parts[name].runs) for name in ("training", "validation", "test"))
        tested[test] += 1
        blocks += numbers
        for one, other in ((training, test), (validation, test), (training, validation)):
            times, others = footage.pts_s[one], footage.pts_s[other]
            assert np.abs(times[:, None] - others).min() >= GAP_S - 0.01
        assert len(training) > N / 2
        assert set(footage.examples.labels[validation]) == {0, 1}
    assert (tested == 1).all()
    assert sorted(blocks) == list(range(BLOCKS))


def test_parts_of_a_display_are_other_scenes():
    ((blocks, parts),) = splits(Cell("squad-count", "consecutive", 1, 0))
    assert blocks == tuple(range(BLOCKS))
    assert [len(part) for part in parts.values()] == list(accuracy.DISPLAY_FRAMES.values())
    assert len(parts["test"].runs) == BLOCKS
    first = [part.pictures[0].tobytes() for part in parts.values()]
    assert len(set(first)) == 3


def test_cells_are_all_that_was_promised():
    every = list(cells())
    assert len(set(every)) == len(every)
    seeds = {
        (c.task, c.f): [d.seed for d in every if (d.task, d.order, d.f, d.variant) == (c.task, "consecutive", c.f, "")]
        for c in every
    }
    for task in REAL:
        assert {f: len(seeds[task, f]) for f in (1, 2, 3, 4, 8)} == {1: 5, 2: 3, 3: 3, 4: 5, 8: 3}
    for task in DISPLAYS:
        assert {f: len(seeds[task, f]) for f in (1, 2, 3, 4, 8)} == {1: 3, 2: 1, 3: 1, 4: 3, 8: 3}
    orders = {(c.task, c.order, c.f) for c in every if c.order != "consecutive"}
    assert orders == {
        (t, o, f) for t in ("lobby", "parking-mixed") for o in ("strided", "shuffled", "streams") for f in (2, 4)
    }
    variants = {(c.task, c.order, c.f, c.variant) for c in every if c.variant}
    solved, orders = ("lobby", "arm", "three-bottles"), ("lobby", "parking-mixed")
    assert variants == {
        *((t, "consecutive", 4, "random") for t in (*solved, *DISPLAYS)),
        *((t, "consecutive", 8, "copies") for t in (*solved, *DISPLAYS)),
        *((t, "consecutive", 1, "longer") for t in (*solved, *DISPLAYS)),
        *((t, "streams", f, "random") for t in orders for f in (2, 4)),
        *((t, "consecutive", 4, how) for t in ("lobby", "three-bottles") for how in ("picture", "taught")),
        *((t, "consecutive", 4, how) for t in solved for how in ("fast_bilinear", "point", "fast")),
    }


@pytest.mark.parametrize("f", [1, 2, 3, 4, 8])
def test_variants_start_as_the_recipe_does_not(f):
    start = {how: recipe_of(Cell("lobby", "consecutive", f, 0, how)).fold_epochs for how in ("", "random", "copies")}
    assert start == {"": 10 if f in (2, 3, 4) else 0, "random": 0, "copies": 10}


def test_a_cheaper_resize_is_that_of_the_model():
    assert {how: card_of(Cell("lobby", "consecutive", 4, 0, how)).resize for how in ("", "fast", "point")} == {
        "": "area",
        "fast": "area",
        "point": "point",
    }


def test_fast_decoding_is_tested_by_a_model_that_learned_without_it():
    (_, plain), (_, fast) = (next(splits(Cell("lobby", "consecutive", 4, 0, how))) for how in ("", "fast"))
    assert all((plain[part].pictures == fast[part].pictures).all() for part in ("training", "validation"))
    assert (plain["test"].labels == fast["test"].labels).all()
    off = np.abs(plain["test"].pictures.astype(int) - fast["test"].pictures)
    assert 0 < off.mean() < 5
    assert Cell("lobby", "consecutive", 4, 0, "fast").settings != Cell("lobby", "consecutive", 4, 0).settings


def test_settings_of_a_cell_are_json_and_differ_by_what_it_is():
    one, other = (Cell("squad-count", "consecutive", f, 0).settings for f in (1, 4))
    assert json.loads(json.dumps(one)) == one
    assert one != other


def result(task: str, f: int, right: list[int], seed: int = 0) -> dict[str, object]:
    """A cell of blocks of 100 pictures, 60 of them of the first class."""
    blocks = [
        {
            "n": 100,
            "right": r,
            "found": [r * 0.6, r * 0.4],
            "said": [60, 40],
            "support": [60, 40],
            "in_slot": [100 // f] * f,
            "right_in_slot": [r / f] * f,
        }
        for r in right
    ]
    facts = {"dtype": "float32", "parameters": 7, "flops_per_picture": 9.0, "seconds": 1.0, "commit": "c", "cpu": "x"}
    return {
        "settings": {"card": {"classes": ["car", "none"], "task": "one_of"}},
        "cell": {"task": task, "order": "consecutive", "f": f, "seed": seed, "variant": ""},
        "blocks": blocks,
        "versions": {"torch": "2"},
        **facts,
    }


CLIPS = {"a": "x", "b": "y", "c": "x"}


def test_the_report_pairs_blocks_and_seeds_and_leaves_out_what_f1_does_not_solve():
    results = [
        result("a", 1, [90, 80, 100, 90]),
        result("a", 1, [30, 30, 30, 30], seed=1),  # f = 4 has no such seed
        result("a", 4, [89, 79, 99, 89]),
        result("b", 1, [60, 61, 59, 60]),
        result("b", 4, [90, 90, 90, 90]),
    ]
    summary, told = report(results, real=["a", "b"], displays=[], clips=CLIPS)
    (of_a,) = (one for one in summary["differences"] if one["task"] == "a")
    assert of_a["difference"] == of_a["low"] == of_a["high"] == pytest.approx(-0.01)
    assert of_a["to"] == "consecutive f=1"
    figures = {(one["task"], one["f"]): one for one in summary["figures"]}
    assert figures["a", 1]["accuracy_of_seeds"] == [0.9, 0.3]
    assert figures["a", 1]["majority"] == 0.6
    assert figures["a", 4]["f1"] == pytest.approx(2 * 0.6 * 356 / (240 + 240))
    assert figures["a", 4]["slots"] == pytest.approx([0.89] * 4)
    assert summary["solved"]["b"]["low"] <= 0
    assert "not clearly better: left out of the means" in told


def test_tasks_of_one_clip_are_resampled_together():
    right, folded = [90, 80, 100, 90], [95, 70, 92, 90]
    results = [result(task, f, blocks) for task in "ac" for f, blocks in ((1, right), (4, folded))]
    summary, _ = report(results, real=["a", "c"], displays=[], clips=CLIPS)
    mean = summary["mean_differences_to_f1"]["real tasks that f=1 solves, f=4"]
    assert mean["tasks"] == ["a", "c"]
    alone = next(one for one in summary["differences"] if one["task"] == "a")
    assert (mean["low"], mean["high"]) == (alone["low"], alone["high"])  # the same twice is as uncertain as once


def test_variants_of_the_recipe_are_compared_with_the_recipe():
    results = [result("a", f, [80 + f, 80, 80, 80]) for f in (1, 4)]
    variant = result("a", 4, [94, 80, 80, 80])
    variant["cell"] = {**variant["cell"], "variant": "picture"}  # type: ignore[dict-item]
    summary, _ = report([*results, variant], real=["a"], displays=[], clips=CLIPS)
    found = {one["order"]: (one["to"], one["difference"]) for one in summary["differences"]}
    assert found["consecutive-picture"] == ("consecutive f=4", pytest.approx(0.025))


def test_a_class_that_a_resample_does_not_hold_does_not_spoil_its_f1():
    one = result("a", 1, [90, 80, 100, 90])
    for number, block in enumerate(one["blocks"]):  # type: ignore[arg-type, var-annotated]
        if number:  # the second class is in one block alone
            block["support"], block["said"], block["found"] = [100, 0], [100, 0], [block["right"], 0]
    one["settings"] = {"card": {"classes": ["car", "bus"], "task": "one_of"}}
    (figures,) = report([one], real=["a"], displays=[], clips=CLIPS)[0]["figures"]
    assert 0.8 < figures["f1_interval"][0] < figures["f1_interval"][1] <= 1.0


def test_a_cell_of_streams_groups_all_of_the_test(monkeypatch, footage):
    groups = []
    score = study.score
    monkeypatch.setattr(
        study, "score", lambda engine, examples: groups.append(examples.runs) or score(engine, examples)
    )
    monkeypatch.setattr(accuracy, "recipe_of", lambda cell: Recipe(epochs=1, least_steps=1, shift=0))
    card = accuracy.card_of(Cell("lobby", "streams", 2, 0))
    small = dataclasses.replace(card, input=(2, 2), architecture="tests.models:Tiny")
    monkeypatch.setattr(accuracy, "card_of", lambda cell: small)
    found = accuracy.run_cell(Cell("lobby", "streams", 2, 0))
    assert [len(runs) for runs in groups] == [2] * accuracy.ROTATIONS
    assert sum(block["n"] for block in found["blocks"]) == N
    assert len(found["blocks"]) == BLOCKS
