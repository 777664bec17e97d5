"""How fast models run folded and not, beside what the device can do. Everything is measured, nothing is looked up.

Two things are timed of each model at each f, and they are not the same:

- *alone*: input on the device in the arithmetic's own dtype, logits left there. It is what Kosaian et al. (ICML 2021)
  measured, and FLOP/s are counted over it.
- *engine*: uint8 pictures in the CPU's memory in, scores in the CPU's memory out; upload, normalization and softmax are
  inside. It is what a run gets.

Both are set against f = 1 *tuned*: the fastest of all settings that were tried for it.
"""

import importlib.metadata
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import torch

from specialized.cost import Cost
from specialized.engines import Dtype, EngineName, auto_dtype, open_engine
from specialized.engines.scoring import DTYPES
from specialized.engines.torch import fastest_dtype, find_device, uuid_of
from specialized.errors import ModelError
from specialized.forward import Mode, Setting, engine_loop, forward_loop, search
from specialized.modelfile import ModelCard
from specialized.roofs import Roof, copy_arms, product_arms
from specialized.subjects import Subject
from specialized.timing import Arm, Series, alternate, fastest, rate

BATCHES = (64, 128, 256, 512, 1024, 2048, 4096)  # pictures, that f = 1 is tuned over beside the stated one
MOST_ON_CPU = 1024  # larger ones gain nothing there and take seconds each
PICTURES_OF_A_CHOICE = 256  # on the CPU, the batch at which dtype and layout are chosen: a slow one takes seconds
FINALISTS = 2  # of the settings tried, that are measured in the rounds too

Via = Literal["alone", "engine"]
Observer = Callable[[Callable[[], object]], float | None]


@dataclass(frozen=True, slots=True)
class Case:
    """What is timed of a model."""

    via: Via
    fold: int
    setting: Setting


def stated(via: Via, fold: int, pictures: int, dtype: Dtype) -> Case:
    """The case that is measured at each f, whatever else is tried: the batch that is asked for, and nothing tuned."""
    return Case(via, fold, Setting(pictures, dtype))


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """What was measured of one model.

    Attributes:
        subject: The model.
        costs: Per f, by the definition of the publication: 1,024 pictures of 16 bits.
        intensity: Per case alone: FLOP per byte of its own batch and dtype.
        cases: What was reached, in pictures per second.
        roofs: What the device reached in the same rounds, in FLOP or bytes per second.
        busy: Per case alone at the stated setting: percent of the time that a kernel ran, where that can be told.
        notes: What could not be measured and why.
    """

    subject: Subject
    costs: Mapping[int, Cost]
    intensity: Mapping[Case, float]
    cases: Mapping[Case, Series]
    roofs: Mapping[Roof, Series]
    busy: Mapping[Case, float]
    notes: tuple[str, ...]

    def best(self, via: Via, fold: int) -> Case | None:
        """The fastest case at f; None if there is none."""
        of_these = [case for case in self.cases if (case.via, case.fold) == (via, fold)]
        return max(of_these, key=lambda case: self.cases[case].median, default=None)


class Bench:
    """Measures models on one device.

    Args:
        device: auto (cuda if there is one, else cpu), cpu, cuda, cuda:1.
        dtypes: of the forwards; auto is what the engine chooses on this device.
        pictures: in a batch, at least f; B = pictures // f.
        rounds: in which every case is measured once.
        seconds: of one measurement, if one forward does not take longer.
        threads: of the CPU; None leaves torch's number.
        engine: name for `open_engine`.
        tune_all: every f is tuned as f = 1 is.
        compiled: torch.compile is tried where models are tuned, on CUDA.
        say: is told what goes on.

    Raises:
        ModelError: the device is not there.
    """

    def __init__(
        self,
        *,
        device: str = "auto",
        dtypes: Sequence[Dtype | Literal["auto"]] = ("auto",),
        pictures: int = 1024,
        rounds: int = 5,
        seconds: float = 0.2,
        threads: int | None = None,
        engine: EngineName = "auto",
        tune_all: bool = False,
        compiled: bool = True,
        say: Callable[[str], None] = lambda line: None,
    ) -> None:
        if pictures < 1 or rounds < 1 or seconds <= 0 or (threads is not None and threads < 1):
            raise ValueError(
                "Bench: pictures, rounds and threads must be at least 1 and seconds over 0, got "
                f"{pictures=}, {rounds=}, {threads=}, {seconds=}"
            )
        self._device = find_device(device)
        self.device = str(self._device)
        self.device_uuid = uuid_of(self._device)
        if threads is not None:
            torch.set_num_threads(threads)
        auto = fastest_dtype(self._device)
        chosen = auto_dtype(engine, self.device)
        self.dtypes: tuple[Dtype, ...] = tuple(dict.fromkeys(chosen if d == "auto" else d for d in dtypes))
        self._tuned_dtypes = _tuned_dtypes(self._device, auto, self.dtypes)
        self._pictures, self._rounds, self._seconds, self._threads = pictures, rounds, seconds, threads
        self._engine, self._tune_all, self._compiled = engine, tune_all, compiled
        self._say = say
        self._roofs: dict[str, Arm[Roof]] = {}

    def facts(self) -> dict[str, object]:
        """What the figures depend on beside the machine."""
        on_cuda = self._device.type == "cuda"
        return {
            "torch": torch.__version__,
            **{name: _version(name) for name in ("onnxruntime", "openvino")},
            "cuda": torch.version.cuda if on_cuda else None,
            "cudnn": torch.backends.cudnn.version() if on_cuda else None,  # type: ignore[no-untyped-call]
            "device": self.device,
            "device_name": torch.cuda.get_device_name(self._device) if on_cuda else None,
            "cpu_capability": torch.backends.cpu.get_cpu_capability(),
            "threads": torch.get_num_threads(),
        }

    def measure(self, subject: Subject, *, observe: Observer = lambda work: None) -> Measured:
        """Measures one model at each of its f.

        Args:
            subject: the model.
            observe: gets a function to call again and again, and tells the percentage of the time that a kernel of the
                GPU ran meanwhile; None where that cannot be told.

        Raises:
            ValueError: pictures are fewer than an f.
        """
        if self._pictures < max(subject.folds):
            raise ValueError(f"measure: pictures must be at least f, got {self._pictures} and {subject.folds}")
        notes: list[str] = []
        with self._as_tuned():
            cases = self._cases(subject, notes)
            arms: list[Arm[Any]] = [arm for case in cases if (arm := self._arm(subject, case, notes)) is not None]
            arms += self._roof_arms({case.setting.dtype for case in cases if case.via == "alone"}, notes)
            say = self._say
            series, failed = alternate(
                arms, rounds=self._rounds, seconds=self._seconds, say=lambda line: say(f"{subject.name}: {line}")
            )
            notes += [f"f = {key.fold}: {why}" if isinstance(key, Case) else why for key, why in failed.items()]
            busy = self._busy(subject, [arm for arm in arms if arm.key in series], series, observe, notes)
        measured = {key: found for key, found in series.items() if isinstance(key, Case)}
        return Measured(
            subject=subject,
            costs={fold: subject.cost(fold) for fold in sorted({case.fold for case in measured})},
            intensity={case: _intensity(subject, case) for case in measured if case.via == "alone"},
            cases=measured,
            roofs={key: found for key, found in series.items() if isinstance(key, Roof)},
            busy=busy,
            notes=tuple(dict.fromkeys(f"{subject.name}: {note}" for note in notes)),
        )

    def _cases(self, subject: Subject, notes: list[str]) -> list[Case]:
        """What is measured in the rounds: each f as stated, and the best settings that tuning found."""
        cases = [
            stated(via, f, self._pictures, dtype)
            for f in subject.folds
            for dtype in self.dtypes
            for via in ("alone", "engine")
        ]
        for f in sorted({1, *(subject.folds if self._tune_all else ())}):
            self._say(f"{subject.name}: tuning f = {f}")
            cases += [Case("alone", f, setting) for setting in self._tuned(subject, f, notes)]
            cases += [Case("engine", f, setting) for setting in self._tuned_engine(subject, f, notes)]
        return list(dict.fromkeys(cases))

    def _tuned(self, subject: Subject, fold: int, notes: list[str]) -> list[Setting]:
        """The fastest settings of the model alone."""
        on_cuda = self._device.type == "cuda"
        modes: tuple[Mode, ...] = ("eager", "graph") if on_cuda else ("eager",)
        first = self._pictures if on_cuda else min(self._batches(fold), key=lambda n: abs(n - PICTURES_OF_A_CHOICE))
        return search(
            lambda setting: self._trial(subject, Case("alone", fold, setting), notes),
            start=Setting(first, self.dtypes[0]),
            dtypes=self._tuned_dtypes,
            batches=self._batches(fold),
            modes=modes,
            last=("compiled",) if self._compiled and on_cuda else (),
        )[:FINALISTS]

    def _tuned_engine(self, subject: Subject, fold: int, notes: list[str]) -> list[Setting]:
        """The fastest settings of the engine, which chooses all but dtype and batch itself."""
        settings = [Setting(n, dtype) for dtype in self.dtypes for n in self._batches(fold)]
        rates = {setting: self._trial(subject, Case("engine", fold, setting), notes) or 0.0 for setting in settings}
        return sorted(filter(rates.__getitem__, rates), key=rates.__getitem__, reverse=True)[:FINALISTS]

    def _batches(self, fold: int) -> list[int]:
        most = max(BATCHES) if self._device.type == "cuda" else MOST_ON_CPU
        return sorted({n for n in (*BATCHES, self._pictures) if fold <= n <= max(most, self._pictures)})

    def _trial(self, subject: Subject, case: Case, notes: list[str]) -> float | None:
        """Pictures per second in one short measurement; None, and a note, where it cannot be done."""
        arm = self._arm(subject, case, notes)
        try:
            return None if arm is None else rate(arm, self._seconds / 4)
        except ModelError as exc:
            notes.append(f"f = {case.fold}: {exc}")
            return None

    def _arm(self, subject: Subject, case: Case, notes: list[str]) -> Arm[Case] | None:
        """What times a case; None, and a note, where it cannot be made."""
        pictures = case.setting.pictures // case.fold * case.fold
        try:
            card, module = subject.build(case.fold)
            if case.via == "engine":
                run = self._engine_loop(card, module, case.setting)
            else:
                run = forward_loop(module, case.setting, fold=case.fold, input=card.input, device=self._device)
        except ModelError as exc:
            notes.append(f"f = {case.fold}: {exc}")
            return None
        return Arm(case, pictures, run)

    def _engine_loop(self, card: ModelCard, module: torch.nn.Module, setting: Setting) -> Callable[[int], float]:
        engine = open_engine(
            card,
            module,
            device=self.device,
            batch=setting.pictures,
            dtype=setting.dtype,
            engine=self._engine,
            threads=self._threads,
            in_parts=False,
        )
        return engine_loop(engine)

    def _roof_arms(self, dtypes: set[Dtype], notes: list[str]) -> list[Arm[Roof]]:
        """The device's roofs, each at the size that was fastest when it was first needed."""
        wanted: dict[str, Iterator[Arm[Roof]]] = {"copy": copy_arms(self._device)}
        wanted |= {dtype: product_arms(dtype, self._device) for dtype in sorted(dtypes)}
        for name, arms in wanted.items():
            if name not in self._roofs:
                self._say(f"what the device can do: {name}")
                try:
                    self._roofs[name] = fastest(arms, self._seconds)
                except ModelError as exc:
                    notes.append(str(exc))
        return [self._roofs[name] for name in wanted if name in self._roofs]

    def _busy(
        self,
        subject: Subject,
        arms: Sequence[Arm[Any]],
        series: Mapping[Any, Series],
        observe: Observer,
        notes: list[str],
    ) -> dict[Case, float]:
        found = {}
        wanted = {stated("alone", fold, self._pictures, dtype) for fold in subject.folds for dtype in self.dtypes}
        for arm in arms:
            if arm.key not in wanted:
                continue
            try:
                percent = observe(partial(arm.run, series[arm.key].calls))
            except ModelError as exc:
                notes.append(f"f = {arm.key.fold}: {exc}")
                continue
            if percent is not None:
                found[arm.key] = percent
        return found

    @contextmanager
    def _as_tuned(self) -> Iterator[None]:
        """cuDNN tries its kernels and keeps the fastest; float32 is float32, not TF32, as in the engine."""
        with torch.backends.cudnn.flags(enabled=True, benchmark=True, allow_tf32=False):
            yield


def _tuned_dtypes(device: torch.device, auto: Dtype, asked: Sequence[Dtype]) -> tuple[Dtype, ...]:
    """What f = 1 may choose from: what is asked for, and all that the device computes rather than emulates."""
    able: tuple[Dtype, ...] = ("float16", "bfloat16", "float32") if device.type == "cuda" else (auto, "float32")
    return tuple(dict.fromkeys((*asked, *able)))


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _intensity(subject: Subject, case: Case) -> float:
    """FLOP per byte of the case's own batch and dtype."""
    width = DTYPES[case.setting.dtype].itemsize
    return subject.cost(case.fold, pictures=case.setting.pictures, bytes_per_element=width).intensity
