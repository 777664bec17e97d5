"""The engine of ONNX Runtime: float32 on the CPU."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from torch.export import ExportedProgram

from specialized.engines import Dtype
from specialized.engines.exported import ExportedEngine, Run
from specialized.modelfile import ModelCard
from specialized.untracked import import_onnxruntime

_GRAPH = "graph.onnx"


class OnnxEngine(ExportedEngine):
    """See `Engine`."""

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
        runtime = import_onnxruntime()

        def write(program: ExportedProgram, folder: Path) -> None:
            with _quiet():  # not optimized, for the runtime does that
                exported = torch.onnx.export(program, dynamo=True, optimize=False, verbose=False)
            if exported is None:
                raise TypeError("torch.onnx.export made nothing")
            (folder / _GRAPH).write_bytes(exported.model_proto.SerializeToString())

        def load(folder: Path, pictures: NDArray[np.uint8], threads: int) -> tuple[Run, Run]:
            run = _session(runtime, (folder / _GRAPH).read_bytes(), threads)
            return run, run

        super().__init__(
            "onnx",
            card,
            module,
            device=device,
            groups=groups,
            dtype="float32",
            threads=threads,
            version=runtime.__version__,
            write=write,
            load=load,
        )


def _session(runtime: Any, model: bytes, threads: int) -> Run:
    options = runtime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    # Threads that wait for work must not take a core from the decoders.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.log_severity_level = 3  # errors, which are raised too
    session = runtime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    (pictures,) = (one.name for one in session.get_inputs())

    def run(frames: NDArray[np.uint8]) -> NDArray[np.float32]:
        scores: NDArray[np.float32]
        (scores,) = session.run(None, {pictures: frames})
        return scores

    return run


@contextmanager
def _quiet() -> Iterator[None]:
    """The exporter logs at each export that torchvision is not there, whose operators no model here has."""
    log = logging.getLogger("torch.onnx")
    before = log.level
    log.setLevel(logging.ERROR)
    try:
        yield
    finally:
        log.setLevel(before)
