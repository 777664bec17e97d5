"""`vpipe bench`: what is timed and in which order, and what is made of the times; not how fast anything is."""

import json
import re
from dataclasses import replace
from pathlib import Path

import cv2
import pytest
import torch
from click.testing import CliRunner
from torch import Tensor, nn

from pipeline.bench import bench, document
from pipeline.benchtable import amount, footer, table
from pipeline.cli import main
from pipeline.errors import VpipeError
from pipeline.roofline import roofline
from specialized.bench import Bench, Case, Measured, stated
from specialized.engines.torch import fastest_dtype
from specialized.errors import ModelError
from specialized.forward import Setting, forward_loop, search
from specialized.modelfile import ModelCard, save_model
from specialized.models import MODELS, build
from specialized.roofs import Roof
from specialized.subjects import Subject, subjects
from specialized.timing import Arm, Series, alternate, fastest, warm_up

ROOT = Path(__file__).parents[1]
TINY = ["--pictures", "8", "--rounds", "1", "--seconds", "0.001", "--threads", "1"]
DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)]


class Clockwork:
    """An arm whose calls take as long as it is told, and that notes each of its runs."""

    def __init__(self, key, seconds_per_call, diary, *, breaks_at=None):
        self.key, self.seconds, self.diary, self.breaks_at, self.runs = key, seconds_per_call, diary, breaks_at, 0

    def arm(self, work=1.0):
        return Arm(self.key, work, self.run)

    def run(self, calls):
        if self.runs == self.breaks_at:
            raise ModelError(f"{self.key}: out of memory")
        self.runs += 1
        self.diary.append((self.key, calls))
        return calls * self.seconds


def quiet(line):
    pass


# ------------------------------------------------------------------------------------------------ timing


def test_each_round_measures_every_arm_once_in_an_order_of_its_own():
    diary = []
    arms = [Clockwork(key, 1.0, diary).arm() for key in "abcdef"]
    series, failed = alternate(arms, rounds=6, seconds=0.5, say=quiet)
    measured = [key for key, _ in diary[2 * len(arms) :]]  # two calls each to warm up
    rounds = [measured[at : at + 6] for at in range(0, 36, 6)]
    assert [sorted(one) for one in rounds] == [list("abcdef")] * 6
    assert len({tuple(one) for one in rounds}) == 6
    assert failed == {}
    assert list(series) == list("abcdef")


def test_the_same_seed_gives_the_same_orders():
    def orders(seed):
        diary = []
        alternate([Clockwork(k, 1.0, diary).arm() for k in "abcdef"], rounds=3, seconds=1, say=quiet, seed=seed)
        return diary

    assert orders(1) == orders(1)
    assert orders(1) != orders(2)


def test_a_measurement_makes_as_many_calls_as_its_time_takes_and_says_how_many():
    diary = []
    series, _ = alternate([Clockwork("a", 0.01, diary).arm(work=8)], rounds=2, seconds=0.2, say=quiet)
    assert [calls for _, calls in diary] == [1, 1, 2, 4, 8, 16, 20, 20]
    assert series["a"] == Series(calls=20, warm_up_calls=32, rates=pytest.approx((800.0, 800.0)))


def test_a_slow_forward_is_called_once_per_measurement_after_two_to_warm_up():
    assert warm_up(Clockwork("a", 3.0, []).arm(), 0.2) == (1, 2)


def test_without_a_time_each_measurement_is_one_call_and_nothing_is_warmed_up():
    diary = []
    series, _ = alternate([Clockwork("a", 0.5, diary).arm(work=8)], rounds=2, seconds=None, say=quiet)
    assert diary == [("a", 1), ("a", 1)]
    assert series["a"] == Series(calls=1, warm_up_calls=0, rates=(16.0, 16.0))


@pytest.mark.parametrize("breaks_at", [0, 1, 3])
def test_an_arm_that_fails_is_left_out_with_its_reason_and_the_others_go_on(breaks_at):
    diary = []
    arms = [Clockwork("bad", 1.0, diary, breaks_at=breaks_at).arm(), Clockwork("good", 1.0, diary).arm()]
    series, failed = alternate(arms, rounds=3, seconds=1, say=quiet)
    assert failed == {"bad": "bad: out of memory"}
    assert len(series["good"].rates) == 3
    assert "bad" not in series


def test_the_fastest_arm_is_the_one_with_most_work_per_second():
    arms = [Clockwork("broken", 1, [], breaks_at=0).arm(9), Clockwork("a", 2, []).arm(8), Clockwork("b", 1, []).arm(5)]
    assert fastest(arms, 0.1).key == "b"
    with pytest.raises(VpipeError, match="out of memory"):
        fastest(arms[:1], 0.1)


def test_a_ratio_is_taken_within_rounds():
    """A machine that halves its speed for two rounds of five changes no ratio, though it changes both medians."""
    slow = Series(1, 2, (10.0, 5.0, 5.0, 10.0, 10.0))
    fast = Series(1, 2, (20.0, 10.0, 10.0, 20.0, 20.0))
    assert fast.over(slow) == 2
    assert (fast.median, fast.spread) == (20, (10, 20))


# ------------------------------------------------------------------------------------------------- tuning


def test_the_search_finds_the_fastest_setting_and_tries_none_twice():
    tried = []

    def rate(setting):
        tried.append(setting)
        if setting.mode == "graph" and setting.pictures == 4096:
            return None  # no memory
        bonus = {"eager": 1, "graph": 1.5, "compiled": 1.2}[setting.mode] * (2 if setting.dtype == "float16" else 1)
        return bonus * (3 if setting.layout == "channels_last" else 2) * setting.pictures**0.5

    found = search(
        rate,
        start=Setting(1024, "float32"),
        dtypes=("float32", "float16"),
        batches=(256, 1024, 4096),
        modes=("eager", "graph"),
        last=("compiled",),
    )
    assert found[0] == Setting(4096, "float16", mode="compiled")
    assert found[1] == Setting(4096, "float16")
    assert len(tried) == len(set(tried)) == 4 + 5 + 1
    assert len(found) == len(tried) - 1


def test_a_search_in_which_nothing_runs_finds_nothing():
    start = Setting(8, "float32")
    assert search(lambda setting: None, start=start, dtypes=["float32"], batches=[8], modes=["eager"]) == []


# ------------------------------------------------------------------------------------------ the document

COSTS = {f: replace(subjects(["coral"], [1])[0].cost(1), flops_per_picture=10.0 * f) for f in (1, 2, 4)}
SETTINGS = {"dtypes": ["float16"], "pictures": 8, "rounds": 3, "engine": "auto", "tune_all": False}
MACHINE = {"cpu": "a CPU", "device": "cuda:0", "device_name": "a GPU", "threads": 2, "torch": "2"}


def series(*rates):
    return Series(calls=4, warm_up_calls=9, rates=rates)


def measured(name="coral", factor=1.0, **changes):
    """Three rounds; in the second everything takes twice as long."""

    def rates(rate):
        return series(rate * factor, rate * factor / 2, rate * factor)

    cases = {stated("alone", f, 8, "float16"): rates(100.0 * reached) for f, reached in ((1, 1), (2, 3), (4, 1.5))}
    cases |= {stated("engine", f, 8, "float16"): rates(50.0 * reached) for f, reached in ((1, 1), (2, 1.2), (4, 1))}
    cases[Case("alone", 1, Setting(64, "float16", mode="graph"))] = rates(200.0)
    cases[Case("engine", 1, Setting(16, "float16"))] = rates(80.0)
    roofs = {Roof("product", "float16", 4096): rates(1e4), Roof("copy", "float32", 99): rates(200.0)}
    card = ModelCard(architecture="coral", fold=1, order="consecutive", input=(50, 50), classes=("a", "b"))
    facts = {
        "subject": Subject(name, card, (1, 2, 4)),
        "costs": COSTS,
        "intensity": {case: 58.0 * case.fold for case in cases if case.via == "alone"},
        "cases": cases,
        "roofs": roofs,
        "busy": {stated("alone", 1, 8, "float16"): 97.0},
        "notes": (f"{name}: f = 1: 4096 pictures: no memory",),
    }
    return Measured(**facts | changes)


def documented(*of, **changes):
    return document(of, machine=MACHINE, settings=SETTINGS | changes, nvml_absent=None)


def test_the_document_holds_medians_shares_and_ratios():
    found = documented(measured())
    one, two, four = found["models"]
    assert [row["fold"] for row in found["models"]] == [1, 2, 4]
    assert (one["images_per_s"], one["spread"], one["calls"], one["warm_up_calls"]) == (100, [50, 100], 4, 9)
    assert one["achieved_flops"] == 1000
    assert one["share_of_peak"] == 0.1
    assert (two["achieved_flops"], two["share_of_peak"]) == (6000, pytest.approx(0.6))
    assert found["peak"] == {"float16": {"flops_per_s": 1e4, "spread": [5e3, 1e4], "kind": "product", "size": 4096}}
    assert found["bandwidth"] == {"bytes_per_s": 200, "spread": [100, 200], "kind": "copy", "size": 99}
    assert found["ridge"] == {"float16": 50}
    assert (one["nvml_utilization"], two["nvml_utilization"]) == (97, None)
    assert found["notes"] == ["coral: f = 1: 4096 pictures: no memory"]
    assert four["intensity"] == COSTS[4].intensity
    assert four["intensity_as_run"] == 58 * 4


def test_the_tuned_f1_is_the_fastest_of_all_that_was_measured_of_f1_the_stated_included():
    (tuned,) = documented(measured())["tuned_f1"]
    assert (tuned["images_per_s"], tuned["pictures"], tuned["mode"]) == (200, 64, "graph")
    assert (tuned["engine_images_per_s"], tuned["engine_pictures"]) == (80, 16)
    cases = measured().cases | {stated("alone", 1, 8, "float16"): series(900.0, 900.0, 900.0)}
    (tuned,) = documented(measured(cases=cases))["tuned_f1"]
    assert (tuned["images_per_s"], tuned["pictures"], tuned["mode"]) == (900, 8, "eager")


def test_a_gain_that_disappears_against_the_tuned_f1_shows_as_a_loss():
    found = documented(measured())
    assert [row["against_tuned_f1"] for row in found["models"]] == [0.5, 1.5, 0.75]
    assert [row["engine_against_tuned_f1"] for row in found["models"]] == [0.625, 0.75, 0.625]
    assert re.search(r"^ +4 +float16 .* 0\.75x ", table(found, "coral"), re.MULTILINE)


def test_every_f_is_tuned_where_that_was_asked_for():
    best = Case("alone", 4, Setting(64, "float16", mode="graph"))
    cases = {**measured().cases, best: series(500.0, 250.0, 500.0)}
    intensity = {**measured().intensity, best: 300.0}
    found = documented(measured(cases=cases, intensity=intensity), tune_all=True)
    assert [row["tuned"]["against_tuned_f1"] for row in found["models"]] == [1, 1.5, 2.5]
    assert found["models"][2]["tuned"]["images_per_s"] == 500
    assert found["models"][2]["against_tuned_f1"] == 0.75
    assert "2.50x" in table(found, "coral")


def test_what_could_not_be_measured_is_null_and_never_zero():
    cases = {stated("engine", 2, 8, "float16"): series(1.0, 1.0, 1.0)}
    found = documented(measured(cases=cases, roofs={}, busy={}, intensity={}))
    (row,) = found["models"]
    unknown = ("images_per_s", "spread", "achieved_flops", "share_of_peak", "against_tuned_f1", "nvml_utilization")
    assert [row[key] for key in unknown] == [None] * len(unknown)
    assert row["engine_images_per_s"] == 1
    assert (found["peak"], found["bandwidth"], found["ridge"], found["tuned_f1"]) == ({}, None, {}, [])
    assert "-" in table(found, "coral")
    assert table(documented(measured(cases={})), "coral").startswith("coral: nothing could be measured")


def test_the_document_is_json_and_its_page_names_every_key():
    found = documented(measured(), tune_all=True)
    page = (ROOT / "docs" / "bench.md").read_text(encoding="utf-8")

    def keys(value):
        if isinstance(value, dict):
            for key, inner in value.items():
                yield key
                yield from keys(inner)
        for inner in value if isinstance(value, list) else []:
            yield from keys(inner)

    json.dumps(found, allow_nan=False)
    told = {*keys({**found, "machine": {}}), *keys(Bench(device="cpu").facts())} - {"float16"}
    assert {key for key in told if f"`{key}`" not in page} == set()


def test_the_footer_says_what_the_figures_are_measured_against():
    text = footer(documented(measured()))
    assert "a GPU, cuda:0" in text
    assert "measured peak in float16: 10 kFLOP/s (4096x4096 product), ridge at 50 FLOP/B" in text
    absent = document([measured()], machine=MACHINE, settings=SETTINGS, nvml_absent="no NVIDIA driver")
    assert "no utilization by NVML: no NVIDIA driver" in footer(absent)
    for rounds, told in ((5, "; medians of 5 rounds\n"), (1, "; one round\n")):
        assert told in footer(absent | {"settings": SETTINGS | {"rounds": rounds}})


def test_a_share_over_the_peak_is_told_as_a_disturbed_measurement():
    roofs = {Roof("product", "float16", 4096): series(2e3, 2e3, 2e3)}
    _, *notes = documented(measured(roofs=roofs))["notes"]
    told = "share of peak must be at most 1, got 3.00; something else ran on this machine: measure again on a quiet one"
    assert notes == [f"coral: f = {f}: {told}" for f in (2, 4)]


@pytest.mark.parametrize(
    ("value", "text"), [(1.234e12, "1.23 TFLOP/s"), (9.9e8, "990 MFLOP/s"), (12, "12 FLOP/s"), (None, "-")]
)
def test_amounts_carry_a_prefix(value, text):
    assert amount(value, "FLOP/s") == text


# -------------------------------------------------------------------------------------------- the picture


@pytest.mark.parametrize("models", [1, 2, 3, 10, 11])
def test_the_roofline_is_a_picture_of_all_models(models, tmp_path):
    out = tmp_path / "roofline.png"
    roofline(documented(*(measured(f"model-{n}", 1 + n) for n in range(models))), out)
    assert out.read_bytes().startswith(b"\x89PNG")
    height, width, _ = cv2.imread(str(out)).shape
    assert 700 <= width <= 2600
    assert 500 <= height <= 2600


def test_a_roofline_needs_something_to_draw_and_a_place(tmp_path):
    with pytest.raises(VpipeError, match="needs a model with FLOPs"):
        roofline(documented(measured(cases={})), tmp_path / "r.png")
    with pytest.raises(VpipeError, match="choose another --out"):
        roofline(documented(measured()), tmp_path / "nowhere" / "r.png")


# --------------------------------------------------------------------------------------- what is really run


@pytest.fixture
def small(monkeypatch):
    """Batches and roofs that take no time; what they come to is not looked at."""
    monkeypatch.setattr("specialized.bench.BATCHES", (4, 16))
    monkeypatch.setattr("specialized.roofs._SIZES", {"cpu": (16, 32), "cuda": (64, 128)})
    monkeypatch.setattr("specialized.roofs._MIB", {"cpu": 1, "cuda": 1})


class Stranger(nn.Module):
    """A user's own network, of one layer; at f = 4 its forward fails once the batch is larger than at its check."""

    def __init__(self, *, fold: int, classes: int, input: tuple[int, int]) -> None:
        super().__init__()
        self.fold = fold
        self.layer = nn.Linear(fold * 3 * input[0] * input[1], fold * classes)

    def forward(self, x: Tensor) -> Tensor:
        if self.fold == 4 and len(x) > 2:
            raise RuntimeError("out of paper")
        return self.layer(x.flatten(1))


def stranger(*folds):
    card = ModelCard(
        architecture="tests.test_bench:Stranger", fold=1, order="consecutive", input=(4, 4), classes=("a", "b")
    )
    return Subject("stranger", card, folds)


@pytest.mark.parametrize(("engine", "dtype"), [("onnx", "float32"), ("openvino", fastest_dtype(torch.device("cpu")))])
def test_another_engine_is_measured_in_the_dtype_that_it_chooses(engine, dtype, small):
    session = Bench(device="cpu", pictures=4, rounds=1, seconds=1e-3, engine=engine)
    assert session.facts()["onnxruntime" if engine == "onnx" else engine]
    found = session.measure(stranger(2))
    assert found.notes == ()
    assert session.dtypes == (dtype,)
    assert found.cases[stated("engine", 2, 4, dtype)].rates
    assert found.best("engine", 1) is not None


@pytest.mark.parametrize("device", DEVICES)
def test_each_f_is_measured_alone_and_through_the_engine_beside_the_roofs(device, small):
    session = Bench(device=device, dtypes=["float32"], pictures=12, rounds=2, seconds=1e-3, compiled=False)
    found = session.measure(stranger(1, 2, 3))
    assert found.notes == ()
    for via in ("alone", "engine"):
        assert all(len(found.cases[stated(via, f, 12, "float32")].rates) == 2 for f in (1, 2, 3))
        assert {case.fold for case in found.cases if case.setting.pictures != 12} <= {1}
    assert {roof.kind for roof in found.roofs} - {"copy", "triad"} == {"product"}
    dtypes = {case.setting.dtype for case in found.cases if case.via == "alone"}
    assert {roof.dtype for roof in found.roofs if roof.kind == "product"} == dtypes
    assert all(rate > 0 for series in [*found.cases.values(), *found.roofs.values()] for rate in series.rates)
    # float32: half as many FLOP per byte as the definition's 16 bits, but for the batch
    assert found.intensity[stated("alone", 2, 12, "float32")] < found.costs[2].intensity


def test_every_f_is_tuned_only_where_asked(small):
    session = Bench(device="cpu", dtypes=["float32"], pictures=8, rounds=1, seconds=1e-4, tune_all=True)
    found = session.measure(stranger(2))
    assert {case.setting.pictures for case in found.cases if case.fold == 2} > {8}


def test_what_fails_is_noted_and_the_rest_is_measured(small):
    found = Bench(device="cpu", dtypes=["float32"], pictures=64, rounds=1, seconds=1e-4).measure(stranger(1, 4))
    assert {case.fold for case in found.cases} == {1}
    assert len(found.notes) == 2
    assert all(note.startswith("stranger: f = 4: ") and "out of paper" in note for note in found.notes)


def test_what_a_gpu_was_busy_with_is_asked_for_each_stated_case(small):
    def observe(work):
        work()
        return 42.0

    session = Bench(device="cpu", dtypes=["float32"], pictures=8, rounds=1, seconds=1e-4)
    found = session.measure(stranger(1, 2), observe=observe)
    assert found.busy == {stated("alone", f, 8, "float32"): 42.0 for f in (1, 2)}


def test_a_batch_smaller_than_a_group_is_refused():
    with pytest.raises(ValueError, match="pictures must be at least f"):
        Bench(device="cpu", pictures=2).measure(stranger(4))
    with pytest.raises(ValueError, match="rounds"):
        Bench(device="cpu", rounds=0)


def test_a_forward_that_fails_is_a_model_error_of_one_line():
    module = Stranger(fold=4, classes=2, input=(4, 4))
    run = forward_loop(module, Setting(16, "float32"), fold=4, input=(4, 4), device=torch.device("cpu"))
    with pytest.raises(ModelError, match=r"16 pictures, float32, .* must run, got RuntimeError: out of paper"):
        run(1)
    with pytest.raises(ModelError, match="mode graph: must run on CUDA"):
        forward_loop(module, Setting(16, "float32", mode="graph"), fold=4, input=(4, 4), device=torch.device("cpu"))


@pytest.mark.gpu
@pytest.mark.parametrize("mode", ["graph", "compiled"])
@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_a_forward_is_captured_and_replayed_on_cuda(mode, dtype):
    device = torch.device("cuda", 0)
    module = build("coral", args={}, classes=2, fold=4, input=(50, 50))
    run = forward_loop(module, Setting(64, dtype, mode=mode), fold=4, input=(50, 50), device=device)
    assert run(3) > 0


@pytest.mark.gpu
def test_nvml_says_how_busy_the_gpu_was_or_why_it_cannot(small):
    found = bench(["coral"], folds=[1, 4], device="cuda", pictures=64, rounds=1, seconds=0.01, compiled=False)
    busy = [row["nvml_utilization"] for row in found["models"]]
    assert found["nvml_absent"] is not None or all(0 <= percent <= 100 for percent in busy)


def test_models_are_named_or_files_and_a_file_is_measured_at_its_own_f_too(tmp_path):
    path = tmp_path / "mine.safetensors"
    card = ModelCard(architecture="coral", fold=2, order="consecutive", input=(20, 20), classes=("a", "b", "c"))
    save_model(path, card, build("coral", args={}, classes=3, fold=2, input=(20, 20)).state_dict())
    named, file = subjects(["coral", str(path), "coral"], [1, 4])
    assert (named.name, named.folds) == ("coral", (1, 4))
    assert (file.name, file.folds, file.card.input) == ("mine", (1, 2, 4), (20, 20))
    quantized = replace(card, ranges={"features.0": (-1.0, 1.0)})
    save_model(path, quantized, build("coral", args={}, classes=3, fold=2, input=(20, 20)).state_dict())
    with pytest.raises(ModelError, match=r"mine\.safetensors: must not be quantized"):
        subjects([str(path)], [1])
    assert file.build(4)[0].fold == 4


def test_the_class_of_a_model_file_is_found_beside_it(tmp_path):
    (tmp_path / "bench_nets.py").write_text(
        "from torch import nn\nclass Net(nn.Sequential):\n    def __init__(self, classes):\n"
        "        super().__init__(nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, classes))\n"
    )
    card = ModelCard(architecture="bench_nets:Net", fold=1, order="consecutive", input=(20, 20), classes=("a", "b"))
    weights = {"0.weight": (4, 3, 3, 3), "0.bias": (4,), "3.weight": (2, 4), "3.bias": (2,)}
    save_model(tmp_path / "own.safetensors", card, {name: torch.zeros(shape) for name, shape in weights.items()})
    (subject,) = subjects([str(tmp_path / "own.safetensors")], [4])
    assert subject.build(4)[0].fold == 4


def test_without_a_name_the_small_models_of_the_zoo_are_measured():
    names = {subject.name for subject in subjects([], [1])}
    assert {"coral", "night", "taipei", "roundabout"} <= names <= set(MODELS)
    assert "resnet18" not in names


# --------------------------------------------------------------------------------------------- the command


def vpipe(*arguments):
    """Runs the command in this process: (exit code, stdout, stderr)."""
    result = CliRunner().invoke(main, ["bench", *map(str, arguments)])
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exc_info
    assert "Traceback" not in result.output
    return result.exit_code, result.stdout, result.stderr


def test_the_command_prints_a_table_and_draws_the_roofline(small, tmp_path):
    picture = tmp_path / "bench.png"
    code, out, err = vpipe("coral", *TINY, "--fold", "1,4", "--out", picture)
    assert code == 0
    assert re.search(r"^coral: 50x50, 2 classes\n  tuned f = 1: [\d,]+ images/s ", out, re.MULTILINE)
    assert re.search(r"^ +1 +\S+ +[\d,]+ .*\n +4 +\S+ +[\d,]+ ", out, re.MULTILINE)
    assert out.splitlines()[-1] == str(picture)
    assert "coral: round 1 of 1" in err
    assert picture.read_bytes().startswith(b"\x89PNG")


def test_json_takes_the_place_of_the_table(small, tmp_path):
    picture = tmp_path / "bench.png"
    code, out, err = vpipe("coral", *TINY, "--fold", "2,4", "--json", "-q", "--device", "cpu", "--out", picture)
    assert code == 0
    assert "round" not in err
    assert str(picture) in err
    found = json.loads(out)
    assert found["machine"]["threads"] == 1
    assert [(row["name"], row["fold"]) for row in found["models"]] == [("coral", 2), ("coral", 4)]
    assert found["settings"] | {"folds": [2, 4], "pictures": 8, "rounds": 1} == found["settings"]
    assert found["interrupted"] is False
    assert found["nvml_absent"] == "the run is on the CPU"
    assert len(found["tuned_f1"]) == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["corral"],
            "corral: must be a name that `vpipe models` lists, or a model file (.safetensors); did you mean 'coral'?",
        ),
        (["gone.safetensors"], "gone.safetensors: must be a file"),
        (["coral", "--fold", "0"], "must be whole numbers in 1..1024, as 1,2,4"),
        (["coral", "--seconds", "nan"], "must be a finite number, got nan"),
        (["coral", "--seconds", "inf"], "must be a finite number, got inf"),
        (["coral", "--fold", "two"], "must be whole numbers in 1..1024, as 1,2,4"),
        (["coral", "--fold", "16", "--pictures", "8"], "fold: must be in 1..8"),
        (["coral", "--dtype", "float8"], "dtype: must be one of auto, float32, bfloat16, float16"),
        (["coral", "--device", "cuda:99"], "device: must be auto or one that is there"),
        (["coral", "--engine", "steam"], "engine: must be"),
        (["coral", "--rounds", "0"], "--rounds"),
        (
            ["coral", "--out", "no/such/r.png"],
            "no/such: must be a folder that is there, got none; mkdir -p no/such, or",
        ),
        (["coral", "--out", "r.jpg"], "r.jpg: must end in .png, which is what is written; choose another --out"),
    ],
)
def test_wrong_usage_is_exit_code_2_before_anything_is_measured(arguments, message):
    code, out, err = vpipe(*arguments)
    assert (code, out) == (2, "")
    assert message in err
    assert "tuning" not in err


def test_a_run_in_which_nothing_can_be_measured_fails(small, tmp_path):
    path = tmp_path / "mine.safetensors"
    card = replace(stranger(4).card, fold=4)
    save_model(path, card, Stranger(fold=4, classes=2, input=(4, 4)).state_dict())
    code, out, err = vpipe(path, *TINY, "--pictures", "16", "--fold", "4", "--device", "cpu", "--dtype", "float32")
    assert code == 1
    assert "nothing could be measured" in out
    assert "out of paper" in err
