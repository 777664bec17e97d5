"""Engines: what runs a model on a device, numpy in and numpy out.

An engine always forwards the same shape, so a picture's scores do not depend on how full its batch was.
"""

from collections.abc import Callable
from importlib.util import find_spec
from typing import TYPE_CHECKING, Literal, Protocol, get_args

import numpy as np
from numpy.typing import NDArray

from specialized.errors import ModelError
from specialized.modelfile import ModelCard

if TYPE_CHECKING:
    from torch import nn

    from specialized.cost import Cost

Dtype = Literal["float32", "bfloat16", "float16"]
EngineName = Literal["auto", "torch", "compile", "onnx", "openvino"]
# Those of extras of vpipe, which run on the CPU alone: what they import.
_EXTRAS: dict[EngineName, tuple[str, ...]] = {"onnx": ("onnxscript", "onnxruntime"), "openvino": ("openvino",)}


class Handle(Protocol):
    """A forward that was submitted."""

    def result(self) -> NDArray[np.float32]:
        """Waits for the scores, (b, f, K): softmax for one_of, sigmoid for any_of. The array is the caller's.

        Raises:
            ModelError: the forward failed, or a score is NaN.
        """
        ...


class Engine(Protocol):
    """Runs one model on one device. Used from one thread at a time.

    Attributes:
        in_parts: Whether a forward for which the device has no memory is made in parts from then on.
    """

    in_parts: bool

    @property
    def name(self) -> str: ...

    @property
    def card(self) -> ModelCard: ...

    @property
    def device(self) -> str:
        """Where it runs: "cpu", "cuda:0"."""
        ...

    @property
    def device_uuid(self) -> str | None:
        """The GPU as NVML names it ("GPU-..."); None on a CPU."""
        ...

    @property
    def dtype(self) -> Dtype: ...

    @property
    def groups(self) -> int:
        """B: groups of each forward, and the most that a submit may hold."""
        ...

    @property
    def cost(self) -> "Cost": ...

    @property
    def transfer_s(self) -> float:
        """Seconds that submits have spent so far on moving pictures to the device; 0 on a CPU."""
        ...

    def submit(self, frames: NDArray[np.uint8]) -> Handle:
        """Starts a forward of (b, f, H, W, 3) RGB pictures, 1 <= b <= B, and may return before it is done.

        The caller leaves `frames` unchanged until the result is there; after that the engine holds no reference to it.
        """
        ...


def open_engine(
    card: ModelCard,
    module: "nn.Module",
    *,
    device: str = "auto",
    batch: int = 256,
    dtype: Dtype | Literal["auto"] = "auto",
    engine: EngineName = "auto",
    threads: int | None = None,
    in_parts: bool = True,
) -> Engine:
    """Opens an engine: `open_engine(*load_model(path))`, or with a card and a module of one's own.

    Args:
        card: what the module expects and answers.
        module: its weights are copied; maps (B, f·3, H, W) to (B, f·K) logits.
        device: auto (cuda if there is one and the engine runs on it, else cpu), cpu, cuda, cuda:1.
        batch: pictures per forward; B = max(1, batch // f) groups.
        dtype: auto is float16 on CUDA, bfloat16 on CPUs with instructions for it, else float32; with onnx float32. The
            layers of a quantized model (`card.ranges`) are computed in 8 bits by openvino; the others imitate that in
            float32, their only dtype for it.
        engine: torch; compile (torch.compile, on CUDA a graph); onnx (ONNX Runtime, float32) and openvino, both on the
            CPU and brought by extras of vpipe; auto is torch.
        threads: CPU threads of the whole process for forwards; None leaves torch's number, one per core. Where others
            want the cores too, two or more pay only with OMP_WAIT_POLICY=passive in the environment before torch is
            loaded: threads that wait for each other spin otherwise.
        in_parts: whether the torch engine halves a forward that does not fit in memory, rather than fail.

    Raises:
        ModelError: the device is not there, the engine's packages are not, or the model does not run so.
    """
    if engine not in get_args(EngineName):
        raise ModelError(f"engine: must be {' or '.join(get_args(EngineName))}, got {engine!r}; correct the name")
    if batch < 1 or (threads is not None and threads < 1):
        raise ValueError(f"open_engine: batch and threads must be at least 1, got {batch=}, {threads=}")
    if problems := refusals(engine, device=device, dtype=dtype, quantized=bool(card.ranges)):
        key, text = next(iter(problems.items()))
        raise ModelError(f"engine {engine}: {text if key == 'engine' else f'{key} {text}'}")
    device = "cpu" if device == "auto" and engine in _EXTRAS else device
    if card.ranges and engine != "openvino":
        dtype = "float32"
    try:
        made = _factory(engine)(
            card,
            module,
            device=device,
            groups=max(1, batch // card.fold),
            dtype=auto_dtype(engine, device) if dtype == "auto" else dtype,
            threads=threads,
        )
        made.in_parts = made.in_parts and in_parts
        return made
    except ImportError as exc:
        raise ModelError(f"engine {engine}: packages must load, got {exc}; install them anew") from exc


def refusals(
    engine: EngineName, *, device: str, dtype: Dtype | Literal["auto"], quantized: bool
) -> dict[Literal["engine", "device", "dtype"], str]:
    """Why an engine cannot be opened so here, as far as that is known beforehand: by what must be set otherwise."""
    found: dict[Literal["engine", "device", "dtype"], str] = {}
    if missing := next((name for name in _EXTRAS.get(engine, ()) if find_spec(name) is None), None):
        found["engine"] = f"needs {missing}, which is not installed; pip install 'vpipe[{engine}]'"
    if device in ("auto", "cpu"):
        pass  # are everywhere
    elif engine in _EXTRAS:
        found["device"] = f"must be cpu or auto, got {device!r}; use engine: torch there"
    else:
        from specialized.engines.torch import missing_device

        if (text := missing_device(device)) is not None:
            found["device"] = text
    if dtype not in ("auto", "float32"):
        if quantized and engine != "openvino":
            told = f"must be auto or float32 for a quantized model in engine {engine}, got {dtype}"
            found["dtype"] = f"{told}; 8 bits are fast with engine: openvino"
        elif engine == "onnx":
            told = f"must be float32, the only one that onnx has for convolutions on a CPU, got {dtype}"
            found["dtype"] = f"{told}; use dtype: auto, or another engine"
    return found


def auto_dtype(engine: EngineName, device: str) -> Dtype:
    """What dtype `auto` means to an engine on a device.

    Raises:
        ModelError: the device is not there.
    """
    from specialized.engines.torch import fastest_dtype, find_device

    found = find_device(device)
    return "float32" if engine == "onnx" else fastest_dtype(found)


def _factory(engine: EngineName) -> Callable[..., Engine]:
    """The class of an engine; what it needs is imported only now."""
    if engine == "compile":
        from specialized.engines.compile import CompileEngine

        return CompileEngine
    if engine == "onnx":
        from specialized.engines.onnx import OnnxEngine

        return OnnxEngine
    if engine == "openvino":
        from specialized.engines.openvino import OpenVinoEngine

        return OpenVinoEngine
    from specialized.engines.torch import TorchEngine

    return TorchEngine
