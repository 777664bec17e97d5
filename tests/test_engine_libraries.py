"""Engines beside the torch one: all that run on the CPU keep one contract and answer as torch does in float32."""

import functools
import gc
import os
import shutil
import subprocess
import sys
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from specialized.engines import Engine, open_engine
from specialized.errors import ModelError
from specialized.folding import Normalize
from specialized.modelfile import ModelCard
from specialized.models import MODELS, build
from specialized.untracked import import_openvino

ROOT = Path(__file__).parents[1]
EXPORTED = ["onnx", "openvino"]
COMPILER = shutil.which(os.environ.get("CXX", "g++"))
COMPILE = pytest.param(
    "compile", marks=pytest.mark.skipif(COMPILER is None, reason="torch.compile needs a C++ compiler, there is none")
)
NAMES = [*EXPORTED, COMPILE]

# Without night, which is coral by another name.
SMALL = [name for name in MODELS if not name.endswith("-compound") and name not in ("resnet18", "night")]
DIFFERENT = ["coral", "roundabout", "timer3"]  # in their layers, not only in width and size
# Of a score, between 0 and 1; docs/models.md states it.
TOLERANCE = {"float32": 1e-5, "float16": 0.01, "bfloat16": 0.04}


def card(f: int, k: int = 3, size: tuple[int, int] = (16, 16), **changes: object) -> ModelCard:
    fields: dict[str, object] = {"architecture": "coral", "fold": f, "order": "consecutive", "input": size}
    return ModelCard(**{**fields, "classes": tuple(f"c{i}" for i in range(k)), **changes})  # type: ignore[arg-type]


class Tiny(nn.Module):
    """A network that is exported and compiled quickly, with scores that differ."""

    def __init__(self, f: int, k: int = 3) -> None:
        super().__init__()
        torch.manual_seed(f)
        self.convolution = nn.Conv2d(3 * f, 8, 3, stride=4)
        self.last = nn.Linear(8 * 16, f * k)

    def forward(self, x: Tensor) -> Tensor:
        answer: Tensor = 4 * self.last(self.convolution(x).relu().flatten(1))
        return answer


def pictures(b: int, f: int, size: tuple[int, int] = (16, 16)) -> np.ndarray:
    return np.random.default_rng(b).integers(0, 256, (b, f, *size, 3), dtype=np.uint8)


def python(code: str, **environment: str) -> "subprocess.CompletedProcess[str]":
    """Runs code in a process of its own, without the variables that say where libraries may write."""
    unset = ("CI", "XDG_CACHE_HOME", "ORT_DISABLE_TELEMETRY", "TORCHINDUCTOR_CACHE_DIR")
    given = {name: value for name, value in os.environ.items() if name not in unset}
    given |= {"PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path]), **environment}
    return subprocess.run([sys.executable, "-c", code], env=given, capture_output=True, text=True, timeout=240)


@functools.cache
def opened(name: str, task: str = "one_of") -> Engine:
    thresholds = (0.5,) * 3 if task == "any_of" else ()
    asked = card(2, task=task, thresholds=thresholds, temperature=1.5)
    return open_engine(asked, Tiny(2), batch=11, dtype="float32", engine=name, device="cpu")  # type: ignore[arg-type]


@pytest.fixture(autouse=True, scope="module")
def _compiled_anew(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path_factory.mktemp("compiled")))
        yield


def compare(name: str, engine: str, f: int, dtype: str, device: str = "cpu") -> None:
    """Holds an engine against torch in float32, with scores spread as those of a trained model are."""
    spec = MODELS[name]
    torch.manual_seed(f)
    network = build(name, args={}, classes=spec.classes, fold=f, input=spec.input)
    shown = pictures(8, f, spec.input)
    plain = card(f, spec.classes, spec.input, architecture=name)
    normalize = Normalize(f=f, size=spec.input, mean=plain.mean, std=plain.std, device=torch.device("cpu"))
    with torch.inference_mode():
        logits = network(normalize(torch.from_numpy(shown), torch.float32))
    # Networks that have not learned answer all pictures alike: the temperature spreads their logits.
    spread = card(f, spec.classes, spec.input, architecture=name, temperature=float(logits.std()) / 2)
    exact = open_engine(spread, network, batch=8 * f, dtype="float32", device="cpu").submit(shown).result()
    assert exact.std() > 0.05 / spec.classes**0.5

    opened = open_engine(spread, network, batch=8 * f, dtype=dtype, engine=engine, device=device)  # type: ignore[arg-type]
    got = opened.submit(shown).result()

    tolerance = TOLERANCE[opened.dtype]
    np.testing.assert_allclose(got, exact, atol=tolerance)
    ranked = np.sort(exact, axis=-1)
    decided = ranked[..., -1] - ranked[..., -2] > 2 * tolerance
    assert (got.argmax(-1) == exact.argmax(-1))[decided].all()
    assert decided.mean() > 0.2  # or else there was nothing to hold


@pytest.mark.parametrize(("name", "f"), [*((name, 4) for name in SMALL), *((name, 1) for name in DIFFERENT)])
@pytest.mark.parametrize("engine", EXPORTED)
def test_every_small_model_is_labelled_as_torch_does_in_float32(engine: str, name: str, f: int) -> None:
    compare(name, engine, f, "float32")


@pytest.mark.parametrize(("name", "f"), [("coral", 1), *((name, 4) for name in DIFFERENT)])
def test_what_openvino_chooses_by_itself_labels_as_float32_does(name: str, f: int) -> None:
    compare(name, "openvino", f, "auto")


@pytest.mark.parametrize(("name", "f"), [("coral", 1), *((name, 4) for name in DIFFERENT)])
@pytest.mark.parametrize("engine", [COMPILE])
def test_what_torch_compiles_labels_as_it_does_itself(engine: str, name: str, f: int) -> None:
    compare(name, engine, f, "float32")


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", ["float32", "auto"])
@pytest.mark.parametrize(("name", "f"), [("coral", 1), *((name, 4) for name in DIFFERENT)])
def test_what_torch_compiles_for_a_gpu_labels_as_float32_does(name: str, f: int, dtype: str) -> None:
    compare(name, "compile", f, dtype, "cuda")


@pytest.mark.gpu
def test_forwards_of_one_graph_keep_their_own_pictures() -> None:
    engine = open_engine(card(4), Tiny(4), device="cuda", batch=64, engine="compile")
    batches = [pictures(b, 4) for b in (16, 3, 9, 16)]
    handles = [engine.submit(batch) for batch in batches]
    for handle, batch in zip(handles, batches, strict=True):
        assert np.array_equal(handle.result(), engine.submit(batch).result())


@pytest.mark.skipif(COMPILER is None, reason="torch.compile needs a C++ compiler, there is none")
def test_nothing_is_compiled_after_the_engine_is_open() -> None:
    engine = opened("compile")
    with torch.compiler.set_stance("fail_on_recompile"):
        for b in (1, 5):
            engine.submit(pictures(b, 2)).result()


def test_a_missing_compiler_is_named_and_what_is_compiled_lies_where_no_one_else_writes(tmp_path: Path) -> None:
    code = (
        "from tests.test_engine_libraries import Tiny, card, open_engine\n"
        "open_engine(card(1), Tiny(1), batch=2, engine='compile', device='cpu')\n"
    )
    done = python(code, HOME=str(tmp_path), CXX=str(tmp_path / "g++"))
    said = done.stderr.splitlines()[-1]
    assert said.startswith("specialized.errors.ModelError: engine compile: must run coral, got ")
    assert "No working C++ compiler found" in said
    assert said.endswith("; install g++, or use engine: torch")
    assert (tmp_path / ".cache" / "vpipe" / "torchinductor").stat().st_mode & 0o777 == 0o700


@pytest.mark.parametrize("task", ["one_of", "any_of"])
@pytest.mark.parametrize("name", NAMES)
def test_scores_are_those_of_torch_for_both_tasks(name: str, task: str) -> None:
    shown = pictures(5, 2)
    exact = opened("torch", task).submit(shown).result()
    assert exact.std() > 0.05
    scores = opened(name, task).submit(shown).result()
    assert scores.dtype == np.float32
    np.testing.assert_allclose(scores, exact, atol=1e-5)


@pytest.mark.parametrize("name", NAMES)
def test_a_short_submit_equals_a_full_one_bit_for_bit(name: str) -> None:
    shown = pictures(5, 2)
    full = opened(name).submit(shown).result()
    for b in range(1, 6):
        assert np.array_equal(opened(name).submit(shown[:b]).result(), full[:b])


@pytest.mark.parametrize("name", NAMES)
def test_the_engine_says_what_it_runs_on(name: str) -> None:
    engine, same = opened(name), opened("torch")
    assert (engine.name, engine.device, engine.device_uuid, engine.groups) == (name, "cpu", None, 5)
    assert (engine.dtype, engine.transfer_s) == ("float32", 0.0)
    assert (engine.card, engine.cost) == (same.card, same.cost)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("b", [5, 3])
def test_the_callers_frames_are_neither_kept_nor_changed(name: str, b: int) -> None:
    shown = pictures(b, 2)
    before, alive = shown.copy(), weakref.ref(shown)
    handle = opened(name).submit(shown)
    scores = handle.result()
    assert np.array_equal(shown, before)
    del shown
    gc.collect()
    assert alive() is None
    opened(name).submit(pictures(4, 2))
    assert np.array_equal(handle.result(), scores)


@pytest.mark.parametrize("name", NAMES)
def test_frames_that_may_not_be_written_to_or_lie_apart_are_accepted(name: str) -> None:
    shown = pictures(5, 2)
    expected = opened(name).submit(shown).result()
    shown.flags.writeable = False
    assert np.array_equal(opened(name).submit(shown).result(), expected)
    assert np.array_equal(opened(name).submit(shown[::-1]).result(), expected[::-1])


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("shown", [pictures(6, 2), pictures(2, 3), pictures(2, 2).astype(np.float32)])
def test_frames_of_another_shape_or_type_are_refused(name: str, shown: np.ndarray) -> None:
    with pytest.raises(ValueError, match=r"frames must be uint8 \(b, 2, 16, 16, 3\) with b in 1..5, got"):
        opened(name).submit(shown)


@pytest.mark.parametrize("name", NAMES)
def test_the_module_given_is_left_as_it_was(name: str) -> None:
    module = Tiny(1).train()
    before = {key: value.clone() for key, value in module.state_dict().items()}
    open_engine(card(1), module, batch=2, engine=name, device="cpu")  # type: ignore[arg-type]
    assert module.training
    assert all(torch.equal(before[key], value) for key, value in module.state_dict().items())


class Fickle(Tiny):
    """Its answer hangs on its input in a way that is no graph."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x if x.mean() > 0 else -x)


@pytest.mark.parametrize("name", NAMES)
def test_a_network_that_is_no_graph_is_refused_in_one_line(name: str) -> None:
    with pytest.raises(ModelError, match=rf"^engine {name}: must run coral, got .*; use engine: torch$") as caught:
        open_engine(card(1), Fickle(1), batch=2, engine=name, device="cpu")  # type: ignore[arg-type]
    assert len(str(caught.value)) < 350


class Growing(Tiny):
    """Its forward does more than compute, which a graph cannot keep: each call answers otherwise than the last."""

    calls = 0

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        return 4 * super().forward(x).roll(self.calls, dims=1)


@pytest.mark.parametrize("name", EXPORTED)
@pytest.mark.parametrize("dtype", ["float32", "auto"])
def test_a_graph_that_is_another_function_than_the_network_is_refused(name: str, dtype: str) -> None:
    said = rf"^engine {name}: scores of coral in float32 must be those of torch, got [01]\S* off: its forward may do"
    with pytest.raises(ModelError, match=said):
        open_engine(card(1), Growing(1), batch=8, dtype=dtype, engine=name)  # type: ignore[arg-type]


@pytest.mark.parametrize("name", EXPORTED)
def test_so_is_one_of_a_quantized_model(name: str) -> None:
    said = rf"^engine {name}: scores of coral in float32 must be those of torch, got [01]\S* off: its forward may do"
    with pytest.raises(ModelError, match=said):
        open_engine(card(1, ranges={"last": (-1.0, 1.0)}), Growing(1), batch=8, engine=name)  # type: ignore[arg-type]


@pytest.mark.parametrize("name", NAMES)
def test_what_is_wrong_with_the_model_is_told_as_torch_tells_it(name: str) -> None:
    with pytest.raises(ModelError, match=r"coral: output must have shape \(2, 2\), .*got \(2, 3\)"):
        open_engine(card(1, k=2), Tiny(1), batch=2, engine=name, device="cpu")  # type: ignore[arg-type]


@pytest.mark.parametrize("name", EXPORTED)
def test_weights_that_are_no_numbers_are_refused(name: str) -> None:
    module = Tiny(1)
    nn.init.constant_(module.last.bias, float("nan"))
    with pytest.raises(ModelError, match="coral: scores must be numbers, got NaN in float32 on cpu"):
        open_engine(card(1), module, batch=2, dtype="float32", engine=name)  # type: ignore[arg-type]


@pytest.mark.parametrize("name", EXPORTED)
def test_engines_of_the_cpu_refuse_a_gpu(name: str) -> None:
    with pytest.raises(ModelError, match=f"engine {name}: device must be cpu or auto, got 'cuda'"):
        open_engine(card(1), Tiny(1), device="cuda", engine=name)  # type: ignore[arg-type]


def test_onnx_runtime_computes_in_float32() -> None:
    assert open_engine(card(1), Tiny(1), batch=2, engine="onnx").dtype == "float32"
    with pytest.raises(ModelError, match=r"engine onnx: dtype must be float32, .*got bfloat16; use dtype: auto"):
        open_engine(card(1), Tiny(1), batch=2, dtype="bfloat16", engine="onnx")


def test_openvino_computes_in_what_it_says() -> None:
    able = import_openvino().Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    if "FP16" in able:
        assert open_engine(card(1), Tiny(1), batch=2, dtype="float16", engine="openvino").dtype == "float16"
    else:
        with pytest.raises(ModelError, match="dtype must be one that this CPU has, got float16, for which it computes"):
            open_engine(card(1), Tiny(1), batch=2, dtype="float16", engine="openvino")


@pytest.mark.parametrize(
    ("name", "package"), [("onnx", "onnxruntime"), ("onnx", "onnxscript"), ("openvino", "openvino")]
)
def test_a_package_that_is_missing_is_named_with_its_extra(
    name: str, package: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, package, None)  # as if it were not installed
    said = rf"^engine {name}: needs {package}, which is not installed; pip install 'vpipe\[{name}\]'$"
    with pytest.raises(ModelError, match=said):
        open_engine(card(1), Tiny(1), engine=name)  # type: ignore[arg-type]


def test_nothing_but_graphs_is_written_to_the_home_folder(tmp_path: Path) -> None:
    code = (
        "from tests.test_engine_libraries import EXPORTED, opened, pictures\n"
        "for name in EXPORTED:\n"
        "    opened(name).submit(pictures(5, 2)).result()\n"
    )
    done = python(code, HOME=str(tmp_path))
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    graphs = tmp_path / ".cache" / "vpipe" / "graphs"
    assert [path.name for path in tmp_path.iterdir()] == [".cache"]
    assert [path.name for path in (tmp_path / ".cache").iterdir()] == ["vpipe"]
    assert list((tmp_path / ".cache" / "vpipe").iterdir()) == [graphs]
    assert graphs.stat().st_mode & 0o777 == 0o700
    assert sorted(path.name for path in graphs.rglob("graph.*")) == ["graph.bin", "graph.onnx", "graph.xml"]


# ------------------------------------------------------------------------------------ graphs that are kept


@pytest.fixture
def graphs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where graphs are kept in this test: nothing is there yet."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return tmp_path / "vpipe" / "graphs"


@pytest.fixture
def exports(monkeypatch: pytest.MonkeyPatch) -> list[object]:
    """What was exported in this test."""
    done: list[object] = []
    export = torch.export.export

    def counted(*args: Any) -> object:
        done.append(args)
        return export(*args)

    monkeypatch.setattr(torch.export, "export", counted)
    return done


def scores_of(name: str, module: nn.Module, **changes: object) -> np.ndarray:
    engine = open_engine(card(2, **changes), module, batch=8, dtype="float32", engine=name)  # type: ignore[arg-type]
    return engine.submit(pictures(4, 2)).result()


@pytest.mark.parametrize("name", EXPORTED)
def test_a_graph_is_made_once_for_all_that_it_depends_on(name: str, graphs: Path, exports: list[object]) -> None:
    first = scores_of(name, Tiny(2))
    assert np.array_equal(scores_of(name, Tiny(2), training={"seed": 3}), first)
    assert (len(exports), len(list(graphs.iterdir()))) == (1, 1)
    other = Tiny(2)
    nn.init.constant_(other.last.bias, 0.5)
    np.testing.assert_allclose(scores_of(name, other), scores_of("torch", other), atol=1e-5)
    np.testing.assert_allclose(
        scores_of(name, Tiny(2), temperature=2.0), scores_of("torch", Tiny(2), temperature=2.0), atol=1e-5
    )
    assert (len(exports), len(list(graphs.iterdir()))) == (3, 3)


@pytest.mark.parametrize("name", EXPORTED)
@pytest.mark.parametrize("harm", ["cut short", "emptied", "of another network"])
def test_a_graph_that_does_not_fit_any_more_is_made_anew(
    name: str, harm: str, graphs: Path, exports: list[object]
) -> None:
    right = scores_of(name, Tiny(2))
    (kept,) = graphs.iterdir()
    if harm == "of another network":
        other = Tiny(2)
        nn.init.constant_(other.last.bias, 0.5)
        scores_of(name, other)
        (stranger,) = set(graphs.iterdir()) - {kept}
        shutil.rmtree(kept)
        shutil.move(stranger, kept)
    else:
        for path in kept.iterdir():
            path.write_bytes(path.read_bytes()[:-100] if harm == "cut short" else b"")
    before = len(exports)
    assert np.array_equal(scores_of(name, Tiny(2)), right)
    assert len(exports) == before + 1
    assert np.array_equal(scores_of(name, Tiny(2)), right)
    assert len(exports) == before + 1


def test_a_dtype_that_the_cpu_lacks_costs_no_graph(graphs: Path, exports: list[object], monkeypatch: Any) -> None:
    scores_of("openvino", Tiny(2))

    def lacking(*_: object) -> object:
        raise ModelError("engine openvino: dtype must be one that this CPU has")

    with monkeypatch.context() as patch:
        patch.setattr("specialized.engines.openvino._compiled", lacking)
        with pytest.raises(ModelError, match="dtype must be one that this CPU has"):
            scores_of("openvino", Tiny(2))
    scores_of("openvino", Tiny(2))
    assert len(exports) == 1


def test_another_version_of_vpipe_makes_graphs_of_its_own(
    graphs: Path, exports: list[object], monkeypatch: pytest.MonkeyPatch
) -> None:
    scores_of("onnx", Tiny(2))
    monkeypatch.setattr("specialized.engines.exported.code_of_export", lambda: "another")
    scores_of("onnx", Tiny(2))
    assert len(exports) == len(list(graphs.iterdir())) == 2


@pytest.mark.parametrize("why", ["no folder can be made", "others may write to it", "the disk is full", "no home"])
def test_where_graphs_cannot_be_kept_the_engine_runs_all_the_same(
    why: str, graphs: Path, exports: list[object], monkeypatch: pytest.MonkeyPatch
) -> None:
    if why == "no folder can be made":
        graphs.parent.write_text("a file")
    elif why == "the disk is full":

        def full(*_: object) -> None:
            raise OSError(28, "No space left on device")

        monkeypatch.setattr("specialized.engines.kept.shutil.copytree", full)
    elif why == "no home":

        def homeless() -> Path:
            raise RuntimeError("Could not determine home directory.")

        monkeypatch.delenv("XDG_CACHE_HOME")
        monkeypatch.setattr(Path, "home", homeless)
    else:
        graphs.mkdir(parents=True)
        graphs.chmod(0o777)
    assert np.array_equal(scores_of("openvino", Tiny(2)), scores_of("openvino", Tiny(2)))
    assert len(exports) == 2
    assert not graphs.is_dir() or not list(graphs.iterdir())


def test_what_was_used_longest_ago_is_forgotten(graphs: Path) -> None:
    scores_of("openvino", Tiny(2))
    (kept,) = graphs.iterdir()
    for age in range(70):
        (graphs / f"old{age}").mkdir()
        os.utime(graphs / f"old{age}", (age, age))
    nothing = Tiny(2)
    nn.init.zeros_(nothing.last.bias)
    scores_of("openvino", nothing)
    left = {path.name for path in graphs.iterdir()}
    assert len(left) == 64
    assert kept.name in left
    assert {f"old{age}" for age in range(8)}.isdisjoint(left)


def test_a_network_that_is_refused_leaves_no_graph(graphs: Path) -> None:
    with pytest.raises(ModelError, match="must be those of torch"):
        open_engine(card(1), Growing(1), batch=8, dtype="float32", engine="onnx")
    assert list(graphs.iterdir()) == []
