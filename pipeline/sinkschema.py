"""The types of `sinks` in a run's configuration (`pipeline.schema`)."""

from typing import Annotated, Literal

from pydantic import Discriminator, Field, Tag

from pipeline.section import OwnSection, Section, tag_of
from pipeline.values import (
    Count,
    Headers,
    Label,
    ObjectName,
    PathOrStdout,
    PostgresUrl,
    Secret,
    SourcePath,
    WebUrl,
    object_type,
)


class FileSink(Section):
    """Rows as text."""

    type: Literal["csv", "jsonl"] = Field(description="`csv` or `jsonl`.")
    path: PathOrStdout = Field(
        description="A file, written at the end from the run's own record; one that is there is replaced with "
        "`--overwrite` or `--resume` only. `-` is the standard output, written as the run goes. Of cameras, a file is "
        "appended to as rows are labelled, and goes on where it ended."
    )
    wide: bool = Field(
        default=False,
        description="One row per frame, with a column for the label of each region, or of each filter where there are "
        "no regions; see [output.md](output.md#csv-and-json-lines).",
    )

    events: bool = Field(
        default=False,
        description="jsonl: events in place of rows, a line when one has begun and one when it is over. A file is "
        "appended to.",
    )
    rotate_mb: Annotated[float, Field(gt=0)] = Field(
        default=100.0, description="MB at which a file that is appended to becomes `<path>.1`, and that `<path>.2`."
    )
    keep_files: Count = Field(default=10, description="How many of those are kept.")


class CallbackSink(Section):
    """A function that is called with the rows of each segment as they are committed."""

    type: Literal["callback"] = Field(description="`callback`.")
    call: ObjectName = Field(description="`package.module:function`; its argument is a `pyarrow.Table`.")


class SpooledSection(Section):
    """What is sent, and may have to wait."""

    name: Label
    spool_mb: Annotated[float, Field(gt=0)] = Field(
        default=100.0,
        description="Megabytes that may wait to be sent; beyond them the oldest are given up, and counted.",
    )
    thumbnails: bool = Field(default=True, description="Send events with a picture of their best frame.")


class WebhookSink(SpooledSection):
    """Events, posted to an address; see [output.md](output.md#webhook)."""

    type: Literal["webhook"] = Field(description="`webhook`.")
    name: Label = Field(default="webhook", description="Unique; what waits lies in `<run folder>/spool/<name>`.")
    url: WebUrl = Field(description="`http` or `https`; keep what is secret in it in a `${VARIABLE}`.")
    headers: Headers = Field(default={}, description="More headers of each request.")
    batch: Count = Field(default=50, description="Events of a request, or tables of up to 256 rows, at most.")
    timeout_s: Annotated[float, Field(gt=0)] = Field(default=5.0, description="For each step of a request.")
    rows: bool = Field(default=False, description="Send the rows of all frames, too.")
    secret: Secret | None = Field(
        default=None, description="Requests are signed with it, by HMAC-SHA256; keep it in a `${VARIABLE}`."
    )


class MqttSink(SpooledSection):
    """Events, published at an MQTT broker (`vpipe[mqtt]`); see [output.md](output.md#mqtt)."""

    type: Literal["mqtt"] = Field(description="`mqtt`.")
    name: Label = Field(default="mqtt", description="Unique; what waits lies in `<run folder>/spool/<name>`.")
    host: Annotated[str, Field(min_length=1)] = Field(description="Of the broker.")
    port: Annotated[int, Field(ge=1, le=65535)] = Field(default=1883, description="Of the broker; with TLS often 8883.")
    topic: str = Field(
        default="vpipe/{source}/{label}",
        description="Of an event; `{source}`, `{region}`, `{filter}` and `{label}` stand for its own.",
    )
    tls: bool = Field(default=False, description="Encrypt the connection, and check the broker's certificate.")
    user: str | None = Field(default=None, description="Name at the broker.")
    password: Secret | None = Field(default=None, description="Keep it in a `${VARIABLE}`.")


class SqliteSink(SpooledSection):
    """Tables of an SQLite file; see [output.md](output.md#sqlite-and-postgres)."""

    type: Literal["sqlite"] = Field(description="`sqlite`.")
    name: Label = Field(default="sqlite", description="Unique; what waits lies in `<run folder>/spool/<name>`.")
    path: SourcePath = Field(description="The file; one that is there is added to.")
    rows: bool = Field(default=False, description="Write the rows of all frames, too.")


class PostgresSink(SpooledSection):
    """Tables of a PostgreSQL database (`vpipe[postgres]`); see [output.md](output.md#sqlite-and-postgres)."""

    type: Literal["postgres"] = Field(description="`postgres`.")
    name: Label = Field(default="postgres", description="Unique; what waits lies in `<run folder>/spool/<name>`.")
    url: PostgresUrl = Field(
        description="`postgresql://user:password@host/database`; keep what is secret in it in a `${VARIABLE}`."
    )
    rows: bool = Field(default=False, description="Write the rows of all frames, too.")


SINKS: dict[str, type[Section]] = {
    "csv": FileSink,
    "jsonl": FileSink,
    "callback": CallbackSink,
    "webhook": WebhookSink,
    "mqtt": MqttSink,
    "sqlite": SqliteSink,
    "postgres": PostgresSink,
}


class SinkObject(OwnSection):
    """A sink of one's own."""

    type: Annotated[str, object_type(*SINKS)] = Field(
        description="`package.module:Name`; every other key is a keyword argument of it."
    )


AnySink = Annotated[
    Annotated[FileSink, Tag("<FileSink>")]
    | Annotated[CallbackSink, Tag("<CallbackSink>")]
    | Annotated[WebhookSink, Tag("<WebhookSink>")]
    | Annotated[MqttSink, Tag("<MqttSink>")]
    | Annotated[SqliteSink, Tag("<SqliteSink>")]
    | Annotated[PostgresSink, Tag("<PostgresSink>")]
    | Annotated[SinkObject, Tag("<SinkObject>")],
    Discriminator(lambda value: tag_of(value, SINKS, SinkObject, default="csv")),
]
