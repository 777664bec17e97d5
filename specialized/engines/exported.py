"""What the engines of other libraries share: torch exports the forward once, they run it on the CPU."""

import copy
import dataclasses
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.export import ExportedProgram

from specialized.cost import Cost, cost
from specialized.engines import Dtype
from specialized.engines.kept import code_of_export, graph_key, with_graph
from specialized.engines.scoring import Scoring, check_frames, checked, failure, padded
from specialized.errors import ModelError
from specialized.modelfile import ModelCard
from specialized.objects import OWN_CODE, code_hash, one_line

WORDS = 200  # characters of a foreign message that are passed on

# What scores in float32 may be off those of torch, by rounding. More: the graph is another function than the network.
_RELATIVE, _ABSOLUTE = 0.02, 0.0001
# Of a quantized model they may be more, over the classes of a picture: what rounds otherwise falls on another step.
_ROUNDED = 0.1

Run = Callable[[NDArray[np.uint8]], NDArray[np.float32]]  # (B, f, H, W, 3) to (B, f, K)
Write = Callable[[ExportedProgram, Path], None]  # writes a graph into a folder
# Makes what runs such a graph, from pictures of its shape and the number of threads: in the dtype, and in float32.
Load = Callable[[Path, NDArray[np.uint8], int], tuple[Run, Run]]


@dataclass(frozen=True, slots=True)
class Done:
    """A forward that is done."""

    _engine: "ExportedEngine"
    _scores: NDArray[np.float32]

    def result(self) -> NDArray[np.float32]:
        """The scores, (b, f, K)."""
        return checked(self._scores, self._engine)


class ExportedEngine:
    """See `Engine`. A submit returns when the forward is done.

    Args:
        name: of the engine.
        card: what the module expects and answers.
        module: its weights are copied.
        device: cpu.
        groups: B of each forward.
        dtype: of the arithmetic, which `load` brings about: the graph is exported in float32.
        threads: of a forward; None for as many as torch takes.
        version: of the library.
        write: see `Write`. What it writes is kept for the next time, see `specialized.engines.kept`.
        load: see `Load`.

    Raises:
        ModelError: the model cannot be exported, or not be run by this library.
    """

    device = "cpu"
    device_uuid = None
    transfer_s = 0.0
    in_parts = False

    def __init__(
        self,
        name: str,
        card: ModelCard,
        module: nn.Module,
        *,
        device: str,
        groups: int,
        dtype: Dtype,
        threads: int | None,
        version: str,
        write: Write,
        load: Load,
    ) -> None:
        self.name = name
        self.card = card
        self.groups = groups
        self.dtype: Dtype = dtype
        cpu = torch.device("cpu")
        module = copy.deepcopy(module).eval().to(cpu, torch.float32)
        self.cost: Cost = cost(module, fold=card.fold, input=card.input)
        scoring = Scoring(card, module, dtype="float32", device=cpu).eval()
        shape = (groups, card.fold, *card.input, 3)
        pictures = _unlike(shape)
        try:
            with torch.inference_mode():  # what is wrong with the model itself is told as the torch engine tells it
                expected = checked(scoring(pictures).numpy(), self)
        except ModelError:
            raise
        except OWN_CODE as exc:  # the user's forward may raise anything
            raise failure(exc, self, groups) from exc

        def make(folder: Path) -> None:
            with torch.no_grad(), warnings.catch_warnings():
                # Of torch, about its own code.
                warnings.filterwarnings("ignore", message=".*LeafSpec.* is deprecated", category=FutureWarning)
                write(torch.export.export(scoring, (pictures,)), folder)

        def opened(folder: Path) -> tuple[Run, NDArray[np.float32]]:
            run, exact = load(folder, pictures.numpy(), threads or torch.get_num_threads())
            got = exact(pictures.numpy())
            if run is not exact:  # it must run at all
                run(pictures.numpy())
            return run, got

        def agrees(found: tuple[Run, NDArray[np.float32]]) -> bool:
            _, got = found
            if card.ranges:
                return float(np.abs(got - expected).sum(axis=-1).max()) < _ROUNDED
            return np.allclose(got, expected, rtol=_RELATIVE, atol=_ABSOLUTE)

        made_for = {
            "engine": name,
            "versions": [version, torch.__version__],
            "code": [code_of_export(), code_hash(card.architecture) if ":" in card.architecture else None],
            "card": _decisive(card),
            "shape": shape,
        }
        try:
            found = with_graph(graph_key(module, made_for), make, opened, agrees)
        except ModelError:
            raise
        except OWN_CODE as exc:  # these libraries raise exceptions of many kinds, and the user's forward any
            raise ModelError(
                f"engine {name}: must run {card.architecture}, got {one_line(exc)[:WORDS]}; use engine: torch"
            ) from exc
        if not agrees(found):
            off = float(np.abs(found[1] - expected).max())
            raise ModelError(
                f"engine {name}: scores of {card.architecture} in float32 must be those of torch, got {off:.3g} off: "
                "its forward may do more than compute; use engine: torch"
            )
        self._run, _ = found

    def submit(self, frames: NDArray[np.uint8]) -> Done:
        """Runs a forward of (b, f, H, W, 3) RGB pictures, 1 <= b <= B."""
        check_frames(frames, self)
        try:
            return Done(self, self._run(padded(frames, self.groups))[: len(frames)])
        except OWN_CODE as exc:  # as above
            raise failure(exc, self, len(frames)) from exc


def _unlike(shape: tuple[int, ...]) -> Tensor:
    """Pictures (B, f, H, W, 3) that score differently: every other one is of one colour, the others are noise."""
    random = torch.Generator().manual_seed(0)
    pictures = torch.randint(256, shape, dtype=torch.uint8, generator=random)
    flat = pictures.flatten(0, 1)[::2]
    flat[:] = flat[:, :1, :1].clone()
    return pictures


def _decisive(card: ModelCard) -> dict[str, object]:
    """What of a card the graph depends on, and more, but what was measured and where it comes from."""
    values = dataclasses.asdict(card)
    return {key: value for key, value in values.items() if key not in ("accuracy", "training")}
