"""What engines share: the forward as one module, from bytes to scores, and the checks before and after it."""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from specialized.engines import Dtype, Engine
from specialized.errors import ForwardError, ModelError
from specialized.folding import Normalize, unfold
from specialized.modelfile import ModelCard
from specialized.objects import one_line

DTYPES: dict[Dtype, torch.dtype] = {
    "float32": torch.float32,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
}


class Scoring(nn.Module):
    """Maps uint8 (B, f, H, W, 3) pictures to float32 (B, f, K) scores: softmax for one_of, sigmoid for any_of.

    Args:
        card: what the network expects and answers.
        network: maps (B, f·3, H, W) to (B, f·K) logits; its weights lie on the device in this dtype.
        dtype: of its arithmetic; pictures are normalized, and logits become scores, in float32.
        device: where all of it runs.
    """

    def __init__(self, card: ModelCard, network: nn.Module, *, dtype: Dtype, device: torch.device) -> None:
        super().__init__()
        self._network = network
        self._normalize = Normalize(f=card.fold, size=card.input, mean=card.mean, std=card.std, device=device)
        self._dtype = DTYPES[dtype]
        self._fold, self._outputs = card.fold, card.fold * len(card.classes)
        self._temperature, self._one_of = card.temperature, card.task == "one_of"
        self._architecture = card.architecture

    def forward(self, pictures: Tensor) -> Tensor:
        logits: Tensor = self._network(self._normalize(pictures, self._dtype))
        if not isinstance(logits, Tensor) or logits.is_complex():
            got = "complex ones" if isinstance(logits, Tensor) else f"a {type(logits).__name__}"
            raise ModelError(f"{self._architecture}: must answer a tensor of real numbers, got {got}; mend its forward")
        expected = (pictures.shape[0], self._outputs)
        if tuple(logits.shape) != expected:
            raise ModelError(
                f"{self._architecture}: output must have shape {expected}, (groups, fold·classes), "
                f"got {tuple(logits.shape)}; change its last layer, fold or classes"
            )
        answers = unfold(logits.float(), self._fold) / self._temperature
        return answers.softmax(-1) if self._one_of else answers.sigmoid()


def check_frames(frames: NDArray[np.uint8], engine: Engine) -> None:
    """Raises ValueError unless an engine takes these pictures."""
    shape = (engine.card.fold, *engine.card.input, 3)
    if frames.dtype != np.uint8 or frames.shape[1:] != shape or not 1 <= len(frames) <= engine.groups:
        raise ValueError(
            f"submit: frames must be uint8 (b, {', '.join(map(str, shape))}) with b in 1..{engine.groups}, "
            f"got {frames.dtype} {frames.shape}"
        )


def padded(frames: NDArray[np.uint8], groups: int) -> NDArray[np.uint8]:
    """The frames at full batch shape: themselves if they fill it, else a copy whose last group is repeated."""
    missing = groups - len(frames)
    if missing or not frames.flags.writeable:  # engines wrap memory only if it may be written to, though none does
        frames = np.concatenate([frames, np.repeat(frames[-1:], missing, axis=0)])
    return np.ascontiguousarray(frames)


def checked(scores: NDArray[np.float32], engine: Engine) -> NDArray[np.float32]:
    """A copy of the scores. Raises ForwardError if one is NaN."""
    if np.isnan(scores).any():
        raise ForwardError(
            f"{engine.card.architecture}: scores must be numbers, got NaN in {engine.dtype} on {engine.device}; "
            "use dtype float32, or train the model anew",
            scores.copy(),
        )
    return scores.copy()


def failure(exc: BaseException, engine: Engine, groups: int) -> ForwardError:
    """The error of a forward of so many groups that failed, in one line."""
    nothing = np.full((groups, engine.card.fold, len(engine.card.classes)), np.nan, np.float32)
    if isinstance(exc, ModelError):  # the output has another shape, say
        return ForwardError(str(exc), nothing)
    cause, cure = one_line(exc), "mend its forward"
    if isinstance(exc, (RuntimeError, MemoryError)):  # as torch and its kind say it
        cause, cure = str(exc).partition("\n")[0] or type(exc).__name__, "try a smaller batch, or dtype float32"
    # What a kernel of CUDA fails with spoils the context that all others of the process share.
    is_final = isinstance(exc, torch.OutOfMemoryError) or (engine.device != "cpu" and "CUDA error" in str(exc))
    return ForwardError(
        f"{engine.card.architecture}: must run {engine.groups} groups in {engine.dtype} on {engine.device}, "
        f"got {cause}; {cure}",
        nothing,
        is_final=is_final,
    )
