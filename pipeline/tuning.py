"""The search of `vpipe tune`: one question after the other.

    alone    per model file: which engine and dtype, then which batch      pictures in memory, no decoding
    trials   per model file: its best two, then workers, torch's threads   whole runs over a stretch of the footage
    final    CONFIG as it stands and the best of each model file           such runs, round after round

All that is asked at once is measured in alternation. The product of everything that can be set would take days.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import KW_ONLY, dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal, cast

from pipeline.assembly import engine_threads
from pipeline.config import FilterSection, RunConfig, check_run_config
from pipeline.errors import ModelError
from pipeline.machine import cores
from pipeline.stretch import Passed, Stretch, decode, label
from pipeline.tuned import Choice, Model
from pipeline.values import OBJECT
from specialized.engines import refusals
from specialized.modelfile import load_model, network
from specialized.timing import SHORTEST_S, Arm, Series, alternate

if TYPE_CHECKING:
    from specialized.engines import Dtype, Engine, EngineName

    Opener = Callable[[Choice], Engine]

__all__ = ["Search", "with_model"]

FINALISTS = 2  # settings of a model alone that are tried in whole runs
ALONE_ROUNDS, TRIAL_ROUNDS = 3, 2
WALL = "decode"


def with_model(config: RunConfig, model: Model) -> RunConfig:
    """The run with a model; engine and dtype of the run's own are not meant for another one."""
    section = config.filters[0]
    if model.path != section.model:
        section = section.model_copy(update={"model": model.path, "engine": "auto", "dtype": "auto"})
    fold = config.fold.model_copy(update={"frames": model.card.fold})
    return config.model_copy(update={"filters": (section,), "fold": fold})


@dataclass
class Search:
    """Measurements under way, and what they came to so far.

    Attributes:
        config: The run.
        models: All, the run's own first.
        stretch: What is labelled to be timed.
        engines: To try.
        dtypes: To try; the name of auto is that of another one, too.
        seconds: Of a measurement of a model alone.
        say: Is told what goes on.
        configured: How the configuration runs as it stands, once that is known.
        alone: Pictures per second, of engines.
        trials: Frames per second of whole runs, as settings are looked for.
        final: The same, measured together.
        wall: Frames per second of decoding alone, in the same rounds.
        bounds: By which stage runs were bound, how often.
        notes: What could not be measured and why, in order and each once.
    """

    config: RunConfig
    models: Sequence[Model]
    stretch: Stretch
    _: KW_ONLY
    engines: Sequence[EngineName]
    dtypes: Sequence[Dtype | Literal["auto"]]
    seconds: float
    say: Callable[[str], None]
    configured: Choice | None = None
    alone: dict[Choice, Series] = field(default_factory=dict)
    trials: dict[Choice, Series] = field(default_factory=dict)
    final: dict[Choice, Series] = field(default_factory=dict)
    wall: Series | None = None
    bounds: dict[Choice, Counter[str | None]] = field(default_factory=dict)
    notes: dict[str, None] = field(default_factory=dict)
    _trial_rounds: int = TRIAL_ROUNDS

    def measure(self, rounds: int) -> None:
        """Goes all the way, with so many final rounds."""
        self._trial_rounds = min(TRIAL_ROUNDS, rounds)
        self._note_warnings()
        as_it_stands = self._as_configured()
        self.configured = as_it_stands
        bests = [self._best_of(model, as_it_stands) for model in self.models]
        self._finish([*dict.fromkeys([as_it_stands, *(best for best in bests if best is not None)])], rounds)

    def _note_warnings(self) -> None:
        for model in self.models:
            changed = with_model(self.config, model)
            if model is not self.models[0] and model.card.ranges:  # the only engine that it is measured in
                section = changed.filters[0].model_copy(update={"engine": "openvino"})
                changed = changed.model_copy(update={"filters": (section,)})
            check_run_config(changed)
            self.notes |= dict.fromkeys(changed.warnings)

    def _as_configured(self) -> Choice:
        """How the run is configured, with what `auto` and defaults stand for here. Raises where it cannot be run."""
        section = self.config.filters[0]
        choice = Choice(
            model=section.model,
            engine=section.engine,
            dtype=section.dtype,
            batch=section.batch,
            workers=self.config.decode.workers or cores(),
            torch_threads=self.config.run.torch_threads or max(1, cores() // 2),
        )
        self.say("the configuration as it stands")
        engine = _opener(self.models[0], section)(choice)
        threads = engine_threads(self.config, [engine.cost.flops_per_picture])
        resolved = _resolved(replace(choice, torch_threads=threads), engine)
        label(self._run_of(resolved))  # what only a first run does is done
        return resolved

    def _best_of(self, model: Model, start: Choice) -> Choice | None:
        """The fastest way to run a model, as far as trials tell; None, and a note, if there is none."""
        name = os.path.basename(model.path)
        start = replace(start, model=model.path)
        if (why := self._left_out(model)) is not None:
            self.notes[f"{name}: left out: {why}"] = None
            return None
        try:
            opener = _opener(model, self.config.filters[0])
        except ModelError as error:
            self.notes[str(error)] = None
            return None
        engines: Sequence[EngineName] = ["openvino"] if model.card.ranges else self.engines
        wanted = (replace(start, engine=engine, dtype=dtype) for engine in engines for dtype in self.dtypes)
        found = self._measure_alone(model, opener, wanted)
        if found:
            best = _fastest(found)
            found |= self._measure_alone(model, opener, (replace(best, batch=n) for n in self._batches(model)))
        trial = self._label(sorted(found, key=lambda choice: -found[choice].median)[:FINALISTS], name)
        for key, counts in (("workers", _workers()), ("torch_threads", _threads())):
            if trial:
                best = _fastest(trial)
                among = {getattr(best, key), *counts}
                trial = self._label([replace(best, **{key: n}) for n in sorted(among)], f"{name}: {key}")
        return _fastest(trial) if trial else None

    def _left_out(self, model: Model) -> str | None:
        """Why a model is not measured; None if it is."""
        if not model.card.ranges:
            return None
        told = "a quantized model is measured in openvino alone, since others only imitate its 8 bits"
        if "openvino" not in self.engines:
            return f"{told}; name it with --engine"
        device = self.config.filters[0].device
        why = refusals("openvino", device=device, dtype="auto", quantized=True)
        return "; ".join([told, *(f"filter.{key}: {text}" for key, text in why.items())]) if why else None

    def _measure_alone(self, model: Model, opener: Opener, choices: Iterable[Choice]) -> dict[Choice, Series]:
        """Pictures per second of engines, in alternation."""
        from specialized.forward import engine_loop

        arms: dict[Choice, Arm[Choice]] = {}
        for choice in choices:
            self.say(f"{os.path.basename(model.path)}: alone: {choice.engine}, {choice.dtype}, batch {choice.batch}")
            try:
                engine = opener(choice)
            except ModelError as error:
                self.notes[f"{choice.engine}, {choice.dtype}: {error}"] = None
                continue
            resolved = _resolved(choice, engine)
            if resolved not in arms:  # auto is one of those that have a name
                arms[resolved] = Arm(resolved, engine.groups * model.card.fold, engine_loop(engine))
        found, failed = alternate([*arms.values()], rounds=ALONE_ROUNDS, seconds=self.seconds, say=lambda line: None)
        self._note(failed)
        self.alone |= found
        return found

    def _batches(self, model: Model) -> list[int]:
        from specialized.bench import BATCHES, MOST_ON_CPU
        from specialized.engines.torch import find_device

        most = max(BATCHES) if find_device(self.config.filters[0].device).type == "cuda" else MOST_ON_CPU
        return [n for n in BATCHES if model.card.fold <= n <= most]

    def _label(self, choices: Sequence[Choice], told: str) -> dict[Choice, Series]:
        """Frames per second of whole runs, in alternation."""
        arms = [self._arm(choice) for choice in choices]
        found, failed = alternate(
            arms, rounds=self._trial_rounds, seconds=None, say=lambda line: self.say(f"{told}: whole runs: {line}")
        )
        self._note(failed)
        self.trials |= found
        return found

    def _arm(self, choice: Choice) -> Arm[Choice]:
        config = self._run_of(choice)

        def once(calls: int) -> float:
            passed = label(config)
            self.bounds.setdefault(choice, Counter())[passed.bound_by] += 1
            return self._time_of(passed)

        return Arm(choice, self.stretch.frames, once)

    def _time_of(self, passed: Passed) -> float:
        """What the whole stretch takes at this rate."""
        return self.stretch.frames / max(passed.frames_per_s, SHORTEST_S)

    def _run_of(self, choice: Choice) -> RunConfig:
        """The stretch, run in this way."""
        model = next(model for model in self.models if model.path == choice.model)
        config = self.stretch.of(with_model(self.config, model))
        how = {"engine": choice.engine, "dtype": choice.dtype, "batch": choice.batch}
        return config.model_copy(
            update={
                "filters": (config.filters[0].model_copy(update=how),),
                "run": config.run.model_copy(update={"torch_threads": choice.torch_threads}),
                "decode": config.decode.model_copy(update={"workers": choice.workers}),
            }
        )

    def _finish(self, choices: Sequence[Choice], rounds: int) -> None:
        """Measures round by round, so that what is whole is there when it is interrupted."""
        config = self._run_of(choices[0])
        wall = Arm(WALL, self.stretch.frames, lambda calls: self._time_of(decode(config)))
        arms: list[Arm[Any]] = [wall, *map(self._arm, choices)]
        rates: dict[Any, list[float]] = {arm.key: [] for arm in arms}
        for number in range(rounds):
            self.say(f"final: round {number + 1} of {rounds}")
            found, failed = alternate(arms, rounds=1, seconds=None, say=lambda line: None, seed=number)
            self._note(failed)
            arms = [arm for arm in arms if arm.key in found]
            for key, series in found.items():
                rates[key] += series.rates
            whole = {arm.key: Series(1, 0, tuple(rates[arm.key])) for arm in arms}
            self.wall = whole.pop(WALL, None)
            self.final = whole

    def _note(self, failed: Mapping[Any, str]) -> None:
        self.notes |= dict.fromkeys(f"{key}: {why}" for key, why in failed.items())


def _opener(model: Model, section: FilterSection) -> Opener:
    """What opens engines for a model. Their speed does not depend on the weights that a class of one's own is given."""
    module = network(model.card) if OBJECT.fullmatch(model.path) else load_model(model.path)[1]

    def opened(choice: Choice) -> Engine:
        from specialized.engines import open_engine

        return open_engine(
            model.card,
            module,
            device=section.device,
            batch=choice.batch,
            dtype=choice.dtype,
            engine=choice.engine,
            threads=choice.torch_threads,
            in_parts=False,
        )

    return opened


def _resolved(choice: Choice, engine: Engine) -> Choice:
    return replace(choice, engine=cast("EngineName", engine.name), dtype=engine.dtype)


def _fastest(found: Mapping[Choice, Series]) -> Choice:
    return max(found, key=lambda choice: found[choice].median)


def _workers() -> set[int]:
    n = cores()
    return {max(1, n - 1), n, n + max(1, n // 2)}


def _threads() -> set[int]:
    n = cores()
    return {1, max(1, n // 2), n}
