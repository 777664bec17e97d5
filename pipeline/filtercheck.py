"""What must hold between the filters of a run, their models, and the regions that they label.

Model files are read as far as their card, and torch is loaded only where a GPU is asked for, and by modules of the
user's own that the configuration names.
"""

from collections.abc import Mapping, Sequence

from pipeline.errors import ModelError
from pipeline.problems import Report, check_arguments, check_unique
from pipeline.regionfile import regions_of
from pipeline.regions import chosen, columns_of
from pipeline.schema import FilterSection, RunConfig, SourceObject
from pipeline.sinkschema import FileSink
from pipeline.values import OBJECT
from pipeline.yamlfile import Step, did_you_mean
from specialized.engines import refusals
from specialized.modelfile import ModelCard, read_card
from specialized.objects import load_object

# What `specialized.models.build` passes where a class takes it.
BUILD_OFFERS = ("fold", "multiple_of", "classes", "input")

MANY_BYTES = 100_000_000  # of pictures that wait for others

_OWN_MODEL = tuple(FilterSection.model_fields)[tuple(FilterSection.model_fields).index("args") :]


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


def check_model_class(
    report: Report, at: tuple[Step, ...], args_at: tuple[Step, ...], name: str, args: Mapping[str, object]
) -> None:
    try:
        target = load_object(name)
    except ImportError as exc:
        report.problem(at, str(exc))
    else:
        check_arguments(report, args_at, target, name, args, BUILD_OFFERS)


def check_filters(report: Report, config: RunConfig) -> None:
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
        _check_events(report, ("filters", k, "events"), section, card)
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


def _check_events(report: Report, at: tuple[Step, ...], section: FilterSection, card: ModelCard) -> None:
    for name, rule in section.events.items():
        if name not in card.classes:
            report.problem((*at, name), f"must be a class of the model{did_you_mean(name, card.classes)}")
        if rule.off is not None and rule.off > rule.on:
            report.problem((*at, name, "off"), f"must be at most `on`, {rule.on:g}, got {rule.off:g}")
    if section.events and section.keep:
        text = "must be left out where events are found, which rests on every frame; `on` and `off` say what counts"
        report.problem((*at[:-1], "keep"), text)


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
        if not isinstance(source, SourceObject):
            own = regions_of(source, report.below("sources", k))
        elif common is not None:
            report.problem(
                ("sources", k, "type"), f"must be file, rtsp or http where there are regions, got {source.type}"
            )
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
