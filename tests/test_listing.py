"""`vpipe models`: the named architectures and what they cost."""

import json
import subprocess
import sys

import pytest
from click.testing import CliRunner

from pipeline.cli import main
from specialized.cost import cost
from specialized.models import MODELS, build
from specialized.models.listing import listing


def test_json_has_every_model_with_what_its_cost_says():
    done = CliRunner().invoke(main, ["models", "--json", "--fold", "3"])
    assert done.exit_code == 0
    rows = {row["name"]: row for row in json.loads(done.stdout)}
    assert list(rows) == list(MODELS)
    spec = MODELS["coin-count"]
    counted = cost(build("coin-count", args={}, classes=15, fold=3, input=spec.input), fold=3, input=spec.input)
    assert rows["coin-count"] == {
        "name": "coin-count",
        "fold": 3,
        "input": [17, 40],
        "classes": 15,
        "parameters": counted.parameters,
        "flops_per_image": counted.flops_per_picture,
        "intensity": counted.intensity,
    }


def test_the_table_is_aligned_and_shows_each_fold_that_is_asked_for():
    done = CliRunner().invoke(main, ["models", "--fold", "4,1"])
    assert done.stdout == CliRunner().invoke(main, ["models", "--fold", "1", "--fold", "4"]).stdout
    assert done.exit_code == 0
    head, *rows, counted = done.stdout.splitlines()
    assert {len(row) for row in (head, *rows)} == {len(head)}
    assert len(rows) == 2 * len(MODELS)
    assert rows[0].split() == ["coral", "1", "50x50", "2", "1,283,154", "16.32", "58.70"]
    assert rows[len(MODELS)].split() == ["coral", "4", "50x50", "2", "5,135,048", "18.44", "118.75"]
    assert "convolutions and linear layers" in counted


def test_unfolded_is_what_is_listed_unless_asked_otherwise():
    done = CliRunner().invoke(main, ["models", "--json"])
    assert {row["fold"] for row in json.loads(done.stdout)} == {1}


@pytest.mark.parametrize("fold", ["0", "1025", "two", "1,,4", "9" * 5000])
def test_a_fold_that_cannot_be_is_refused(fold):
    done = CliRunner().invoke(main, ["models", "--fold", fold])
    assert done.exit_code == 2
    assert "--fold" in done.stderr


@pytest.mark.parametrize("fold", [7, 1024])
def test_any_fold_can_be_listed(fold):
    assert [row.fold for row in listing(fold)] == [fold] * len(MODELS)


def test_help_of_the_command_loads_no_torch():
    code = "import sys\nfrom pipeline.cli import main\nmain(['models', '-h'], standalone_mode=False)\n"
    code += "sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, check=False).returncode == 0
