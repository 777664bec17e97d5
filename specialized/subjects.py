"""Models to measure: of the zoo or of a model file, at several f."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path

from torch import nn

from specialized.cost import Cost, cost
from specialized.errors import ModelError
from specialized.modelfile import ModelCard, network, read_card
from specialized.models import MODELS
from specialized.objects import close_to, search_beside


@dataclass(frozen=True, slots=True, eq=False)
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
        """The model at f with new weights; the same module when it is asked for again, so leave it as it is."""
        return _built(self, fold)

    def cost(self, fold: int, *, pictures: int = 1024, bytes_per_element: int = 2) -> Cost:
        """What it costs at f; unless told otherwise by the definition of the publication, 1,024 pictures of 16 bits."""
        _, module = self.build(fold)
        return cost(module, fold=fold, input=self.card.input, pictures=pictures, bytes_per_element=bytes_per_element)


@lru_cache(maxsize=8)  # one model's, at each f: drawing millions of weights takes longer than a forward
def _built(subject: Subject, fold: int) -> tuple[ModelCard, nn.Module]:
    card = replace(subject.card, fold=fold)
    return card, network(card)


def subjects(names: Sequence[str], folds: Sequence[int]) -> list[Subject]:
    """The models of these names; a user's own architecture is built at each f to see that it can be.

    Args:
        names: of `MODELS`, or paths of model files, of which the file's own f is measured too; empty for the small
            models of the zoo.
        folds: each f.

    Raises:
        ModelError: there is no such model, it is quantized, or it cannot be built at one of the f.
    """
    found = [_subject(name, tuple(folds)) for name in dict.fromkeys(names or filter(_is_specialized, MODELS))]
    for subject in found:
        if subject.card.architecture not in MODELS:
            for fold in subject.folds:
                subject.build(fold)
    return found


def _is_specialized(name: str) -> bool:
    """Neither the general-purpose network nor one of those that folding is compared with."""
    return name != "resnet18" and not name.endswith("-compound")


def _subject(name: str, folds: tuple[int, ...]) -> Subject:
    if (spec := MODELS.get(name)) is not None:
        classes = tuple(f"class {k}" for k in range(spec.classes))
        return Subject(
            name, ModelCard(architecture=name, fold=1, order="consecutive", input=spec.input, classes=classes), folds
        )
    if not name.endswith(".safetensors"):
        raise ModelError(
            f"{name}: must be a name that `vpipe models` lists, or a model file (.safetensors); "
            f"{close_to(name, MODELS) or 'correct the name'}"
        )
    card = read_card(name)
    if card.ranges:
        raise ModelError(
            f"{name}: must not be quantized, got one that is; take the file that it was made of, or vpipe tune"
        )
    search_beside(name, card.architecture)
    return Subject(Path(name).stem, card, tuple(sorted({card.fold, *folds})))
