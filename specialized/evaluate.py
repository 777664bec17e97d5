"""Evaluation: how often a model is right, by class, by slot of the group and by appearance, and how far that carries.

    engine, examples ──score──▶ Scored ──judge──▶ Evaluation

One pass of the engine serves any number of judgements: other blocks, a comparison, a curve.
"""

import dataclasses
import itertools
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from specialized.calibration import Rates, rates_at
from specialized.engines import Engine
from specialized.events import Events, Windows, events, windows
from specialized.examples import Examples, Runs, Tracks, check_examples, grouped, padded, regions_in, tracks
from specialized.intervals import Interval, block_length, cut, interval, resampled, sums
from specialized.metrics import Bools, average_precision, calibration_error, log_loss, share
from specialized.modelfile import ModelCard
from specialized.orders import Order


@dataclass(frozen=True, slots=True, eq=False)
class Scored:
    """What a model says of n pictures, and what is so: run after run, in order of time, however groups were formed.

    The regions of a frame follow each other.
    """

    card: ModelCard
    order: Order  # how the groups were formed
    scores: NDArray[np.float32]  # (n, K)
    truth: Bools  # (n, K), the class is present
    slot: NDArray[np.int64]  # (n,), place in its group
    runs: Runs  # stretches of n that are successive frames
    in_time: bool = True  # see `Examples`
    region: NDArray[np.int16] | None = None  # (n,), see `Examples`
    regions: tuple[str, ...] = ()  # likewise

    @property
    def answers(self) -> Bools:
        """Which classes are answered, (n, K): the likeliest for one_of, those at their thresholds for any_of."""
        if self.card.task == "one_of":
            return _one_hot(self.scores.argmax(1), len(self.card.classes))
        return self.scores >= np.array(self.card.thresholds, np.float32)

    @property
    def tracks(self) -> Tracks:
        """Stretches of n that are successive frames, or one region of them."""
        return tracks(self.runs, self.region)

    @property
    def right(self) -> NDArray[np.float64]:
        """How right each picture is, (n,): one_of 0 or 1, any_of the share of its K answers."""
        answers = self.answers
        right = (
            (answers & self.truth).any(axis=1) if self.card.task == "one_of" else (answers == self.truth).mean(axis=1)
        )
        return np.asarray(right, np.float64)


@dataclass(frozen=True, slots=True, kw_only=True)
class ClassScore:
    """One class against all others. None where nothing was counted. Intervals are those of `specialized.intervals`."""

    precision: float | None  # of the pictures said to be of the class, how many are
    recall: float | None  # of the pictures of the class, how many are found
    f1: float | None
    support: int  # pictures of the class
    precision_interval: Interval | None
    recall_interval: Interval | None
    f1_interval: Interval | None
    average_precision: float | None
    calibration_error: float  # expected, of the score as the chance that the class is present
    events: Events | None  # None as windows, too: the pictures are not in time
    windows: Windows | None
    keep: Rates | None  # of the threshold that the model file stores for `keep: auto`


@dataclass(frozen=True, slots=True, kw_only=True)
class RegionScore:
    """One region among all that a model was asked about."""

    n: int  # pictures
    accuracy: float
    interval: Interval | None
    majority: float  # the accuracy of always giving the answer that is commoner there


@dataclass(frozen=True, slots=True, kw_only=True)
class Evaluation:
    """How often a model is right. Shares are in 0..1."""

    n: int  # pictures
    order: Order  # how the groups were formed
    accuracy: float  # one_of: share of the pictures; any_of: share of the answers, K per picture
    accuracy_interval: Interval | None  # None: a single block
    in_time: bool  # False: pictures without neighbours, each a block of its own
    interval_blocks: int  # blocks of time that intervals rest on; fewer than `intervals.FEW` make them a hint
    interval_block_frames: int  # about so many successive frames are a block
    majority: float  # the accuracy of always giving the commoner answer
    calibration_error: float  # expected; one_of: of the answer's score, any_of: mean over the classes
    log_loss: float  # mean negative log likelihood, nats
    classes: dict[str, ClassScore]
    slots: tuple[float | None, ...]  # accuracy in each slot of the group; None where only padding came
    confusion: tuple[tuple[int, ...], ...] | None  # one_of: [true class][answered class] in pictures; any_of: None
    regions: dict[str, RegionScore]  # empty where pictures are whole frames

    def as_dict(self) -> dict[str, object]:
        """Plain values for JSON."""
        return dataclasses.asdict(self)


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """How much more often one model is right than another on the same pictures."""

    accuracy: float
    interval: Interval | None  # over the same blocks for both, so that what is hard for both does not widen it


def evaluate(
    engine: Engine, examples: Examples, *, order: Order | None = None, seed: int = 0, block_frames: int | None = None
) -> Evaluation:
    """Runs the engine over all pictures of the runs, each exactly once, and compares with their labels.

    Args:
        engine: an open engine; its card says the classes, and for any_of the thresholds.
        examples: pictures with labels, apart in time from those that trained the model or chose its epoch.
        order: how groups are formed; None: as in the model's training.
        seed: of the random orders, and of the bootstrap.
        block_frames: see `judge`.
    """
    return judge(score(engine, examples, order=order, seed=seed), block_frames=block_frames, seed=seed)


def score(engine: Engine, examples: Examples, *, order: Order | None = None, seed: int = 0) -> Scored:
    """Runs the engine over all pictures of the runs, each exactly once; arguments as for `evaluate`."""
    card = engine.card
    order = order or card.order
    check_examples(card, examples, "evaluate")
    formed = grouped(examples.tracks(order), card.fold, order, seed=seed)
    real = formed >= 0
    in_time = np.argsort(formed[real])
    labels = examples.labels_in_runs()
    stops = list(itertools.accumulate(stop - start for start, stop in examples.runs))
    return Scored(
        card=card,
        order=order,
        scores=_scores(engine, examples, formed)[real][in_time],
        truth=_one_hot(labels, len(card.classes)) if card.task == "one_of" else labels > 0.5,
        slot=np.nonzero(real)[1][in_time],
        runs=tuple(zip([0, *stops[:-1]], stops, strict=True)),
        in_time=examples.in_time,
        region=None if examples.region is None else np.concatenate([examples.region[a:b] for a, b in examples.runs]),
        regions=examples.regions,
    )


def judge(scored: Scored, *, block_frames: int | None = None, seed: int = 0) -> Evaluation:
    """Compares scores with what is so.

    Args:
        scored: one or more pictures.
        block_frames: successive frames that make a block of the bootstrap; None: 5 seconds of them, if the footage is
            spaced as that of the model's training was. Pictures that are not in time are blocks of their own.
        seed: of the bootstrap.
    """
    card, one_of = scored.card, scored.card.task == "one_of"
    answers, truth, right = scored.answers, scored.truth, scored.right
    block_frames = _block_frames(scored, block_frames)
    block = _blocks(scored, block_frames)
    accuracy_interval, of_class = _intervals(answers, truth, right, block, seed)
    classes = {name: _class_score(scored, k, answers[:, k], *of_class[k]) for k, name in enumerate(card.classes)}
    return Evaluation(
        n=len(right),
        order=scored.order,
        accuracy=float(right.mean()),
        accuracy_interval=accuracy_interval,
        in_time=scored.in_time,
        interval_blocks=int(block[-1]) + 1,
        interval_block_frames=block_frames,
        majority=_majority(card, truth),
        calibration_error=(
            calibration_error(scored.scores.max(axis=1), right > 0)
            if one_of
            else float(np.mean([one.calibration_error for one in classes.values()]))
        ),
        log_loss=log_loss(scored.scores, truth, one_of=one_of),
        classes=classes,
        slots=tuple(
            float(right[scored.slot == i].mean()) if (scored.slot == i).any() else None for i in range(card.fold)
        ),
        confusion=_confusion(answers, truth) if one_of else None,
        regions=_of_regions(scored, right, block, seed),
    )


def difference(one: Scored, other: Scored, *, block_frames: int | None = None, seed: int = 0) -> Difference:
    """How much more accurate `one` is than `other`.

    Args:
        one: over the same pictures as `other`, whatever either model takes them as.
        other: what it is compared with.
        block_frames: see `judge`; None: by the step of `one`.
        seed: of the bootstrap.
    """
    if one.runs != other.runs or not np.array_equal(one.truth, other.truth):
        raise ValueError("difference: both must be scored on the same pictures, got other runs or labels")
    more = one.right - other.right
    block = _blocks(one, _block_frames(one, block_frames))
    drawn = resampled(sums(np.column_stack([np.ones(len(more)), more]), block), seed=seed)
    return Difference(accuracy=float(more.mean()), interval=interval(drawn[:, 1] / drawn[:, 0], int(block[-1]) + 1))


def _block_frames(scored: Scored, asked: int | None) -> int:
    return (asked or block_length(scored.card.step_s)) if scored.in_time else 1


def _blocks(scored: Scored, block_frames: int) -> NDArray[np.int64]:
    """The block of each picture, (n,): one of time, with all regions of its frames."""
    counts = [regions_in(scored.region, start, stop) for start, stop in scored.runs]
    lengths = [(stop - start) // count for (start, stop), count in zip(scored.runs, counts, strict=True)]
    return np.repeat(cut(lengths, block_frames), np.repeat(counts, lengths))


def _of_regions(
    scored: Scored, right: NDArray[np.float64], block: NDArray[np.int64], seed: int
) -> dict[str, RegionScore]:
    """How each region does. All are judged on the same resamples."""
    if scored.region is None:
        return {}
    numbers, place = np.unique(scored.region, return_inverse=True)
    count, blocks = len(numbers), int(block.max()) + 1
    cell = block * count + place
    of_block = [np.bincount(cell, weights, blocks * count).reshape(blocks, count) for weights in (None, right)]
    drawn = resampled(np.concatenate(of_block, axis=1).astype(np.float64), seed=seed)
    with np.errstate(invalid="ignore"):  # 0 / 0: a resample without the region
        shares = drawn[:, count:] / drawn[:, :count]
    found = {}
    for k, number in enumerate(numbers.tolist()):
        inside = place == k
        found[scored.regions[number]] = RegionScore(
            n=int(inside.sum()),
            accuracy=float(right[inside].mean()),
            interval=interval(shares[:, k], int(np.count_nonzero(of_block[0][:, k]))),
            majority=_majority(scored.card, scored.truth[inside]),
        )
    return found


def _intervals(
    answers: Bools, truth: Bools, right: NDArray[np.float64], block: NDArray[np.int64], seed: int
) -> tuple[Interval | None, list[tuple[Interval | None, Interval | None, Interval | None]]]:
    """Intervals of the accuracy, and of precision, recall and F1 of each class."""
    k, blocks = truth.shape[1], int(block[-1]) + 1
    columns = np.column_stack([np.ones(len(right)), right, answers & truth, answers, truth])  # (n, 2 + 3K)
    drawn = resampled(sums(columns, block), seed=seed)
    found, said, support = (drawn[:, 2 + i * k : 2 + (i + 1) * k] for i in range(3))  # (RESAMPLES, K) each
    with np.errstate(invalid="ignore"):  # 0 / 0 is NaN: that resample does not have the figure
        figures = np.stack([found / said, found / support, 2 * found / (said + support)])
    of_class = [
        (interval(figures[0, :, c], blocks), interval(figures[1, :, c], blocks), interval(figures[2, :, c], blocks))
        for c in range(k)
    ]
    return interval(drawn[:, 1] / drawn[:, 0], blocks), of_class


def _scores(engine: Engine, examples: Examples, formed: NDArray[np.int32]) -> NDArray[np.float32]:
    """Scores of all slots, (groups, f, K)."""
    filled = padded(formed)
    starts = range(0, len(filled), engine.groups)
    return np.concatenate([engine.submit(examples.pictures[filled[a : a + engine.groups]]).result() for a in starts])


def _one_hot(numbers: NDArray[np.generic], k: int) -> Bools:
    hot: Bools = numbers[:, None] == np.arange(k)
    return hot


def _majority(card: ModelCard, truth: Bools) -> float:
    likely = truth.mean(0)
    return float(likely.max() if card.task == "one_of" else np.maximum(likely, 1 - likely).mean())


def _class_score(
    scored: Scored,
    k: int,
    answer: Bools,
    precision: Interval | None,
    recall: Interval | None,
    f1: Interval | None,
) -> ClassScore:
    truth, scores = scored.truth[:, k], scored.scores[:, k]
    found, said, support = int((answer & truth).sum()), int(answer.sum()), int(truth.sum())
    least = scored.card.keep.get(scored.card.classes[k])
    return ClassScore(
        precision=share(found, said),
        recall=share(found, support),
        f1=share(2 * found, said + support),
        support=support,
        precision_interval=precision,
        recall_interval=recall,
        f1_interval=f1,
        average_precision=average_precision(truth, scores),
        calibration_error=calibration_error(scores, truth),
        events=events(truth, answer, scored.tracks) if scored.in_time else None,
        windows=windows(truth, answer, scored.tracks) if scored.in_time else None,
        keep=None if least is None else rates_at(least, truth, scores),
    )


def _confusion(answer: Bools, truth: Bools) -> tuple[tuple[int, ...], ...]:
    counts = truth.T.astype(np.int64) @ answer.astype(np.int64)
    return tuple(tuple(int(n) for n in row) for row in counts)
