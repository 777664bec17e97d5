"""Training: labelled pictures in, weights out."""

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from specialized.examples import Examples, check_examples, grouped, padded
from specialized.folding import Normalize, unfold
from specialized.modelfile import ModelCard
from specialized.models import build
from specialized.recipe import Optimizer, Recipe

_OPTIMIZERS: Mapping[Optimizer, Callable[..., torch.optim.Optimizer]] = {
    "adamw": partial(torch.optim.AdamW, fused=True),
    "adam": partial(torch.optim.Adam, fused=True),
    "rmsprop": torch.optim.RMSprop,
}


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


def train(
    card: ModelCard,
    training: Examples,
    validation: Examples,
    recipe: Recipe,
    *,
    progress: Callable[[Epoch], None] | None = None,
) -> Trained:
    """Trains the card's architecture from scratch, on the CPU, in groups formed as the card's order says.

    Runs on one thread, so that the same arguments give the same weights on the same machine. The global generators of
    numpy and torch, and torch's number of threads, are left as they were.

    Args:
        card: architecture, fold, order, classes, task and preprocessing.
        training: examples to learn from.
        validation: examples to choose the epoch by, apart in time from those of training and of any later test.
        recipe: how.
        progress: called after each epoch.
    """
    check_examples(card, training, "training")
    check_examples(card, validation, "validation")
    threads = torch.get_num_threads()
    # The steps are small: a second thread gains little, and loses ten times that when another process wants the core.
    torch.set_num_threads(1)
    try:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(recipe.seed)
            return _Training(card, training, validation, recipe).run(progress)
    finally:
        torch.set_num_threads(threads)


class _Training:
    """The state that the steps of one training share."""

    def __init__(self, card: ModelCard, training: Examples, validation: Examples, recipe: Recipe) -> None:
        self.card, self.training, self.validation, self.recipe = card, training, validation, recipe
        self.rng = np.random.default_rng(recipe.seed)
        self.module = build(
            card.architecture, args=card.args, classes=len(card.classes), fold=card.fold, input=card.input
        ).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.normalize = Normalize(
            f=card.fold, size=card.input, mean=card.mean, std=card.std, device=torch.device("cpu")
        )
        self.weights = _class_weights(card, training) if recipe.balance else None
        self.per_step = max(1, recipe.batch // card.fold)  # groups
        self.steps = math.ceil(len(grouped(training.runs, card.fold, card.order)) / self.per_step)  # of an epoch
        self.optimizer = _OPTIMIZERS[recipe.optimizer](
            self.module.parameters(), lr=recipe.lr, weight_decay=recipe.weight_decay
        )
        self.schedule = torch.optim.lr_scheduler.LambdaLR(self.optimizer, self._rate)
        decay = math.exp(-1 / (recipe.average_epochs * self.steps)) if recipe.average_epochs else 0.0
        average = get_ema_multi_avg_fn(decay)  # type: ignore[no-untyped-call]
        self.average = AveragedModel(self.module, multi_avg_fn=average, use_buffers=True)
        self.held_out = grouped(validation.runs, card.fold, card.order, seed=recipe.seed)

    def run(self, progress: Callable[[Epoch], None] | None) -> Trained:
        history: list[Epoch] = []
        best, best_epoch = (-1.0, 0.0), 0
        state: dict[str, Tensor] = {}
        for number in range(self.recipe.epochs):
            began = time.perf_counter()
            loss = self._epoch()
            validation_loss, accuracy = self._validate()
            history.append(
                Epoch(
                    number=number,
                    loss=loss,
                    validation_loss=validation_loss,
                    validation_accuracy=accuracy,
                    seconds=time.perf_counter() - began,
                )
            )
            if (accuracy, -validation_loss) > best or not state:
                best, best_epoch = (accuracy, -validation_loss), number
                state = {
                    k: v.clone(memory_format=torch.contiguous_format)
                    for k, v in self.average.module.state_dict().items()
                }
            if progress:
                progress(history[-1])
        return Trained(state_dict=state, history=tuple(history), best_epoch=best_epoch)

    def _rate(self, step: int) -> float:
        warmup = self.recipe.warmup_epochs * self.steps
        if step < warmup:
            return (step + 1) / (warmup + 1)
        done = (step - warmup) / max(1.0, self.recipe.epochs * self.steps - warmup)
        return (1 + math.cos(math.pi * min(1.0, done))) / 2

    def _epoch(self) -> float:
        f = self.card.fold
        offsets = [int(self.rng.integers(min(f, stop - start))) for start, stop in self.training.runs]
        formed = grouped(self.training.runs, f, self.card.order, seed=int(self.rng.integers(2**31)), offsets=offsets)
        formed = self.rng.permutation(formed)  # groups change places, pictures stay in their groups
        losses = []
        self.module.train()
        for start in range(0, len(formed), self.per_step):
            batch = formed[start : start + self.per_step]
            x = self._varied(self.normalize(torch.from_numpy(self._pictures(padded(batch))), torch.float32))
            loss = self._loss(self.module(x), _labels(self.training, batch), self.recipe.label_smoothing)
            self.optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            self.optimizer.step()
            self.schedule.step()
            self.average.update_parameters(self.module)
            losses.append(loss.item())
        return float(np.mean(losses))

    def _draw(self, b: int) -> tuple[int, int]:
        """The shape (B, f) in which variations are drawn: (b, 1) is one draw per group."""
        return b, self.card.fold if self.recipe.vary == "picture" else 1

    def _pictures(self, batch: NDArray[np.int32]) -> NDArray[np.uint8]:
        """Gathers (B, f, H, W, 3), shifted and mirrored."""
        height, width = self.card.input
        drawn = (*self._draw(len(batch)), 3)
        shifts = self.rng.integers(0, [2 * self.recipe.shift + 1] * 2 + [2], drawn)
        shifts = np.broadcast_to(shifts, (*batch.shape, 3))
        border = (self.recipe.shift,) * 2
        bordered = np.pad(self.training.pictures[batch], [(0, 0), (0, 0), border, border, (0, 0)], mode="edge")
        gathered = np.empty((*batch.shape, height, width, 3), np.uint8)
        for at in np.ndindex(batch.shape):
            down, right, mirrored = shifts[at]
            picture = bordered[at][down : down + height, right : right + width]
            gathered[at] = picture[:, ::-1] if mirrored and self.recipe.flip else picture
        return gathered

    def _varied(self, x: Tensor) -> Tensor:
        """Changes brightness and contrast of normalized (B, f·3, H, W)."""
        b, f = self._draw(len(x))
        light = self.rng.uniform(-1, 1, (2, b, f)) * [[[self.recipe.brightness]], [[self.recipe.contrast]]]
        per_channel = light.repeat(x.shape[1] // f, axis=2).astype(np.float32)[..., None, None]
        added, factor = torch.from_numpy(per_channel)
        varied: Tensor = x * (1 + factor) + added / float(np.mean(self.card.std))
        return varied

    def _loss(self, logits: Tensor, labels: Tensor, smoothing: float = 0.0) -> Tensor:
        """Mean over the pictures of (B, f·K) logits that are not padding."""
        answers = unfold(logits, self.card.fold).flatten(0, 1)  # (B·f, K)
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
            loss = self._loss(logits, labels).item()
            answers = unfold(logits, self.card.fold).flatten(0, 1)
            if self.card.task == "one_of":
                right = (answers.argmax(1) == labels)[labels >= 0]
            else:
                over = answers.sigmoid() >= torch.tensor(self.card.thresholds)
                right = (over == (labels > 0.5))[labels[:, 0] >= 0]
        return loss, right.double().mean().item()


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
