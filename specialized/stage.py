"""A stage of training: one network that learns from the pictures of one part, and is chosen by those of another."""

import copy
import dataclasses
import functools
import math
import random
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from specialized.augment import lit, moved
from specialized.checkpoint import training_id, write_checkpoint
from specialized.curriculum import all_classes_from, learned
from specialized.engines.torch import fastest_dtype
from specialized.errors import ModelError
from specialized.examples import Examples, grouped, padded
from specialized.foldcnn import Slots
from specialized.folding import Normalize, unfold
from specialized.modelfile import ModelCard
from specialized.objects import OWN_CODE, one_line
from specialized.recipe import Optimizer, Recipe

__all__ = ["Epoch", "Stage", "Teacher", "Trained"]

_OPTIMIZERS: Mapping[Optimizer, Callable[..., torch.optim.Optimizer]] = {
    "adamw": partial(torch.optim.AdamW, fused=True),
    "adam": partial(torch.optim.Adam, fused=True),
    "rmsprop": torch.optim.RMSprop,
}
_AVERAGE_EVERY = 4  # steps: averaging all weights at each one costs a fifth of the training of a large f
_State = tuple[dict[str, object], dict[str, object]]
_CHECKPOINT_S = 10.0  # seconds of training that a killed one loses at most, beside the epoch under way


@dataclass(frozen=True, slots=True, kw_only=True)
class Epoch:
    """What an epoch came to."""

    number: int  # from 0
    planned: int  # epochs of the whole training, as far as is known by now
    fold: int  # of the network: 1 for that of a slot, with which the training of a folded one begins
    loss: float  # mean over its steps, on varied pictures
    validation_loss: float
    validation_accuracy: float
    seconds: float
    anew: bool = False  # the network began with random weights, for the slot before it has learned nothing


@dataclass(frozen=True, slots=True, kw_only=True)
class Trained:
    """The weights of the best epoch: of the highest validation accuracy, and among those of the lowest loss."""

    state_dict: dict[str, Tensor]  # float32, on the CPU
    history: tuple[Epoch, ...]
    best_epoch: int  # may be one of a slot's: its copies, before they learned anything as a folded network


@dataclass(frozen=True, slots=True)
class Teacher:
    """An unfolded model of the same classes, whose logits a folded one learns from."""

    card: ModelCard
    module: nn.Module  # maps (N, 3, H, W) to (N, K); used in evaluation mode


class Stage:
    """The state that the steps of one training share."""

    def __init__(
        self,
        card: ModelCard,
        module: nn.Module,
        training: Examples,
        validation: Examples,
        recipe: Recipe,
        teacher: Teacher | None,
    ) -> None:
        self.card, self.training, self.validation = card, training, validation
        self.recipe = self.asked = recipe
        self.rng = np.random.default_rng(recipe.seed)
        self.module = module.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.average = copy.deepcopy(self.module).eval()
        self.averaged = 0  # times that it followed the module
        self.teacher = None if teacher is None or not recipe.distill else teacher.module.eval()
        self.normalize = Normalize(
            f=card.fold, size=card.input, mean=card.mean, std=card.std, device=torch.device("cpu")
        )
        self.dtype = fastest_dtype(torch.device("cpu")) if recipe.dtype == "auto" else recipe.dtype
        self.arithmetic = torch.autocast("cpu", torch.bfloat16, enabled=self.dtype == "bfloat16")
        self.weights = _class_weights(card, training) if recipe.balance else None
        self.per_step = max(1, recipe.batch // card.fold)  # groups
        # What Adam and its kin add to a weight does not shrink where layers have more inputs, what it does to their
        # outputs grows: the rate has to fall with the width (Yang et al., Tensor Programs V, NeurIPS 2021).
        self.lr = recipe.lr / (math.sqrt(card.fold) if recipe.scale_lr else 1.0)
        self.optimizer = _OPTIMIZERS[recipe.optimizer](
            self.module.parameters(), lr=self.lr, weight_decay=recipe.weight_decay
        )
        self.held_out = grouped(validation.tracks(card.order), card.fold, card.order, seed=recipe.seed)
        self.history: list[Epoch] = []
        self.before = self.after = 0  # epochs for which the network of a slot or, after it, the folded one is trained
        self.as_copies = False
        self.best_epoch, self.best_merit = 0, (-math.inf, -math.inf)
        self.best_state: dict[str, Tensor] = {}

    def begin_after(self, one: Trained, slots: Slots | None) -> None:
        """Goes on after a slot: as its copies, or from random weights where there are to be none.

        Copies may be kept, if no epoch brings anything better.
        """
        self.history, self.before = [*one.history], len(one.history)
        if slots is not None:
            self._short()
            slots.fill(self.module, one.state_dict)
            self.average.load_state_dict(self.module.state_dict())
            self._consider(one.best_epoch, *self._validate())

    def _short(self) -> None:
        """Copies have learned: they train for `fold_epochs`, and know all classes."""
        self.as_copies = True
        self.recipe = self.asked.model_copy(update={"epochs": self.asked.fold_epochs, "curriculum_share": 0.0})

    def has_learned(self) -> bool:
        """Whether the weights that are kept have less loss on validation than any answer that is always the same."""
        labels = torch.from_numpy(self.validation.labels_in_runs())
        always = self._loss(self._always(labels).expand(len(labels), -1), labels).item()
        return self.history[self.best_epoch].validation_loss < always

    def _always(self, labels: Tensor) -> Tensor:
        """The logits, (K,), with which one answer to all pictures has the least loss; no class is ruled out."""
        if self.card.task == "one_of":
            counts = torch.bincount(labels, minlength=len(self.card.classes)).clamp(min=1).float()
            return (counts if self.weights is None else counts * self.weights).log()
        share = labels.mean(dim=0).clamp(1 / len(labels), 1 - 1 / len(labels))
        odds = share / (1 - share)
        return (odds if self.weights is None else odds * self.weights).log()

    def run(self, checkpoint: Path | None, progress: Callable[[Epoch], None] | None) -> Trained:
        saved = time.monotonic()
        unsaved: _State | None = None  # after the last epoch that was finished, where it is not on disk
        try:
            while not self._done():
                self.history.append(now := self._epoch())
                self._consider(now.number, now.validation_loss, now.validation_accuracy)
                if checkpoint is not None:
                    if self._done() or time.monotonic() - saved > _CHECKPOINT_S:
                        write_checkpoint(checkpoint, self.id, *self._state())
                        saved, unsaved = time.monotonic(), None
                    else:
                        unsaved = copy.deepcopy(self._state())  # the steps to come change it in place
                if progress:
                    progress(self.history[-1])
        except KeyboardInterrupt:
            if checkpoint is not None and unsaved is not None:
                write_checkpoint(checkpoint, self.id, *unsaved)
            raise
        return Trained(state_dict=self.best_state, history=tuple(self.history), best_epoch=self.best_epoch)

    def _consider(self, epoch: int, loss: float, accuracy: float) -> None:
        """Keeps the averaged weights, if they are the best on validation so far."""
        merit = _merit(loss, accuracy)
        if merit > self.best_merit:
            self.best_epoch, self.best_merit = epoch, merit
            self.best_state = {
                k: v.clone(memory_format=torch.contiguous_format) for k, v in self.average.state_dict().items()
            }

    def _done(self) -> bool:
        done = len(self.history) - self.before
        if done and not math.isfinite(self.history[-1].loss + self.history[-1].validation_loss):
            return True  # it never comes back
        since = max(self.best_epoch - self.before, all_classes_from(self.recipe, self.card))
        return done >= self.recipe.epochs or bool(self.recipe.patience and done - 1 - since >= self.recipe.patience)

    def _epoch(self) -> Epoch:
        began = time.perf_counter()
        number = len(self.history) - self.before
        formed = self._formed(number)
        if not len(formed):
            raise ValueError(f"train: the classes of epoch {number} must have pictures to train on, got none")
        steps = _steps(formed, self.per_step)
        while steps < self.recipe.least_steps:  # a short clip is passed over again
            formed = np.concatenate([formed, self._formed(number)])
            steps = _steps(formed, self.per_step)
        formed = self.rng.permutation(formed)  # groups change places, pictures stay in their groups
        horizon = self.recipe.average_epochs * steps
        self.module.train()
        losses, since = [], 0
        # Steps of equal size: none of a single group, of which batch normalization could learn nothing.
        for done, groups in enumerate(np.array_split(formed, steps)):
            for options in self.optimizer.param_groups:
                options["lr"] = self.lr * _rate(self.recipe, number, done, steps)
            losses.append(self._step(groups))
            since += 1
            if done == steps - 1 or (horizon and since == _AVERAGE_EVERY):
                self._follow(since, horizon)
                since = 0
        validation_loss, accuracy = self._validate()
        return Epoch(
            number=len(self.history),
            planned=self.before + self.recipe.epochs + self.after,
            fold=self.card.fold,
            loss=float(np.mean(losses)),
            validation_loss=validation_loss,
            validation_accuracy=accuracy,
            seconds=time.perf_counter() - began,
            anew=self.before > 0 and not self.as_copies,
        )

    def _follow(self, steps: int, horizon: float) -> None:
        """Moves the average towards the module, by what so many steps have of the horizon."""
        share = 1 - math.exp(-steps / horizon) if horizon else 1.0
        share = max(share, 1 / (self.averaged + 1))  # at first the plain mean: it forgets where training began
        self.averaged += 1
        kept, now = self.average.state_dict(), self.module.state_dict()
        moving = [name for name, value in kept.items() if value.is_floating_point()]
        with torch.no_grad():
            torch._foreach_lerp_([kept[name] for name in moving], [now[name] for name in moving], share)
            for name in kept.keys() - moving:  # counts and indices have no mean
                kept[name].copy_(now[name])

    def _formed(self, number: int) -> NDArray[np.int32]:
        """The groups of one pass over the pictures; every pass has other neighbours together."""
        f, order = self.card.fold, self.card.order
        tracks = learned(self.recipe, self.card, self.training, number)
        offsets = [int(self.rng.integers(min(f, len(track)))) for track in tracks]
        return grouped(tracks, f, order, seed=int(self.rng.integers(2**31)), offsets=offsets)

    def _step(self, groups: NDArray[np.int32]) -> float:
        pictures = moved(self.training.pictures, padded(groups), self.recipe, self.rng)
        x = self.normalize(torch.from_numpy(pictures), torch.float32)
        x = lit(x, self.card.fold, float(np.mean(self.card.std)), self.recipe, self.rng)
        labels = _labels(self.training, groups)
        try:
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
        except OWN_CODE as exc:  # the user's forward may raise anything, and may do so in training alone
            raise self._failure(x, exc) from exc
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
        with torch.inference_mode():
            n = len(self.held_out)
            # All parts are of one size, as those of an engine: a single group may behave otherwise.
            filled = padded(self.held_out)[np.arange(-(-n // self.per_step) * self.per_step) % n]
            logits = torch.cat([self._answers(part) for part in filled.reshape(-1, self.per_step, self.card.fold)])[:n]
            labels = _labels(self.validation, self.held_out)
            answers = unfold(logits, self.card.fold).flatten(0, 1)
            loss = self._loss(answers, labels).item()
            if self.card.task == "one_of":
                right = (answers.argmax(1) == labels)[labels >= 0]
            else:
                over = answers.sigmoid() >= torch.tensor(self.card.thresholds)
                right = (over == (labels > 0.5))[labels[:, 0] >= 0]
        return loss, right.double().mean().item()

    def _answers(self, groups: NDArray[np.int32]) -> Tensor:
        """Logits of the averaged weights for groups of validation."""
        x = self.normalize(torch.from_numpy(self.validation.pictures[groups]), torch.float32)
        try:
            logits: Tensor = self.average(x)
        except OWN_CODE as exc:  # the user's forward may raise anything
            raise self._failure(x, exc) from exc
        return logits

    def _failure(self, x: Tensor, exc: BaseException) -> ModelError:
        return ModelError(
            f"{self.card.architecture}: must train on float32 {tuple(x.shape)}, (groups, fold·3, H, W), "
            f"got {one_line(exc)}; change its arguments, fold or train.batch"
        )

    @functools.cached_property
    def id(self) -> str:
        """Two trainings of one id give the same weights."""
        taught = None if self.teacher is None else self.teacher.state_dict()
        shapes = {name: list(value.shape) for name, value in self.module.state_dict().items()}
        return training_id(
            self.card, self.asked, (self.training, self.validation), taught, shapes=shapes, dtype=self.dtype
        )

    def _state(self) -> _State:
        """What the rest of the training depends on: what JSON can hold, and tensors."""
        plain = {
            "history": [dataclasses.asdict(epoch) for epoch in self.history],
            "before": self.before,
            "as_copies": self.as_copies,
            "best_epoch": self.best_epoch,
            "best_merit": self.best_merit,
            "averaged": self.averaged,
            "rng": self.rng.bit_generator.state,
            "random": random.getstate(),
        }
        tensors = {
            "module": self.module.state_dict(),
            "average": self.average.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "best": self.best_state,
            "torch_rng": torch.random.get_rng_state(),
        }
        return plain, tensors

    def restore(self, plain: dict[str, Any], tensors: dict[str, Any]) -> None:
        self.history = [Epoch(**epoch) for epoch in plain["history"]]
        self.before = plain["before"]
        if plain["as_copies"]:
            self._short()
        self.best_epoch, self.best_merit = plain["best_epoch"], tuple(plain["best_merit"])
        self.best_state = tensors["best"]
        self.averaged = plain["averaged"]
        self.rng.bit_generator.state = plain["rng"]
        version, numbers, gauss = plain["random"]
        random.setstate((version, tuple(numbers), gauss))
        self.module.load_state_dict(tensors["module"])
        self.average.load_state_dict(tensors["average"])
        self.optimizer.load_state_dict(tensors["optimizer"])
        torch.random.set_rng_state(tensors["torch_rng"])


def _steps(groups: NDArray[np.int32], per_step: int) -> int:
    return math.ceil(len(groups) / per_step)


def _merit(loss: float, accuracy: float) -> tuple[float, float]:
    """Of weights on validation, the larger the better; those that diverged are worse than any other."""
    return (accuracy, -loss) if math.isfinite(loss) else (-1.0, -math.inf)


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
