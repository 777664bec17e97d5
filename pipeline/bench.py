"""`vpipe bench`: measures models through `specialized.bench`, and makes one document of what was found."""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

from pipeline.errors import ConfigError, ModelError
from pipeline.machine import machine
from pipeline.telemetry import Telemetry
from pipeline.threads import every

if TYPE_CHECKING:
    from specialized.bench import Case, Measured

__all__ = ["bench", "document", "unknown_names"]

SETTLE_S, WATCH_S = 0.5, 0.5  # NVML's figure is that of the last 1/6 to 1 s

Document = dict[str, Any]


def bench(
    models: Sequence[str],
    *,
    folds: Sequence[int],
    dtypes: Sequence[str] = ("auto",),
    device: str = "auto",
    pictures: int = 1024,
    rounds: int = 5,
    seconds: float = 0.2,
    threads: int | None = None,
    engine: str = "auto",
    tune_all: bool = False,
    compiled: bool = True,
    say: Callable[[str], None] = lambda line: None,
    show: Callable[[Document, str], None] = lambda document, name: None,
) -> Document:
    """Measures models at each f beside the tuned f = 1 and the device's own roofs.

    Args:
        models: Names of the zoo or model files; empty for the small models of the zoo.
        folds: Each f.
        dtypes: float32, bfloat16, float16, or auto for what the engine chooses.
        device: auto, cpu, cuda, cuda:1.
        pictures: In a batch.
        rounds: Measurements of each figure.
        seconds: Of one measurement.
        threads: Of the CPU; None leaves torch's number.
        engine: Of `open_engine`.
        tune_all: Every f is tuned like f = 1, besides being measured as stated.
        compiled: torch.compile is tried too, on CUDA.
        say: Is told what goes on.
        show: Is given the document so far and the name of each model once it is measured.

    Returns:
        The document of docs/bench.md. Ctrl-C ends the measuring; the document then holds what was measured.

    Raises:
        ConfigError: What is asked for cannot be measured; nothing was started.
    """
    if problems := [*unknown_names("dtype", dtypes), *unknown_names("engine", [engine]), *_no_group(folds, pictures)]:
        raise ConfigError(problems)
    from specialized.bench import Bench
    from specialized.subjects import subjects

    try:
        session = Bench(
            device=device,
            dtypes=dtypes,  # type: ignore[arg-type]  # they were checked
            pictures=pictures,
            rounds=rounds,
            seconds=seconds,
            threads=threads,
            engine=engine,  # type: ignore[arg-type]
            tune_all=tune_all,
            compiled=compiled,
            say=say,
        )
        found = subjects(models, folds)
    except ModelError as error:
        raise ConfigError([str(error)]) from error
    if problems := _no_group([f for subject in found for f in subject.folds], pictures):  # those of the files too
        raise ConfigError(problems)
    settings = {
        "models": [subject.name for subject in found],
        "folds": list(folds),
        "dtypes": list(session.dtypes),
        "pictures": pictures,
        "rounds": rounds,
        "seconds": seconds,
        "engine": engine,
        "tune_all": tune_all,
        "compile": compiled,
    }
    watch = _Nvml(session.device_uuid)
    measured: list[Measured] = []
    interrupted = False

    def so_far() -> Document:
        return document(
            measured,
            machine=machine() | session.facts(),
            settings=settings,
            nvml_absent=watch.absent,
            interrupted=interrupted,
        )

    try:
        for subject in found:
            measured.append(session.measure(subject, observe=watch))
            show(so_far(), subject.name)
    except KeyboardInterrupt:
        interrupted = True
    return so_far()


def unknown_names(what: Literal["dtype", "engine"], names: Iterable[str]) -> list[str]:
    """A line for each name that is none of a dtype or engine."""
    from specialized.engines import Dtype, EngineName

    known = ("auto", *get_args(Dtype)) if what == "dtype" else get_args(EngineName)
    told = f"must be one of {', '.join(known)}"
    return [f"{what}: {told}, got {name!r}; correct --{what}" for name in names if name not in known]


def _no_group(folds: Iterable[int], pictures: int) -> list[str]:
    return [
        f"fold: must be in 1..{pictures}, the pictures of a batch, got {fold}; change --fold or --pictures"
        for fold in sorted(set(folds))
        if not 1 <= fold <= pictures
    ]


class _Nvml:
    """Asks NVML which share of the time a kernel ran while something is repeated.

    Attributes:
        absent: Why it cannot tell; None while it can.
    """

    def __init__(self, uuid: str | None) -> None:
        self._uuid = uuid
        self.absent: str | None = "the run is on the CPU" if uuid is None else "it was not asked"

    def __call__(self, work: Callable[[], object]) -> float | None:
        if self._uuid is None:
            return None
        _repeat(work, SETTLE_S)
        with tempfile.TemporaryDirectory() as folder:
            with (
                Telemetry(Path(folder) / "telemetry.parquet", gpu_uuid=self._uuid) as telemetry,
                every(0.1, telemetry.sample),
            ):
                _repeat(work, WATCH_S)
            self.absent = telemetry.gpu_absent
            gpu = telemetry.gpu()
        return None if gpu is None else gpu["util_mean"]


def _repeat(work: Callable[[], object], seconds: float) -> None:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        work()


# ---------------------------------------------------------------------------------------------- the document


def document(
    measured: Sequence[Measured],
    *,
    machine: Mapping[str, object],
    settings: Mapping[str, Any],
    nvml_absent: str | None,
    interrupted: bool = False,
) -> Document:
    """What was measured as a JSON document; docs/bench.md describes its keys.

    Args:
        measured: In the order in which they are told.
        machine: Facts of the machine and the device.
        settings: What was asked for; `dtypes` and `pictures` say which cases are the stated ones.
        nvml_absent: Why NVML did not tell how busy the device was.
        interrupted: Not everything that was asked for was measured.
    """
    rows = [
        row
        for one in measured
        for dtype in settings["dtypes"]
        for fold in one.subject.folds
        if (row := _row(one, fold, dtype, settings)) is not None
    ]
    peak = _roofs(measured, "flops_per_s", ("product",))
    bandwidth = next(iter(_roofs(measured, "bytes_per_s", ("copy", "triad")).values()), None)
    return {
        "machine": dict(machine),
        "settings": dict(settings),
        "peak": peak,
        "bandwidth": bandwidth,
        "ridge": {name: roof["flops_per_s"] / bandwidth["bytes_per_s"] for name, roof in peak.items()}
        if bandwidth
        else {},
        "tuned_f1": [record for one in measured if (record := _tuned(one, 1)) is not None],
        "models": rows,
        "nvml_absent": nvml_absent,
        "interrupted": interrupted,
        "notes": [*(note for one in measured for note in one.notes), *_doubts(rows)],
    }


def _doubts(rows: Iterable[Document]) -> Iterator[str]:
    """Nothing computes faster than the device can: where it seems so, something else ran while that was measured."""
    for row in rows:
        if (row["share_of_peak"] or 0) > 1.05:
            yield (
                f"{row['name']}: f = {row['fold']}: share of peak must be at most 1, got {row['share_of_peak']:.2f}; "
                "something else ran on this machine: measure again on a quiet one"
            )


def _roofs(measured: Sequence[Measured], unit: str, kinds: Collection[str]) -> dict[str, Document]:
    """Per dtype what the device reached, over the rounds of all models."""
    rates: dict[Any, list[float]] = {}
    for one in measured:
        for roof, series in one.roofs.items():
            if roof.kind in kinds:
                rates.setdefault(roof, []).extend(series.rates)
    return {
        roof.dtype: {
            unit: statistics.median(found),
            "spread": [min(found), max(found)],
            "kind": roof.kind,
            "size": roof.size,
        }
        for roof, found in rates.items()
    }


def _row(measured: Measured, fold: int, dtype: Any, settings: Mapping[str, Any]) -> Document | None:
    """One model at one f in one dtype; None if neither could be measured."""
    from specialized.bench import stated

    case, through = (stated(via, fold, settings["pictures"], dtype) for via in ("alone", "engine"))
    alone, engine = measured.cases.get(case), measured.cases.get(through)
    if alone is None and engine is None:
        return None
    subject, cost = measured.subject, measured.costs[fold]
    tuned = _tuned(measured, fold) if settings["tune_all"] else None
    return {
        "name": subject.name,
        "fold": fold,
        "dtype": dtype,
        "pictures": settings["pictures"] // fold * fold,
        "input": list(subject.card.input),
        "classes": len(subject.card.classes),
        "parameters": cost.parameters,
        "flops_per_image": cost.flops_per_picture,
        "intensity": cost.intensity,
        "intensity_as_run": measured.intensity.get(case),
        "images_per_s": alone and alone.median,
        "spread": alone and list(alone.spread),
        "calls": alone and alone.calls,
        "warm_up_calls": alone and alone.warm_up_calls,
        "achieved_flops": alone and alone.median * cost.flops_per_picture,
        "share_of_peak": _share_of_peak(measured, case),
        "nvml_utilization": measured.busy.get(case),
        "against_tuned_f1": _against_tuned(measured, case),
        "engine_images_per_s": engine and engine.median,
        "engine_spread": engine and list(engine.spread),
        "engine_against_tuned_f1": _against_tuned(measured, through),
        "tuned": tuned and {**tuned, "against_tuned_f1": _against_tuned(measured, measured.best("alone", fold))},
    }


def _tuned(measured: Measured, fold: int) -> Document | None:
    """The fastest settings at f, of the model alone and of the engine."""
    case, through = measured.best("alone", fold), measured.best("engine", fold)
    if case is None:
        return None
    series, cost = measured.cases[case], measured.costs[fold]
    return {
        "name": measured.subject.name,
        "pictures": case.setting.pictures // fold * fold,
        "dtype": case.setting.dtype,
        "layout": case.setting.layout,
        "mode": case.setting.mode,
        "intensity_as_run": measured.intensity[case],
        "images_per_s": series.median,
        "spread": list(series.spread),
        "achieved_flops": series.median * cost.flops_per_picture,
        "share_of_peak": _share_of_peak(measured, case),
        "engine_pictures": through and through.setting.pictures // fold * fold,
        "engine_dtype": through and through.setting.dtype,
        "engine_images_per_s": through and measured.cases[through].median,
        "engine_spread": through and list(measured.cases[through].spread),
    }


def _share_of_peak(measured: Measured, case: Case) -> float | None:
    """Achieved FLOP/s over those of the matrix product in the same round and dtype."""
    series = measured.cases.get(case)
    peak = next(
        (s for roof, s in measured.roofs.items() if (roof.kind, roof.dtype) == ("product", case.setting.dtype)), None
    )
    if series is None or peak is None:
        return None
    return series.over(peak) * measured.costs[case.fold].flops_per_picture


def _against_tuned(measured: Measured, case: Case | None) -> float | None:
    """Pictures per second over those of the tuned f = 1 in the same round."""
    if case is None or case not in measured.cases:
        return None
    best = measured.best(case.via, 1)
    return None if best is None else measured.cases[case].over(measured.cases[best])
