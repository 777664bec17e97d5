"""Training: labelled pictures in, weights out."""

import contextlib
import dataclasses
import random
from collections.abc import Callable
from pathlib import Path

import torch

from specialized.checkpoint import read_checkpoint
from specialized.errors import ModelError
from specialized.examples import Examples, check_examples
from specialized.foldcnn import Slots
from specialized.modelfile import ModelCard, network
from specialized.recipe import Recipe
from specialized.stage import Epoch, Stage, Teacher, Trained

__all__ = ["Epoch", "Teacher", "Trained", "check_teacher", "settled", "slots_of", "train"]

# A slot must be wide enough to learn by itself. At f = 8, where one of coral has 5 channels, networks that started from
# random weights were the better ones on footage (docs/models.md); up to f = 4 copies were as good or better everywhere.
_MOST_COPIES, _FOLD_EPOCHS = 4, 10


def train(
    card: ModelCard,
    training: Examples,
    validation: Examples,
    recipe: Recipe,
    *,
    teacher: Teacher | None = None,
    checkpoint: Path | None = None,
    progress: Callable[[Epoch], None] | None = None,
    resumed: Callable[[Epoch], None] | None = None,
) -> Trained:
    """Trains the card's architecture from scratch, on the CPU, in groups formed as the card's order says.

    In an epoch a weight of a folded network sees the pictures of one slot, 1/f of all. With `recipe.fold_epochs` the
    network begins as f copies of a narrow one that has learned from all of them; if that one has learned nothing, from
    random weights. What the recipe leaves open is decided as `settled` says.

    Runs on one thread, so that the same arguments give the same weights on the same machine, interrupted or not. The
    global generators of Python, numpy and torch, and torch's number of threads, are left as they were.

    Args:
        card: architecture, fold, order, classes, task and preprocessing.
        training: examples to learn from.
        validation: examples to choose the epoch by, apart in time from those of training and of any later test.
        recipe: how.
        teacher: whose logits to learn from, with the weight `recipe.distill`.
        checkpoint: where the state after an epoch is kept, and taken up again if it is that of this very training. A
            training that is interrupted leaves that of the last epoch it finished; one that is killed, of an epoch
            at most 10 seconds and an epoch older.
        progress: called after each epoch that is trained.
        resumed: called before the first of them with the last epoch that a checkpoint holds, if there is one.

    Raises:
        KeyboardInterrupt: as it came, once the checkpoint is written.
        ValueError: the examples or the teacher do not fit the card.
        ModelError: the network cannot be built, or the checkpoint is of another training.
    """
    check_examples(card, training, "training")
    check_examples(card, validation, "validation")
    if teacher is not None:
        check_teacher(card, teacher.card)
    recipe = settled(card, recipe)
    threads, python_random = torch.get_num_threads(), random.getstate()
    # The steps are small: a second thread gains little, and loses ten times that when another process wants the core.
    torch.set_num_threads(1)
    try:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(recipe.seed)
            random.seed(recipe.seed)  # what networks that drop layers at random draw from
            return _trained(card, (training, validation), recipe, teacher, checkpoint, progress, resumed)
    finally:
        torch.set_num_threads(threads)
        random.setstate(python_random)


def check_teacher(card: ModelCard, teacher: ModelCard) -> None:
    """Raises ModelError unless a model of the teacher's card can teach one of this card."""
    for name in ("task", "classes", "input", "resize", "fit", "mean", "std"):
        if getattr(teacher, name) != getattr(card, name):
            raise ModelError(
                f"teacher: must have {name} {getattr(card, name)} as the model to train has, "
                f"got {getattr(teacher, name)}"
            )
    if teacher.fold != 1:
        raise ModelError(f"teacher: must not be folded, got f = {teacher.fold}; train one with fold: 1")


def settled(card: ModelCard, recipe: Recipe) -> Recipe:
    """The recipe with `fold_epochs` decided for the network of the card.

    Raises:
        ModelError: the network cannot be built.
    """
    if recipe.fold_epochs is not None:
        return recipe
    copies = recipe.model_copy(update={"fold_epochs": _FOLD_EPOCHS})
    if 1 < card.fold <= _MOST_COPIES:
        with contextlib.suppress(ModelError):  # a network that is folded in a way of its own
            slots_of(card, copies)
            return copies
    return recipe.model_copy(update={"fold_epochs": 0})


def slots_of(card: ModelCard, recipe: Recipe) -> Slots | None:
    """The slots of the network, if its training begins with one of them.

    Raises:
        ModelError: a network cannot be built, or is not folded by rule.
    """
    if card.fold == 1 or not recipe.fold_epochs:
        return None
    folded = network(card)
    try:
        slots = Slots(
            network(dataclasses.replace(card, fold=1, multiple_of=1)), card.fold, multiple_of=card.multiple_of
        )
        slots.fill(folded, slots.network.state_dict())
    except ModelError as exc:
        raise ModelError(
            f"{card.architecture}: must be folded by rule to start as copies of a slot, got {exc}; with "
            "train.fold_epochs 0 it starts from random weights"
        ) from exc
    return slots


def _trained(
    card: ModelCard,
    parts: tuple[Examples, Examples],
    recipe: Recipe,
    teacher: Teacher | None,
    checkpoint: Path | None,
    progress: Callable[[Epoch], None] | None,
    resumed: Callable[[Epoch], None] | None,
) -> Trained:
    """Trains the network of a slot, where there is to be one, and then the network."""
    whole, slots, slot = Stage(card, network(card), *parts, recipe, teacher), slots_of(card, recipe), None
    if slots is not None:
        slot = Stage(dataclasses.replace(card, fold=1), slots.network, *parts, recipe, teacher)
        slot.after = recipe.fold_epochs or 0
    if checkpoint is not None and checkpoint.exists():
        stages = {stage.id: stage for stage in (slot, whole) if stage is not None}
        id, plain, tensors = read_checkpoint(checkpoint, *stages)
        stages[id].restore(plain, tensors)
        if resumed:
            resumed(stages[id].history[-1])
    if slots is not None and slot is not None and not whole.history:
        one = slot.run(checkpoint, progress)
        whole.begin_after(one, slots if slot.has_learned() else None)
    return whole.run(checkpoint, progress)
