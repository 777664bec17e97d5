"""Timed arms: each is warmed up, then all are measured in turn, round after round, and compared within rounds.

    round 1   b a d c      what drifts (clocks, heat, neighbours on the machine) hits all arms alike,
    round 2   c b a d      and a ratio is taken between two measurements that lie close to each other
    round 3   a d c b

A rate is the median of its rounds, a ratio the median of the ratios within them.
"""

import random
import statistics
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from specialized.errors import VpipeError

K = TypeVar("K", bound=Hashable)

MOST_CALLS = 1 << 20
SHORTEST_S = 1e-9  # no clock tells less, and nothing is divided by 0


@dataclass(frozen=True, slots=True)
class Arm(Generic[K]):
    """One thing that is timed.

    Attributes:
        key: Tells it from the others.
        work: Of one call, in any unit: pictures, FLOP, bytes.
        run: Makes so many calls, waits until all are done and returns the seconds. Raises VpipeError if it cannot.
    """

    key: K
    work: float
    run: Callable[[int], float]


@dataclass(frozen=True, slots=True)
class Series:
    """What an arm reached.

    Attributes:
        calls: Of each measurement.
        warm_up_calls: Made before the first.
        rates: Work per second, one per round.
    """

    calls: int
    warm_up_calls: int
    rates: tuple[float, ...]

    @property
    def median(self) -> float:
        return statistics.median(self.rates)

    @property
    def spread(self) -> tuple[float, float]:
        """Lowest and highest rate."""
        return min(self.rates), max(self.rates)

    def over(self, other: "Series") -> float:
        """The median of the ratios to another arm of the same rounds."""
        return statistics.median(a / b for a, b in zip(self.rates, other.rates, strict=True))


def warm_up(arm: Arm[K], seconds: float) -> tuple[int, int]:
    """Calls an arm until its time can be told, at least twice.

    The first call is made for what only it does: memory is taken, kernels are chosen, code is compiled. Then the calls
    are doubled until they take half of `seconds`.

    Returns:
        The calls that take about `seconds`, at least 1; the calls that were made.
    """
    arm.run(1)
    calls, made = 1, 2
    took = arm.run(1)
    while took < seconds / 2 and calls < MOST_CALLS:
        calls *= 2
        made += calls
        took = arm.run(calls)
    return max(1, min(MOST_CALLS, round(calls * seconds / max(took, SHORTEST_S)))), made


def alternate(
    arms: Sequence[Arm[K]], *, rounds: int, seconds: float | None, say: Callable[[str], None], seed: int = 0
) -> tuple[dict[K, Series], dict[K, str]]:
    """Measures every arm once per round, in an order that is drawn anew for each round.

    Args:
        arms: Their keys differ.
        rounds: At least 1.
        seconds: What one measurement should take; one call may take longer. None: each is one call, without warm-up.
        say: Is told of each round.
        seed: Of the orders.

    Returns:
        What each arm reached; and why the others could not be measured to the end.
    """
    plan: dict[K, tuple[int, int]] = {}
    failed: dict[K, str] = {}
    for arm in arms:
        try:
            plan[arm.key] = (1, 0) if seconds is None else warm_up(arm, seconds)
        except VpipeError as exc:
            failed[arm.key] = str(exc)
    rates: Mapping[K, list[float]] = {key: [] for key in plan}
    draw = random.Random(seed)
    for number in range(1, rounds + 1):
        say(f"round {number} of {rounds}")
        able = [arm for arm in arms if arm.key not in failed]
        for arm in draw.sample(able, len(able)):
            calls, _ = plan[arm.key]
            try:
                rates[arm.key].append(arm.work * calls / max(arm.run(calls), SHORTEST_S))
            except VpipeError as exc:
                failed[arm.key] = str(exc)
    series = {key: Series(*plan[key], tuple(rates[key])) for key in plan if key not in failed}
    return series, failed


def fastest(arms: Iterable[Arm[K]], seconds: float) -> Arm[K]:
    """The arm that does most work per second in one short measurement each. The others are let go as they are beaten.

    Raises:
        VpipeError: none can be measured; what the last one raised.
    """
    best: tuple[float, Arm[K]] | None = None
    trouble: VpipeError | None = None
    for arm in arms:
        try:
            reached = rate(arm, seconds)
        except VpipeError as exc:
            trouble = exc
            continue
        if best is None or reached > best[0]:
            best = reached, arm
    if best is None:
        raise trouble or ValueError("fastest: arms must hold one or more, got none")
    return best[1]


def rate(arm: Arm[K], seconds: float) -> float:
    """Work per second in one measurement after a warm-up."""
    calls, _ = warm_up(arm, seconds)
    return arm.work * calls / max(arm.run(calls), SHORTEST_S)
