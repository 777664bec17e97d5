import dataclasses
import gc
import weakref

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from specialized.engines import Dtype, Engine, open_engine
from specialized.engines.scoring import checked, failure
from specialized.errors import ForwardError, ModelError
from specialized.modelfile import ModelCard
from specialized.models import build
from specialized.subjects import subjects

DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)]


def card(f: int = 1, classes: tuple[str, ...] = ("person", "none"), **changes: object) -> ModelCard:
    fields: dict[str, object] = {"architecture": "coral", "fold": f, "order": "consecutive", "input": (16, 16)}
    return ModelCard(**{**fields, "classes": classes, **changes})  # type: ignore[arg-type]


class Content(nn.Module):
    """Answers with the picture's own content: the logit of class c is the mean of colour c, times 8."""

    def __init__(self, f: int, k: int = 3) -> None:
        super().__init__()
        self.f, self.k = f, k
        self.forwards: list[tuple[int, ...]] = []

    def __deepcopy__(self, memo: object) -> "Content":
        return self  # so that the test sees the forwards that the engine makes

    def forward(self, x: Tensor) -> Tensor:
        self.forwards.append(tuple(x.shape))
        colours = x.mean((2, 3)).view(len(x), self.f, 3)[..., : self.k]
        return 8 * colours.reshape(len(x), -1)


def content_card(f: int, task: str) -> ModelCard:
    thresholds = (0.5,) * 3 if task == "any_of" else ()
    return card(
        f, ("r", "g", "b"), task=task, thresholds=thresholds, mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0), input=(4, 6)
    )


def coral(f: int) -> nn.Module:
    torch.manual_seed(f)
    module = build("coral", args={}, classes=2, fold=f, input=(16, 16))
    with torch.no_grad():  # the initial weights answer 0.5 to everything
        for p in module.parameters():
            p.mul_(2)
    return module


def pictures(b: int, f: int, size: tuple[int, int] = (16, 16)) -> np.ndarray:
    return np.random.default_rng(b).integers(0, 256, (b, f, *size, 3), dtype=np.uint8)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("f", [1, 2, 3, 4])
@pytest.mark.parametrize("task", ["one_of", "any_of"])
def test_every_score_lands_in_the_group_and_slot_of_its_picture(f: int, task: str, device: str) -> None:
    colours = np.random.default_rng(f).integers(0, 256, (5, f, 3), dtype=np.uint8)
    frames = np.broadcast_to(colours[:, :, None, None], (5, f, 4, 6, 3)).copy()
    engine = open_engine(content_card(f, task), Content(f), device=device, batch=7 * f, dtype="float32")

    scores = engine.submit(frames).result()

    logits = 8 * (colours / 255)
    expected = 1 / (1 + np.exp(-logits)) if task == "any_of" else np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    assert scores.dtype == np.float32
    np.testing.assert_allclose(scores, expected, atol=1e-5)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("f", [1, 2, 3, 4])
@pytest.mark.parametrize("dtype", ["float32", "auto"])
def test_a_short_submit_equals_a_full_one_bit_for_bit(f: int, dtype: Dtype, device: str) -> None:
    engine = open_engine(card(f), coral(f), device=device, batch=9 * f, dtype=dtype)
    frames = pictures(engine.groups, f)
    full = engine.submit(frames).result()
    assert full.shape == (9, f, 2)
    for b in range(1, 10):
        assert np.array_equal(engine.submit(frames[:b]).result(), full[:b])


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("f", [1, 4])
@pytest.mark.parametrize("dtype", ["float32", "auto"])
def test_scores_do_not_depend_on_the_place_in_a_forward_bit_for_bit(f: int, dtype: Dtype, device: str) -> None:
    for subject in subjects([], [f]):
        made, module = subject.build(f)
        engine = open_engine(made, module, device=device, batch=37 * f, dtype=dtype)
        frames = np.random.default_rng(f).integers(0, 256, (37, f, *made.input, 3), dtype=np.uint8)
        places = np.random.default_rng(f).permutation(37)
        assert np.array_equal(engine.submit(frames[places]).result(), engine.submit(frames).result()[places])


@pytest.mark.parametrize("task", ["one_of", "any_of"])
@pytest.mark.parametrize("temperature", [0.25, 3.0])
def test_a_temperature_divides_the_logits_and_changes_no_label(task: str, temperature: float) -> None:
    frames = pictures(6, 2, (4, 6))
    cards = [dataclasses.replace(content_card(2, task), temperature=t) for t in (1.0, temperature)]
    plain, tempered = (
        open_engine(each, Content(2), device="cpu", batch=12, dtype="float32").submit(frames).result() for each in cards
    )
    logits = 8 * frames.mean(axis=(2, 3)) / 255 / temperature
    raised = np.exp(logits)
    expected = raised / raised.sum(-1, keepdims=True) if task == "one_of" else 1 / (1 + 1 / raised)
    np.testing.assert_allclose(tempered, expected, rtol=1e-3)
    if task == "one_of":
        assert (tempered.argmax(-1) == plain.argmax(-1)).all()
    else:
        assert ((tempered >= 0.5) == (plain >= 0.5)).all()


def test_every_forward_has_the_full_shape() -> None:
    module = Content(2)
    engine = open_engine(content_card(2, "one_of"), module, device="cpu", batch=17, dtype="float32")
    module.forwards.clear()
    for b in (8, 3, 1):
        engine.submit(pictures(b, 2, (4, 6)))
    assert module.forwards == [(8, 6, 4, 6)] * 3


def test_a_batch_smaller_than_a_group_still_holds_one() -> None:
    assert open_engine(card(4), coral(4), device="cpu", batch=2).groups == 1


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("f", [1, 4])
@pytest.mark.parametrize(("dtype", "tolerance"), [("bfloat16", 0.02), ("float16", 0.005)])
def test_sixteen_bits_answer_as_float32_does(f: int, dtype: Dtype, tolerance: float, device: str) -> None:
    frames = pictures(16, f)
    exact = open_engine(card(f), coral(f), device="cpu", batch=16 * f, dtype="float32").submit(frames).result()
    quick = open_engine(card(f), coral(f), device=device, batch=16 * f, dtype=dtype).submit(frames).result()
    assert 0 < np.abs(quick - exact).max() < tolerance
    assert exact.std() > 0.05  # or else anything would pass


def test_the_engine_says_what_it_runs_on() -> None:
    engine: Engine = open_engine(card(4), coral(4), device="cpu", batch=256)
    assert (engine.name, engine.device, engine.device_uuid, engine.groups) == ("torch", "cpu", None, 64)
    assert engine.dtype in ("float32", "bfloat16")
    assert engine.card == card(4)
    assert engine.cost.parameters == sum(p.numel() for p in coral(4).parameters())


@pytest.mark.gpu
def test_the_cuda_engine_says_what_it_runs_on() -> None:
    engine = open_engine(card(4), coral(4))
    assert (engine.device, engine.dtype) == ("cuda:0", "float16")
    assert engine.device_uuid is not None
    assert engine.device_uuid.startswith("GPU-")


@pytest.mark.gpu
def test_forwards_under_way_together_keep_their_own_pictures() -> None:
    engine = open_engine(card(4), coral(4), device="cuda", batch=64)
    batches = [pictures(b, 4) for b in (16, 3, 9, 16)]
    handles = [engine.submit(batch) for batch in batches]
    for handle, batch in zip(handles, batches, strict=True):
        assert np.array_equal(handle.result(), engine.submit(batch).result())


def test_the_module_given_is_left_as_it_was() -> None:
    module = coral(1).train()
    before = {name: value.clone() for name, value in module.state_dict().items()}
    open_engine(card(1), module, device="cpu", dtype="bfloat16").submit(pictures(2, 1))
    assert module.training
    assert all(torch.equal(before[name], value) for name, value in module.state_dict().items())


@pytest.mark.parametrize("device", DEVICES)
def test_the_callers_frames_are_neither_kept_nor_changed(device: str) -> None:
    engine = open_engine(card(2), coral(2), device=device, batch=8)
    frames = pictures(4, 2)
    before, alive = frames.copy(), weakref.ref(frames)
    handle = engine.submit(frames)
    scores = handle.result()
    assert np.array_equal(frames, before)
    del frames
    gc.collect()
    assert alive() is None
    assert np.array_equal(handle.result(), scores)


def test_frames_that_may_not_be_written_to_are_accepted() -> None:
    engine = open_engine(card(1), coral(1), device="cpu", batch=4)
    frames = pictures(4, 1)
    expected = engine.submit(frames).result()
    frames.flags.writeable = False
    assert np.array_equal(engine.submit(frames).result(), expected)
    assert np.array_equal(engine.submit(frames[::-1]).result(), expected[::-1])


@pytest.mark.parametrize(
    "frames",
    [
        pictures(5, 2),
        pictures(0, 2),
        pictures(2, 3),
        pictures(2, 2, (16, 15)),
        pictures(2, 2).astype(np.float32),
    ],
)
def test_frames_of_another_shape_or_type_are_refused(frames: np.ndarray) -> None:
    engine = open_engine(card(2), coral(2), device="cpu", batch=8)
    with pytest.raises(ValueError, match=r"frames must be uint8 \(b, 2, 16, 16, 3\) with b in 1..4, got"):
        engine.submit(frames)


def test_nan_scores_are_an_error() -> None:
    module = coral(1)
    nn.init.constant_(next(module.parameters()), float("nan"))
    engine = open_engine(card(1), module, device="cpu", batch=4)
    with pytest.raises(ModelError, match=r"coral: scores must be numbers, got NaN in .* on cpu"):
        engine.submit(pictures(4, 1)).result()


def test_of_a_forward_that_gave_some_scores_those_are_kept() -> None:
    engine = open_engine(content_card(1, "one_of"), Content(1), device="cpu", batch=8)
    whole = engine.submit(pictures(4, 1, (4, 6))).result()
    with_nan = whole.copy()
    with_nan[2] = np.nan
    with pytest.raises(ForwardError) as caught:
        checked(with_nan, engine)
    np.testing.assert_array_equal(caught.value.scores, with_nan)
    assert not caught.value.is_final


def test_a_forward_that_fails_says_how_many_scores_are_missing() -> None:
    engine = open_engine(content_card(2, "one_of"), Content(2, k=2), device="cpu", batch=8)
    with pytest.raises(ForwardError) as caught:
        engine.submit(pictures(3, 2, (4, 6)))
    assert caught.value.scores.shape == (3, 2, 3)
    assert np.isnan(caught.value.scores).all()


@pytest.mark.parametrize(
    ("error", "device", "is_final"),
    [
        (RuntimeError("CUDA error: an illegal memory access was encountered"), "cuda:0", True),
        (RuntimeError("The size of tensor a must match"), "cuda:0", False),
        (torch.OutOfMemoryError("CUDA out of memory."), "cuda:0", True),
        (RuntimeError("CUDA error in a model of one's own"), "cpu", False),
    ],
)
def test_what_a_device_is_lost_with_is_the_end(error: Exception, device: str, is_final: bool) -> None:
    engine = open_engine(content_card(1, "one_of"), Content(1), device="cpu", batch=8)
    engine.device = device
    assert failure(error, engine, 2).is_final is is_final


class Small(Content):
    """Fits into memory up to so many groups."""

    most = 3

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if len(x) > self.most and x.device.type == "cpu":
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB")
        return super().forward(x)


def test_a_forward_that_does_not_fit_in_memory_is_made_in_parts(caplog: pytest.LogCaptureFixture) -> None:
    given = pictures(21, 2, (4, 6))
    engine = open_engine(content_card(2, "one_of"), Small(2), device="cpu", batch=32)
    wanted = open_engine(content_card(2, "one_of"), Content(2), device="cpu", batch=4)
    for first in (0, 10):
        scores = engine.submit(given[first : first + 11]).result()
        np.testing.assert_allclose(scores[:2], wanted.submit(given[first : first + 2]).result(), rtol=1e-6)
        np.testing.assert_allclose(scores[9:], wanted.submit(given[first + 9 : first + 11]).result(), rtol=1e-6)
        assert scores.shape == (11, 2, 3)
    told = [record.getMessage() for record in caplog.records]
    assert [text.partition("from now on ")[2].partition(";")[0] for text in told] == [
        "16 at a time",
        "8 at a time",
        "4 at a time",
    ]


def test_where_its_size_is_asked_for_a_forward_is_not_made_in_parts() -> None:
    engine = open_engine(content_card(2, "one_of"), Small(2), device="cpu", batch=32, in_parts=False)
    with pytest.raises(ForwardError, match=r"got CUDA out of memory"):
        engine.submit(pictures(16, 2, (4, 6)))


def test_of_a_forward_in_parts_the_scores_of_the_others_are_kept() -> None:
    engine = open_engine(content_card(2, "one_of"), Small(2), device="cpu", batch=32)
    engine.submit(pictures(5, 2, (4, 6))).result()
    handle = engine.submit(pictures(5, 2, (4, 6)))
    with torch.inference_mode():
        handle._parts[1]._scores[0] = float("nan")
    with pytest.raises(ForwardError) as caught:
        handle.result()
    assert np.isnan(caught.value.scores).all(axis=(1, 2)).tolist() == [False, False, True, False, False]


def test_a_group_that_does_not_fit_in_memory_is_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    engine = open_engine(content_card(2, "one_of"), Small(2), device="cpu", batch=8)
    monkeypatch.setattr(Small, "most", 0)
    with pytest.raises(
        ForwardError, match=r"must run 4 groups .* got CUDA out of memory.*; try a smaller batch"
    ) as caught:
        engine.submit(pictures(4, 2, (4, 6)))
    assert caught.value.is_final


def test_an_output_of_another_shape_is_an_error() -> None:
    engine = open_engine(content_card(2, "one_of"), Content(2, k=2), device="cpu", batch=8)
    with pytest.raises(ModelError, match=r"output must have shape \(4, 6\), .*got \(4, 4\)"):
        engine.submit(pictures(4, 2, (4, 6)))


class NeedsLess(Content):
    def forward(self, x: Tensor) -> Tensor:
        if len(x) > 2:
            raise RuntimeError("out of memory\nand a long trace")
        return super().forward(x)


def test_a_forward_that_fails_is_told_in_one_line() -> None:
    engine = open_engine(content_card(1, "one_of"), NeedsLess(1), device="cpu", batch=8)
    with pytest.raises(ModelError, match=r"must run 8 groups in .* on cpu, got out of memory; try a smaller batch"):
        engine.submit(pictures(4, 1, (4, 6)))


@pytest.mark.parametrize("device", ["cuda:99", "gpu", "cuda:x", "cpu:0:0"])
def test_a_device_that_is_not_there_is_named(device: str) -> None:
    with pytest.raises(ModelError, match=f"device must be auto or one that is there, got '{device}' where there is"):
        open_engine(card(1), coral(1), device=device)


def test_an_unknown_engine_is_refused() -> None:
    with pytest.raises(
        ModelError, match="engine: must be auto or torch or compile or onnx or openvino, got 'tensorrt'"
    ):
        open_engine(card(1), coral(1), engine="tensorrt")  # type: ignore[arg-type]


def test_threads_are_set_for_the_process() -> None:
    before = torch.get_num_threads()
    try:
        open_engine(card(1), coral(1), device="cpu", threads=1)
        assert torch.get_num_threads() == 1
    finally:
        torch.set_num_threads(before)
