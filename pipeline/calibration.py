"""What validation footage settles of a trained model file: its temperature, and thresholds for `keep: auto`."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from specialized.calibration import TEMPERATURES, ErrorRate, Rates, fit_temperature, rates_at, threshold_for
from specialized.engines import open_engine
from specialized.evaluate import Scored, score
from specialized.examples import Examples
from specialized.metrics import log_loss
from specialized.modelfile import load_model

__all__ = ["Calibration", "calibrate"]

USELESS = 0.9  # an error rate from which on a threshold is hardly one


@dataclass(frozen=True, slots=True, kw_only=True)
class Calibration:
    """Settled on validation footage, for the card."""

    temperature: float
    log_loss: tuple[float, float]  # at the temperature 1, and at this one
    target: tuple[ErrorRate, float]
    rates: Mapping[str, Rates]  # as reached on validation, of each class for which there is a threshold
    without: Mapping[str, str]  # class: why there is none

    @property
    def keep(self) -> dict[str, float]:
        """Thresholds by class."""
        return {name: rates.threshold for name, rates in self.rates.items()}

    @property
    def warnings(self) -> list[str]:
        """What came out of little use, in words."""
        kind, target = self.target
        found = [f"keep: auto will not know {name}, since {why}" for name, why in self.without.items()]
        for name, rates in self.rates.items():
            for does, rate, which in (
                ("takes", rates.false_positive_rate, "without"),
                ("misses", rates.false_negative_rate, "with"),
            ):
                if rate is not None and rate >= USELESS:
                    found.append(
                        f"keep: auto {does} {100 * rate:.0f} % of the validation pictures {which} {name}, the price of "
                        f"{kind} {target:g}; ask for another rate (operating), or see in curves.png whether the model "
                        "has learned"
                    )
        if self.temperature in TEMPERATURES:
            told = "tell hardly anything" if self.temperature > 1 else "are far less sure than the answers are right"
            found.append(
                f"the temperature ended at its limit, {self.temperature:g}: on validation its scores {told}, so "
                "do not take them for likelihoods; see in curves.png whether it has learned"
            )
        return found

    def as_dict(self) -> dict[str, object]:
        """Plain values for JSON."""
        kind, target = self.target
        return {
            "log_loss": list(self.log_loss),
            "target": {kind: target},
            "classes": {name: dataclasses.asdict(rates) for name, rates in self.rates.items()},
        }


def calibrate(model: Path, validation: Examples, target: tuple[ErrorRate, float]) -> Calibration:
    """Finds temperature and thresholds, in the arithmetic that a run chooses on this machine.

    Args:
        model: A model file; what it says of both does not matter.
        validation: Apart in time from training, and from what measures the result.
        target: Which error rate of each class may be how high at most.

    Raises:
        ModelError: the file cannot be used.
    """
    card, module = load_model(model)
    one_of = card.task == "one_of"
    plain = score(open_engine(dataclasses.replace(card, temperature=1.0), module), validation)
    temperature = fit_temperature(plain.scores, plain.truth, one_of=one_of)
    scored = score(open_engine(dataclasses.replace(card, temperature=temperature), module), validation)
    before, after = (log_loss(each.scores, each.truth, one_of=one_of) for each in (plain, scored))
    rates: dict[str, Rates] = {}
    without: dict[str, str] = {}
    for name in card.sought:
        found = _rates(scored, card.classes.index(name), target)
        if isinstance(found, Rates):
            rates[name] = found
        else:
            without[name] = found
    return Calibration(temperature=temperature, log_loss=(before, after), target=target, rates=rates, without=without)


def _rates(scored: Scored, k: int, target: tuple[ErrorRate, float]) -> Rates | str:
    """What the best threshold of class k reaches, or why there is none."""
    kind, most = target
    present, scores = scored.truth[:, k], scored.scores[:, k]
    threshold = threshold_for(most, kind, present, scores)
    if threshold is not None:
        return rates_at(threshold, present, scores)
    if not present.any():
        return "no validation picture shows it"
    if present.all():
        return "every validation picture shows it"
    return f"no threshold brings {kind} down to {most:g}"
