"""`vpipe tune`: what it refuses and what it really runs; not how fast anything is."""

import json
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner
from ruamel.yaml import YAML

from pipeline.cli import main
from pipeline.config import load_run_config
from pipeline.errors import ConfigError
from pipeline.runner import run
from pipeline.stretch import stretch_of
from pipeline.tune import tune
from specialized.modelfile import ModelCard, network, read_card, save_model
from tests.clips import clip
from tests.models import Bright

CARD = ModelCard(
    architecture="tests.models:Bright",
    fold=1,
    order="consecutive",
    input=(24, 36),
    classes=("person", "none"),
    accuracy={"accuracy": 0.9, "accuracy_interval": [0.85, 0.95], "n": 100},
)


def model_file(folder, f, **changes):
    path = folder / f"bright-f{f}.safetensors"
    save_model(path, replace(CARD, fold=f, **changes), Bright(fold=f).state_dict())
    return path


def configuration(folder, **sections):
    """Writes the configuration of a run of 60 frames in `folder`."""
    content = {
        "run": {"dir": str(folder / "runs"), "name": "r"},
        "sources": [{"path": str(clip("h264-closed.mp4"))}],
        "fold": {"frames": 1},
        "filter": {"model": "bright-f1.safetensors", "batch": 16, "device": "cpu"},
        "sinks": [{"type": "csv", "path": "rows.csv"}],
    } | sections
    path = folder / "run.yaml"
    with path.open("w") as file:
        YAML(typ="safe").dump({key: value for key, value in content.items() if value is not None}, file)
    return path


# ------------------------------------------------------------------------------------------------ what is refused


def refused(*arguments):
    done = CliRunner().invoke(main, ["tune", *map(str, arguments)])
    assert (done.exit_code, done.stdout) == (2, "")
    return done.stderr


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"classes": ("cat", "none")}, "classes must be that of {}, person, none, got cat, none; leave it out"),
        ({"input": (24, 40)}, "input must be that of {}, 24, 36, got 24, 40; leave it out"),
        ({"task": "any_of", "thresholds": (0.5, 0.5)}, "task must be that of {}, one_of, got any_of; leave it out"),
    ],
)
def test_a_model_for_another_task_is_refused(changes, told, tmp_path):
    first, other = model_file(tmp_path, 1), model_file(tmp_path, 2, **changes)
    config = configuration(tmp_path)
    assert refused(config, other) == f"vpipe: {other}: {told.format(first)}\n"


def test_what_cannot_be_compared_or_timed_is_refused(tmp_path):
    first, second = model_file(tmp_path, 1), model_file(tmp_path, 2)
    assert "must be a file, got nothing" in refused(configuration(tmp_path), tmp_path / "no.safetensors")
    assert "engine: must be one of auto, torch" in refused(configuration(tmp_path), "--engine", "torhc")
    two = [{"model": str(first), "name": name} for name in "ab"]
    assert "filters: must hold one to be tuned, got 2" in refused(configuration(tmp_path, filter=None, filters=two))
    own = {"model": "tests.models:Bright", "input": [24, 36], "classes": ["person", "none"]}
    assert "got a class of one's own" in refused(configuration(tmp_path, filter=own), second)
    sources = [{"type": "tests.models:RaisingSource"}]
    assert "sources.0: must be files where speed is" in refused(configuration(tmp_path, sources=sources))


# ------------------------------------------------------------------------------------------------ what is really run


def test_a_stretch_of_long_footage_is_limited_and_short_footage_comes_several_times(tmp_path):
    model_file(tmp_path, 1)
    config = load_run_config(configuration(tmp_path))
    short = stretch_of(config, CARD, frames=40)
    assert (short.frames, short.limit, short.files, short.times_over) == (40, 40, 1, 1)
    asked = load_run_config(configuration(tmp_path, metrics={"port": 1}))
    assert (short.of(asked).sinks, short.of(asked).metrics) == ((), None)
    long = stretch_of(config, CARD, frames=130)
    assert (long.frames, long.files, long.times_over) == (180, 1, 3)
    assert len({source.name for source in long.sources}) == 3
    nothing = load_run_config(configuration(tmp_path, sources=[{"path": str(clip("h264-closed.mp4")), "from": 99}]))
    with pytest.raises(ConfigError, match="sources: must hold frames to label, got none"):
        stretch_of(nothing, CARD, frames=10)


@pytest.fixture
def small(monkeypatch, tmp_path):
    """Two batch sizes; and the folder for what is temporary, to be looked into."""
    monkeypatch.setattr("specialized.bench.BATCHES", (8, 16))
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    return folder


def test_what_was_picked_is_written_loads_and_runs_and_nothing_else_is_left(small, tmp_path):
    model_file(tmp_path, 1)
    second = model_file(tmp_path, 2, accuracy={"accuracy": 0.99, "n": 100})  # so it is picked, however fast
    config, out = configuration(tmp_path), tmp_path / "tuned.yaml"
    before = {*tmp_path.iterdir()}
    tiny = ["--frames", "30", "--rounds", "1", "--seconds", "0.001", "--dtype", "float32", "--engine", "torch"]
    done = CliRunner().invoke(main, ["tune", str(config), str(second), *tiny, "--json", "--out", str(out)])
    assert done.exit_code == 0, done.stderr
    found = json.loads(done.stdout)
    assert {*tmp_path.iterdir()} == before | {out}
    assert [*small.iterdir()] == []
    assert {row["fold"] for row in found["rows"]} == {1, 2}
    assert sum(row["configured"] for row in found["rows"]) == 1
    assert found["picked"]["fold"] == 2
    assert found["footage"] == {"frames": 30, "files": 1, "times_over": 1}
    assert {one["batch"] for one in found["alone"]} == {8, 16}
    assert found["wall"]["frames_per_s"] > 0
    assert any(note.startswith("too short to tell much: 30 frames, of which") for note in found["notes"])
    assert out.read_text().startswith("# Written by `vpipe tune` on 2")
    picked = load_run_config(out)
    assert picked.warnings == ()
    assert picked.filters[0].model == str(second)
    assert (picked.filters[0].batch, picked.decode.workers) == (found["picked"]["batch"], found["picked"]["workers"])
    assert run(picked).state == "done"
    assert read_card(picked.filters[0].model).fold == picked.fold.frames == 2


def test_an_interrupted_search_tells_what_it_found_so_far(small, tmp_path):
    model_file(tmp_path, 1)

    def say(line):
        if line == "final: round 2 of 9":
            raise KeyboardInterrupt

    config = load_run_config(configuration(tmp_path))
    found = tune(config, engines=["torch"], dtypes=["float32"], frames=20, rounds=9, seconds=1e-3, say=say)
    assert found["interrupted"]
    assert {row["rounds"] for row in found["rows"]} == {1}
    assert found["picked"] is not None
    assert not Path(config.run.dir).exists()
    json.dumps(found, allow_nan=False)


def quantized_file(folder):
    path = folder / "quantized.safetensors"
    card = replace(CARD, architecture="coral", ranges={"features.0": (-1.0, 1.0)})
    save_model(path, card, network(card).state_dict())
    return path


TINY = {"dtypes": ["auto"], "frames": 20, "rounds": 1, "seconds": 1e-3}


def test_a_quantized_model_is_measured_in_openvino_alone(small, tmp_path):
    plain, quantized = model_file(tmp_path, 1), quantized_file(tmp_path)
    config = load_run_config(configuration(tmp_path))
    found = tune(config, [str(quantized)], engines=["torch", "openvino"], **TINY)
    tried = {(one["model"], one["engine"]) for one in found["alone"]}
    assert tried == {(str(plain), "torch"), (str(plain), "openvino"), (str(quantized), "openvino")}
    assert not [note for note in found["notes"] if "quantized" in note]


@pytest.mark.parametrize(
    ("engines", "told"),
    [
        (["torch"], "others only imitate its 8 bits; name it with --engine"),
        (
            ["torch", "openvino"],
            "8 bits; filter.engine: needs openvino, which is not installed; pip install 'vpipe[openvino]'",
        ),
    ],
)
def test_where_that_cannot_be_a_quantized_model_is_left_out_by_name(engines, told, small, tmp_path, monkeypatch):
    plain, quantized = model_file(tmp_path, 1), quantized_file(tmp_path)
    monkeypatch.setitem(sys.modules, "openvino", None)  # as if it were not installed
    config = load_run_config(configuration(tmp_path))
    found = tune(config, [str(quantized)], engines=engines, **TINY)
    assert {one["model"] for one in found["alone"]} == {str(plain)}
    [note] = [note for note in found["notes"] if "quantized" in note]
    assert note.startswith("quantized.safetensors: left out: ")
    assert note.endswith(told)


def test_where_nothing_that_was_asked_for_can_be_measured_that_is_said(small, tmp_path):
    quantized_file(tmp_path)
    config = configuration(tmp_path, filter={"model": "quantized.safetensors", "batch": 16, "device": "cpu"})
    asked = ["--engine", "torch", "--frames", "20", "--rounds", "1", "--seconds", "0.001"]
    done = CliRunner().invoke(main, ["tune", str(config), *asked, "--out", str(tmp_path / "tuned.yaml")])
    assert done.exit_code == 1
    assert done.stdout.endswith("nothing but CONFIG as it stands could be measured\n")
    assert "quantized.safetensors: left out" in done.stderr
    assert not (tmp_path / "tuned.yaml").exists()
