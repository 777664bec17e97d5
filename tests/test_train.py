import dataclasses
import itertools
import random

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from specialized.curriculum import all_classes_from, learned
from specialized.engines import open_engine
from specialized.errors import ModelError
from specialized.evaluate import evaluate
from specialized.examples import Examples, split_runs
from specialized.modelfile import ModelCard, network
from specialized.models import build
from specialized.recipe import Recipe
from specialized.stage import Stage, _merit, _rate
from specialized.train import Epoch, Teacher, Trained, settled, slots_of, train

CARD = ModelCard(
    architecture="coral",
    args={"filters": 8, "dense": 32},
    fold=2,
    order="consecutive",
    input=(12, 12),
    classes=("bright", "none"),
)
SPLIT = split_runs(240, blocks=8, validation={2, 3}, test={6, 7}, gap=2)
QUICK = Recipe(epochs=6, batch=16, shift=1, fold_epochs=0)


def quick(**changes: object) -> Recipe:
    return Recipe.model_validate(QUICK.model_dump() | changes)


def scene(card: ModelCard = CARD) -> Examples:
    """A noisy scene in which a bright square comes and goes."""
    rng = np.random.default_rng(0)
    pictures = rng.integers(0, 60, (240, 12, 12, 3), dtype=np.uint8)
    present = (np.arange(240) // 7) % 3 == 0
    for i in np.flatnonzero(present):
        x = 2 + i % 5
        pictures[i, 3:8, x : x + 5] += 150
    if card.task == "any_of":
        labels = np.stack([present, ~present], axis=1).astype(np.float32)
        return Examples(pictures, labels, ((0, 240),))
    return Examples(pictures, np.where(present, 0, 1).astype(np.int64), ((0, 240),))


def trained(card: ModelCard = CARD, recipe: Recipe = QUICK, **kwargs: object) -> Trained:
    examples = scene(card)
    return train(card, examples.only(SPLIT["training"]), examples.only(SPLIT["validation"]), recipe, **kwargs)  # type: ignore[arg-type]


def accuracy_of(card: ModelCard, result: Trained) -> float:
    module = build(card.architecture, args=card.args, classes=2, fold=card.fold, input=card.input)
    module.load_state_dict(result.state_dict)
    engine = open_engine(card, module, device="cpu", dtype="float32")
    return evaluate(engine, scene(card).only(SPLIT["test"])).accuracy


@pytest.mark.parametrize("f", [1, 4])
@pytest.mark.parametrize("order", ["consecutive", "strided", "shuffled", "streams"])
def test_a_model_learns_in_every_order(f: int, order: str) -> None:
    card = dataclasses.replace(CARD, fold=f, order=order)
    assert accuracy_of(card, trained(card, quick(epochs=30, lr=5e-3))) > 0.9


def test_a_model_of_several_answers_learns_each() -> None:
    card = dataclasses.replace(CARD, task="any_of", thresholds=(0.5, 0.5), classes=("bright", "dark"))
    assert accuracy_of(card, trained(card, quick(epochs=30, lr=5e-3, balance=True))) > 0.9


def test_the_same_seed_gives_the_same_weights_and_another_one_others() -> None:
    torch.manual_seed(1)
    one = trained()
    torch.manual_seed(2)
    again, other = trained(), trained(recipe=quick(seed=1))
    assert one.state_dict.keys() == again.state_dict.keys()
    assert all(torch.equal(one.state_dict[name], again.state_dict[name]) for name in one.state_dict)
    assert not all(torch.equal(one.state_dict[name], other.state_dict[name]) for name in one.state_dict)


def test_global_generators_and_threads_are_left_as_they_were() -> None:
    generator, threads = torch.random.get_rng_state(), torch.get_num_threads()
    trained(recipe=quick(epochs=1))
    assert torch.equal(torch.random.get_rng_state(), generator)
    assert torch.get_num_threads() == threads


def test_the_epoch_of_the_best_validation_is_kept_and_each_is_reported() -> None:
    reported: list[Epoch] = []
    result = trained(progress=reported.append)
    assert tuple(reported) == result.history
    assert [epoch.number for epoch in reported] == list(range(6))
    best = max(reported, key=lambda epoch: (epoch.validation_accuracy, -epoch.validation_loss))
    assert result.best_epoch == best.number


def test_validation_is_measured_as_evaluation_measures_the_kept_weights() -> None:
    result = trained()
    module = build("coral", args=CARD.args, classes=2, fold=2, input=CARD.input)
    module.load_state_dict(result.state_dict)
    engine = open_engine(CARD, module, device="cpu", dtype="float32")
    measured = evaluate(engine, scene().only(SPLIT["validation"])).accuracy
    assert measured == pytest.approx(result.history[result.best_epoch].validation_accuracy)


@pytest.mark.parametrize(
    "changes",
    [
        {"optimizer": "adam"},
        {"optimizer": "rmsprop"},
        {"label_smoothing": 0.1},
        {"balance": True},
        {"flip": True},
        {"vary": "picture"},
        {"average_epochs": 0},
        {"brightness": 0, "contrast": 0, "shift": 0},
        {"colour": 0.1},
        {"zoom": 0.3},
        {"least_steps": 60},
        {"schedule": "constant"},
        {"schedule": "halving", "halve_epochs": 1},
        {"warmup_epochs": 0},
        {"lr": 2e-3},
        {"scale_lr": False},
        {"weight_decay": 0.5},
        {"batch": 8},
        {"fold_epochs": 1},
        {"dtype": "float32"},
        {"seed": 1},
    ],
)
def test_every_setting_of_a_recipe_changes_the_weights(
    monkeypatch: pytest.MonkeyPatch, changes: dict[str, object]
) -> None:
    monkeypatch.setattr(Stage, "has_learned", lambda self: True)
    base = {"epochs": 2, "dtype": "bfloat16"}
    plain, changed = trained(recipe=quick(**base)), trained(recipe=quick(**base | changes))
    name = "features.0.weight"
    assert not torch.equal(plain.state_dict[name], changed.state_dict[name])
    assert all(bool(value.isfinite().all()) for value in changed.state_dict.values())


@pytest.mark.parametrize(
    "changes",
    [
        {"epochs": 0},
        {"batch": 0},
        {"lr": 0.0},
        {"weight_decay": -1.0},
        {"shift": -1},
        {"label_smoothing": 1.0},
        {"contrast": 1.0},
        {"optimizer": "sgd"},
        {"schedule": "halve"},
        {"distill": 1.5},
        {"patience": -1},
        {"vary": "frame"},
        {"epoch": 4},
        {"flip": 1},
    ],
)
def test_a_recipe_out_of_range_is_refused(changes: dict[str, object]) -> None:
    (key,) = changes
    with pytest.raises(ValueError, match=rf"for Recipe\n{key}\n"):
        Recipe.model_validate(changes)


def test_examples_that_do_not_fit_the_card_are_refused() -> None:
    good = scene()
    part = good.only(SPLIT["training"])

    def refused(message: str, card: ModelCard, training: Examples, validation: Examples) -> None:
        with pytest.raises(ValueError, match=message):
            train(card, training, validation, QUICK)

    refused("training: examples must hold at least one picture", CARD, good.only(()), part)
    refused("validation: examples must hold at least one picture", CARD, part, good.only(()))
    refused(r"size \(9, 12\) of the model's input", dataclasses.replace(CARD, input=(9, 12)), part, part)
    refused(r"in 0..1, got int64 \(.*\) in 0..2", CARD, Examples(good.pictures, good.labels * 2, part.runs), part)
    any_of = dataclasses.replace(CARD, task="any_of", thresholds=(0.5, 0.5))
    refused(r"any_of model must be float32 \(N, 2\)", any_of, part, part)


def test_labels_outside_the_runs_do_not_matter() -> None:
    examples = scene()
    labels = examples.labels.copy()
    outside = np.ones(240, bool)
    for start, stop in (*SPLIT["training"], *SPLIT["validation"]):
        outside[start:stop] = False
    labels[outside] = -7
    unknown = Examples(examples.pictures, labels, examples.runs)
    result = train(CARD, unknown.only(SPLIT["training"]), unknown.only(SPLIT["validation"]), QUICK)
    expected = trained()
    assert all(torch.equal(value, expected.state_dict[name]) for name, value in result.state_dict.items())


class KilledError(Exception): ...


class Restless(nn.Module):
    """Draws at random in training, from torch and from Python, and keeps what is no weight: counts and indices."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 8, 3, stride=2), nn.BatchNorm2d(8)
        self.drop, self.head = nn.Dropout(0.3), nn.Linear(8 * 25, classes)
        self.register_buffer("order", torch.tensor([7, 5, 3, 1, 0, 2, 4, 6]))

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(self.conv(x))
        if self.training and random.random() < 0.3:
            x = x * 0.5
        logits: Tensor = self.head(self.drop(x[:, self.order.argsort()].relu()).flatten(1))
        return logits


RESTLESS = dataclasses.replace(CARD, architecture="tests.test_train:Restless", args={}, fold=1)


@pytest.mark.parametrize(
    ("card", "changes"),
    [
        (CARD, {}),
        (CARD, {"optimizer": "rmsprop", "average_epochs": 0, "zoom": 0.1, "balance": True}),
        (CARD, {"patience": 2, "lr": 0.01}),
        (CARD, {"fold_epochs": 4}),  # killed while the slot learns
        (CARD, {"epochs": 2, "fold_epochs": 3, "optimizer": "rmsprop"}),  # and while the whole does
        (CARD, {"epochs": 3, "fold_epochs": 3}),  # and between
        (CARD, {"epochs": 2, "fold_epochs": 1, "lr": 1e-9}),  # and after a slot that has learned nothing
        (dataclasses.replace(CARD, fold=1), {"curriculum_share": 0.5, "curriculum_epochs": 2}),
        (RESTLESS, {"average_epochs": 5.75}),
    ],
)
def test_a_killed_training_goes_on_to_the_same_weights(tmp_path, monkeypatch, card, changes) -> None:
    monkeypatch.setattr("specialized.stage._CHECKPOINT_S", 0.0)
    recipe, path, reported = quick(**changes), tmp_path / "checkpoint.pt", []

    def killed(epoch: Epoch) -> None:
        reported.append(epoch)
        if epoch.number == 2:
            raise KilledError

    with pytest.raises(KilledError):
        trained(card, recipe, checkpoint=path, progress=killed)
    again: list[Epoch] = []
    held: list[Epoch] = []
    result = trained(card, recipe, checkpoint=path, progress=again.append, resumed=held.append)
    whole = trained(card, recipe)
    assert (held, result.history) == (reported[2:], (*reported, *again))
    assert [dataclasses.replace(e, seconds=0) for e in result.history] == [
        dataclasses.replace(e, seconds=0) for e in whole.history
    ]
    assert result.best_epoch == whole.best_epoch
    assert all(torch.equal(value, result.state_dict[name]) for name, value in whole.state_dict.items())


class Interrupted(Restless):
    """Is interrupted in the middle of an epoch, once."""

    steps = itertools.count(1)  # of all its trainings

    def forward(self, x: Tensor) -> Tensor:
        if self.training and next(self.steps) == 24:  # an epoch has 9
            raise KeyboardInterrupt
        return super().forward(x)


def test_a_training_that_is_interrupted_within_an_epoch_goes_on_after_the_last_one(tmp_path) -> None:
    card, recipe = dataclasses.replace(RESTLESS, architecture="tests.test_train:Interrupted"), quick(least_steps=1)
    path, held, reported = tmp_path / "c.pt", [], []
    with pytest.raises(KeyboardInterrupt):
        trained(card, recipe, checkpoint=path, progress=reported.append)
    assert [path.name for path in tmp_path.iterdir()] == ["c.pt"]
    result = trained(card, recipe, checkpoint=path, resumed=held.append)
    assert held == reported[1:]
    assert len(reported) == 2
    assert result.history[:2] == tuple(reported)
    whole = trained(card, recipe)
    assert all(torch.equal(value, result.state_dict[name]) for name, value in whole.state_dict.items())


def test_a_finished_training_is_not_done_again(tmp_path) -> None:
    first = trained(checkpoint=tmp_path / "c.pt")
    again = trained(checkpoint=tmp_path / "c.pt")
    assert again.history == first.history  # seconds and all
    assert all(torch.equal(value, again.state_dict[name]) for name, value in first.state_dict.items())


def test_a_checkpoint_of_another_training_or_of_none_is_refused(tmp_path) -> None:
    path = tmp_path / "c.pt"
    trained(recipe=quick(epochs=1), checkpoint=path)
    with pytest.raises(ModelError, match=r"c\.pt: must be of the training to go on with, got one of another network"):
        trained(recipe=quick(epochs=1, seed=1), checkpoint=path)
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(ModelError, match=r"c\.pt: must be a checkpoint of a training, got .*; remove it"):
        trained(recipe=quick(epochs=1), checkpoint=path)


def test_buffers_that_are_no_numbers_to_average_are_kept_as_they_are() -> None:
    state = trained(RESTLESS, quick(average_epochs=5.75)).state_dict
    assert state["order"].tolist() == [7, 5, 3, 1, 0, 2, 4, 6]
    assert int(state["norm.num_batches_tracked"]) > 0


def test_without_averaging_the_weights_themselves_are_kept() -> None:
    examples = scene()
    parts = examples.only(SPLIT["training"]), examples.only(SPLIT["validation"])
    torch.manual_seed(0)
    training = Stage(CARD, network(CARD), *parts, quick(average_epochs=0), None)
    training._epoch()
    now = training.module.state_dict()
    assert all(torch.equal(value, now[name]) for name, value in training.average.state_dict().items())


def test_the_average_follows_every_step_of_an_epoch() -> None:
    examples = scene()
    parts = examples.only(SPLIT["training"]), examples.only(SPLIT["validation"])
    torch.manual_seed(0)
    training = Stage(CARD, network(CARD), *parts, quick(average_epochs=1.0), None)
    followed, taken, step = [], [], training._step
    training._follow = lambda steps, horizon: followed.append(steps)  # type: ignore[method-assign]
    training._step = lambda groups: taken.append(len(groups)) or step(groups)  # type: ignore[method-assign]
    training._epoch()
    assert followed[:-1] == [4] * (len(followed) - 1)
    assert sum(followed) == len(taken) >= 10
    assert max(taken) - min(taken) <= 1


def test_training_stops_when_nothing_better_comes() -> None:
    result = trained(recipe=quick(epochs=200, patience=3, lr=5e-3))
    assert len(result.history) < 200
    assert result.best_epoch == len(result.history) - 4


def test_patience_waits_for_all_classes_of_the_curriculum() -> None:
    card = dataclasses.replace(CARD, fold=1)
    recipe = quick(epochs=20, patience=1, curriculum_share=0.5, curriculum_epochs=9, lr=1e-6)
    assert all_classes_from(recipe, card) == 9
    assert len(trained(card, recipe).history) >= 11


def test_a_training_that_diverges_stops_and_keeps_what_was_good(monkeypatch: pytest.MonkeyPatch) -> None:
    good = trained(recipe=quick(epochs=2, schedule="constant"))
    epoch = Stage._epoch

    def diverging(training: Stage) -> Epoch:
        if len(training.history) == 2:
            with torch.no_grad():
                next(training.module.parameters()).fill_(float("nan"))
        return epoch(training)

    monkeypatch.setattr(Stage, "_epoch", diverging)
    result = trained(recipe=quick(epochs=30, schedule="constant"))
    assert len(result.history) == 3
    assert not np.isfinite(result.history[2].validation_loss)
    assert result.best_epoch == good.best_epoch
    assert all(torch.equal(value, good.state_dict[name]) for name, value in result.state_dict.items())
    assert _merit(9.0, 0.1) > _merit(float("nan"), 0.9)


class Fails(Restless):
    def forward(self, x: Tensor) -> Tensor:
        return (super().forward(x), x) if self.training else super().forward(x)  # type: ignore[return-value]


class Normed(Restless):
    """Batch normalization of vectors, which can learn nothing of a single one."""

    def __init__(self, classes: int) -> None:
        super().__init__(classes)
        self.head = nn.Sequential(self.head, nn.BatchNorm1d(classes))


def test_a_network_that_fails_in_training_alone_is_named() -> None:
    with pytest.raises(ModelError, match=r"tests.test_train:Fails: must train on float32 \(\d+, 3, 12, 12\), .* got"):
        trained(dataclasses.replace(RESTLESS, architecture="tests.test_train:Fails"), quick(epochs=1))


def test_no_step_is_left_with_a_single_group() -> None:
    card = dataclasses.replace(RESTLESS, architecture="tests.test_train:Normed")
    examples = scene(card)
    parts = examples.only(((0, 33),)), examples.only(SPLIT["validation"])
    train(card, *parts, quick(epochs=2, batch=32, least_steps=1))


class Squeezed(nn.Module):
    """Squeezes whatever is of size 1: a single group, too."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.conv, self.pool, self.head = nn.Conv2d(3, 8, 3), nn.AdaptiveAvgPool2d(1), nn.Linear(8, classes)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.head(self.pool(self.conv(x)).squeeze())
        return logits


def test_no_part_of_validation_is_a_single_group() -> None:
    card = dataclasses.replace(RESTLESS, architecture="tests.test_train:Squeezed")
    examples = scene(card)
    train(card, examples.only(SPLIT["training"]), examples.only(((0, 33),)), quick(epochs=1, batch=32))


def test_a_short_clip_is_passed_over_several_times_in_an_epoch(monkeypatch) -> None:
    passes = []
    whole = Stage._formed
    monkeypatch.setattr(Stage, "_formed", lambda self, number: passes.append(number) or whole(self, number))
    trained(recipe=quick(epochs=2, least_steps=21))  # a pass has 9 steps
    assert passes == [0, 0, 0, 1, 1, 1]


def test_the_curriculum_adds_classes_from_the_first_on() -> None:
    card = dataclasses.replace(CARD, classes=tuple("abcdefgh"), fold=1, order="shuffled")
    examples = Examples(scene().pictures, np.arange(240) % 8, ((0, 100), (120, 240)))
    recipe = quick(curriculum_share=0.25, curriculum_epochs=3)

    def classes(card: ModelCard, epoch: int) -> set[int]:
        return {int(k) % 8 for track in learned(recipe, card, examples, epoch) for k in track}

    found = [classes(card, epoch) for epoch in (0, 2, 3, 6, 9, 30)]
    assert found == [{0, 1}, {0, 1}, {0, 1, 2, 3}, {0, 1, 2, 3, 4, 5}, set(range(8)), set(range(8))]
    assert [len(track) for track in learned(recipe, card, examples, 0)] == [26, 30]
    assert [len(track) for track in learned(quick(), card, examples, 0)] == [100, 120]
    assert classes(dataclasses.replace(card, fold=4), 0) == {0, 1, 2, 3}


def test_groups_in_time_do_not_reach_across_what_the_curriculum_leaves_out(monkeypatch) -> None:
    formed = []
    whole = Stage._formed
    monkeypatch.setattr(Stage, "_formed", lambda self, number: formed.append(whole(self, number)) or formed[-1])
    card = dataclasses.replace(CARD, classes=("bright", "none", "other", "more"))
    examples = Examples(scene().pictures, np.arange(240) // 5 % 4, ((0, 240),))
    parts = examples.only(SPLIT["training"]), examples.only(SPLIT["validation"])
    train(card, *parts, quick(epochs=1, curriculum_share=0.5, least_steps=1))
    (groups,) = formed
    full = groups[(groups >= 0).all(axis=1)]
    assert (np.diff(full, axis=1) == 1).all()
    assert {int(label) for label in examples.labels[groups[groups >= 0]]} == {0, 1}
    inside = {n for start, stop in SPLIT["training"] for n in range(start, stop)}
    assert {int(n) for n in groups[groups >= 0]} <= inside


@pytest.mark.parametrize(
    ("schedule", "rates"),
    [
        ("constant", [2 / 3, 1, 1, 1, 1]),
        ("halving", [2 / 3, 1, 0.5, 0.5, 0.25]),
        ("cosine", [2 / 3, 1, 0.75, 0.25, 0]),
    ],
)
def test_the_rate_follows_the_schedule(schedule: str, rates: list[float]) -> None:
    recipe = quick(epochs=4, schedule=schedule, halve_epochs=2)
    found = [_rate(recipe, epoch, step, 2) for epoch, step in ((0, 1), (1, 0), (2, 0), (3, 0), (4, 0))]
    assert found == pytest.approx(rates)


def test_the_rate_of_a_folded_network_falls_with_its_width() -> None:
    four = dataclasses.replace(CARD, fold=4)
    scaled, as_it_is = trained(four, quick(lr=2e-3)), trained(four, quick(lr=1e-3, scale_lr=False))
    assert all(torch.equal(scaled.state_dict[name], as_it_is.state_dict[name]) for name in scaled.state_dict)
    assert scaled.history[-1].loss != trained(four, quick(lr=2e-3, scale_lr=False)).history[-1].loss


def test_a_folded_network_starts_as_copies_of_a_slot_that_has_learned() -> None:
    card = dataclasses.replace(CARD, fold=4)
    reported: list[Epoch] = []
    result = trained(card, quick(epochs=30, fold_epochs=2, lr=5e-3), progress=reported.append)
    assert [epoch.number for epoch in result.history] == list(range(32))
    assert [(epoch.fold, epoch.planned) for epoch in result.history] == [(1, 32)] * 30 + [(4, 32)] * 2
    assert tuple(reported) == result.history
    assert result.best_epoch >= 30
    assert accuracy_of(card, result) > 0.9
    assert accuracy_of(card, trained(card, quick(epochs=2, lr=5e-3))) < 0.9  # two epochs alone do not do it


@pytest.mark.parametrize(("fold", "epochs"), [(1, 0), (2, 10), (4, 10), (5, 0)])
def test_a_recipe_that_says_nothing_starts_from_copies_where_a_slot_is_wide_enough(
    monkeypatch: pytest.MonkeyPatch, fold: int, epochs: int
) -> None:
    monkeypatch.setattr(Stage, "has_learned", lambda self: True)
    card = dataclasses.replace(CARD, fold=fold)
    recipe = settled(card, quick(fold_epochs=None))
    assert recipe == quick(fold_epochs=epochs)
    assert settled(card, quick(fold_epochs=3)) == quick(fold_epochs=3)
    history = trained(card, quick(epochs=1, fold_epochs=None)).history
    assert [epoch.fold for epoch in history] == ([1] if epochs else []) + [fold] * (epochs or 1)


def test_after_a_slot_that_has_learned_nothing_training_starts_from_random_weights() -> None:
    card = dataclasses.replace(CARD, fold=4)
    recipe = quick(epochs=3, fold_epochs=1, lr=1e-6)
    result = trained(card, recipe)
    assert [(epoch.fold, epoch.planned) for epoch in result.history] == [(1, 4)] * 3 + [(4, 6)] * 3
    assert result.best_epoch >= 3
    start = network(card).state_dict()["features.0.weight"]
    assert result.state_dict["features.0.weight"].shape == start.shape
    assert result.state_dict["features.0.weight"][:, 3:].abs().min() > 0  # no zeros between slots


@pytest.mark.parametrize("card", [CARD, dataclasses.replace(CARD, task="any_of", thresholds=(0.5, 0.5))])
@pytest.mark.parametrize("balance", [False, True])
def test_a_slot_has_learned_if_no_single_answer_would_do_better(card: ModelCard, balance: bool) -> None:
    examples = scene(card)
    parts = examples.only(SPLIT["training"]), examples.only(SPLIT["validation"])
    training = Stage(card, network(card), *parts, quick(balance=balance), None)
    labels = torch.from_numpy(parts[1].labels_in_runs())
    always = training._always(labels).requires_grad_()
    loss = training._loss(always.expand(len(labels), -1), labels)
    loss.backward()
    assert always.grad is not None
    torch.testing.assert_close(always.grad, torch.zeros(2), atol=1e-6, rtol=0)  # it is the best of its kind
    done = Epoch(
        number=0, planned=1, fold=1, loss=1.0, validation_loss=loss.item(), validation_accuracy=0.9, seconds=0.0
    )
    training.history = [done]
    assert not training.has_learned()
    training.history = [dataclasses.replace(done, validation_loss=loss.item() - 1e-4)]
    assert training.has_learned()


def test_a_rate_of_nearly_nothing_leaves_the_copies_as_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Stage, "has_learned", lambda self: True)
    card = dataclasses.replace(CARD, fold=4)
    recipe = quick(epochs=3, fold_epochs=1, scale_lr=False, lr=1e-3)
    slots = slots_of(card, recipe)
    assert slots is not None
    result = trained(card, recipe.model_copy(update={"lr": 1e-12}))
    weight = result.state_dict["features.0.weight"]
    width = weight.shape[0] // 4
    blocks = [weight[i * width : (i + 1) * width, 3 * i : 3 * i + 3] for i in range(4)]
    assert all(torch.allclose(block, blocks[0], atol=1e-6) for block in blocks)
    assert weight[:width, 3:6].abs().max() < 1e-6


def test_copies_are_kept_where_no_epoch_brings_anything_better(monkeypatch: pytest.MonkeyPatch) -> None:
    card = dataclasses.replace(CARD, fold=4)
    recipe = quick(epochs=20, fold_epochs=2, lr=5e-3)
    step = Stage._step

    def harmful(training: Stage, groups: NDArray[np.int32]) -> float:
        loss = step(training, groups)
        if training.card.fold > 1:
            with torch.no_grad():
                for parameter in training.module.parameters():
                    parameter.normal_()
        return loss

    monkeypatch.setattr(Stage, "_step", harmful)
    result = trained(card, recipe)
    assert [epoch.fold for epoch in result.history] == [1] * 20 + [4] * 2
    assert result.best_epoch < 20
    assert accuracy_of(card, result) > 0.9
    assert max(epoch.validation_accuracy for epoch in result.history[20:]) < accuracy_of(card, result)


def test_a_network_that_is_not_folded_by_rule_starts_from_random_weights_or_not_at_all() -> None:
    card = dataclasses.replace(CARD, architecture="tests.test_train:ByHand", args={})
    with pytest.raises(
        ModelError, match=r"must be folded by rule to start as copies of a slot, got .*; with train\.fold_"
    ):
        trained(card, quick(fold_epochs=1))
    assert len(trained(card, quick(epochs=1, fold_epochs=None)).history) == 1


class ByHand(nn.Sequential):
    """Folds itself, by a rule of its own."""

    def __init__(self, classes: int, fold: int) -> None:
        width = 4 + fold
        super().__init__(nn.Conv2d(3 * fold, width, 3, stride=2), nn.Flatten(), nn.Linear(25 * width, fold * classes))


def test_a_folded_model_learns_from_the_logits_of_an_unfolded_one() -> None:
    card = dataclasses.replace(CARD, fold=1)
    module = build("coral", args=CARD.args, classes=2, fold=1, input=CARD.input)
    module.load_state_dict(trained(card, quick(epochs=30, lr=5e-3)).state_dict)
    examples = scene()
    wrong = Examples(examples.pictures, 1 - examples.labels, examples.runs)  # only the teacher knows what is right
    parts = wrong.only(SPLIT["training"]), examples.only(SPLIT["validation"])
    recipe = quick(epochs=30, lr=5e-3, distill=1.0)
    result = train(CARD, *parts, recipe, teacher=Teacher(card, module))
    assert accuracy_of(CARD, result) > 0.9
    assert accuracy_of(CARD, train(CARD, *parts, recipe)) < 0.6


def test_a_teacher_of_other_answers_or_a_folded_one_is_refused() -> None:
    module = build("coral", args=CARD.args, classes=2, fold=1, input=CARD.input)
    for changes, message in (
        ({"fold": 1, "classes": ("dark", "none")}, r"teacher: must have classes \('bright', 'none'\) as the model"),
        ({"fold": 2}, "teacher: must not be folded, got f = 2; train one with fold: 1"),
    ):
        with pytest.raises(ModelError, match=message):
            trained(teacher=Teacher(dataclasses.replace(CARD, **changes), module))  # type: ignore[arg-type]
