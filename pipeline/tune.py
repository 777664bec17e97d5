"""`vpipe tune`: measures how a run's footage is labelled fastest on this machine, and makes one document of it."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any, cast, get_args

from pipeline.bench import unknown_names
from pipeline.config import RunConfig, card_of, check_run_config
from pipeline.errors import ConfigError, ModelError
from pipeline.machine import cores, machine
from pipeline.stretch import stretch_of
from pipeline.tuned import Model, found_out
from pipeline.tuning import Search, with_model
from pipeline.values import OBJECT

if TYPE_CHECKING:
    from specialized.engines import Dtype, EngineName

__all__ = ["tune"]

Document = dict[str, Any]

FRAMES_PER_CORE = 2500  # of the stretch: seconds per run, for what usual footage costs
TELLING_PER_CORE = 2000  # fewer, and what is decoded before the clock starts counts too much


def tune(
    config: RunConfig,
    models: Sequence[str] = (),
    *,
    engines: Sequence[str] = (),
    dtypes: Sequence[str] = ("auto", "float32"),
    frames: int | None = None,
    rounds: int = 5,
    seconds: float = 0.2,
    max_accuracy_loss: float = 0.5,
    say: Callable[[str], None] = lambda line: None,
) -> Document:
    """Measures how fast a run's footage is labelled with its model and others that answer the same.

    Args:
        config: The run; its sinks are left out, its run folder is not touched.
        models: Further model files.
        engines: To try; empty: all that can be opened here.
        dtypes: To try; auto is what the engine chooses.
        frames: Labelled in one measurement; None: 2,500 per core.
        rounds: Of the final measurements.
        seconds: Of one measurement of a model alone.
        max_accuracy_loss: What the pick may lose against the most accurate model, in points (0.01).
        say: Is told what goes on.

    Returns:
        The document of docs/tune.md. Ctrl-C ends the measuring; the document then holds what was measured.

    Raises:
        ConfigError: The models do not answer the same, or what is asked for cannot be measured.
        VpipeError: The configuration does not run as it stands.
    """
    from specialized.engines import EngineName

    if problems := [*unknown_names("engine", engines), *unknown_names("dtype", dtypes)]:
        raise ConfigError(problems)
    names = engines or [name for name in get_args(EngineName) if name != "auto"]
    candidates = _candidates(config, models)
    streams = (config.fold.order or candidates[0].card.order) == "streams"
    stretch = stretch_of(
        config,
        candidates[0].card,
        frames=frames or FRAMES_PER_CORE * cores(),
        least_files=max(model.card.fold for model in candidates) if streams else 1,
    )
    search = Search(
        config,
        candidates,
        stretch,
        engines=cast("list[EngineName]", names),
        dtypes=cast("Sequence[Dtype]", dtypes),
        seconds=seconds,
        say=say,
    )
    if stretch.frames < TELLING_PER_CORE * cores():
        told = f"too short to tell much: {stretch.frames:,} frames, of which many are decoded before the clock starts"
        search.notes[f"{told}; ask for --frames {FRAMES_PER_CORE * cores()}"] = None
    interrupted = False
    try:
        search.measure(rounds)
    except KeyboardInterrupt:
        interrupted = True
    settings = {
        "models": [model.path for model in candidates],
        "engines": list(names),
        "dtypes": list(dtypes),
        "rounds": rounds,
        "seconds": seconds,
        "max_accuracy_loss": max_accuracy_loss,
    }
    footage = {"frames": stretch.frames, "files": stretch.files, "times_over": stretch.times_over}
    return {
        "machine": machine(),
        "settings": settings,
        "footage": footage,
        **found_out(
            candidates,
            configured=search.configured,
            alone=search.alone,
            trials=search.trials,
            final=search.final,
            wall=search.wall,
            bounds=search.bounds,
            max_accuracy_loss=max_accuracy_loss,
            notes=list(search.notes),
        ),
        "interrupted": interrupted,
    }


def _candidates(config: RunConfig, models: Sequence[str]) -> list[Model]:
    """The models, the run's own first, once it is sure that they answer the same and fit the run."""
    if len(config.filters) != 1:
        raise ConfigError([config.problem(f"must hold one to be tuned, got {len(config.filters)}", "filters")])
    section = config.filters[0]
    if models and OBJECT.fullmatch(section.model):
        told = f"must be a model file to be compared with {models[0]}, got a class of one's own"
        raise ConfigError([config.problem(told, "filters", 0, "model")])
    try:
        first = Model(section.model, card_of(section))
        others = [Model(path, card_of(section.model_copy(update={"model": path}))) for path in _absolute(models)]
    except ModelError as error:
        raise ConfigError([str(error)]) from error
    candidates = [first, *(model for model in others if model.path != first.path)]
    problems = [problem for model in candidates[1:] if (problem := _another_task(first, model)) is not None]
    if not problems:
        problems = [
            f"{model.path}: {problem}"
            for model in candidates[1:]
            for problem in check_run_config(with_model(config, model))
        ]
    if problems:
        raise ConfigError(problems)
    return candidates


def _absolute(models: Iterable[str]) -> list[str]:
    return list(dict.fromkeys(os.path.abspath(path) for path in models))


def _another_task(first: Model, model: Model) -> str | None:
    """Why a model cannot stand in for the first one; None if it can."""
    for what in ("task", "classes", "input", "asks"):
        ours, theirs = getattr(first.card, what), getattr(model.card, what)
        if what == "asks" and not (ours and theirs):  # unknown of one of them
            continue
        if theirs != ours:
            return (
                f"{model.path}: {what} must be that of {first.path}, {_told(ours)}, got {_told(theirs)}; leave it out"
            )
    return None


def _told(value: object) -> str:
    if isinstance(value, tuple):
        return ", ".join(map(str, value))
    return str(value)
