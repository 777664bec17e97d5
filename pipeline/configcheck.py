"""What must hold between the values of a configuration, and between them and the world, before anything is started.

Nothing here raises for a mistake of the user's: each is a line of the report. Model files are read as far as their
card, sources are not opened, and torch is loaded only where a GPU is asked for, and by modules of the user's own that
the configuration names.
"""

import inspect
import os
import tempfile
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from glob import iglob
from pathlib import Path
from typing import Literal

from pipeline.errors import ModelError
from pipeline.regionfile import regions_of
from pipeline.regions import chosen, columns_of
from pipeline.schema import (
    CallbackSink,
    Configuration,
    FileSink,
    FileSource,
    FilterSection,
    RunConfig,
    Selection,
    SinkObject,
    SourceObject,
)
from pipeline.values import OBJECT
from pipeline.yamlfile import Node, Step, did_you_mean
from specialized.engines import refusals
from specialized.modelfile import ModelCard, read_card
from specialized.objects import load_object, search_in

SOURCE_OFFERS = ("input", "batch_frames")  # what `pipeline.assembly` passes where a source's constructor takes it
SINK_OFFERS = ("folder", "sources", "stop")  # what `pipeline.sinks.open_sink` passes likewise
BUILD_OFFERS = (
    "fold",
    "multiple_of",
    "classes",
    "input",
)  # what `specialized.models.build` passes where a class takes it

MANY_BYTES = 100_000_000  # of pictures that wait for others

_OWN_MODEL = tuple(FilterSection.model_fields)[tuple(FilterSection.model_fields).index("args") :]


class Report:
    """Collects problems and warnings, each with the place of the value it is about."""

    def __init__(self, tree: Node) -> None:
        self.tree = tree
        self.problems: list[str] = []
        self.warnings: list[str] = []

    def problem(self, steps: Sequence[Step], text: str) -> None:
        """The value at these steps must not stay as it is."""
        node, missing = self.tree.reach(steps)
        self.problems.append(node.problem(text, *missing))

    def warning(self, steps: Sequence[Step], text: str) -> None:
        """The value at these steps is allowed, and probably not meant."""
        node, missing = self.tree.reach(steps)
        self.warnings.append(node.problem(text, *missing))

    def below(self, *steps: Step) -> Callable[[Sequence[Step], str], None]:
        """Takes problems of the section at these steps, by its own keys."""
        return lambda keys, text: self.problem((*steps, *keys), text)

    def check_there(self, steps: Sequence[Step], path: str, kind: Literal["file", "folder"]) -> None:
        """Reports a file or folder that is to be read and is not there, or is of the other kind."""
        if not (os.path.isfile(path) if kind == "file" else os.path.isdir(path)):
            got = "a folder" if os.path.isdir(path) else "a file" if os.path.isfile(path) else "none"
            self.problem(steps, f"must be a {kind}, got {got} at {self.path(steps, path)}")

    def path(self, steps: Sequence[Step], path: str) -> str:
        """A path for a message: in full, unless the environment said part of it."""
        node, missing = self.tree.reach(steps)
        return path if missing or node.raw is None else node.raw


def card_of(section: FilterSection) -> ModelCard:
    """The card of a filter's model: from its file, or made of the section's keys for a class of one's own.

    Raises:
        ModelError: names the model and what is wrong with it.
    """
    if not OBJECT.fullmatch(section.model):
        return read_card(section.model)
    if section.input is None or section.classes is None:
        raise ModelError(f"{section.model}: input and classes must be given, got no such keys; no model file says them")
    thresholds = section.thresholds or ()
    if section.task == "any_of" and section.thresholds is None:
        thresholds = (0.5,) * len(section.classes)
    try:
        return ModelCard(
            architecture=section.model,
            args=dict(section.args),
            fold=section.fold,
            multiple_of=section.multiple_of,
            order=section.order,
            input=section.input,
            classes=section.classes,
            task=section.task,
            thresholds=thresholds,
            resize=section.resize,
            fit=section.fit,
            mean=section.mean,
            std=section.std,
        )
    except ValueError as exc:
        raise ModelError(f"{section.model}: {exc}") from exc


def check_run_config(config: RunConfig) -> list[str]:
    """Returns the problems, one line each, that keep a valid configuration from running here."""
    report = report_of(config)
    names = [
        source.name if isinstance(source, FileSource) else source.arguments.get("name") for source in config.sources
    ]
    check_unique(report, "sources", names)
    for k, source in enumerate(config.sources):
        if isinstance(source, FileSource):
            check_selection(report, ("sources", k), source)
            if not os.path.exists(source.path) and next(iglob(source.path, recursive=True), None) is None:
                path = report.path(("sources", k, "path"), source.path)
                report.problem(
                    ("sources", k, "path"), f"must be a file, folder or glob of files, got nothing at {path}"
                )
        else:
            _check_object(report, ("sources", k), source, SOURCE_OFFERS)
    _check_filters(report, config)
    if config.decode.fast and config.decode.device != "cpu":
        text = f"must be false with decode.device: {config.decode.device}, got true: a GPU leaves out no loop filter"
        report.problem(("decode", "fast"), f"{text}; choose one of them")
    _check_sinks(report, config)
    check_folder(report, ("run", "dir"), config.run.dir)
    config._warnings = tuple(report.warnings)
    return report.problems


def report_of(config: Configuration) -> Report:
    """An empty report. From here on modules that lie beside the configuration can be imported."""
    search_in(config.path.parent if config.path else os.getcwd())
    return Report(config._tree)


def check_unique(report: Report, section: str, names: Sequence[object]) -> None:
    counts = Counter(name for name in names if isinstance(name, str))
    for k, name in enumerate(names):
        if isinstance(name, str) and counts[name] > 1 and name in names[:k]:
            report.problem((section, k, "name"), f"must be unique, got {name!r} again; give another name")


def check_selection(report: Report, steps: tuple[Step, ...], selection: Selection) -> None:
    if {"every", "fps"} <= selection.model_fields_set and selection.fps is not None:
        report.problem((*steps, "fps"), "must not stand beside 'every', got both; remove one")
    if selection.to is not None and selection.to <= (selection.from_ or 0.0):
        report.problem((*steps, "to"), f"must be after 'from' ({selection.from_ or 0.0:g} s), got {selection.to:g} s")


def _check_object(
    report: Report, steps: tuple[Step, ...], section: SourceObject, offered: tuple[str, ...] = ()
) -> None:
    try:
        target = load_object(section.type)
    except ImportError as exc:
        report.problem((*steps, "type"), str(exc))
    else:
        _check_arguments(report, steps, target, section.type, section.arguments, offered)


def _check_arguments(
    report: Report,
    steps: tuple[Step, ...],
    target: Callable[..., object],
    name: str,
    arguments: Mapping[str, object],
    offered: tuple[str, ...] = (),
) -> None:
    try:
        parameters = inspect.signature(target).parameters.values()
    except (TypeError, ValueError):  # some built-in callables have none
        return
    named = [p for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)]
    known = [p.name for p in named]
    if not any(p.kind is p.VAR_KEYWORD for p in parameters):
        for key in arguments:
            if key not in known:
                report.problem((*steps, key), f"unknown argument of {name}{did_you_mean(key, known)}")
    for p in named:
        if p.default is p.empty and p.name not in (*arguments, *offered):
            report.problem((*steps, p.name), f"must be given: {name} has no default for it")


def check_model_class(
    report: Report, at: tuple[Step, ...], args_at: tuple[Step, ...], name: str, args: Mapping[str, object]
) -> None:
    try:
        target = load_object(name)
    except ImportError as exc:
        report.problem(at, str(exc))
    else:
        _check_arguments(report, args_at, target, name, args, BUILD_OFFERS)


def _check_filters(report: Report, config: RunConfig) -> None:
    check_unique(report, "filters", [section.name for section in config.filters])
    cards: list[tuple[int, FilterSection, ModelCard]] = []
    for k, section in enumerate(config.filters):
        at = ("filters", k)
        if OBJECT.fullmatch(section.model):
            check_model_class(report, (*at, "model"), (*at, "args"), section.model, section.args)
            if section.weights is not None:
                report.check_there((*at, "weights"), section.weights, "file")
        else:
            for key in _OWN_MODEL:
                if key in section.model_fields_set:
                    report.problem((*at, key), "must be left out: the model file says it, got it here too")
        try:
            cards.append((k, section, card_of(section)))
        except ModelError as exc:
            path = report.path((*at, "model"), section.model)
            report.problem((*at, "model"), str(exc).replace(section.model, path))
    for k, section, card in cards:
        _check_fold(report, config, section, card)
        _check_keep(report, ("filters", k, "keep"), section, card)
        _check_engine(report, ("filters", k), section, quantized=bool(card.ranges))
    _check_agreement(report, config, cards)
    _check_regions(report, config, cards)


def _check_keep(report: Report, at: tuple[Step, ...], section: FilterSection, card: ModelCard) -> None:
    if section.keep != "auto":
        for name in section.keep:
            if name not in card.classes:
                report.problem((*at, name), f"must be a class of the model{did_you_mean(name, card.classes)}")
        return
    example = f"{{{card.sought[0]}: 0.5}}"
    if OBJECT.fullmatch(section.model):
        report.problem(at, f"must give thresholds as {example} for a model of one's own, got auto")
    elif not card.keep:
        text = f"must give thresholds as {example}, got auto and a model file that stores none"
        report.problem(at, f"{text}; or train the model anew")
    elif missing := [name for name in card.sought if name not in card.keep]:
        report.warning(
            at,
            f"should give thresholds by class: the model file stores none for {', '.join(missing)}, got auto; "
            f"frames of {'these' if missing[1:] else 'this'} alone are left out",
        )


def _check_engine(report: Report, at: tuple[Step, ...], section: FilterSection, *, quantized: bool) -> None:
    for key, text in refusals(section.engine, device=section.device, dtype=section.dtype, quantized=quantized).items():
        report.problem((*at, key), text)
    if quantized and section.engine != "openvino":
        report.warning(
            (*at, "engine"),
            f"should be openvino, got {section.engine}: the model is quantized, and others imitate its 8 bits in "
            "float32, which is slower than the model it was made of",
        )


def _check_fold(report: Report, config: RunConfig, section: FilterSection, card: ModelCard) -> None:
    frames, order = config.fold.frames, config.fold.order
    if frames is not None and frames != card.fold:
        report.problem(
            ("fold", "frames"),
            f"must be {card.fold}, what the model of filter {section.name!r} was trained for, got {frames}; "
            "leave it out or take another model",
        )
    if order is not None and order != card.order and card.fold > 1:
        report.warning(
            ("fold", "order"),
            f"should be {card.order}, what the model of filter {section.name!r} was trained for, got {order}; "
            "expect less accuracy",
        )


def _check_agreement(report: Report, config: RunConfig, cards: Sequence[tuple[int, FilterSection, ModelCard]]) -> None:
    """What the filters of a run must have in common, for the sake of its sources."""
    across = "streams" in {config.fold.order or card.order for _, _, card in cards}
    own = any(isinstance(source, SourceObject) for source in config.sources)
    keys = [*(["fold", "order"] if across else []), *(["input", "resize", "fit"] if own else [])]
    why = "folds across streams" if across else "has a source of one's own, which gives pictures of one kind"
    for k, _, card in cards[1:]:
        _, first, expected = cards[0]
        for key in keys:
            if key == "order" and config.fold.order:
                continue
            if getattr(card, key) != getattr(expected, key):
                report.problem(
                    ("filters", k, "model"),
                    f"must have {key} {getattr(expected, key)} as filter {first.name!r} has, got {getattr(card, key)}, "
                    f"as the run {why}; run them apart",
                )


def _check_regions(report: Report, config: RunConfig, cards: Sequence[tuple[int, FilterSection, ModelCard]]) -> None:
    """Each region must have a filter, and each filter a region."""
    before = len(report.problems)
    common = regions_of(config, report.problem)
    places: list[tuple[Step, ...]] = []  # where each source's regions are written
    names: list[tuple[str, ...]] = []
    for k, source in enumerate(config.sources):
        own = None
        if isinstance(source, FileSource):
            own = regions_of(source, report.below("sources", k))
        elif common is not None:
            report.problem(("sources", k, "type"), f"must be file where there are regions, got {source.type}")
        places.append(() if own is None else ("sources", k))
        names.append(tuple(region.name for region in (common if own is None else own) or ()))
    if len(report.problems) > before or not config.filters:
        return
    known = list(dict.fromkeys(name for here in names for name in here))
    patterns = [section.regions or () for section in config.filters]
    for k, wanted in enumerate(patterns):
        for n, pattern in enumerate(wanted):
            if not chosen((pattern,), tuple(known)):
                text = f"must fit the name of a region, got {pattern!r}{did_you_mean(pattern, known)}"
                report.problem(("filters", k, "regions", n), text)
    for k, (place, here) in enumerate(zip(places, names, strict=True)):
        left = set(range(len(here))).difference(*(chosen(wanted, here) for wanted in patterns))
        if left:
            text = f"must each have a filter, got none for {', '.join(here[n] for n in sorted(left)[:3])}"
            report.problem((*place, "regions"), f"{text}; remove what is not needed, or name it in a filter's regions")
        elif not here and all(patterns):
            report.problem(("sources", k), "must have regions: every filter asks for some by name, got none")
    for k, section, card in cards:
        order = config.fold.order or card.order
        most = max((len(chosen(section.regions or (), here)) for here in names), default=0)
        if order == "regions" and card.fold > 1 and not all(names):
            told = "should be of regions: the model was trained to see several at once, got sources without"
            report.warning(("filters", k, "model"), f"{told}; expect less accuracy")
        held = 64 * card.fold * most * card.input[0] * card.input[1] * 3
        if order in ("strided", "shuffled") and held > MANY_BYTES:
            text = f"should hold back less: {most} regions in groups of {card.fold} in the order {order} wait for each "
            report.warning(("filters", k, "regions"), f"{text}other, {held / 1e6:,.0f} MB of them in each open segment")
    if "streams" in {config.fold.order or card.order for _, _, card in cards} and len(set(names)) > 1:
        report.problem(("fold", "order"), "must not be streams where sources have other regions than each other")
    try:
        columns_of({section.name: section.regions or () for section in config.filters}, names)
    except ValueError as error:
        for k, sink in enumerate(config.sinks):
            if isinstance(sink, FileSink) and sink.wide:
                report.problem(("sinks", k, "wide"), str(error))


def _check_sinks(report: Report, config: RunConfig) -> None:
    paths: set[str] = set()
    for k, sink in enumerate(config.sinks):
        if isinstance(sink, SinkObject):
            _check_object(report, ("sinks", k), sink, SINK_OFFERS)
            continue
        if isinstance(sink, CallbackSink):
            try:
                load_object(sink.call)
            except ImportError as exc:
                report.problem(("sinks", k, "call"), str(exc))
            continue
        at = ("sinks", k, "path")
        if sink.path in paths:
            report.problem(at, f"must be another sink's path, got {report.path(at, sink.path)} again")
        paths.add(sink.path)
        if sink.path != "-":
            check_file_to_write(report, at, sink.path, run_dir=config.run.dir)


def absent_decoder(config: RunConfig) -> str | None:
    """A line for a GPU that is to decode and cannot: a run does without it."""
    device = config.decode.device
    if device == "cpu":
        return None
    from pipeline.sources.hardware import absent  # loads FFmpeg

    if (why := absent(device)) is None:
        return None
    return config.problem(f"must be there, got {device}: {why}; all is decoded on the CPU", "decode", "device")


def taken_sinks(config: RunConfig) -> list[str]:
    """A line for each file that a sink would replace: a run does so only when it is to."""
    problems = []
    for k, sink in enumerate(config.sinks):
        if isinstance(sink, FileSink) and sink.path != "-" and (os.path.isfile(sink.path) or os.path.islink(sink.path)):
            got = Report(config._tree).path(("sinks", k, "path"), sink.path)
            text = f"must not exist yet, got {got}; --overwrite replaces it, --set sinks.{k}.path=FILE writes another"
            problems.append(config.problem(text, "sinks", k, "path"))
    return problems


def check_file_to_write(report: Report, steps: tuple[Step, ...], path: str, *, run_dir: str) -> None:
    """Whether a file can be made there, by the rule of `pipeline.outputs`: its folder is there, or lies among runs."""
    folder = os.path.dirname(path)
    if os.path.isdir(path):
        report.problem(steps, f"must be a file to write, got a folder at {report.path(steps, path)}")
    elif os.path.isdir(folder) or Path(folder).is_relative_to(run_dir):
        check_folder(report, steps, folder)
    else:
        place = report.path(steps, folder)
        report.problem(steps, f"must lie in a folder that is there, got none at {place}; make it (mkdir -p)")


def check_folder(report: Report, steps: tuple[Step, ...], folder: str) -> None:
    """Whether files can be made in a folder, or the folder itself: tried out, for modes do not tell it for root."""
    existing = Path(folder)
    while not os.path.lexists(existing) and existing != existing.parent:
        existing = existing.parent
    try:
        with tempfile.TemporaryFile(dir=existing):
            pass
    except OSError as exc:
        place = report.path(steps, str(existing))
        report.problem(steps, f"must lie in a folder that can be written to, got {place}: {exc.strerror or exc}")
