"""Training: labelled pictures in, weights out."""

import dataclasses
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from specialized.augment import lit, moved
from specialized.checkpoint import read_checkpoint, training_id, write_checkpoint
from specialized.engines.torch import fastest_dtype
from specialized.errors import ModelError
from specialized.examples import Examples, check_examples, grouped, padded
from specialized.folding import Normalize, unfold
from specialized.modelfile import ModelCard, network
from specialized.recipe import Optimizer, Recipe

_OPTIMIZERS: Mapping[Optimizer, Callable[..., torch.optim.Optimizer]] = {
    "adamw": partial(torch.optim.AdamW, fused=True),
    "adam": partial(torch.optim.Adam, fused=True),
    "rmsprop": torch.optim.RMSprop,
}
_AVERAGE_EVERY = 4  # steps: averaging all weights at each one costs a fifth of the training of a large f
_CHECKPOINT_S = 10.0  # seconds of training that a killed one loses at most, beside the epoch under way


@dataclass(frozen=True, slots=True, kw_only=True)
class Epoch:
    """What an epoch came to."""

    number: int  # from 0
    loss: float  # mean over its steps, on varied pictures
    validation_loss: float
    validation_accuracy: float
    seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Trained:
    """The weights of the best epoch: of the highest validation accuracy, and among those of the lowest loss."""

    state_dict: dict[str, Tensor]  # float32, on the CPU
    history: tuple[Epoch, ...]
    best_epoch: int


@dataclass(frozen=True, slots=True)
class Teacher:
    """An unfolded model of the same classes, whose logits a folded one learns from."""

    card: ModelCard
    module: nn.Module  # maps (N, 3, H, W) to (N, K); used in evaluation mode


def train(
    card: ModelCard,
    training: Examples,
    validation: Examples,
    recipe: Recipe,
    *,
    teacher: Teacher | None = None,
    checkpoint: Path | None = None,
    progress: Callable[[Epoch], None] | None = None,
) -> Trained:
    """Trains the card's architecture from scratch, on the CPU, in groups formed as the card's order says.

    Runs on one thread, so that the same arguments give the same weights on the same machine, interrupted or not. The
    global generators of numpy and torch, and torch's number of threads, are left as they were.

    Args:
        card: architecture, fold, order, classes, task and preprocessing.
        training: examples to learn from.
        validation: examples to choose the epoch by, apart in time from those of training and of any later test.
        recipe: how.
        teacher: whose logits to learn from, with the weight `recipe.distill`.
        checkpoint: where the state is kept after epochs, and taken up again if it is that of this very training.
        progress: called after each epoch, those of a checkpoint too.

    Raises:
        ValueError: the examples or the teacher do not fit the card.
        ModelError: the network cannot be built, or the checkpoint is of another training.
    """
    check_examples(card, training, "training")
    check_examples(card, validation, "validation")
    _check_teacher(card, teacher)
    threads = torch.get_num_threads()
    # The steps are small: a second thread gains little, and loses ten times that when another process wants the core.
    torch.set_num_threads(1)
    try:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(recipe.seed)
            return _Training(card, training, validation, recipe, teacher).run(checkpoint, progress)
    finally:
        torch.set_num_threads(threads)


def _check_teacher(card: ModelCard, teacher: Teacher | None) -> None:
    if teacher is None:
        return
    other = teacher.card
    for name in ("task", "classes", "input", "resize", "fit", "mean", "std"):
        if getattr(other, name) != getattr(card, name):
            raise ModelError(
                f"teacher: must have {name} {getattr(card, name)} as the model to train has, got {getattr(other, name)}"
            )
    if other.fold != 1:
        raise ModelError(f"teacher: must not be folded, got f = {other.fold}; train one with fold: 1")


class _Training:
    """The state that the steps of one training share."""

    def __init__(
        self, card: ModelCard, training: Examples, validation: Examples, recipe: Recipe, teacher: Teacher | None
    ) -> None:
        self.card, self.training, self.validation, self.recipe = card, training, validation, recipe
        self.rng = np.random.default_rng(recipe.seed)
        self.module = network(card).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.teacher = None if teacher is None or not recipe.distill else teacher.module.eval()
        self.normalize = Normalize(
            f=card.fold, size=card.input, mean=card.mean, std=card.std, device=torch.device("cpu")
        )
        dtype = fastest_dtype(torch.device("cpu")) if recipe.dtype == "auto" else recipe.dtype
        self.arithmetic = torch.autocast("cpu", torch.bfloat16, enabled=dtype == "bfloat16")
        self.weights = _class_weights(card, training) if recipe.balance else None
        self.per_step = max(1, recipe.batch // card.fold)  # groups
        pass_steps = math.ceil(len(grouped(training.runs, card.fold, card.order)) / self.per_step)
        self.passes = math.ceil(recipe.least_steps / pass_steps)  # over the pictures, in an epoch
        self.optimizer = _OPTIMIZERS[recipe.optimizer](
            self.module.parameters(), lr=recipe.lr, weight_decay=recipe.weight_decay
        )
        horizon = recipe.average_epochs * self.passes * pass_steps
        average = get_ema_multi_avg_fn(math.exp(-_AVERAGE_EVERY / horizon) if horizon else 0.0)  # type: ignore[no-untyped-call]
        self.average = AveragedModel(self.module, multi_avg_fn=average, use_buffers=True)
        self.held_out = grouped(validation.runs, card.fold, card.order, seed=recipe.seed)
        self.history: list[Epoch] = []
        self.best_epoch = 0
        self.best_state: dict[str, Tensor] = {}

    def run(self, checkpoint: Path | None, progress: Callable[[Epoch], None] | None) -> Trained:
        if checkpoint is not None and checkpoint.exists():
            self._restore(checkpoint)
        for epoch in self.history:
            if progress:
                progress(epoch)
        saved = time.monotonic()
        while not self._done():
            self.history.append(self._epoch())
            if not self.best_state or _merit(self.history[-1]) > _merit(self.history[self.best_epoch]):
                self.best_epoch = len(self.history) - 1
                self.best_state = {
                    k: v.clone(memory_format=torch.contiguous_format)
                    for k, v in self.average.module.state_dict().items()
                }
            if checkpoint is not None and (self._done() or time.monotonic() - saved > _CHECKPOINT_S):
                self._save(checkpoint)
                saved = time.monotonic()
            if progress:
                progress(self.history[-1])
        return Trained(state_dict=self.best_state, history=tuple(self.history), best_epoch=self.best_epoch)

    def _done(self) -> bool:
        done = len(self.history)
        waited = done - 1 - self.best_epoch
        return done >= self.recipe.epochs or bool(self.recipe.patience and waited >= self.recipe.patience)

    def _epoch(self) -> Epoch:
        began = time.perf_counter()
        number = len(self.history)
        formed = np.concatenate([self._formed(number) for _ in range(self.passes)])
        formed = self.rng.permutation(formed)  # groups change places, pictures stay in their groups
        steps = range(0, len(formed), self.per_step)
        self.module.train()
        losses = []
        for done, start in enumerate(steps):
            for options in self.optimizer.param_groups:
                options["lr"] = self.recipe.lr * _rate(self.recipe, number, done, len(steps))
            losses.append(self._step(formed[start : start + self.per_step]))
            if done % _AVERAGE_EVERY == 0:
                self.average.update_parameters(self.module)
        validation_loss, accuracy = self._validate()
        return Epoch(
            number=number,
            loss=float(np.mean(losses)),
            validation_loss=validation_loss,
            validation_accuracy=accuracy,
            seconds=time.perf_counter() - began,
        )

    def _formed(self, number: int) -> NDArray[np.int32]:
        """The groups of one pass over the pictures; every pass has other neighbours together."""
        f, runs = self.card.fold, self.training.runs
        taken = _learned(self.recipe, self.card, self.training, number)  # positions in the pictures, int32 (n,)
        ends = np.searchsorted(taken, [stop for _, stop in runs]).tolist()
        shortened = tuple((a, b) for a, b in zip([0, *ends], ends, strict=False) if a < b)  # runs of the taken ones
        offsets = [int(self.rng.integers(min(f, b - a))) for a, b in shortened]
        formed = grouped(shortened, f, self.card.order, seed=int(self.rng.integers(2**31)), offsets=offsets)
        return np.where(formed < 0, -1, taken[formed]).astype(np.int32)

    def _step(self, groups: NDArray[np.int32]) -> float:
        pictures = moved(self.training.pictures, padded(groups), self.recipe, self.rng)
        x = self.normalize(torch.from_numpy(pictures), torch.float32)
        x = lit(x, self.card.fold, float(np.mean(self.card.std)), self.recipe, self.rng)
        labels = _labels(self.training, groups)
        with self.arithmetic:
            logits: Tensor = self.module(x)
        answers = unfold(logits.float(), self.card.fold).flatten(0, 1)  # (B·f, K)
        loss = self._loss(answers, labels, self.recipe.label_smoothing)
        if self.teacher is not None:
            with torch.inference_mode(), self.arithmetic:
                taught = self.teacher(x.reshape(-1, 3, *self.card.input)).float()  # (B·f, K)
            real = (labels if labels.ndim == 1 else labels[:, 0]) >= 0
            loss = (1 - self.recipe.distill) * loss + self.recipe.distill * F.mse_loss(answers[real], taught[real])
        self.optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        self.optimizer.step()
        return loss.item()

    def _loss(self, answers: Tensor, labels: Tensor, smoothing: float = 0.0) -> Tensor:
        """Mean over the (n, K) logits of pictures that are not padding."""
        if self.card.task == "one_of":
            return F.cross_entropy(answers, labels, self.weights, ignore_index=-1, label_smoothing=smoothing)
        real = labels[:, 0] >= 0
        smooth = labels[real] * (1 - smoothing) + smoothing / 2
        loss: Tensor = F.binary_cross_entropy_with_logits(answers[real], smooth, pos_weight=self.weights)
        return loss

    def _validate(self) -> tuple[float, float]:
        """Returns loss and accuracy of the averaged weights."""
        self.average.eval()
        with torch.inference_mode():
            filled = padded(self.held_out)
            parts = [filled[start : start + self.per_step] for start in range(0, len(filled), self.per_step)]
            pictures = (torch.from_numpy(self.validation.pictures[part]) for part in parts)
            logits = torch.cat([self.average(self.normalize(part, torch.float32)) for part in pictures])
            labels = _labels(self.validation, self.held_out)
            answers = unfold(logits, self.card.fold).flatten(0, 1)
            loss = self._loss(answers, labels).item()
            if self.card.task == "one_of":
                right = (answers.argmax(1) == labels)[labels >= 0]
            else:
                over = answers.sigmoid() >= torch.tensor(self.card.thresholds)
                right = (over == (labels > 0.5))[labels[:, 0] >= 0]
        return loss, right.double().mean().item()

    def _id(self) -> str:
        """Two trainings of one id give the same weights."""
        taught = None if self.teacher is None else self.teacher.state_dict()
        return training_id(self.card, self.recipe, (self.training, self.validation), taught)

    def _save(self, path: Path) -> None:
        plain = {
            "history": [dataclasses.asdict(epoch) for epoch in self.history],
            "best_epoch": self.best_epoch,
            "rng": self.rng.bit_generator.state,
        }
        tensors = {
            "module": self.module.state_dict(),
            "average": self.average.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "best": self.best_state,
            "torch_rng": torch.random.get_rng_state(),
        }
        write_checkpoint(path, self._id(), plain, tensors)

    def _restore(self, path: Path) -> None:
        plain, tensors = read_checkpoint(path, self._id())
        self.history = [Epoch(**epoch) for epoch in plain["history"]]
        self.best_epoch, self.best_state = plain["best_epoch"], tensors["best"]
        self.rng.bit_generator.state = plain["rng"]
        self.module.load_state_dict(tensors["module"])
        self.average.load_state_dict(tensors["average"])
        self.optimizer.load_state_dict(tensors["optimizer"])
        torch.random.set_rng_state(tensors["torch_rng"])


def _merit(epoch: Epoch) -> tuple[float, float]:
    return epoch.validation_accuracy, -epoch.validation_loss


def _rate(recipe: Recipe, epoch: int, step: int, steps: int) -> float:
    """The share of the peak learning rate at a step of an epoch."""
    done = epoch + step / steps  # epochs
    if done < recipe.warmup_epochs:
        return (done * steps + 1) / (recipe.warmup_epochs * steps + 1)
    if recipe.schedule == "halving":
        return 0.5 ** (epoch // recipe.halve_epochs)
    if recipe.schedule == "constant":
        return 1.0
    after = (done - recipe.warmup_epochs) / max(1.0 / steps, recipe.epochs - recipe.warmup_epochs)
    return (1 + math.cos(math.pi * min(1.0, after))) / 2


def _learned(recipe: Recipe, card: ModelCard, training: Examples, epoch: int) -> NDArray[np.int32]:
    """Positions of the pictures that an epoch learns from: all in the runs, or those of the curriculum's classes."""
    taken = np.concatenate([np.arange(start, stop, dtype=np.int32) for start, stop in training.runs])
    if not recipe.curriculum_share:
        return taken
    k = len(card.classes)
    step = max(1, int(k * recipe.curriculum_share))
    classes = max(step, card.fold) + step * (epoch // recipe.curriculum_epochs)
    learned: NDArray[np.int32] = taken[training.labels[taken] < classes]
    return learned


def _labels(examples: Examples, groups: NDArray[np.int32]) -> Tensor:
    """Labels of the slots, (B·f,) or (B·f, K); -1 for padding."""
    slots = groups.ravel()
    labels = examples.labels[slots]
    labels[slots < 0] = -1
    return torch.from_numpy(labels)


def _class_weights(card: ModelCard, training: Examples) -> Tensor:
    labels = training.labels_in_runs()
    if card.task == "any_of":
        present = labels.mean(axis=0).clip(1 / len(labels), 1 - 1 / len(labels))
        return torch.tensor((1 - present) / present, dtype=torch.float32)
    counts = np.bincount(labels.astype(np.int64), minlength=len(card.classes)).clip(1)
    return torch.tensor(len(labels) / (len(card.classes) * counts), dtype=torch.float32)
