"""The study of networks that folding was not tuned for: its cells, and what its figures are."""

import json

import numpy as np
import pytest

from benchmarks.fold_any import NETWORKS, SEEDS, Cell, cells, of_change, report
from specialized.evaluate import Scored
from specialized.modelfile import network


def test_each_network_is_trained_unfolded_and_folded_for_as_many_epochs():
    every = list(cells())
    assert len(set(every)) == len({cell.path for cell in every}) == len(every) == 2 * SEEDS * len(NETWORKS)
    assert len(NETWORKS) >= 8
    for name in NETWORKS:
        one, four = Cell(name, 1, 0), Cell(name, 4, 0)
        assert one.recipe.epochs == four.recipe.epochs + four.recipe.fold_epochs
        assert one.recipe == four.recipe.model_copy(update={"epochs": one.recipe.epochs})
        assert json.loads(json.dumps(one.settings)) == one.settings != four.settings


@pytest.mark.parametrize("name", NETWORKS)
def test_each_network_can_be_built_unfolded_and_folded(name):
    widths = [sum(p.numel() for p in network(Cell(name, f, 0).card).parameters()) for f in (1, 4)]
    assert widths[1] == pytest.approx(4 * widths[0], rel=0.25)


def test_pictures_of_change_lie_in_groups_of_the_folded_network_whatever_the_fold():
    labels = np.repeat([0, 1, 2, 2, 1], [5, 3, 4, 6, 3])  # 0000 0111 2222 2222 22 | 111, and a run of 3
    truth = np.eye(3, dtype=bool)[labels]
    found = []
    for f in (1, 4):
        scored = Scored(
            card=Cell("vgg", f, 0).card,
            order="consecutive",
            scores=truth.astype(np.float32),
            truth=truth,
            slot=np.arange(21) % f,
            runs=((0, 12), (12, 21)),
        )
        found.append(np.flatnonzero(of_change(scored)).tolist())
    assert found == [[4, 5, 6, 7, 16, 17, 18, 19]] * 2


def result(network: str, f: int, seed: int, right: int) -> dict[str, object]:
    return {
        "cell": {"network": network, "f": f, "seed": seed},
        "blocks": [{"n": 100, "right": right}, {"n": 100, "right": 100}],
        "changing": {"n": 20, "right": 20 / f},
        "parameters": 10 * f,
        "flops_per_picture": 7.0,
        "seconds": 1.2,
        "commit": "c",
        "cpu": "x",
        "versions": {"torch": "2"},
    }


def test_the_report_compares_the_seeds_that_both_have_and_names_what_differs():
    done = [
        result("vgg", 1, 0, 90),
        result("vgg", 4, 0, 86),
        result("vgg", 1, 1, 80),
        result("vgg", 4, 1, 82),
        result("vgg", 1, 2, 10),  # its folded one is not done yet
        result("game", 1, 0, 90),
    ]
    summary, told = report(done)
    (vgg,) = summary["networks"]
    assert vgg["difference_of_seeds"] == pytest.approx([-0.02, 0.01])
    assert vgg["difference"] == pytest.approx(-0.005)
    assert vgg["accuracy"] == pytest.approx([0.925, 0.92])
    assert vgg["accuracy_where_it_changes"] == pytest.approx([1.0, 0.25])
    assert (vgg["parameters_ratio"], vgg["flops_ratio"]) == (4.0, 1.0)
    assert summary["commits"] == ["c"]
    assert told.splitlines()[1].split()[:4] == ["vgg", "0.9250", "0.9200", "-0.50"]
