"""The errors of the pipeline. The tree is drawn in `specialized.errors`, where its root lives."""

from __future__ import annotations

from collections.abc import Sequence

from specialized.errors import ForwardError, ModelError, VpipeError

__all__ = [
    "ConfigError",
    "ForwardError",
    "ModelError",
    "SinkError",
    "SourceError",
    "SourceTimeout",
    "VpipeError",
    "refuse",
]

MOST_PROBLEMS = 10  # named: a file of another kind is wrong in every row


class ConfigError(VpipeError):
    """A configuration cannot be used; holds every problem, one a line."""

    def __init__(self, problems: Sequence[str]) -> None:
        super().__init__("\n".join(problems))
        self.problems = tuple(problems)


class Interrupted(VpipeError):  # noqa: N818
    """The user asked to stop before anything was started."""


class SourceError(VpipeError):
    """One source of frames cannot be read."""

    def __init__(self, source: str, message: str) -> None:
        super().__init__(message)
        self.source = source


class SourceTimeout(SourceError, TimeoutError):  # noqa: N818 (named as its builtin is)
    """A source did not answer in time."""


class SinkError(VpipeError):
    """A sink of labels cannot take them."""


def refuse(what: object, problems: Sequence[str]) -> None:
    """Raises ConfigError with the first of the problems of something, and how many more there are, if there are any."""
    if problems:
        more = [f"{what}: and {len(problems) - MOST_PROBLEMS} more"] if len(problems) > MOST_PROBLEMS else []
        raise ConfigError([*problems[:MOST_PROBLEMS], *more])
