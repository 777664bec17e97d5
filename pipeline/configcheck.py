"""What must hold between the values of a run's configuration, and between them and the world, before it is started.

Nothing here raises for a mistake of the user's: each is a line of the report. Sources are not opened.
"""

import os
from importlib.util import find_spec

from pipeline.filtercheck import check_filters
from pipeline.problems import (
    Report,
    check_file_to_write,
    check_folder,
    check_object,
    check_selection,
    check_unique,
    report_of,
)
from pipeline.schema import CameraSource, FileSource, PageSection, RunConfig, SourceObject
from pipeline.sinkschema import (
    CallbackSink,
    FileSink,
    MqttSink,
    PostgresSink,
    SinkObject,
    SpooledSection,
    SqliteSink,
    WebhookSink,
)
from pipeline.sources.paths import matches
from specialized.objects import load_object

SOURCE_OFFERS = ("input", "batch_frames")  # what `pipeline.assembly` passes where a source's constructor takes it
LOOPBACK = ("127.0.0.1", "localhost", "::1")
SHORTEST_TOKEN = 16
SINK_OFFERS = ("folder", "sources", "stop", "live")  # what `pipeline.sinks.open_sink` passes likewise


def check_run_config(config: RunConfig) -> list[str]:
    """Returns the problems, one line each, that keep a valid configuration from running here."""
    report = report_of(config)
    names = [
        source.arguments.get("name") if isinstance(source, SourceObject) else source.name for source in config.sources
    ]
    check_unique(report, "sources", names)
    for k, source in enumerate(config.sources):
        if isinstance(source, FileSource):
            check_selection(report, ("sources", k), source)
            if not os.path.exists(source.path) and next(matches(source.path), None) is None:
                path = report.path(("sources", k, "path"), source.path)
                report.problem(
                    ("sources", k, "path"), f"must be a file, folder or glob of files, got nothing at {path}"
                )
        elif isinstance(source, CameraSource):
            if not source.url.startswith(source.type):
                text = f"must be {source.type}, as `type` is, got another kind of address; change one of them"
                report.problem(("sources", k, "url"), text)
            if "name" not in source.model_fields_set and _hides_path(report.raw(("sources", k, "url"))):
                text = "must be given, as the path of `url` holds a ${VARIABLE}, and the name is shown"
                report.problem(("sources", k, "name"), text)
        else:
            check_object(report, ("sources", k), source, SOURCE_OFFERS)
    check_filters(report, config)
    if config.decode.isolate and config.decode.device != "cpu":
        text = f"must be false with decode.device: {config.decode.device}, got true"
        report.problem(("decode", "isolate"), f"{text}; choose one of them")
    if config.decode.fast and config.decode.device != "cpu":
        text = f"must be false with decode.device: {config.decode.device}, got true: a GPU leaves out no loop filter"
        report.problem(("decode", "fast"), f"{text}; choose one of them")
    _check_cameras(report, config)
    _check_sinks(report, config)
    if config.page is not None:
        _check_page(report, config.page)
        if config.metrics is not None and config.page.port == config.metrics.port:
            report.problem(("page", "port"), f"must be another than that of `metrics`, got {config.page.port} for both")
    check_folder(report, ("run", "dir"), config.run.dir)
    config._warnings = tuple(report.warnings)
    return report.problems


def _hides_path(address: str | None) -> bool:
    """Whether an address with ${VARIABLE} has one in its path, or as a whole."""
    if address is None:
        return False
    _, slashes, place = address.partition("//")
    return not slashes or "${" in place.partition("/")[2]


def _check_cameras(report: Report, config: RunConfig) -> None:
    """Cameras have a run of their own: files wait for as long as labelling takes, and would make them drop."""
    if not config.is_live:
        return
    for k, source in enumerate(config.sources):
        if not isinstance(source, CameraSource):
            report.problem(("sources", k), "must be a camera as others are, got another source; run them apart")
            break
    if config.run.limit is not None:
        report.problem(
            ("run", "limit"), f"must be left out with cameras, got {config.run.limit}; `fps` of a camera caps it"
        )


def _check_page(report: Report, page: PageSection) -> None:
    if find_spec("starlette") is None or find_spec("uvicorn") is None:
        report.problem(("page",), "must have starlette and uvicorn, got none; pip install 'vpipe[page]'")
    if page.token is None and page.host not in LOOPBACK:
        cure = "python -c 'import secrets; print(secrets.token_urlsafe())' makes one"
        report.problem(("page", "token"), f"must be given where others can reach the page, as at {page.host}; {cure}")
    if page.token is not None and len(page.token) < SHORTEST_TOKEN:
        report.problem(("page", "token"), f"must have {SHORTEST_TOKEN} characters at least, got fewer")


def _check_sinks(report: Report, config: RunConfig) -> None:
    paths: set[str] = set()
    has_events = any(section.events for section in config.filters)
    check_unique(report, "sinks", [sink.name if isinstance(sink, SpooledSection) else None for sink in config.sinks])
    for k, sink in enumerate(config.sinks):
        match sink:
            case SinkObject():
                check_object(report, ("sinks", k), sink, SINK_OFFERS)
            case CallbackSink():
                try:
                    load_object(sink.call)
                except ImportError as exc:
                    report.problem(("sinks", k, "call"), str(exc))
            case FileSink():
                _check_text(report, k, sink, is_live=config.is_live, has_events=has_events)
            case SpooledSection():
                if not (getattr(sink, "rows", False) or has_events):
                    text = "must have events to send, got no filter with `events`; give it one"
                    report.problem(
                        ("sinks", k), text if isinstance(sink, MqttSink) else f"{text}, or `rows: true` here"
                    )
                _check_receiver(report, k, sink)
        if isinstance(sink, FileSink | SqliteSink):
            at = ("sinks", k, "path")
            if sink.path in paths:
                report.problem(at, f"must be another sink's path, got {report.path(at, sink.path)} again")
            paths.add(sink.path)
            if sink.path != "-":
                appended = isinstance(sink, FileSink) and (config.is_live or sink.events)
                check_file_to_write(report, at, sink.path, run_dir=config.run.dir, appended=appended)


def _check_text(report: Report, k: int, sink: FileSink, *, is_live: bool, has_events: bool) -> None:
    if sink.wide and is_live:
        text = "must be false where there are cameras, whose rows come as they are labelled, got true; leave it out"
        report.problem(("sinks", k, "wide"), text)
    if sink.events and (sink.type != "jsonl" or sink.wide):
        report.problem(("sinks", k, "events"), "must be false but for jsonl that is not wide, got true")
    if sink.events and not has_events:
        report.problem(("sinks", k, "events"), "must be false where no filter has `events`, got true")


def _check_receiver(report: Report, k: int, sink: SpooledSection) -> None:
    """What may be known of a receiver that need not be there yet."""
    if isinstance(sink, WebhookSink):
        if not sink.url.isascii():
            report.problem(("sinks", k, "url"), "must be in ASCII, got other characters; write them as %XX")
    elif isinstance(sink, MqttSink):
        from pipeline.sinks.mqtt import missing_paho, wrong_topic  # loads Arrow

        if (problem := wrong_topic(sink.topic)) is not None:
            report.problem(("sinks", k, "topic"), problem)
        if (problem := missing_paho()) is not None:
            report.problem(("sinks", k, "type"), problem)
        if sink.password is not None and sink.user is None:
            report.problem(("sinks", k, "user"), "must be given where a password is")
    elif isinstance(sink, PostgresSink):
        from pipeline.sinks.database import missing_psycopg

        if (problem := missing_psycopg()) is not None:
            report.problem(("sinks", k, "type"), problem)


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
        if not isinstance(sink, FileSink) or sink.path == "-" or sink.events or config.is_live:  # those are appended to
            continue
        if os.path.isfile(sink.path) or os.path.islink(sink.path):
            got = Report(config._tree).path(("sinks", k, "path"), sink.path)
            text = f"must not exist yet, got {got}; --overwrite replaces it, --set sinks.{k}.path=FILE writes another"
            problems.append(config.problem(text, "sinks", k, "path"))
    return problems
