"""The engine of torch.compile: kernels fused for one batch shape, on CUDA launched all at once as a graph."""

import os
import warnings
from collections.abc import Callable
from typing import TypeVar

import torch
import torch.compiler.config as compiler_config
from torch import Tensor, nn

from specialized.engines import Dtype
from specialized.engines.kept import folder_of
from specialized.engines.scoring import failure
from specialized.engines.torch import TorchEngine
from specialized.errors import ModelError
from specialized.modelfile import ModelCard
from specialized.objects import OWN_CODE, one_line

T = TypeVar("T")

_COMPILATIONS = 256
_WORDS = 200  # characters of a foreign message that are passed on


class CompileEngine(TorchEngine):
    """See `Engine`. Opening it takes seconds to a minute; on a CPU it needs a C++ compiler."""

    name: str = "compile"
    in_parts: bool = False

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
        super().__init__(card, module, device=device, groups=groups, dtype=dtype, threads=threads)
        shape = (groups, card.fold, *card.input, 3)
        try:
            with torch.inference_mode():
                pictures = torch.zeros(shape, dtype=torch.uint8, device=self._device)
                self._scores(pictures)  # what is wrong with the model itself is told as the torch engine tells it
        except ModelError:
            raise
        except OWN_CODE as exc:  # the user's forward may raise anything
            raise failure(exc, self, groups) from exc
        try:
            with self._arithmetic():
                self._forward = compiled(self._forward, pictures)
                if self._stream is not None:
                    self._forward = _replayed(self._forward, pictures)
                    self._stream.wait_stream(torch.cuda.current_stream(self._device))  # which still prepares it
        except OWN_CODE as exc:  # of the compiler, of those it calls, or of the user's code, which is run anew
            cause = one_line(exc).partition(" Set TORCH")[0][:_WORDS]  # what follows tells how to debug torch
            advice = "install g++, or use engine: torch" if "C++ compiler" in cause else "use engine: torch"
            raise ModelError(f"engine compile: must run {card.architecture}, got {cause}; {advice}") from exc


def compiled(forward: Callable[[Tensor], Tensor], x: Tensor) -> Callable[[Tensor], Tensor]:
    """Compiles a module for this one shape, under `torch.inference_mode`.

    Raises:
        Exception: of whatever kind.
    """
    _keep_artefacts_private()
    found = torch.compile(forward, fullgraph=True, dynamic=False)  # fails rather than leave a part in Python
    # All models of a family share the code of one class, and torch compiles that only a few times over.
    often = compiler_config.patch(recompile_limit=_COMPILATIONS)  # type: ignore[attr-defined]
    with warnings.catch_warnings(), often, torch.inference_mode():
        warnings.simplefilter("ignore")  # its advice is for who wrote the model
        found(x)
    return found


def captured(call: Callable[[], T], device: torch.device) -> Callable[[], T]:
    """Captures what `call` launches as a CUDA graph; the function that is returned launches it again, all at once.

    It returns what `call` returned when it was captured: memory that each launch fills anew.
    """
    with torch.cuda.device(device), torch.inference_mode():
        # Before capture: kernels are chosen and workspaces taken, on a stream of its own as capture demands.
        side = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
        side.wait_stream(torch.cuda.current_stream(device))
        with torch.cuda.stream(side):
            for _ in range(3):
                call()
        torch.cuda.current_stream(device).wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            output = call()

    # The graph knows addresses only: what lies there, weights, input and output, must live as long as it does.
    def replay(alive: object = call) -> T:
        graph.replay()
        return output

    return replay


def _replayed(forward: Callable[[Tensor], Tensor], x: Tensor) -> Callable[[Tensor], Tensor]:
    """Likewise of a function of one tensor, like `x`, which becomes the graph's own input."""
    replay = captured(lambda: forward(x), x.device)

    def run(given: Tensor) -> Tensor:
        x.copy_(given)
        return replay()

    return run


def _keep_artefacts_private() -> None:
    """torch keeps what it compiled, by content hash, and loads and runs it in the next process: pickles and libraries.
    Its own choice is a folder with a known name below the temporary one, which another user may have made first.
    """
    if "TORCHINDUCTOR_CACHE_DIR" in os.environ:
        return
    os.environ["TORCHINDUCTOR_CACHE_DIR"] = str(folder_of("torchinductor"))
