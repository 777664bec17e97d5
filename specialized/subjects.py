"""Models to measure: of the zoo or of a model file, at several f."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from torch import nn

from specialized.cost import Cost, cost
from specialized.errors import ModelError
from specialized.modelfile import ModelCard, read_card
from specialized.models import MODELS, build

SMALL_FLOPS = 0.5e9  # per picture: models of the zoo up to this are measured where none is named


@dataclass(frozen=True, slots=True)
class Subject:
    """A model to measure; its weights do not matter, its shape does.

    Attributes:
        name: What it is called.
        card: Its architecture, arguments, classes and input; any fold.
        folds: Each f to measure.
    """

    name: str
    card: ModelCard
    folds: tuple[int, ...]

    def build(self, fold: int) -> tuple[ModelCard, nn.Module]:
        """The model at f with new weights."""
        card = replace(self.card, fold=fold)
        module = build(card.architecture, args=card.args, classes=len(card.classes), fold=fold, input=card.input)
        return card, module

    def cost(self, fold: int, *, pictures: int = 1024, bytes_per_element: int = 2) -> Cost:
        """What it costs at f; unless told otherwise by the definition of the publication, 1,024 pictures of 16 bits."""
        _, module = self.build(fold)
        return cost(module, fold=fold, input=self.card.input, pictures=pictures, bytes_per_element=bytes_per_element)


def subjects(names: Sequence[str], folds: Sequence[int]) -> list[Subject]:
    """The models of these names, each built once at each f to see that it can be.

    Args:
        names: of `MODELS`, or paths of model files, of which the file's own f is measured too; empty for the small
            models of the zoo.
        folds: each f.

    Raises:
        ModelError: there is no such model, or it cannot be built at one of the f.
    """
    found = [_subject(name, tuple(folds)) for name in dict.fromkeys(names or MODELS)]
    if not names:
        found = [one for one in found if one.cost(1).flops_per_picture <= SMALL_FLOPS]
    for subject in found:
        for fold in subject.folds:
            subject.build(fold)
    return found


def _subject(name: str, folds: tuple[int, ...]) -> Subject:
    if (spec := MODELS.get(name)) is not None:
        classes = tuple(f"class {k}" for k in range(spec.classes))
        return Subject(
            name, ModelCard(architecture=name, fold=1, order="consecutive", input=spec.input, classes=classes), folds
        )
    if not name.endswith(".safetensors"):
        raise ModelError(
            f"{name}: must be one of {', '.join(MODELS)}, or a model file (.safetensors); correct the name"
        )
    card = read_card(name)
    return Subject(Path(name).stem, card, tuple(sorted({card.fold, *folds})))
