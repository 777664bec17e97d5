import json

import numpy as np
import pytest
from torch import Tensor, nn

from specialized.engines import Engine, open_engine
from specialized.evaluate import ClassScore, evaluate
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


def test_figures_are_those_counted_by_hand() -> None:
    result = evaluate(engine(2), examples([0, 0, 0, 1, 1, 0, 0], [0, 0, 0, 1, 0, 1, 2]))
    assert (result.n, result.order) == (7, "consecutive")
    assert result.accuracy == pytest.approx(4 / 7)
    assert result.majority == pytest.approx(4 / 7)
    assert result.confusion == ((3, 1, 0), (1, 1, 0), (1, 0, 0))
    assert result.classes == {
        "red": ClassScore(precision=3 / 5, recall=3 / 4, f1=6 / 9, support=4),
        "green": ClassScore(precision=1 / 2, recall=1 / 2, f1=2 / 4, support=2),
        "none": ClassScore(precision=None, recall=0.0, f1=0.0, support=1),
    }


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
    assert result.classes["red"] == ClassScore(precision=1.0, recall=1.0, f1=1.0, support=2)
    assert result.classes["green"] == ClassScore(precision=1.0, recall=0.5, f1=2 / 3, support=2)
    assert result.confusion is None


def test_another_order_than_that_of_the_training_can_be_asked_for() -> None:
    assert evaluate(engine(2), examples([0, 1], [0, 1]), order="strided").order == "strided"


def test_an_evaluation_can_be_written_as_json() -> None:
    result = evaluate(engine(2), examples([0, 1, 0], [0, 1, 2]))
    assert json.loads(json.dumps(result.as_dict(), allow_nan=False))["classes"]["red"]["support"] == 1


def test_examples_that_do_not_fit_the_model_are_refused() -> None:
    with pytest.raises(ValueError, match=r"evaluate: labels of a one_of model must be int64 \(N,\) in 0..2, got"):
        evaluate(engine(2), examples([0, 1], [0, 3]))
