"""The engine of OpenVINO: float32, and bfloat16 where the CPU has instructions for it."""

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import nn
from torch.export import ExportedProgram

from specialized.engines import Dtype
from specialized.engines.exported import ExportedEngine, Run
from specialized.errors import ModelError
from specialized.modelfile import ModelCard
from specialized.untracked import import_openvino

_GRAPH = "graph.xml"  # beside which it puts the weights
_PRECISIONS: dict[Dtype, str] = {"float32": "f32", "bfloat16": "bf16", "float16": "f16"}  # as it names them


class OpenVinoEngine(ExportedEngine):
    """See `Engine`. Pictures are normalized in the dtype of the arithmetic, scores are float32."""

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
        openvino = import_openvino()

        def write(program: ExportedProgram, folder: Path) -> None:
            openvino.save_model(openvino.convert_model(program), folder / _GRAPH, compress_to_fp16=False)

        def load(folder: Path, pictures: NDArray[np.uint8], threads: int) -> tuple[Run, Run]:
            model = openvino.Core().read_model(folder / _GRAPH)
            model.reshape(list(pictures.shape))  # the length of each axis is lost on the way
            run = _compiled(openvino, model, pictures, dtype, threads)
            return run, run if dtype == "float32" else _compiled(openvino, model, pictures, "float32", threads)

        super().__init__(
            "openvino",
            card,
            module,
            device=device,
            groups=groups,
            dtype=dtype,
            threads=threads,
            version=openvino.__version__,
            write=write,
            load=load,
        )


def _compiled(openvino: Any, model: Any, pictures: NDArray[np.uint8], dtype: Dtype, threads: int) -> Run:
    precision = _PRECISIONS[dtype]
    compiled = openvino.Core().compile_model(
        model,
        "CPU",
        {
            "INFERENCE_PRECISION_HINT": precision,
            "INFERENCE_NUM_THREADS": threads,
            "NUM_STREAMS": 1,
            "ENABLE_CPU_PINNING": False,  # the cores are shared with decoders
        },
    )
    got = compiled.get_property("INFERENCE_PRECISION_HINT").to_string()
    if got != precision:  # it takes another in silence
        raise ModelError(
            f"engine openvino: dtype must be one that this CPU has, got {dtype}, for which it computes in {got}; "
            "use dtype: auto"
        )
    request = compiled.create_infer_request()
    nothing = openvino.Tensor(pictures, shared_memory=True)

    def run(frames: NDArray[np.uint8]) -> NDArray[np.float32]:
        request.set_input_tensor(openvino.Tensor(frames, shared_memory=True))
        try:
            request.infer()
        finally:
            request.set_input_tensor(nothing)  # the caller's pictures are not held any longer
        scores: NDArray[np.float32] = request.get_output_tensor().data.copy()
        return scores

    return run
