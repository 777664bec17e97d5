"""Models whose layers round to 8 bits: what is rounded, that every engine rounds alike, and how a file is made."""

import copy
import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from specialized.engines import open_engine
from specialized.engines import openvino as openvino_engine
from specialized.errors import ModelError
from specialized.examples import Examples
from specialized.modelfile import ModelCard, file_hash, load_model, save_model
from specialized.models import build
from specialized.quantize import quantized, ranges_of
from specialized.subjects import subjects

SMALL = [subject.name for subject in subjects([], [1]) if subject.name != "night"]  # which is coral by another name
SIZE = (8, 12)


class Sums(nn.Module):
    """A layer whose sums can be done by hand, and one that nothing reaches."""

    def __init__(self, fold: int = 1) -> None:
        super().__init__()
        self.last = nn.Linear(3 * fold, 2 * fold)
        self.idle = nn.Linear(1, 1)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.last(x.mean((2, 3)))
        return y


def card(f: int = 1, architecture: str = "tests.test_quantize:Sums", **changes: object) -> ModelCard:
    fields: dict[str, Any] = {"architecture": architecture, "fold": f, "order": "consecutive", "input": SIZE}
    return ModelCard(**{**fields, "classes": ("a", "none"), **changes})


def examples(colours: list[int], size: tuple[int, int] = SIZE) -> Examples:
    pictures = np.broadcast_to(np.array(colours, np.uint8)[:, None, None, None], (len(colours), *size, 3))
    return Examples(pictures, np.zeros(len(colours), np.int64), ((0, len(colours)),))


def noise(n: int, size: tuple[int, int]) -> Examples:
    pictures = np.random.default_rng(n).integers(0, 256, (n, *size, 3), dtype=np.uint8)
    return Examples(pictures, np.zeros(n, np.int64), ((0, n),))


def test_ranges_are_the_least_and_greatest_inputs_and_hold_0() -> None:
    module = build("tests.test_quantize:Sums", args={}, classes=2, fold=2, input=SIZE)
    # By mean 0.5 and std 0.25 a byte b becomes b / 63.75 - 2.
    found = ranges_of(card(2), module, examples([51, 255, 153]))  # the third fills its group twice
    assert found.keys() == {"last"}
    assert found["last"] == pytest.approx((51 / 63.75 - 2, 2.0))
    assert ranges_of(card(2), module, examples([255, 153]))["last"] == pytest.approx((0.0, 2.0))
    assert not module.last._forward_pre_hooks


def test_inputs_and_weights_are_rounded_to_steps_and_sums_are_not() -> None:
    module = Sums()
    with torch.no_grad():
        module.last.weight.copy_(torch.tensor([[1.27, 0.504, -0.116], [-12.7, 0.04, 6.36]]))
        module.last.bias.copy_(torch.tensor([0.123, -0.4567]))
    before = copy.deepcopy(module.state_dict())
    rounding = quantized(module, {"last": (-1.0, 1.55)})  # steps of 0.01
    x = torch.tensor([[0.3349, -0.4151, 9.0]])[:, :, None, None]
    inputs, weights = np.array([0.33, -0.42, 1.55]), np.array([[1.27, 0.50, -0.12], [-12.7, 0.0, 6.4]])
    np.testing.assert_allclose(rounding(x).numpy(force=True)[0], weights @ inputs + [0.123, -0.4567], rtol=1e-5)
    assert rounding.state_dict().keys() == before.keys()
    assert all(torch.equal(rounding.state_dict()[name], value) for name, value in before.items())
    np.testing.assert_allclose(
        module(x).numpy(force=True)[0],
        before["last.weight"].numpy() @ x[0, :, 0, 0].numpy() + [0.123, -0.4567],
        rtol=1e-5,
    )


def test_a_layer_of_zeros_or_that_sees_only_zeros_rounds_to_zeros() -> None:
    module = Sums()
    with torch.no_grad():
        module.last.weight.zero_()
    assert torch.equal(quantized(module, {"last": (0.0, 0.0)})(torch.ones(1, 3, 1, 1))[0], module.last.bias)


def test_what_cannot_be_quantized_is_said() -> None:
    with pytest.raises(ModelError, match="must have convolutions or linear layers to be quantized, got none"):
        ranges_of(card(), nn.Flatten(), examples([1]))
    with pytest.raises(ModelError, match="of the network, got 'first'"):
        quantized(Sums(), {"last": (0.0, 1.0), "first": (0.0, 1.0)})
    module = nn.Sequential(nn.Conv2d(3, 2, 3), nn.Flatten(), nn.Linear(120, 2))
    with torch.no_grad():
        module[0].bias.fill_(torch.inf)
    with pytest.raises(ModelError, match="inputs of 2 must be finite, got inf to inf"):
        ranges_of(card(), module, examples([1]))
    with pytest.raises(ValueError, match="ranges of last must be finite and hold 0"):
        card(ranges={"last": (0.5, 1.0)})


def made(name: str, f: int) -> tuple[ModelCard, nn.Module, nn.Module]:
    """A network of the zoo whose scores differ: its card, itself, and itself quantized."""
    torch.manual_seed(f)
    (subject,) = subjects([name], [f])
    made, module = subject.build(f)
    ranges = ranges_of(made, module, noise(8 * f, made.input))
    return dataclasses.replace(made, ranges=dict(ranges)), module, quantized(module, ranges)


@pytest.mark.parametrize(("name", "f"), [("coral", 1), *((name, 4) for name in SMALL)])
def test_quantized_models_answer_as_they_did_and_alike_in_every_engine(name: str, f: int) -> None:
    rounds, module, rounding = made(name, f)
    frames = np.random.default_rng(1).integers(0, 256, (5, f, *rounds.input, 3), dtype=np.uint8)

    def scores(card: ModelCard, network: nn.Module, engine: Any) -> np.ndarray:
        return open_engine(card, network, engine=engine, device="cpu", batch=5 * f).submit(frames).result()

    before = scores(dataclasses.replace(rounds, ranges={}), module, "torch")
    exact = scores(rounds, rounding, "torch")
    np.testing.assert_allclose(exact, before, atol=0.02)
    np.testing.assert_allclose(scores(rounds, rounding, "openvino"), exact, atol=0.02)
    np.testing.assert_allclose(scores(rounds, rounding, "onnx"), exact, atol=0.02)


def test_openvino_computes_in_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    compiled = []
    library = openvino_engine.import_openvino()

    class Core(library.Core):  # type: ignore[misc, name-defined]
        def compile_model(self, *args: object) -> object:
            compiled.append(super().compile_model(*args))
            return compiled[-1]

    class Spy:
        def __getattr__(self, name: str) -> object:
            return Core if name == "Core" else getattr(library, name)

    monkeypatch.setattr(openvino_engine, "import_openvino", Spy)
    rounds, _, rounding = made("coral", 4)
    open_engine(rounds, rounding, engine="openvino", batch=16)
    for model in compiled:
        layers = [node.get_rt_info() for node in model.get_runtime_model().get_ops()]
        types = {layer["layerType"].value: layer["runtimePrecision"].value for layer in layers}
        assert types["Convolution"] in ("i8", "u8")
        assert types["FullyConnected"] in ("i8", "u8")


def test_a_quantized_model_is_float32_but_in_openvino() -> None:
    rounds, _, rounding = made("coral", 1)
    assert open_engine(rounds, rounding, device="cpu").dtype == "float32"
    with pytest.raises(ModelError, match="dtype must be auto or float32 for a quantized model in engine auto, got"):
        open_engine(rounds, rounding, device="cpu", dtype="bfloat16")


def test_a_model_file_keeps_its_ranges_and_its_weights(tmp_path: Path) -> None:
    rounds, module, rounding = made("timer3", 2)
    for k, network in enumerate((module, rounding)):
        save_model(tmp_path / f"{k}.safetensors", rounds, network.state_dict())
    assert file_hash(tmp_path / "0.safetensors") == file_hash(tmp_path / "1.safetensors")
    read, loaded = load_model(tmp_path / "0.safetensors")
    assert read == rounds
    x = torch.randn(3, 6, *read.input)
    torch.testing.assert_close(loaded(x), rounding(x), rtol=0, atol=0.1)  # its weights are of 16 bits
    save_model(
        tmp_path / "2.safetensors", dataclasses.replace(rounds, ranges={"first": (0.0, 1.0)}), {**module.state_dict()}
    )
    with pytest.raises(ModelError, match=r"2\.safetensors: ranges must be of .* of the network, got 'first'"):
        load_model(tmp_path / "2.safetensors")
