"""What `vpipe tune` makes of its measurements: what is picked, what is said of it and what is written."""

from collections import Counter
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from ruamel.yaml import YAML

from pipeline.errors import ConfigError
from pipeline.tuned import Choice, Model, found_out, on_front, pick
from pipeline.tunefile import check_place, settings_of, write
from pipeline.tunetable import table, verdict
from specialized.modelfile import ModelCard
from specialized.timing import Series

CARD = ModelCard(architecture="coral", fold=1, order="consecutive", input=(50, 50), classes=("person", "none"))


def row(frames_per_s, accuracy):
    return {"frames_per_s": frames_per_s, "accuracy": accuracy}


# ------------------------------------------------------------------------------------------------ what is picked


@pytest.mark.parametrize(
    ("loss", "picked"),
    [(0, (100, 0.99)), (0.49, (100, 0.99)), (0.5, (200, 0.985)), (5, (300, 0.95)), (100, (400, 0.5))],
)
def test_the_fastest_within_the_loss_is_picked_the_limit_itself_included(loss, picked):
    rows = [row(400, 0.5), row(300, 0.95), row(200, 0.985), row(100, 0.99), row(900, None)]
    assert pick(rows, max_accuracy_loss=loss) == row(*picked)


def test_without_any_accuracy_the_fastest_is_picked_and_without_rows_nothing():
    assert pick([row(1, None), row(2, None)], max_accuracy_loss=0) == row(2, None)
    assert pick([], max_accuracy_loss=0) is None


places = st.lists(
    st.builds(row, st.integers(1, 5), st.one_of(st.none(), st.sampled_from([0.5, 0.9, 0.99]))), min_size=1, max_size=8
)


@settings(deadline=None)
@given(rows=places, loss=st.floats(0, 100))
def test_the_pick_lies_on_the_front_and_whoever_does_not_is_beaten_by_one_that_does(rows, loss):
    front = [one for one in rows if on_front(one, rows)]
    assert pick(rows, max_accuracy_loss=loss) in front
    for one in rows:
        beaten = any(
            other["frames_per_s"] >= one["frames_per_s"] and (other["accuracy"] or 0) >= (one["accuracy"] or 0)
            for other in front
            if other != one
        )
        assert one in front or beaten


# ------------------------------------------------------------------------------------------------ what is said


def choice(f, **changes):
    plain = {"engine": "torch", "dtype": "float32", "batch": 256, "workers": 2, "torch_threads": 1}
    return Choice(model=f"/m/f{f}.safetensors", **(plain | changes))


def series(*rates):
    return Series(1, 0, rates)


def document(final, *, wall, bound="decode", accuracies=(0.9, 0.9), alone=(), trials=None):
    """What is found out from the final rates at f = 1 (as configured) and f = 4; of trials, there was one."""
    models = [
        Model(f"/m/f{f}.safetensors", replace(CARD, fold=f, accuracy=accuracy and {"accuracy": accuracy}))
        for f, accuracy in zip((1, 4), accuracies, strict=True)
    ]
    asked = {"max_accuracy_loss": 0.5, "models": [model.path for model in models]}
    found = found_out(
        models,
        configured=choice(1),
        alone=dict(alone),
        trials={choice(1): series(1)} if trials is None else trials,
        final=final,
        wall=wall,
        bounds={one: Counter({bound: 3, "sink": 1}) for one in final},
        max_accuracy_loss=0.5,
        notes=["openvino: is not installed"],
    )
    return {"settings": asked, "footage": {"frames": 900, "files": 1, "times_over": 2}, **found}


def test_where_decoding_decides_it_is_said_that_another_f_gains_nothing():
    final = {choice(1): series(99, 100, 101), choice(4): series(100, 101, 102)}
    alone = {choice(1): series(1000), choice(4): series(3000)}
    told = verdict(document(final, wall=series(101, 102, 103), alone=alone))
    assert (
        "picked: f4.safetensors, f = 4: 101 frames/s, 1.01 times CONFIG as it stands (perhaps by chance: within" in told
    )
    assert "bound by decode; decoding alone reaches 102 frames/s here: no model, engine or f gains more" in told
    other = "f = 1 (f1.safetensors): -1 % end to end, 0.33 times as fast alone; no difference worth having, as decoding"
    assert other in told


def test_where_the_model_decides_it_is_said_what_one_that_costs_nothing_would_gain():
    final = {choice(1): series(100, 100), choice(4): series(50, 50)}
    told = verdict(document(final, wall=series(200, 200), bound="compute"), config="a b.yaml")
    assert "picked: f1.safetensors, f = 1: 100 frames/s, CONFIG as it stands; the fastest within 0.5 points" in told
    assert "bound by compute; decoding alone reaches 200 frames/s: a model that costs nothing would gain 100 %" in told
    assert "f = 4 (f4.safetensors): -50 % end to end\n" in told
    assert told.endswith(
        "vpipe run 'a b.yaml' --set filter.engine=torch --set filter.dtype=float32 "
        "--set filter.batch=256 --set decode.workers=2 --set run.torch_threads=1"
    )


def test_the_table_marks_the_pick_the_front_and_the_configuration():
    final = {choice(1): series(100, 120, 110), choice(4): series(300, 310, 305)}
    lines = table(document(final, wall=series(400, 400, 400), accuracies=(0.99, 0.9))).splitlines()
    assert lines[1].split()[:2] == ["*", "f4.safetensors"]
    assert lines[2].split()[:2] == [">*c", "f1.safetensors"]
    assert "whole runs of 900 frames, 1 file(s) 2 times over; medians of 3 rounds" in lines[-1]


def test_a_model_without_accuracy_is_told_and_so_are_accuracies_of_other_pictures():
    final = {choice(1): series(100)}
    unknown = document(final, wall=None, accuracies=(0.9, None))["notes"]
    assert unknown[0] == "openvino: is not installed"
    assert unknown[1].startswith("f4.safetensors: accuracy is not known: not picked while another model's is; ")
    assert document(final, wall=None, accuracies=(None, None))["picked"]["frames_per_s"] == 100


def test_before_the_final_rounds_the_best_trials_are_shown_and_nothing_is_picked():
    trials = {choice(1): series(10), choice(1, workers=3): series(12), choice(4): series(11)}
    found = document({}, wall=None, trials=trials)
    assert [row["frames_per_s"] for row in found["rows"]] == [12, 11]
    assert (found["picked"], found["final"], verdict(found)) == (None, False, "nothing was picked")
    assert table(found).endswith("they were not measured together")
    assert table(document({}, wall=None, trials={})) == "nothing was measured to the end"


def test_where_nothing_but_the_configuration_could_be_measured_nothing_is_picked():
    found = document({choice(1): series(100)}, wall=series(200), trials={})
    assert (found["picked"], found["final"]) == (None, True)
    assert verdict(found) == "nothing but CONFIG as it stands could be measured"


def test_a_gain_is_held_against_the_spread_of_the_rounds():
    def told(ours, theirs):
        return verdict(document({choice(1): series(*ours), choice(4): series(*theirs)}, wall=None)).splitlines()[0]

    assert "1.50 times CONFIG as it stands; the fastest" in told((90, 100, 110), (140, 150, 160))
    within = "1.10 times CONFIG as it stands (perhaps by chance: within the spread of the rounds); the fastest"
    assert within in told((90, 100, 120), (99, 110, 132))
    assert "1.50 times CONFIG as it stands (perhaps by chance: there was one round); " in told((100,), (150,))


@pytest.mark.parametrize(
    ("wall", "said"), [(200, "decoding alone measured slower, 200 frames/s"), (297, "measured no faster, 297 frames/s")]
)
def test_a_pick_that_measured_faster_than_decoding_alone_is_not_bound_by_it(wall, said):
    told = verdict(document({choice(1): series(300)}, wall=series(wall)))
    assert said in told
    assert "gains more than that" not in told


# ------------------------------------------------------------------------------------------------ what is written

WRITTEN = """\
# a run
run: {name: 'lobby', dir: runs}   # here
sources:
  - {path: lobby.mp4, to: "00:01:30"}
fold: {frames: 1}

filter:
  model: ${MODELS}/f1.safetensors  # the fast one
  batch: 64
"""
PICKED = {"fold": 4, "engine": "torch", "dtype": "bfloat16", "batch": 512, "workers": 3, "torch_threads": 1}


def test_the_rest_of_a_configuration_stays_as_its_author_wrote_it(tmp_path):
    (tmp_path / "a.yaml").write_text(WRITTEN)
    write(tmp_path / "b.yaml", tmp_path / "a.yaml", settings_of(PICKED, model="f4.safetensors"), heading="tuned")
    expected = "# tuned\n" + WRITTEN.replace("dir: runs}", "dir: runs, torch_threads: 1}").replace(
        "frames: 1", "frames: 4"
    )
    expected = expected.replace("${MODELS}/f1.safetensors ", "f4.safetensors ").replace("batch: 64", "batch: 512")
    expected += "  engine: torch\n  dtype: bfloat16\ndecode:\n  workers: 3\n"
    got = (tmp_path / "b.yaml").read_text()
    assert [" ".join(line.split()) for line in got.splitlines()] == [
        " ".join(line.split()) for line in expected.splitlines()
    ]


def test_the_long_form_and_an_f_that_the_model_says_are_kept(tmp_path):
    (tmp_path / "a.yaml").write_text("filters:\n- model: f1.safetensors\n")
    write(tmp_path / "b.yaml", tmp_path / "a.yaml", settings_of(PICKED, model=None), heading="tuned")
    got = YAML(typ="safe").load((tmp_path / "b.yaml").read_text())
    filters = [{"model": "f1.safetensors", "engine": "torch", "dtype": "bfloat16", "batch": 512}]
    assert got == {"filters": filters, "decode": {"workers": 3}, "run": {"torch_threads": 1}}


@pytest.mark.parametrize("first", ["# vpipe run a.yaml   (or so)", "# Written by `vpipe tune` on 2001-02-03 for a CPU"])
def test_a_first_comment_that_is_about_the_other_file_goes(first, tmp_path):
    (tmp_path / "a.yaml").write_text(f"{first}\n# vpipe run is a command\nfilter: {{}}\n")
    write(tmp_path / "b.yaml", tmp_path / "a.yaml", settings_of(PICKED, model=None), heading="tuned")
    assert (tmp_path / "b.yaml").read_text().splitlines()[:2] == ["# tuned", "# vpipe run is a command"]


def test_a_value_that_stands_for_two_is_refused_and_nothing_is_written(tmp_path):
    (tmp_path / "a.yaml").write_text("run: &x {name: a}\nother: *x\nfilter: {}\n")
    with pytest.raises(ConfigError, match=r"set by hand: filter.engine: torch, .*, run.torch_threads: 1"):
        write(tmp_path / "b.yaml", tmp_path / "a.yaml", settings_of(PICKED, model=None), heading="tuned")
    assert not (tmp_path / "b.yaml").exists()


def test_the_file_lies_beside_the_configuration_and_replaces_nothing_unasked(tmp_path):
    config = tmp_path / "a.yaml"
    config.touch()
    (tmp_path / "below").mkdir()
    check_place(tmp_path / "b.yaml", config, overwrite=False)
    with pytest.raises(ConfigError, match="must not be CONFIG itself"):
        check_place(config, config, overwrite=True)
    (tmp_path / "c.yaml").touch()
    check_place(tmp_path / "c.yaml", config, overwrite=True)
    for out, told in (("below/b.yaml", "where the relative paths of a.yaml start"), ("c.yaml", "must not exist yet"),
                      ("b.txt", "must end in .yaml"), ("no/b.yaml", "mkdir -p")):  # fmt: skip
        with pytest.raises(ConfigError, match=told):
            check_place(tmp_path / out, config, overwrite=False)
