"""Evaluation: how often a model is right, by class and by slot of the group."""

import dataclasses
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from specialized.engines import Engine
from specialized.examples import Examples, check_examples, grouped, padded
from specialized.modelfile import ModelCard
from specialized.orders import Order


@dataclass(frozen=True, slots=True, kw_only=True)
class ClassScore:
    """One class against all others. None where nothing was counted."""

    precision: float | None  # of the pictures said to be of the class, how many are
    recall: float | None  # of the pictures of the class, how many are found
    f1: float | None
    support: int  # pictures of the class


@dataclass(frozen=True, slots=True, kw_only=True)
class Evaluation:
    """How often a model is right. Shares are in 0..1."""

    n: int  # pictures
    order: Order  # how the groups were formed
    accuracy: float  # one_of: share of the pictures; any_of: share of the answers, K per picture
    majority: float  # the accuracy of always giving the commoner answer
    classes: dict[str, ClassScore]
    slots: tuple[float | None, ...]  # accuracy in each slot of the group; None where only padding came
    confusion: tuple[tuple[int, ...], ...] | None  # one_of: [true class][answered class] in pictures; any_of: None

    def as_dict(self) -> dict[str, object]:
        """Plain values for JSON."""
        return dataclasses.asdict(self)


def evaluate(engine: Engine, examples: Examples, *, order: Order | None = None, seed: int = 0) -> Evaluation:
    """Runs the engine over all pictures of the runs, each exactly once, and compares with their labels.

    Args:
        engine: an open engine; its card says the classes, and for any_of the thresholds.
        examples: pictures with labels, apart in time from those that trained the model or chose its epoch.
        order: how groups are formed; None: as in the model's training.
        seed: of the random orders.
    """
    card = engine.card
    order = order or card.order
    check_examples(card, examples, "evaluate")
    formed = grouped(examples.runs, card.fold, order, seed=seed)
    real = formed >= 0
    scores = _scores(engine, examples, formed)[real]  # (n, K)
    labels = examples.labels[formed[real]]
    truth: NDArray[np.bool_] = _one_hot(labels, len(card.classes)) if card.task == "one_of" else labels > 0.5
    answer = _answers(card, scores)
    right = _right(card, answer, truth)
    slot = np.nonzero(real)[1]
    return Evaluation(
        n=len(labels),
        order=order,
        accuracy=float(right.mean()),
        majority=_majority(card, truth),
        classes={name: _class_score(answer[:, k], truth[:, k]) for k, name in enumerate(card.classes)},
        slots=tuple(float(right[slot == i].mean()) if (slot == i).any() else None for i in range(card.fold)),
        confusion=_confusion(answer, truth) if card.task == "one_of" else None,
    )


def _scores(engine: Engine, examples: Examples, formed: NDArray[np.int32]) -> NDArray[np.float32]:
    """Scores of all slots, (groups, f, K)."""
    filled = padded(formed)
    starts = range(0, len(filled), engine.groups)
    return np.concatenate([engine.submit(examples.pictures[filled[a : a + engine.groups]]).result() for a in starts])


def _answers(card: ModelCard, scores: NDArray[np.float32]) -> NDArray[np.bool_]:
    """Which classes are answered, (n, K)."""
    if card.task == "one_of":
        return _one_hot(scores.argmax(1), len(card.classes))
    return scores >= np.array(card.thresholds, np.float32)


def _right(card: ModelCard, answer: NDArray[np.bool_], truth: NDArray[np.bool_]) -> NDArray[np.float64]:
    """How right each picture is: one_of 0 or 1, any_of the share of its answers."""
    right = (answer & truth).any(axis=1) if card.task == "one_of" else (answer == truth).mean(axis=1)
    return np.asarray(right, np.float64)


def _one_hot(numbers: NDArray[np.generic], k: int) -> NDArray[np.bool_]:
    hot: NDArray[np.bool_] = numbers[:, None] == np.arange(k)
    return hot


def _majority(card: ModelCard, truth: NDArray[np.bool_]) -> float:
    share = truth.mean(0)
    return float(share.max() if card.task == "one_of" else np.maximum(share, 1 - share).mean())


def _class_score(answer: NDArray[np.bool_], truth: NDArray[np.bool_]) -> ClassScore:
    found, said, support = int((answer & truth).sum()), int(answer.sum()), int(truth.sum())
    return ClassScore(
        precision=found / said if said else None,
        recall=found / support if support else None,
        f1=2 * found / (said + support) if said + support else None,
        support=support,
    )


def _confusion(answer: NDArray[np.bool_], truth: NDArray[np.bool_]) -> tuple[tuple[int, ...], ...]:
    counts = truth.T.astype(np.int64) @ answer.astype(np.int64)
    return tuple(tuple(int(n) for n in row) for row in counts)
