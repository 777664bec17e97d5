"""The root of the error tree, and what goes wrong with models.

    VpipeError
    ├── ModelError          a model, a model file or its weights
    ├── ConfigError         (pipeline.errors) a configuration: every problem at once
    ├── SourceError         (pipeline.errors) one source of frames
    │   └── SourceTimeout   (pipeline.errors) it did not answer in time; also a TimeoutError
    └── SinkError           (pipeline.errors) one sink of labels

A message reads *where: what must hold, got what; what to do*. Misuse of a function is a plain ValueError or TypeError.
"""


class VpipeError(Exception):
    """Anything that vpipe reports to its user in one line, without a traceback."""


class ModelError(VpipeError):
    """A model, a model file or its weights cannot be used as asked."""
