import dataclasses
import hashlib
import importlib
import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from specialized import modelfile
from specialized.errors import ModelError
from specialized.modelfile import Ask, ModelCard, file_hash, load_model, load_weights, read_card, save_model
from specialized.objects import code_hash

CARD = ModelCard(
    architecture="coral",
    args={"filters": 4, "dense": 8},
    fold=2,
    order="consecutive",
    input=(16, 16),
    classes=("person", "none"),
    mean=(0.4, 0.5, 0.6),
    step_s=0.1,
    asks=(Ask(name="person", object="person"),),
    accuracy={"test": 0.99},
    training={"seed": 1, "clips": ["a.mp4"]},
)


def network(card: ModelCard = CARD) -> nn.Module:
    torch.manual_seed(0)
    return modelfile.network(card)


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    path = tmp_path / "m.safetensors"
    save_model(path, CARD, network().state_dict())
    return path


def with_metadata(path: Path, metadata: dict[str, str]) -> Path:
    save_file({"w": torch.zeros(1)}, path, metadata)
    return path


def with_card(path: Path, **changes: object) -> Path:
    document = {**dataclasses.asdict(CARD), **changes}
    return with_metadata(path, {"vpipe-model-v1": json.dumps(document)})


def test_a_model_file_gives_back_card_and_weights(saved: Path) -> None:
    card, module = load_model(saved)
    assert card == CARD == read_card(saved)
    assert not module.training
    for name, value in network().state_dict().items():
        assert torch.equal(module.state_dict()[name], value.half().float()), name


def test_a_file_from_before_calibration_has_the_temperature_1_and_keeps_nothing(tmp_path: Path) -> None:
    document = dataclasses.asdict(dataclasses.replace(CARD, temperature=2.0, keep={"person": 0.25}))
    of_today = with_metadata(tmp_path / "today.safetensors", {"vpipe-model-v1": json.dumps(document)})
    assert (read_card(of_today).temperature, read_card(of_today).keep) == (2.0, {"person": 0.25})
    del document["temperature"], document["keep"]
    older = with_metadata(tmp_path / "older.safetensors", {"vpipe-model-v1": json.dumps(document)})
    assert (read_card(older).temperature, read_card(older).keep) == (1.0, {})


def test_widths_that_were_rounded_are_rounded_again_when_the_file_is_loaded(tmp_path: Path) -> None:
    card = dataclasses.replace(CARD, multiple_of=8)
    save_model(tmp_path / "m.safetensors", card, network(card).state_dict())
    loaded, module = load_model(tmp_path / "m.safetensors")
    assert loaded.multiple_of == 8
    assert next(module.parameters()).shape[0] == 8  # 4 · sqrt(2) is 5.7


def test_a_card_from_before_widths_were_rounded_is_read(tmp_path: Path) -> None:
    document = dataclasses.asdict(CARD)
    del document["multiple_of"]
    path = with_metadata(tmp_path / "m.safetensors", {"vpipe-model-v1": json.dumps(document)})
    assert read_card(path) == CARD


def test_an_any_of_card_gives_back_its_thresholds(tmp_path: Path) -> None:
    card = dataclasses.replace(CARD, task="any_of", classes=("car", "bus"), thresholds=(0.5, 0.25), accuracy=None)
    save_model(tmp_path / "m.safetensors", card, {})
    assert read_card(tmp_path / "m.safetensors") == card


def test_weights_are_stored_in_16_bits_and_in_bfloat16_where_float16_is_too_small(tmp_path: Path) -> None:
    path = tmp_path / "m.safetensors"
    state = {"small": torch.tensor([0.1]), "large": torch.tensor([1e6]), "count": torch.tensor(3)}
    save_model(path, CARD, state)
    stored = load_file(path)
    assert {name: value.dtype for name, value in stored.items()} == {
        "small": torch.float16,
        "large": torch.bfloat16,
        "count": torch.int64,
    }
    assert stored["large"].item() == pytest.approx(1e6, rel=0.01)


def test_weights_that_share_memory_can_be_saved(tmp_path: Path) -> None:
    shared = torch.ones(4, 4)
    save_model(tmp_path / "m.safetensors", CARD, {"a": shared, "b": shared.t()})
    assert sorted(load_file(tmp_path / "m.safetensors")) == ["a", "b"]


def test_a_failed_save_leaves_the_old_file_and_nothing_else(saved: Path) -> None:
    before = saved.read_bytes()
    with pytest.raises(ValueError, match="must be finite, got NaN or infinity in 'w'"):
        save_model(saved, CARD, {"w": torch.tensor([float("nan")])})
    with pytest.raises(ValueError, match="must be JSON values"):
        save_model(saved, dataclasses.replace(CARD, args={"a": {1, 2}}), {})
    assert saved.read_bytes() == before
    assert list(saved.parent.iterdir()) == [saved]


def test_the_card_is_read_without_torch(saved: Path) -> None:
    code = (
        "import sys; from specialized.modelfile import read_card, file_hash; "
        "assert read_card(sys.argv[1]).fold == 2 and file_hash(sys.argv[1]); sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code, str(saved)], check=False).returncode == 0


def test_the_hash_is_that_of_the_bytes(saved: Path) -> None:
    assert file_hash(saved) == hashlib.sha256(saved.read_bytes()).hexdigest()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"architecture": ""}, "architecture must be named, got ''"),
        ({"fold": 0}, "fold must be at least 1, got 0"),
        ({"multiple_of": 0}, "multiple_of must be at least 1, got 0"),
        ({"order": "random"}, "order must be one of consecutive, .*got 'random'"),
        ({"input": (0, 50)}, r"input must be \(H, W\), each at least 1, got \(0, 50\)"),
        ({"classes": ()}, "classes must be one name or more"),
        ({"classes": ("a", "a")}, "classes must differ"),
        ({"classes": ("a",)}, "two or more"),
        ({"task": "all_of"}, "task must be one of one_of, any_of"),
        ({"thresholds": (0.5,)}, "thresholds must be empty for one_of"),
        ({"task": "any_of", "thresholds": (0.5,)}, "thresholds must be 2 numbers, one per class"),
        ({"task": "any_of", "thresholds": (0.5, 1.5)}, r"thresholds must be in 0..1"),
        ({"resize": "lanczos"}, "resize must be one of area"),
        ({"fit": "crop"}, "fit must be one of stretch, letterbox"),
        ({"mean": (0.5, 0.5, float("nan"))}, "mean must be 3 finite numbers"),
        ({"std": (0.5, 0.0, 0.5)}, "std must be 3 numbers over 0"),
        ({"step_s": 0.0}, "step_s must be over 0"),
        ({"temperature": 0.0}, "temperature must be a finite number over 0, got 0.0"),
        ({"temperature": float("inf")}, "temperature must be a finite number over 0, got inf"),
        ({"keep": {"dog": 0.5}}, "keep must give classes of the model thresholds in 0..1, got {'dog': 0.5}"),
        ({"keep": {"person": 1.5}}, "keep must give classes of the model thresholds in 0..1"),
    ],
)
def test_a_card_that_contradicts_itself_is_refused(changes: dict[str, object], message: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(CARD, **changes)
    with pytest.raises(ModelError, match=r"bad\.safetensors: "):  # and so it is in a file
        read_card(with_card(tmp_path / "bad.safetensors", **changes))


def test_a_contradiction_in_a_stored_card_is_told_without_the_rest_of_the_card(tmp_path: Path) -> None:
    path = with_card(tmp_path / "bad.safetensors", ranges={"classifier.1": [1.0, 0.0]})
    with pytest.raises(ModelError) as caught:
        read_card(path)
    told = "ranges of classifier.1 must be finite and hold 0, got (1.0, 0.0)"
    assert str(caught.value) == f"{path}: card: {told}; save it anew"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"fold": "2"}, "fold: Input should be a valid integer, got '2'"),
        ({"input": [50]}, "input.1: Field required"),
        ({"asks": [{"name": "a"}]}, "asks.0.object: Field required"),
        ({"asks": [{"name": "a", "object": "b", "at_least": 0}]}, "asks.0: .*at_least must be at least 1, got 0"),
        ({"colour": 1}, "colour: Unexpected keyword argument, got 1"),
    ],
)
def test_a_stored_card_of_the_wrong_types_is_refused(changes: dict[str, object], message: str, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=f"bad.safetensors: {message}"):
        read_card(with_card(tmp_path / "bad.safetensors", **changes))


def test_what_is_no_model_file_is_named_with_its_cause(tmp_path: Path, saved: Path) -> None:
    bad = tmp_path / "bad.safetensors"

    def refused(message: str) -> None:
        with pytest.raises(ModelError, match=message) as raised:
            read_card(bad)
        assert str(raised.value).startswith(f"{bad}: ")
        assert "\n" not in str(raised.value)

    refused("must be a file, got nothing")
    bad.write_bytes(b"")
    refused("must be a safetensors file")
    bad.write_bytes(b"\xff" * 100)
    refused("must be a safetensors file")
    bad.write_bytes(saved.read_bytes()[:-10])
    refused("must be a safetensors file")
    with_metadata(bad, {})
    refused("must carry the metadata 'vpipe-model-v1', got no metadata")
    with_metadata(bad, {"format": "pt"})
    refused("got format")
    with_metadata(bad, {"vpipe-model-v2": "{}"})
    refused("format must be vpipe-model-v1, got vpipe-model-v2; it needs a newer vpipe")
    with_metadata(bad, {"vpipe-model-v1": "{"})
    refused("card: Invalid JSON")
    with_metadata(bad, {"vpipe-model-v1": "[" * 10_000})
    refused("card: Invalid JSON")
    with_metadata(bad, {"vpipe-model-v1": "[]"})
    refused("card: ")
    with_metadata(bad, {"vpipe-model-v1": " " * (16 << 20) + "{}"})
    refused("must be at most 16777216 bytes")


def test_a_folder_is_no_model_file(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="must be a file, got a folder"):
        file_hash(tmp_path)


def test_weights_that_do_not_fit_the_architecture_are_named(tmp_path: Path) -> None:
    path = tmp_path / "m.safetensors"
    state = dict(network().state_dict())
    state["extra"] = state.pop("classifier.3.bias")
    state["classifier.1.bias"] = torch.zeros(3)
    save_model(path, CARD, state)
    with pytest.raises(ModelError) as raised:
        load_model(path)
    assert f"{path}: weights must fit the architecture" in str(raised.value)
    assert "classifier.3.bias (4,) is missing, extra (4,) is superfluous" in str(raised.value)
    assert "classifier.1.bias has shape (3,) instead of (11,)" in str(raised.value)


def test_a_stored_architecture_that_cannot_be_built_names_the_file(tmp_path: Path) -> None:
    path = with_card(tmp_path / "m.safetensors", architecture="coralle")
    with pytest.raises(ModelError, match=r"m\.safetensors: coralle: must be a name that `vpipe models` lists"):
        load_model(path)


def test_a_key_of_any_signs_is_told_in_one_line(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"m\.safetensors: 'a\\x00b': Unexpected keyword argument"):
        read_card(with_card(tmp_path / "m.safetensors", **{"a\0b": 1}))


@pytest.mark.parametrize(
    "changes",
    [
        {"args": {"filters": 8000}},
        {"args": {"dense": 10**7}},
        {"args": {"classes": 10**7}},
        {"fold": 10**6},
        {"multiple_of": 10**5},
        {"input": (8000, 8000)},
    ],
)
def test_a_network_larger_than_its_file_is_refused_before_it_takes_memory(tmp_path: Path, changes) -> None:
    path = with_card(tmp_path / "m.safetensors", **changes)
    with pytest.raises(ModelError, match=r"m\.safetensors: coral: .*the file holds 1 values, and the network"):
        load_model(path)


def test_a_class_that_asks_for_far_more_than_its_file_holds_is_refused_too(tmp_path: Path) -> None:
    args = {"in_features": 30_000, "out_features": 30_000}
    path = with_card(tmp_path / "m.safetensors", architecture="torch.nn:Linear", args=args)
    with pytest.raises(ModelError, match=r"m\.safetensors: torch.nn:Linear: .*the file holds 1 values"):
        load_model(path)


def test_a_module_of_pythons_own_library_is_not_run(tmp_path: Path) -> None:
    path = with_card(tmp_path / "m.safetensors", architecture="this:Zen", args={})
    with pytest.raises(ModelError, match=r"m\.safetensors: architecture must be a network, got this:Zen, of"):
        load_model(path)
    assert "this" not in sys.modules


def test_a_class_of_ones_own_is_found_beside_the_model_file_but_last(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(sys, "path", [*sys.path, str(tmp_path / "configs")])
    card = dataclasses.replace(CARD, architecture="net_beside:Net", args={}, fold=1, input=(2, 2))
    state = {"1.weight": torch.zeros(2, 12), "1.bias": torch.zeros(2)}
    code = (
        "from torch import nn\nclass Net(nn.Sequential):\n    def __init__(self, classes):\n"
        "        super().__init__(nn.Flatten(), nn.Linear(12, classes))\n        self.found_in = __file__\n"
    )
    configs, models = tmp_path / "configs/net_beside.py", tmp_path / "models/net_beside.py"
    for place in (configs, models):
        place.parent.mkdir()
        place.write_text(code)
    save_model(tmp_path / "models/m.safetensors", card, state)
    _, module = load_model(tmp_path / "models/m.safetensors")
    assert module.found_in == str(configs)
    models.write_text(code.replace("nn.Flatten()", "nn.Flatten(-3)"))  # the same shapes, and another network
    with pytest.raises(ModelError, match=r"m\.safetensors: module 'net_beside' must be .*models/net_beside\.py, which"):
        load_model(tmp_path / "models/m.safetensors")
    del sys.modules["net_beside"]
    configs.unlink()
    importlib.invalidate_caches()
    _, module = load_model(tmp_path / "models/m.safetensors")
    assert module.found_in == str(models)
    del sys.modules["net_beside"]
    models.unlink()
    importlib.invalidate_caches()
    with pytest.raises(ModelError, match=r"or put the module beside the configuration or the model file, or on PYTHON"):
        load_model(tmp_path / "models/m.safetensors")


def test_the_code_of_a_class_is_the_file_that_it_is_written_in() -> None:
    assert code_hash("specialized.foldcnn:Slots") == file_hash("specialized/foldcnn/slots.py")
    assert code_hash("builtins:dict") is None
    assert code_hash("no.such:Thing") is None


def test_weights_of_ones_own_are_read_from_safetensors_and_pt(tmp_path: Path) -> None:
    module, state = nn.Linear(2, 1), {"weight": torch.ones(1, 2), "bias": torch.ones(1)}
    save_file(state, tmp_path / "w.safetensors")
    torch.save(state, tmp_path / "w.pt")
    for name in ("w.safetensors", "w.pt"):
        nn.init.zeros_(module.weight)
        load_weights(module, tmp_path / name)
        assert module.weight.tolist() == [[1, 1]]


class Trap:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return exec, ("raise SystemExit('a pickle was executed')",)


def test_weights_that_are_no_state_dict_are_refused(tmp_path: Path) -> None:
    module, path = nn.Linear(2, 1), tmp_path / "w.pt"
    torch.save({"weight": Trap()}, path)
    with pytest.raises(ModelError, match=r"w\.pt: weights must be readable"):
        load_weights(module, path)
    torch.save({"weight": torch.ones(1, 2), "epoch": 3}, path)
    with pytest.raises(ModelError, match="must hold a state dict of tensors, got a dict with int in it"):
        load_weights(module, path)
    torch.save([1], path)
    with pytest.raises(ModelError, match="got list"):
        load_weights(module, path)
    path.rename(tmp_path / "w.onnx")
    with pytest.raises(ModelError, match=r"must be .safetensors, .pt or .pth, got '.onnx'"):
        load_weights(module, tmp_path / "w.onnx")


def test_a_path_that_no_file_can_have_is_refused_like_a_missing_one():
    with pytest.raises(ModelError, match="must be a file, got nothing"):
        read_card("9" * 5000)
