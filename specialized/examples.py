"""Labelled pictures to train and to test on, and how they are cut apart in time and put into groups."""

import dataclasses
import itertools
from collections.abc import Collection
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from specialized.modelfile import ModelCard
from specialized.orders import Order, groups

Runs = tuple[tuple[int, int], ...]
Tracks = tuple[NDArray[np.int32], ...]
"""Positions of pictures, a row for all that groups are formed of: those of a run, or of one region in it."""


@dataclass(frozen=True, slots=True, eq=False)
class Examples:
    """N pictures with their labels. Nobody writes to the arrays."""

    pictures: NDArray[np.uint8]  # (N, H, W, 3) RGB, as a run would see them
    labels: NDArray[np.int64] | NDArray[np.float32]  # one_of: int64 (N,) class numbers; any_of: float32 (N, K), 0 or 1
    runs: Runs  # [start, stop) of successive frames within N, which groups do not leave; in order, disjoint
    in_time: bool = True  # False: chance put the pictures of a run in order, and none is another's neighbour
    region: NDArray[np.int16] | None = None  # (N,) which each picture is of; those of a frame follow each other
    regions: tuple[str, ...] = ()  # names, by their numbers

    def __post_init__(self) -> None:
        """Raises ValueError for arrays that do not belong together."""
        n = len(self.pictures)
        if self.pictures.dtype != np.uint8 or self.pictures.ndim != 4 or self.pictures.shape[3] != 3:
            raise ValueError(
                f"Examples: pictures must be uint8 (N, H, W, 3), got {self.pictures.dtype} {self.pictures.shape}"
            )
        if (self.labels.dtype.name, self.labels.ndim) not in (("int64", 1), ("float32", 2)) or len(self.labels) != n:
            raise ValueError(
                f"Examples: labels must be int64 ({n},) or float32 ({n}, K), "
                f"got {self.labels.dtype} {self.labels.shape}"
            )
        bounds = [0, *(bound for run in self.runs for bound in run), n]
        if any(a > b for a, b in itertools.pairwise(bounds)) or any(a == b for a, b in self.runs):
            raise ValueError(f"Examples: runs must be ordered, disjoint, not empty and within 0..{n}, got {self.runs}")

    def __len__(self) -> int:
        """Pictures in the runs."""
        return sum(stop - start for start, stop in self.runs)

    def __repr__(self) -> str:
        return f"Examples(pictures={self.pictures.shape}, labels={self.labels.shape}, runs={len(self.runs)})"

    def tracks(self, order: Order) -> Tracks:
        """What groups of this order are formed of: the pictures of a region, or in the order `regions` of all."""
        return tracks(self.runs, None if order == "regions" else self.region)

    def labels_in_runs(self) -> NDArray[np.int64] | NDArray[np.float32]:
        """The labels of the runs one after the other."""
        return np.concatenate([self.labels[start:stop] for start, stop in self.runs])

    def only(self, runs: Runs) -> "Examples":
        """The same arrays with other runs: one part of a split."""
        return dataclasses.replace(self, runs=runs)


def tracks(runs: Runs, region: NDArray[np.int16] | None) -> Tracks:
    """The positions of each region in each run, or of each run."""
    return tuple(
        np.arange(start + place, stop, count, dtype=np.int32)
        for start, stop in runs
        for count in [regions_in(region, start, stop)]
        for place in range(count)
    )


def regions_in(region: NDArray[np.int16] | None, start: int, stop: int) -> int:
    """How many pictures there are of each frame of a run."""
    return 1 if region is None else len(np.unique(region[start:stop]))


def grouped(
    tracks: Tracks, f: int, order: Order, *, seed: int = 0, offsets: Collection[int] | None = None
) -> NDArray[np.int32]:
    """Groups the pictures of all tracks, as running groups those of all segments.

    Args:
        tracks: Positions of successive pictures.
        f: pictures in a group.
        order: as in `orders.groups`. For `streams`, whose slots see unrelated frames at running time, every slot takes
            its pictures from all tracks at random.
        seed: of the random orders.
        offsets: how many pictures to leave out at the start of each track, so that training does not always see the
            same neighbours together; None: none.

    Returns:
        int32 (B, f): positions of pictures; -1 is padding, at the end of a row.
    """
    left = [track[skip:] for track, skip in zip(tracks, offsets or [0] * len(tracks), strict=True)]
    if order == "streams":
        pool = np.random.default_rng(seed).permutation(np.concatenate(left))
        return np.append(pool, np.full(-len(pool) % f, -1, np.int32)).reshape(-1, f)
    formed = [np.empty((0, f), np.int32)]
    for number, track in enumerate(left):
        group = groups(len(track), f, order, seed=seed + number)
        formed.append(np.where(group < 0, -1, track[group]).astype(np.int32))
    return np.concatenate(formed)


def padded(groups: NDArray[np.int32]) -> NDArray[np.int32]:
    """Replaces padding by the last picture of its group, which is what a model sees there at running time."""
    return np.where(groups < 0, groups.max(axis=1, keepdims=True), groups)


def check_examples(card: ModelCard, examples: Examples, where: str) -> None:
    """Raises ValueError if the runs hold nothing, or not what the card's model takes and answers."""
    if not len(examples):
        raise ValueError(f"{where}: examples must hold at least one picture in their runs, got none")
    k, labels, size = len(card.classes), examples.labels_in_runs(), examples.pictures.shape[1:3]
    if size != card.input:
        raise ValueError(f"{where}: pictures must have the size {card.input} of the model's input, got {size}")
    one_of = card.task == "one_of"
    expected = f"int64 (N,) in 0..{k - 1}" if one_of else f"float32 (N, {k}) in 0..1"
    fits = labels.ndim == 1 if one_of else labels.shape[1:] == (k,)
    if not fits or labels.min() < 0 or labels.max() > (k - 1 if one_of else 1):
        got = f"{labels.dtype} {labels.shape} in {labels.min()}..{labels.max()}"
        raise ValueError(f"{where}: labels of a {card.task} model must be {expected}, got {got}")


def split_runs(
    n_frames: int, *, blocks: int, validation: Collection[int], test: Collection[int], gap: int
) -> dict[str, Runs]:
    """Cuts a clip into training, validation and test by blocks of time, since neighbouring frames resemble each other.

    Frames of different parts are at least `gap` frames apart. The frames in between are taken from training before
    validation, and never from test: over the folds of a cross-validation every frame is tested once.

        blocks=5, validation={3}, test={1}    train··TESTTESTTEST··train··validation··train

    Args:
        n_frames: frames of the clip.
        blocks: equal stretches of time, numbered from 0.
        validation: numbers of the blocks that choose the epoch.
        test: numbers of the blocks that measure; what is named in neither is for training.
        gap: frames between two parts.

    Returns:
        The runs of "training", "validation" and "test".
    """
    named = [*validation, *test]
    if not 1 <= blocks <= n_frames or gap < 0:
        raise ValueError(f"split_runs: 1 <= blocks <= {n_frames} frames and gap >= 0 must hold, got {blocks=}, {gap=}")
    if len(set(named)) != len(named) or not set(named) <= set(range(blocks)):
        raise ValueError(
            f"split_runs: validation and test must be different blocks in 0..{blocks - 1}, got {validation=}, {test=}"
        )
    block = np.arange(n_frames) * blocks // n_frames
    in_test = np.isin(block, list(test))
    in_validation = np.isin(block, list(validation)) & ~_widened(in_test, gap)
    in_training = ~_widened(in_test | np.isin(block, list(validation)), gap)
    masks = {"training": in_training, "validation": in_validation, "test": in_test}
    return {part: stretches(mask) for part, mask in masks.items()}


def _widened(mask: NDArray[np.bool_], by: int) -> NDArray[np.bool_]:
    wide = mask.copy()
    for start, stop in stretches(mask):
        wide[max(0, start - by) : stop + by] = True
    return wide


def stretches(mask: NDArray[np.bool_]) -> Runs:
    """The stretches, as long as they get, in which (N,) is true: [start, stop) each, in order."""
    edges = np.flatnonzero(np.diff(np.concatenate([[False], mask, [False]]).astype(np.int8)))
    return tuple((int(start), int(stop)) for start, stop in edges.reshape(-1, 2))
