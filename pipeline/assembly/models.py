"""The models of a run's filters, loaded onto their devices."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import NamedTuple

from pipeline.config import FilterSection, RunConfig, card_of
from pipeline.errors import ModelError
from pipeline.filter import Filter
from pipeline.machine import cores
from pipeline.regionfile import names_of_each
from pipeline.regions import pictures_of
from pipeline.rows import Labelling
from specialized.engines import Engine, open_engine
from specialized.modelfile import ModelCard, file_hash, load_model, load_weights, network
from specialized.objects import code_hash

log = logging.getLogger(__name__)

HEAVY_FLOPS = 1e9  # of a frame: a network then takes about as long as decoding does, on half the cores


@dataclass(frozen=True, slots=True)
class Model:
    """One of the run's models, loaded and ready.

    Attributes:
        name: Name of its filter.
        path: The model file or `package.module:Class`.
        sha256: Of the weights' file; None for a class that brings its own weights.
        card: What it expects and answers.
        engine: What runs it.
        filter: What of its rows goes on.
        labelling: How its scores become labels.
    """

    name: str
    path: str
    sha256: str | None
    card: ModelCard
    engine: Engine
    filter: Filter
    labelling: Labelling

    def identity(self, written: Mapping[str, object]) -> dict[str, object]:
        """What decides its labels: its section as it was written, its weights, its code, and what runs it."""
        settled = {
            "sha256": self.sha256,
            **({"code_sha256": code_hash(self.card.architecture)} if ":" in self.card.architecture else {}),
            "engine": self.engine.name,
            "dtype": self.engine.dtype,
            "device": self.engine.device.partition(":")[0],
        }
        by_content = () if self.sha256 is None else ("weights",) if ":" in self.card.architecture else ("model",)
        without = (*by_content, "events")  # which are found in the labels
        return {key: value for key, value in written.items() if key not in without} | settled

    def facts(self, *, pictures: int, seconds: float) -> dict[str, object]:
        """What the summary says of it, given the pictures that it labelled."""
        cost = self.engine.cost
        return {
            "model": self.path,
            "classes": list(self.card.classes),
            "keep": {self.card.classes[k]: least for k, least in self.filter.keep},
            "parameters": cost.parameters,
            "flops_per_picture": cost.flops_per_picture,
            "intensity": cost.intensity,
            "device": self.engine.device,
            "dtype": self.engine.dtype,
            "engine": self.engine.name,
            "quantized": bool(self.card.ranges),
            "achieved_flops": cost.flops_per_picture * pictures / seconds if seconds else None,
            "share_of_peak": None,
        }


def open_models(config: RunConfig) -> list[Model]:
    """Loads the models of all filters onto their devices.

    Raises:
        ModelError: one of them cannot be loaded or does not run there.
    """
    loaded: list[_Loaded] = []
    models: list[Model] = []
    for section in config.filters:
        with _named(section):
            loaded.append(_load(config, section))
    threads = engine_threads(config, [one.flops for one in loaded])
    for section, one in zip(config.filters, loaded, strict=True):
        with _named(section):
            models.append(one.open(threads))
    return models


def engine_threads(config: RunConfig, flops: Sequence[float]) -> int:
    """Threads of the CPU's engines. It does not depend on the footage, so that labels do not.

    Decoding fills all cores, and a forward pass mostly costs a fraction of it: half of them is plenty, and more threads
    than that wait for each other. Where the networks have more to do, decoders wait for them, and leave them the cores.

    Args:
        config: The run.
        flops: Per picture, of each filter's model.
    """
    if config.run.torch_threads is not None:
        return config.run.torch_threads
    by_source = (
        sum(pictures_of(one.regions or (), names) * each for one, each in zip(config.filters, flops, strict=True))
        for names in names_of_each(config, config.sources)
    )
    most = max(by_source, default=0.0)
    return cores() if most > HEAVY_FLOPS else max(1, cores() // 2)


def _batch(config: RunConfig, section: FilterSection, fold: int) -> int:
    """Pictures in a forward pass. Of cameras there are seldom more at once than those of one frame of each, and a pass
    costs the same however few it has."""
    if "batch" in section.model_fields_set or not config.is_live:
        return section.batch
    at_once = sum(pictures_of(section.regions or (), names) for names in names_of_each(config, config.sources))
    return max(fold, min(section.batch, -(-at_once // fold) * fold))


@contextmanager
def _named(section: FilterSection) -> Iterator[None]:
    """Says of a model's error which filter's it is."""
    try:
        yield
    except ModelError as error:
        raise ModelError(f"filter {section.name}: {error}") from error


class _Loaded(NamedTuple):
    """The model of a filter in memory."""

    flops: float  # per picture
    open: Callable[[int], Model]  # by the number of threads


def _load(config: RunConfig, section: FilterSection) -> _Loaded:
    from specialized.cost import cost  # loads torch

    card = card_of(section)
    own_class = ":" in card.architecture and card.architecture == section.model
    weights = section.weights if own_class else section.model
    if own_class:
        module = network(card)
        if weights is not None:
            load_weights(module, weights)
        else:
            log.warning(
                "filter %s: no `weights` are given: it answers with those that %s makes", section.name, section.model
            )
    else:
        card, module = load_model(section.model)

    def opened(threads: int) -> Model:
        engine = open_engine(
            card,
            module,
            device=section.device,
            batch=_batch(config, section, card.fold),
            dtype=section.dtype,
            engine=section.engine,
            threads=threads,
        )
        thresholds = card.keep if section.keep == "auto" else section.keep
        keep = tuple((card.classes.index(name), least) for name, least in thresholds.items())
        return Model(
            section.name,
            section.model,
            None if weights is None else file_hash(weights),
            card,
            engine,
            Filter(section.name, engine, keep),
            Labelling(section.name, card.classes, card.task, card.thresholds),
        )

    return _Loaded(cost(module, fold=card.fold, input=card.input).flops_per_picture, opened)
