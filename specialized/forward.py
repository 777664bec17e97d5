"""Forwards ready to be timed: of an engine, and of a model alone by dtype, memory layout, and launch of its kernels."""

import copy
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from time import perf_counter
from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn

from specialized.engines import Dtype, Engine, Handle
from specialized.engines.compile import captured, compiled
from specialized.engines.scoring import DTYPES
from specialized.errors import ModelError
from specialized.objects import OWN_CODE, one_line

Layout = Literal["channels_last", "contiguous"]
Mode = Literal["eager", "graph", "compiled"]  # compiled: by torch.compile, on CUDA replayed as a graph too

_LAYOUTS: dict[Layout, torch.memory_format] = {
    "channels_last": torch.channels_last,
    "contiguous": torch.contiguous_format,
}
_WORDS = 200  # characters of a foreign message that are passed on


@dataclass(frozen=True, slots=True)
class Setting:
    """How a model is run.

    Attributes:
        pictures: In a batch: B = pictures // f groups.
        dtype: Of weights and input.
        layout: Of weights and input in memory.
        mode: eager (one launch per kernel), graph (a CUDA graph) or compiled.
    """

    pictures: int
    dtype: Dtype
    layout: Layout = "channels_last"
    mode: Mode = "eager"


def forward_loop(
    module: nn.Module, setting: Setting, *, fold: int, input: tuple[int, int], device: torch.device
) -> Callable[[int], float]:
    """Makes a function that runs so many forwards, waits for the device and returns the seconds.

    The input, (B, f·3, H, W), is random, since a device that multiplies zeros draws less power and clocks higher. It
    lies on the device; logits stay there.

    Args:
        module: its weights are copied.
        setting: how it is run.
        fold: f.
        input: (H, W) of a picture.
        device: where it is run.

    Raises:
        ModelError: the device cannot do it; so does the function that is returned.
    """
    with _translated(setting, device):
        dtype, layout = DTYPES[setting.dtype], _LAYOUTS[setting.layout]
        placed = copy.deepcopy(module).eval().to(device, dtype).to(memory_format=layout)  # type: ignore[call-overload]
        shape = (setting.pictures // fold, fold * 3, *input)
        x = torch.randn(shape, generator=torch.Generator(device).manual_seed(0), device=device)
        x = x.to(dtype).contiguous(memory_format=layout)
        run = timed_loop(_launched(placed, x, setting.mode), device)

    def guarded(calls: int) -> float:
        with _translated(setting, device):
            return run(calls)

    return guarded


def engine_loop(engine: Engine) -> Callable[[int], float]:
    """Makes a function that labels so many full batches, one in flight while the next is handed over.

    It returns the seconds until the last scores are there, and raises ModelError where the engine does.
    """
    shape = (engine.groups, engine.card.fold, *engine.card.input, 3)
    frames = np.random.default_rng(0).integers(0, 256, shape, np.uint8)

    def run(calls: int) -> float:
        began = perf_counter()
        before: Handle | None = None
        for _ in range(calls):
            handle = engine.submit(frames)
            if before is not None:
                before.result()
            before = handle
        if before is not None:
            before.result()
        return perf_counter() - began

    return run


def search(
    rate: Callable[[Setting], float | None],
    *,
    start: Setting,
    dtypes: Sequence[Dtype],
    batches: Sequence[int],
    modes: Sequence[Mode],
    last: Sequence[Mode] = (),
) -> list[Setting]:
    """Looks for the fastest setting: first dtype and layout, then batch and mode, at last modes that take long to try.

    Args:
        rate: pictures per second of a setting; None if it cannot be run.
        start: where the search begins: its batch and mode hold for the choice of dtype and layout.
        dtypes: to try.
        batches: pictures in a batch, to try.
        modes: to try with each batch.
        last: to try with what was best until then.

    Returns:
        Every setting that could be run, the fastest first.
    """
    rates: dict[Setting, float] = {}

    def best_of(settings: Iterable[Setting]) -> Setting:
        for setting in settings:
            if setting not in rates and (reached := rate(setting)) is not None:
                rates[setting] = reached
        return max(rates, key=rates.__getitem__, default=start)

    best = best_of(replace(start, dtype=dtype, layout=layout) for dtype in dtypes for layout in _LAYOUTS)
    best = best_of(replace(best, pictures=pictures, mode=mode) for pictures in batches for mode in modes)
    best_of([replace(best, mode=mode) for mode in last])
    return sorted(rates, key=rates.__getitem__, reverse=True)


def timed_loop(call: Callable[[], object], device: torch.device) -> Callable[[int], float]:
    """Makes a function that calls so many times, waits for the device and returns the seconds by its own clock."""

    def on_cpu(calls: int) -> float:
        with torch.inference_mode():
            began = perf_counter()
            for _ in range(calls):
                call()
            return perf_counter() - began

    def on_cuda(calls: int) -> float:
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))  # type: ignore[no-untyped-call]
        with torch.cuda.device(device), torch.inference_mode():
            torch.cuda.synchronize(device)  # nothing of before is still under way
            begin.record()
            for _ in range(calls):
                call()
            end.record()
            torch.cuda.synchronize(device)
        return float(begin.elapsed_time(end)) / 1000  # from ms

    return on_cuda if device.type == "cuda" else on_cpu


def _launched(module: nn.Module, x: Tensor, mode: Mode) -> Callable[[], object]:
    if mode == "eager":
        return lambda: module(x)
    if mode == "graph":
        return _graph(lambda: module(x), x.device)
    fused = compiled(module, x)
    return _graph(lambda: fused(x), x.device) if x.device.type == "cuda" else lambda: fused(x)


def _graph(call: Callable[[], object], device: torch.device) -> Callable[[], object]:
    if device.type != "cuda":
        raise ModelError(f"mode graph: must run on CUDA, got {device}; use eager")
    return captured(call, device)


@contextmanager
def _translated(setting: Setting, device: torch.device) -> Iterator[None]:
    """Turns whatever a forward raises into a ModelError of one line."""
    try:
        yield
    except ModelError:
        raise
    except OWN_CODE as exc:  # no memory, no kernel for this dtype, no compiler, or the user's forward
        raise ModelError(
            f"{setting.pictures} pictures, {setting.dtype}, {setting.layout}, {setting.mode} on {device}: must run, "
            f"got {one_line(exc)[:_WORDS]}"
        ) from exc
