"""How often a model file is right: measured as a run would use it, and shown."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from specialized.calibration import Rates
from specialized.cost import Cost
from specialized.engines import Dtype, open_engine
from specialized.evaluate import ClassScore, Evaluation, RegionScore, Scored, judge, score
from specialized.events import WINDOW
from specialized.examples import Examples
from specialized.intervals import FEW, RESAMPLES, Interval
from specialized.modelfile import load_model
from specialized.orders import ORDERS, Order

__all__ = ["Accuracy", "kept", "measure", "rests_on", "table"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Accuracy:
    """An evaluation, and what ran it."""

    evaluation: Evaluation
    scored: Scored  # what it judges
    orders: Mapping[Order, float]  # accuracy by how groups are formed, as far as that was asked
    engine: str
    device: str  # cpu or cuda
    dtype: Dtype  # what a run chooses here
    in_float32: float  # accuracy of the same weights in float32
    cost: Cost

    def as_dict(self) -> dict[str, object]:
        """Plain values for JSON."""
        return {
            **self.evaluation.as_dict(),
            "orders": dict(self.orders),
            "engine": self.engine,
            "device": self.device,
            "dtype": self.dtype,
            "accuracy_float32": self.in_float32,
        }


def measure(
    model: Path, examples: Examples, *, order: Order | None = None, block_frames: int | None = None
) -> Accuracy:
    """Runs a model file over examples in the arithmetic that a run chooses on this machine, and in float32.

    Args:
        model: The file.
        examples: Apart in time from those that trained the model or chose its epoch.
        order: How to form groups; None: as in the model's training, and by the way in all other orders.
        block_frames: See `specialized.evaluate.judge`.

    Raises:
        ModelError: the file cannot be used.
    """
    card, module = load_model(model)
    engine = open_engine(card, module)
    scored = exact = score(engine, examples, order=order)
    if engine.dtype != "float32":
        exact = score(open_engine(card, module, dtype="float32"), examples, order=order)
    orders = {scored.order: _accuracy(scored)}
    if order is None and card.fold > 1:
        others = [other for other in ORDERS if other != card.order and (other != "regions" or examples.regions)]
        orders |= {other: _accuracy(score(engine, examples, order=other)) for other in others}
    return Accuracy(
        evaluation=judge(scored, block_frames=block_frames),
        scored=scored,
        orders=orders,
        engine=engine.name,
        device=engine.device.partition(":")[0],
        dtype=engine.dtype,
        in_float32=_accuracy(exact),
        cost=engine.cost,
    )


def _accuracy(scored: Scored) -> float:
    return float(scored.right.mean())


# --------------------------------------------------------------------------------------------- for reading


def table(title: str, where: str, accuracy: Accuracy, notes: Sequence[str] = ()) -> str:
    """The accuracy for reading.

    Args:
        title: What was measured.
        where: On which footage.
        accuracy: As measured.
        notes: Lines to end with.
    """
    found, card = accuracy.evaluation, accuracy.scored.card
    width = max(8, *map(len, found.classes))
    lines = [
        f"{title}: accuracy {found.accuracy:.4f} on {found.n:,} pictures{_in_words(found.accuracy_interval)}",
        where,
        f"groups of {len(found.slots)}, {found.order}; {accuracy.dtype} on {accuracy.device}, "
        f"in float32 {accuracy.in_float32:.4f}",
        f"always the commoner answer: {found.majority:.4f}",
        f"calibration error {found.calibration_error:.4f}, log loss {found.log_loss:.4f}, "
        f"temperature {card.temperature:g}",
        "",
        f"{'class':<{width}}  {'precision':<20}  {'recall':<20}  {'F1':<20}      AP     ECE  pictures",
        *(_frames(name, width, one) for name, one in found.classes.items()),
        "",
        *_appearances({name: found.classes[name] for name in card.sought}, width),
        *_regions(found.regions),
        f"by slot of the group: {'  '.join(map(_share, found.slots))}",
        f"by order: {'  '.join(f'{order} {right:.4f}' for order, right in accuracy.orders.items())}",
    ]
    lines += [kept(name, rates) for name in card.sought if (rates := found.classes[name].keep)]
    lines += rests_on(found)
    return "\n  ".join([*lines, *notes]).replace("\n  \n", "\n\n")


def rests_on(found: Evaluation) -> list[str]:
    """What the intervals of an evaluation are worth."""
    blocks = found.interval_blocks
    unit, units = ("block of time", "blocks of time") if found.in_time else ("image", "images")
    if blocks == 1:
        return [f"warning: there is a single {unit}, so there are no intervals; test on more"]
    if found.in_time:
        of = f"{blocks} blocks of about {found.interval_block_frames} successive frames: neighbours are alike"
    else:
        of = f"{blocks:,} images"
    lines = [f"[ ]: 95 % of {RESAMPLES:,} resamples of {of}"]
    if blocks < FEW:
        lines.append(f"warning: on only {blocks} {units} an interval is a hint at best; test on more")
    return lines


def _frames(name: str, width: int, one: ClassScore) -> str:
    figures = (
        f"{_share(value)} {_within(interval):<13}"
        for value, interval in (
            (one.precision, one.precision_interval),
            (one.recall, one.recall_interval),
            (one.f1, one.f1_interval),
        )
    )
    return (
        f"{name:<{width}}  {'  '.join(figures)}  {_share(one.average_precision)}  {one.calibration_error:.4f}  "
        f"{one.support:>8}"
    )


def _appearances(classes: Mapping[str, ClassScore], width: int) -> Iterator[str]:
    """A table of appearances and windows, with an empty line after it; nothing of pictures that are not in time."""
    lines = [
        f"{name:<{width}}  {events.total:>11}  {events.found:>5}  {events.false:>5}   {windows.total:>13}  "
        f"{windows.present:>7}  {windows.missed:>6}  {windows.false:>5}"
        for name, one in classes.items()
        if (events := one.events) is not None and (windows := one.windows) is not None
    ]
    if lines:
        yield f"{'class':<{width}}  appearances  found  false   windows of {WINDOW}  with it  missed  false"
        yield from lines
        yield ""


def _regions(regions: Mapping[str, RegionScore]) -> Iterator[str]:
    """A table of regions, with an empty line after it; nothing of whole frames."""
    if not regions:
        return
    width = max(8, *map(len, regions))
    yield f"{'region':<{width}}  {'accuracy':<20}  commoner answer  pictures"
    for name, one in regions.items():
        yield f"{name:<{width}}  {_share(one.accuracy)} {_within(one.interval):<13}  {one.majority:>15.4f}  {one.n:>8}"
    yield ""


def kept(name: str, rates: Rates) -> str:
    """What `keep: auto` does to one class, in a line."""
    missed, taken = (
        "none" if rate is None else f"{100 * rate:.1f} % of {of}"
        for rate, of in (
            (rates.false_negative_rate, rates.positives),
            (rates.false_positive_rate, rates.negatives),
        )
    )
    return f"keep: auto takes {name} from {rates.threshold:g} on: misses {missed} with it, takes {taken} without"


def _share(value: float | None) -> str:
    return "     -" if value is None else f"{value:.4f}"


def _within(interval: Interval | None) -> str:
    return "" if interval is None else f"[{interval[0]:.3f} {interval[1]:.3f}]"


def _in_words(interval: Interval | None) -> str:
    return "" if interval is None else f", 95 % interval [{interval[0]:.4f} {interval[1]:.4f}]"
