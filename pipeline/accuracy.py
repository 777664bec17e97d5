"""How often a model file is right: measured as a run would use it, and shown."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from specialized.engines import Dtype, open_engine
from specialized.evaluate import Evaluation, evaluate
from specialized.examples import Examples
from specialized.modelfile import load_model
from specialized.orders import Order

__all__ = ["Accuracy", "measure", "table"]


@dataclass(frozen=True, slots=True)
class Accuracy:
    """An evaluation, and what ran it."""

    evaluation: Evaluation
    engine: str
    device: str  # cpu or cuda
    dtype: Dtype  # what a run chooses here
    in_float32: float  # accuracy of the same weights in float32

    def as_dict(self) -> dict[str, object]:
        """Plain values for JSON."""
        return {
            **self.evaluation.as_dict(),
            "engine": self.engine,
            "device": self.device,
            "dtype": self.dtype,
            "accuracy_float32": self.in_float32,
        }


def measure(model: Path, examples: Examples, *, order: Order | None = None) -> Accuracy:
    """Runs a model file over examples in the arithmetic that a run chooses on this machine, and in float32.

    Args:
        model: The file.
        examples: Apart in time from those that trained the model or chose its epoch.
        order: How to form groups; None: as in the model's training.

    Raises:
        ModelError: the file cannot be used.
    """
    card, module = load_model(model)
    engine = open_engine(card, module)
    evaluation = exact = evaluate(engine, examples, order=order)
    if engine.dtype != "float32":
        exact = evaluate(open_engine(card, module, dtype="float32"), examples, order=order)
    return Accuracy(evaluation, engine.name, engine.device.partition(":")[0], engine.dtype, exact.accuracy)


def table(title: str, where: str, accuracy: Accuracy, notes: Sequence[str] = ()) -> str:
    """The accuracy for reading.

    Args:
        title: What was measured.
        where: On which footage.
        accuracy: As measured.
        notes: Lines to end with.
    """
    found = accuracy.evaluation
    width = max(8, *map(len, found.classes))
    lines = [
        f"{title}: accuracy {found.accuracy:.4f} on {found.n:,} pictures",
        where,
        f"groups of {len(found.slots)}, {found.order}; {accuracy.dtype} on {accuracy.device}, "
        f"in float32 {accuracy.in_float32:.4f}",
        f"always the commoner answer: {found.majority:.4f}",
        f"{'class':<{width}}  precision  recall      F1  pictures",
    ]
    for name, one in found.classes.items():
        precision, recall, f1 = map(_share, (one.precision, one.recall, one.f1))
        lines.append(f"{name:<{width}}  {precision:>9}  {recall}  {f1}  {one.support:>8}")
    lines.append(f"by slot of the group: {'  '.join(map(_share, found.slots))}")
    return "\n  ".join([*lines, *notes])


def _share(value: float | None) -> str:
    return "     -" if value is None else f"{value:.4f}"
