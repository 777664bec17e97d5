"""The root of the error tree, and what goes wrong with models.

    VpipeError
    ├── ModelError          a model, a model file or its weights
    │   └── ForwardError    one forward of it
    ├── ConfigError         (pipeline.errors) a configuration: every problem at once
    ├── SourceError         (pipeline.errors) one source of frames
    │   └── SourceTimeout   (pipeline.errors) it did not answer in time; also a TimeoutError
    └── SinkError           (pipeline.errors) one sink of labels

A message reads *where: what must hold, got what; what to do*. Misuse of a function is a plain ValueError or TypeError.
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


class VpipeError(Exception):
    """Anything that vpipe reports to its user in one line, without a traceback."""


class ModelError(VpipeError):
    """A model, a model file or its weights cannot be used as asked."""


class ForwardError(ModelError):
    """A forward gave no scores, or not all of them.

    Attributes:
        scores: float32 (b, f, K), NaN where there is none.
        is_final: No other forward will do better: the device is lost, or too small.
    """

    def __init__(self, message: str, scores: "NDArray[np.float32]", *, is_final: bool = False) -> None:
        super().__init__(message)
        self.scores = scores
        self.is_final = is_final
