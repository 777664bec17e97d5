"""The torch engine: any torch module, on CPU and CUDA."""

import copy
import logging
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from specialized.cost import Cost, cost
from specialized.engines import Dtype
from specialized.engines.scoring import DTYPES, Scoring, check_frames, checked, failure, padded
from specialized.errors import ForwardError, ModelError
from specialized.modelfile import ModelCard
from specialized.objects import OWN_CODE

log = logging.getLogger(__name__)


@dataclass(slots=True)
class TorchHandle:
    """A forward under way on CUDA, or done on the CPU."""

    _engine: "TorchEngine"
    _scores: Tensor  # (B, f, K) in the CPU's memory, valid once `_done` is reached
    _groups: int  # b
    _done: torch.cuda.Event | None = None
    _staging: Tensor | None = None  # page-locked pictures, alive until they are uploaded

    def result(self) -> NDArray[np.float32]:
        """Waits for the scores, (b, f, K)."""
        if self._done is not None:
            try:
                self._done.synchronize()
            except RuntimeError as exc:  # errors of CUDA kernels surface here
                raise failure(exc, self._engine, self._groups) from exc
        return checked(self._scores[: self._groups].numpy(), self._engine)


@dataclass(frozen=True, slots=True)
class PartsHandle:
    """A forward in parts, one behind the other."""

    _parts: Sequence[TorchHandle]

    def result(self) -> NDArray[np.float32]:
        """Waits for the scores, (b, f, K)."""
        scores, failed = [], None
        for part in self._parts:
            try:
                scores.append(part.result())
            except ForwardError as exc:
                failed = exc
                scores.append(exc.scores)
        whole = np.concatenate(scores)
        if failed is not None:
            raise ForwardError(str(failed), whole, is_final=failed.is_final) from failed
        return whole


class TorchEngine:
    """See `Engine`. On CUDA a submit returns at once; any number may be under way.

    Where the device's memory does not hold a forward, it is made in halves from then on, or halves of those.
    """

    name: str = "torch"
    in_parts: bool = True

    def __init__(
        self,
        card: ModelCard,
        module: nn.Module,
        *,
        device: str,
        groups: int,
        dtype: Dtype,
        threads: int | None,
    ) -> None:
        if threads is not None:
            torch.set_num_threads(threads)
        self._device = find_device(device)
        self.card = card
        self.device = str(self._device)
        self.device_uuid = uuid_of(self._device)
        self.dtype: Dtype = dtype
        self.groups = groups
        self._at_once = groups  # of a forward
        self.transfer_s = 0.0
        module = copy.deepcopy(module).eval()
        self.cost: Cost = cost(module, fold=card.fold, input=card.input)
        module = module.to(self._device, DTYPES[self.dtype]).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self._forward: Callable[[Tensor], Tensor] = Scoring(card, module, dtype=self.dtype, device=self._device)
        self._stream: torch.cuda.Stream | None = None
        self._uploads: torch.cuda.Stream | None = None
        if self._device.type == "cuda":
            self._uploads = torch.cuda.Stream(self._device)  # type: ignore[no-untyped-call]
            self._stream = torch.cuda.Stream(self._device)  # type: ignore[no-untyped-call]
            self._stream.wait_stream(torch.cuda.current_stream(self._device))  # which still prepares the weights

    def submit(self, frames: NDArray[np.uint8]) -> TorchHandle | PartsHandle:
        """Starts a forward of (b, f, H, W, 3) RGB pictures, 1 <= b <= B."""
        check_frames(frames, self)
        while True:
            n = self._at_once
            try:
                with torch.inference_mode():
                    parts = [self._submit(frames[first : first + n]) for first in range(0, len(frames), n)]
                return parts[0] if len(parts) == 1 else PartsHandle(parts)
            except torch.OutOfMemoryError as exc:
                if n == 1 or not self.in_parts:
                    raise failure(exc, self, len(frames)) from exc
                self._halve()
            except OWN_CODE as exc:  # the user's forward may raise anything
                raise failure(exc, self, len(frames)) from exc

    def _submit(self, frames: NDArray[np.uint8]) -> TorchHandle:
        b = len(frames)
        if self._stream is None or self._uploads is None:
            return TorchHandle(self, self._scores(torch.from_numpy(padded(frames, self._at_once))), b)
        began = time.perf_counter()
        pinned = self._pinned(frames)
        self.transfer_s += time.perf_counter() - began
        return self._launch(pinned, b, self._uploads, self._stream)

    def _halve(self) -> None:
        self._at_once = (self._at_once + 1) // 2
        pictures = self._at_once * self.card.fold
        log.warning(
            "%s: the memory of %s does not hold a forward of %d pictures: from now on %d at a time; `batch: %d` "
            "says so from the start",
            self.card.architecture,
            self.device,
            self.groups * self.card.fold,
            pictures,
            pictures,
        )
        if self._device.type == "cuda":
            torch.cuda.empty_cache()

    def _launch(self, pinned: Tensor, b: int, uploads: torch.cuda.Stream, stream: torch.cuda.Stream) -> TorchHandle:
        """An upload runs beside the forward before it, which has a stream of its own."""
        with torch.cuda.stream(uploads):
            pictures = pinned.to(self._device, non_blocking=True)
        stream.wait_stream(uploads)
        pictures.record_stream(stream)  # else the next upload may be given its memory while the forward reads it
        with torch.cuda.stream(stream):
            scores = self._scores(pictures)
            fetched = torch.empty(scores.shape, dtype=scores.dtype, pin_memory=True)
            fetched.copy_(scores, non_blocking=True)
            done = torch.cuda.Event(blocking=True)  # type: ignore[no-untyped-call]  # waiting for it must not take a core from the decoders
            stream.record_event(done)
        return TorchHandle(self, fetched, b, done, pinned)

    def _pinned(self, frames: NDArray[np.uint8]) -> Tensor:
        """The frames at full batch shape in page-locked memory, from which an upload runs beside the CPU."""
        staging = torch.empty((self._at_once, *frames.shape[1:]), dtype=torch.uint8, pin_memory=True)
        pixels = staging.numpy()
        pixels[: len(frames)] = frames
        pixels[len(frames) :] = frames[-1]
        return staging

    def _scores(self, pictures: Tensor) -> Tensor:
        """Maps uint8 (B, f, H, W, 3) to float32 (B, f, K)."""
        with self._arithmetic():
            return self._forward(pictures)

    def _arithmetic(self) -> AbstractContextManager[None]:
        # Without this, float32 convolutions on CUDA run in TF32, with 10 bits of mantissa.
        return torch.backends.cudnn.flags(enabled=True, allow_tf32=self.dtype != "float32")


def find_device(name: str) -> torch.device:
    """The device of a name: auto (cuda if there is one, else cpu), cpu, cuda, cuda:1.

    Raises:
        ModelError: it is not there.
    """
    if name == "auto":
        gpu = torch.cuda.is_available() and torch.cuda.device_count()
        return torch.device("cuda", torch.cuda.current_device()) if gpu else torch.device("cpu")
    if (text := missing_device(name)) is not None:
        raise ModelError(f"device: {text}")
    kind, _, index = name.partition(":")
    return torch.device("cpu") if kind == "cpu" else torch.device("cuda", int(index or 0))


def missing_device(name: str) -> str | None:
    """Why there is no device of this name, other than auto, here; None if there is one."""
    gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
    kind, _, index = name.partition(":")
    if name == "cpu" or (kind == "cuda" and (not index or index.isdecimal()) and int(index or 0) < gpus):
        return None
    there = f"cpu and {gpus} CUDA device(s)" if gpus else "cpu only"
    return f"must be auto or one that is there, got {name!r} where there is {there}; use auto or cpu"


def uuid_of(device: torch.device) -> str | None:
    """The GPU as NVML names it; None on a CPU."""
    if device.type != "cuda":
        return None
    return f"GPU-{torch.cuda.get_device_properties(device).uuid}"  # NVML's spelling


def fastest_dtype(device: torch.device) -> Dtype:
    """What `auto` means on a device, by what it can do and not by a timing: a machine must always choose the same."""
    if device.type == "cuda":
        return "float16"
    # Measured with AVX-512 BF16 on two cores: 2.5 (f = 4) to 5 (f = 1) times as quick as float32. Others emulate it.
    asked = ("_is_amx_tile_supported", "_is_avx512_bf16_supported")  # private: another torch may lack them
    supported = any(getattr(torch.cpu, name, lambda: False)() for name in asked)
    return "bfloat16" if supported else "float32"
