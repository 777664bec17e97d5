"""What `vpipe tune` measured, and what follows: the Pareto front, the pick, and what another f would gain."""

from __future__ import annotations

import dataclasses
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from specialized.modelfile import ModelCard
from specialized.timing import Series

if TYPE_CHECKING:
    from specialized.engines import Dtype, EngineName

__all__ = ["Choice", "Model", "found_out", "on_front", "pick"]

Document = dict[str, Any]

_ROUNDING = 1e-9  # of accuracies: a loss of just as much as is allowed is allowed


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """How a run is run: all that decides its speed and nothing that decides what it is about."""

    model: str
    engine: EngineName
    dtype: Dtype | Literal["auto"]
    batch: int
    workers: int
    torch_threads: int

    def __str__(self) -> str:
        return (
            f"{os.path.basename(self.model)}, {self.engine}, {self.dtype}, batch {self.batch}, "
            f"workers {self.workers}, torch_threads {self.torch_threads}"
        )


@dataclass(frozen=True, slots=True)
class Model:
    """A model file, or a class of one's own, and its card."""

    path: str
    card: ModelCard

    @property
    def accuracy(self) -> float | None:
        """What it carries; None if it was not measured."""
        value = (self.card.accuracy or {}).get("accuracy")
        return float(value) if isinstance(value, (int, float)) else None

    @property
    def interval(self) -> list[float] | None:
        value = (self.card.accuracy or {}).get("accuracy_interval")
        return [float(end) for end in value] if isinstance(value, (list, tuple)) and len(value) == 2 else None

    @property
    def measured_on(self) -> tuple[object, ...]:
        """What tells the pictures that its accuracy was measured on from others."""
        found, clips = self.card.accuracy or {}, self.card.training.get("clips")
        tested = [
            clip.get("video_sha256") or clip.get("images_sha256")
            for clip in (clips if isinstance(clips, list) else [])
            if isinstance(clip, dict)
        ]
        return tested, *(found.get(key) for key in ("part", "blocks", "of_blocks", "n"))


def pick(rows: Sequence[Document], *, max_accuracy_loss: float) -> Document | None:
    """The fastest row among those that lose so many points (0.01) at most against the most accurate one.

    Rows without an accuracy are left out, unless there is none with one. None if there is no row.
    """
    known = [row for row in rows if row["accuracy"] is not None]
    if known:
        least = max(row["accuracy"] for row in known) - max_accuracy_loss / 100 - _ROUNDING
        rows = [row for row in known if row["accuracy"] >= least]
    return max(rows, key=_place, default=None)


def on_front(row: Document, rows: Sequence[Document]) -> bool:
    """Whether no other row is faster and as accurate, or more accurate and as fast. An unknown accuracy beats none."""
    ours = _place(row)
    return not any(
        all(theirs >= own for theirs, own in zip(_place(other), ours, strict=True)) and _place(other) != ours
        for other in rows
    )


def _place(row: Document) -> tuple[float, float]:
    return row["frames_per_s"], -1.0 if row["accuracy"] is None else row["accuracy"]


def found_out(
    models: Sequence[Model],
    *,
    configured: Choice | None,
    alone: Mapping[Choice, Series],
    trials: Mapping[Choice, Series],
    final: Mapping[Choice, Series],
    wall: Series | None,
    bounds: Mapping[Choice, Counter[str | None]],
    max_accuracy_loss: float,
    notes: Sequence[str],
) -> Document:
    """The keys of the document of docs/tune.md that are about what was measured.

    Args:
        models: All, the run's own first.
        configured: How the configuration runs as it stands; None: not known yet.
        alone: Pictures per second, of the engine.
        trials: Frames per second of whole runs, in which settings were looked for. If there is none, CONFIG as it
            stands is all that could be measured, and nothing is picked.
        final: The same, measured together. Empty where that was not reached: the best trials then stand in.
        wall: Frames per second of decoding alone.
        bounds: By which stages the runs were bound, how often.
        max_accuracy_loss: See `pick`.
        notes: What could not be measured, and why.
    """
    of_path = {model.path: model for model in models}
    shown = final or _best_trials(trials)
    rows = [
        _row(choice, series, of_path[choice.model], alone, bounds) | {"configured": choice == configured}
        for choice, series in shown.items()
    ]
    rows = [row | {"pareto": on_front(row, rows)} for row in rows]
    # Trials of two models lie far apart.
    picked = pick(rows, max_accuracy_loss=max_accuracy_loss) if final and trials else None
    choice = None if picked is None else list(shown)[rows.index(picked)]
    return {
        "wall": wall and {"frames_per_s": wall.median, "spread": list(wall.spread)},
        "alone": [_told(choice) | {"images_per_s": series.median} for choice, series in alone.items()],
        "trials": [_told(choice) | {"frames_per_s": series.median} for choice, series in trials.items()],
        "rows": rows,
        "final": bool(final),
        "picked": picked,
        "against_configured": _over(shown, choice, configured),
        "against_wall": None if choice is None or wall is None else shown[choice].over(wall),
        "others": [] if choice is None else _others(shown, choice, of_path, alone),
        "notes": [*notes, *_doubts(models)],
    }


def _best_trials(trials: Mapping[Choice, Series]) -> dict[Choice, Series]:
    best: dict[str, Choice] = {}
    for choice, series in trials.items():
        if choice.model not in best or series.median > trials[best[choice.model]].median:
            best[choice.model] = choice
    return {choice: trials[choice] for choice in best.values()}


def _told(choice: Choice) -> Document:
    return dataclasses.asdict(choice)


def _row(
    choice: Choice,
    series: Series,
    model: Model,
    alone: Mapping[Choice, Series],
    bounds: Mapping[Choice, Counter[str | None]],
) -> Document:
    images = _alone(choice, alone)
    return _told(choice) | {
        "fold": model.card.fold,
        "images_per_s": images and images.median,
        "frames_per_s": series.median,
        "spread": list(series.spread),
        "rounds": len(series.rates),
        "bound_by": next((bound for bound, _ in bounds.get(choice, Counter()).most_common(1)), None),
        "accuracy": model.accuracy,
        "accuracy_interval": model.interval,
    }


def _alone(choice: Choice, alone: Mapping[Choice, Series]) -> Series | None:
    """What the engine of a run reached alone, whatever the numbers of workers and threads of the run."""
    same = ("model", "engine", "dtype", "batch")
    return next(
        (series for other, series in alone.items() if all(getattr(other, key) == getattr(choice, key) for key in same)),
        None,
    )


def _others(
    shown: Mapping[Choice, Series], picked: Choice, models: Mapping[str, Model], alone: Mapping[Choice, Series]
) -> list[Document]:
    """The best of each other model beside the pick: what it would gain, in a run and alone."""
    found: dict[str, Choice] = {}
    for choice, series in shown.items():
        if choice.model != picked.model and (
            choice.model not in found or series.median > shown[found[choice.model]].median
        ):
            found[choice.model] = choice
    told = []
    for model, choice in found.items():
        ours, theirs = _alone(picked, alone), _alone(choice, alone)
        told.append(
            {
                "model": model,
                "fold": models[model].card.fold,
                "end_to_end": _over(shown, choice, picked),
                "alone": theirs.median / ours.median if ours and theirs else None,
            }
        )
    return told


def _over(shown: Mapping[Choice, Series], choice: Choice | None, other: Choice | None) -> float | None:
    """A ratio within rounds where there are as many, else of medians."""
    if choice is None or other is None or choice not in shown or other not in shown:
        return None
    a, b = shown[choice], shown[other]
    return a.over(b) if len(a.rates) == len(b.rates) else a.median / b.median


def _doubts(models: Sequence[Model]) -> list[str]:
    """What makes accuracies say less than they seem to."""
    if unknown := [Path(model.path).name for model in models if model.accuracy is None]:
        told = f"{', '.join(unknown)}: accuracy is not known"
        cure = "measure with `vpipe eval`, or train with test blocks"
        return [f"{told}: not picked while another model's is; {cure}"]
    if len({str(model.measured_on) for model in models}) > 1:
        return ["accuracies were measured on different pictures; `vpipe eval --compare` measures all on the same"]
    return []
