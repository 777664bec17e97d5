import dataclasses
import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from specialized.calibration import Rates
from specialized.engines import Engine, open_engine
from specialized.evaluate import ClassScore, Scored, difference, evaluate, judge, score
from specialized.events import Events, Windows
from specialized.examples import Examples
from specialized.modelfile import ModelCard


class Content(nn.Module):
    """Answers with the picture's own content: the logits are its mean colours."""

    def __init__(self, f: int, k: int, blind_slot: int | None = None) -> None:
        super().__init__()
        self.f, self.k, self.blind_slot = f, k, blind_slot

    def forward(self, x: Tensor) -> Tensor:
        colours = x.mean((2, 3)).view(len(x), self.f, 3)[..., : self.k].clone()
        if self.blind_slot is not None:
            colours[:, self.blind_slot] *= -1
        return colours.reshape(len(x), -1)


def engine(f: int, task: str = "one_of", *, order: str = "consecutive", blind_slot: int | None = None) -> Engine:
    card = ModelCard(
        architecture="tests:Content",
        fold=f,
        order=order,  # type: ignore[arg-type]
        input=(4, 4),
        classes=("red", "green", "none") if task == "one_of" else ("red", "green"),
        task=task,  # type: ignore[arg-type]
        thresholds=() if task == "one_of" else (0.5, 0.7),
    )
    return open_engine(card, Content(f, len(card.classes), blind_slot), device="cpu", batch=3 * f, dtype="float32")


def examples(colours: list[int], labels: object, dtype: type = np.int64) -> Examples:
    """A picture per number: full in the colour of that number."""
    pictures = np.zeros((len(colours), 4, 4, 3), np.uint8)
    for i, colour in enumerate(colours):
        pictures[i, :, :, colour] = 255
    return Examples(pictures, np.array(labels, dtype), ((0, len(colours)),))


def figures(one: ClassScore) -> tuple[float | None, float | None, float | None, int]:
    return one.precision, one.recall, one.f1, one.support


def scored(scores: np.ndarray, truth: np.ndarray, runs: tuple[tuple[int, int], ...] = (), **card: object) -> Scored:
    fields = {"order": "consecutive", "input": (4, 4), "classes": ("red", "none"), **card}
    of = ModelCard(architecture="tests:Content", fold=1, **fields)  # type: ignore[arg-type]
    n = len(scores)
    return Scored(of, "consecutive", scores.astype(np.float32), truth, np.zeros(n, np.int64), runs or ((0, n),))


def noisy(n: int, seed: int = 0, **card: object) -> Scored:
    """A model that is right most of the time, on classes that come and go."""
    rng = np.random.default_rng(seed)
    red = np.arange(n) // 7 % 2 == 0
    chance = np.where(red, 0.65, 0.35) + rng.uniform(-0.3, 0.3, n)
    return scored(np.column_stack([chance, 1 - chance]), np.column_stack([red, ~red]), **card)


def test_figures_are_those_counted_by_hand() -> None:
    result = evaluate(engine(2), examples([0, 0, 0, 1, 1, 0, 0], [0, 0, 0, 1, 0, 1, 2]))
    assert (result.n, result.order) == (7, "consecutive")
    assert result.accuracy == pytest.approx(4 / 7)
    assert result.majority == pytest.approx(4 / 7)
    assert result.confusion == ((3, 1, 0), (1, 1, 0), (1, 0, 0))
    assert {name: figures(one) for name, one in result.classes.items()} == {
        "red": (3 / 5, 3 / 4, 6 / 9, 4),
        "green": (1 / 2, 1 / 2, 2 / 4, 2),
        "none": (None, 0.0, 0.0, 1),
    }
    assert result.classes["red"].events == Events(total=2, found=1, false=1)
    assert result.classes["red"].windows == Windows(total=0, present=0, missed=0, false=0)


@pytest.mark.parametrize("f", [1, 2, 3, 4, 5])
@pytest.mark.parametrize("order", ["consecutive", "strided", "shuffled", "streams"])
def test_every_picture_is_compared_with_its_own_label_once(f: int, order: str) -> None:
    colours = np.random.default_rng(f).integers(0, 3, 37).tolist()
    split = Examples(examples(colours, colours).pictures, np.array(colours), ((2, 13), (15, 16), (20, 37)))
    result = evaluate(engine(f, order=order), split)
    assert (result.n, result.accuracy) == (29, 1.0)
    assert sum(score.support for score in result.classes.values()) == 29


def test_a_slot_that_is_always_wrong_shows() -> None:
    result = evaluate(engine(3, blind_slot=1), examples([0] * 8, [0] * 8))
    assert result.slots == (1.0, 0.0, 1.0)
    assert result.accuracy == pytest.approx(5 / 8)


def test_a_slot_that_only_padding_came_to_is_unknown() -> None:
    assert evaluate(engine(4), examples([0, 1], [0, 1])).slots == (1.0, 1.0, None, None)


def test_answers_over_their_thresholds_are_counted_one_by_one() -> None:
    # sigmoid of a full colour is 0.88 here, of an empty one 0.12
    labels = [[1, 0], [1, 1], [0, 1], [0, 0]]
    result = evaluate(engine(2, "any_of"), examples([0, 0, 1, 2], labels, np.float32))
    assert result.accuracy == pytest.approx(7 / 8)
    assert result.majority == pytest.approx(0.5)
    assert figures(result.classes["red"]) == (1.0, 1.0, 1.0, 2)
    assert figures(result.classes["green"]) == (1.0, 0.5, 2 / 3, 2)
    assert result.confusion is None


def test_another_order_than_that_of_the_training_can_be_asked_for() -> None:
    assert evaluate(engine(2), examples([0, 1], [0, 1]), order="strided").order == "strided"


def test_an_evaluation_can_be_written_as_json() -> None:
    result = evaluate(engine(2), examples([0, 1, 0], [0, 1, 2]))
    assert json.loads(json.dumps(result.as_dict(), allow_nan=False))["classes"]["red"]["support"] == 1


def test_examples_that_do_not_fit_the_model_are_refused() -> None:
    with pytest.raises(ValueError, match=r"evaluate: labels of a one_of model must be int64 \(N,\) in 0..2, got"):
        evaluate(engine(2), examples([0, 1], [0, 3]))


def test_the_same_scores_can_be_judged_again_and_every_picture_is_in_its_place() -> None:
    shown = examples([0, 1, 2, 0, 1, 2, 0], [0, 1, 2, 0, 1, 2, 1])
    for order in ("consecutive", "strided", "shuffled", "streams"):
        found = score(engine(2, order=order), shown)
        assert found.scores.argmax(1).tolist() == [0, 1, 2, 0, 1, 2, 0], order
        assert found.truth.argmax(1).tolist() == [0, 1, 2, 0, 1, 2, 1], order
        assert judge(found) == evaluate(engine(2, order=order), shown)


def test_runs_become_successive_stretches_of_the_pictures() -> None:
    shown = examples([0] * 10, [0] * 10)
    assert score(engine(1), shown.only(((1, 3), (5, 9)))).runs == ((0, 2), (2, 6))


def test_an_interval_says_what_it_rests_on_and_holds_the_figure() -> None:
    result = judge(noisy(400), block_frames=20)
    assert (result.interval_block_frames, result.interval_blocks) == (20, 20)
    for figure, interval in [
        (result.accuracy, result.accuracy_interval),
        *((one.precision, one.precision_interval) for one in result.classes.values()),
        *((one.recall, one.recall_interval) for one in result.classes.values()),
        *((one.f1, one.f1_interval) for one in result.classes.values()),
    ]:
        assert figure is not None
        assert interval is not None
        low, high = interval
        assert low < figure < high
        assert high - low < 0.3


def test_blocks_last_five_seconds_unless_it_is_said_otherwise() -> None:
    assert (judge(noisy(400)).interval_block_frames, judge(noisy(400)).interval_blocks) == (150, 3)
    assert judge(noisy(400, step_s=0.1)).interval_block_frames == 50


def test_pictures_that_are_not_in_time_have_neither_appearances_nor_blocks() -> None:
    in_time = noisy(200)
    by_chance = dataclasses.replace(in_time, in_time=False)
    result, spaced = judge(by_chance, block_frames=20), judge(in_time, block_frames=1)  # spaced by 5 seconds or more
    assert (result.in_time, result.interval_blocks, result.interval_block_frames) == (False, 200, 1)
    assert {(one.events, one.windows) for one in result.classes.values()} == {(None, None)}
    assert None not in [one.events for one in spaced.classes.values()]
    assert result.accuracy_interval == spaced.accuracy_interval
    other = scored(~in_time.truth, in_time.truth)
    assert difference(by_chance, other, block_frames=20) == difference(in_time, other, block_frames=1)


def test_one_block_gives_no_interval() -> None:
    result = judge(noisy(40))
    assert (result.interval_blocks, result.accuracy_interval, result.classes["red"].f1_interval) == (1, None, None)


def test_the_bootstrap_is_the_same_every_time() -> None:
    assert judge(noisy(200), block_frames=10) == judge(noisy(200), block_frames=10)
    assert judge(noisy(200), block_frames=10, seed=1) != judge(noisy(200), block_frames=10, seed=2)


@given(st.integers(0, 100))
def test_what_is_counted_by_frame_does_not_depend_on_the_order_within_a_block(seed: int) -> None:
    rng = np.random.default_rng(seed)
    before = noisy(60, seed)
    mixed = np.concatenate([start + rng.permutation(10) for start in range(0, 60, 10)])
    after = judge(scored(before.scores[mixed], before.truth[mixed]), block_frames=10)
    expected = judge(before, block_frames=10)
    assert after.accuracy_interval == expected.accuracy_interval
    assert (after.accuracy, after.confusion, after.slots) == (expected.accuracy, expected.confusion, expected.slots)
    assert (after.calibration_error, after.log_loss) == pytest.approx((expected.calibration_error, expected.log_loss))
    for name, one in after.classes.items():
        assert figures(one) == figures(expected.classes[name])
        assert one.f1_interval == expected.classes[name].f1_interval
        assert one.average_precision == pytest.approx(expected.classes[name].average_precision)


@pytest.mark.parametrize("task", ["one_of", "any_of"])
def test_perfect_and_worst_answers_have_the_best_and_worst_figures(task: str) -> None:
    truth = np.arange(90)[:, None] // 15 % 2 == np.arange(2)
    card = {"task": task, "thresholds": (0.5, 0.5) if task == "any_of" else ()}
    best = judge(scored(truth, truth, **card), block_frames=10)
    assert (best.accuracy, best.accuracy_interval, best.calibration_error, best.log_loss) == (1.0, (1.0, 1.0), 0.0, 0.0)
    worst = judge(scored(~truth, truth, **card), block_frames=10)
    assert (worst.accuracy, worst.accuracy_interval, worst.calibration_error) == (0.0, (0.0, 0.0), 1.0)
    for one, opposite in zip(best.classes.values(), worst.classes.values(), strict=True):
        assert (*figures(one)[:3], one.average_precision, one.events.found) == (1.0, 1.0, 1.0, 1.0, one.events.total)
        assert (*figures(opposite)[:3], opposite.events.found) == (0.0, 0.0, 0.0, 0)


def test_a_model_does_not_differ_from_itself_and_differs_from_another_both_ways_alike() -> None:
    one, other = noisy(300, 1), noisy(300, 2)
    assert difference(one, one, block_frames=20).accuracy == 0.0
    assert difference(one, one, block_frames=20).interval == (0.0, 0.0)
    more, less = difference(one, other, block_frames=20), difference(other, one, block_frames=20)
    assert more.accuracy == pytest.approx(judge(one).accuracy - judge(other).accuracy)
    assert more.accuracy == -less.accuracy
    assert more.interval is not None
    assert less.interval == pytest.approx((-more.interval[1], -more.interval[0]))


def test_a_difference_on_other_pictures_is_refused() -> None:
    with pytest.raises(ValueError, match="must be scored on the same pictures"):
        difference(noisy(30), noisy(31))


def test_the_stored_thresholds_are_judged_too() -> None:
    scores = np.array([[0.9, 0.1], [0.2, 0.8], [0.4, 0.6], [0.1, 0.9]])
    truth = np.array([[True, False], [True, False], [False, True], [False, True]])
    result = judge(scored(scores, truth, keep={"red": 0.3}))
    assert result.classes["red"].keep == Rates(
        threshold=0.3, false_negative_rate=0.5, false_positive_rate=0.5, positives=2, negatives=2
    )
    assert result.classes["none"].keep is None


def test_an_evaluation_of_days_of_many_classes_fits_into_a_card() -> None:
    classes = tuple(f"class {k}" for k in range(111))
    truth = np.arange(3000)[:, None] % 111 == np.arange(111)
    result = judge(scored(truth, truth, classes=classes), block_frames=10)
    assert len(json.dumps(result.as_dict(), allow_nan=False)) < 200_000
