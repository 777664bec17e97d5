"""The types of the configurations: every key, its type, its default and its meaning.

`docs/config.md` is generated from these types. They say what one value must be; what must hold between values, and
between values and the world, is checked in `pipeline.configcheck`. Those of sinks are in `pipeline.sinkschema`,
those of a training in `pipeline.trainschema`.
"""

from pathlib import PurePath
from typing import Annotated, Literal

from pydantic import Discriminator, Field, JsonValue, Tag

from pipeline.section import Configuration, OwnSection, Section, tag_of
from pipeline.sinkschema import AnySink
from pipeline.values import (
    Count,
    DecodeDevice,
    Device,
    Keep,
    Label,
    Names,
    PathFromHere,
    PathOrObject,
    Regions,
    Rgb,
    Seconds,
    Secret,
    Share,
    Size,
    SourceName,
    SourcePath,
    StartText,
    Std,
    TimePattern,
    TimeZone,
    Url,
    named_after,
    named_after_url,
    object_type,
)
from specialized.engines import EngineName
from specialized.modelfile import Fit, Resize, Task
from specialized.orders import Order


class RunSection(Section):
    """The run and its folder."""

    name: Label = Field(default="run", description="Name of the run. Default: the stem of the configuration's file.")
    dir: PathFromHere = Field(
        default="runs", description="Where run folders lie, from the current directory.", validate_default=True
    )
    resume: bool = Field(
        default=False,
        description="Go on with the run of this name if there is one, as `--resume` does, else begin it. Runs over "
        "cameras always do.",
    )
    hash_files: bool = Field(
        default=False,
        description="Tell by a hash of all of each file whether it is still the same when the run goes on, not by its "
        "size, time, head and tail alone. Every file is read once more at the start.",
    )
    limit: Count | None = Field(
        default=None,
        description="At most this many frames of each source are labelled, the rest is counted as skipped.",
    )
    window_s: Annotated[float, Field(ge=1, le=3600)] = Field(
        default=600.0, description="Seconds of a camera that are committed as one part."
    )
    watch: bool = Field(
        default=False,
        description="Look every second whether the configuration's file has changed: cameras are then added and "
        "removed as its `sources` say, as they are at the signal SIGHUP.",
    )
    keep_days: Annotated[float, Field(ge=0)] | None = Field(
        default=None,
        description="Windows, events and telemetry of cameras, of UTC days that ended longer ago, are removed. "
        "Default: none is.",
    )
    min_free_gb: Annotated[float, Field(ge=0)] = Field(
        default=1.0,
        description="So many GB of the disk are kept free in a run over cameras: below, the oldest windows and events "
        "are removed until a tenth more is free, but for the last of each camera.",
    )
    torch_threads: Count | None = Field(
        default=None,
        description="Threads of the CPU engines. Default: half the cores; all of them where the filters compute over "
        "1 GFLOP a frame.",
    )


class Selection(Section):
    """Which frames of a file are taken."""

    every: Count = Field(default=1, description="Take every n-th frame. Not together with `fps`.")
    fps: Annotated[float, Field(gt=0)] | None = Field(
        default=None, description="Take at most this many frames per second of footage. Not together with `every`."
    )
    from_: Seconds | None = Field(
        default=None, alias="from", description="Take frames from this time on: seconds or `[HH:]MM:SS[.mmm]`."
    )
    to: Seconds | None = Field(default=None, description="Take frames before this time: seconds or `[HH:]MM:SS[.mmm]`.")


class NamePattern(Section):
    """A wall-clock time that stands in the file's name."""

    pattern: TimePattern = Field(description="`strptime` pattern of the file's stem, as `%Y%m%d_%H%M%S`.")
    tz: TimeZone = Field(description="Time zone of those times: a name as `Europe/Berlin`, or `UTC`.")


Start = Annotated[
    Annotated[StartText, Tag("<str>")] | Annotated[NamePattern, Tag("<NamePattern>")],
    Discriminator(lambda value: "<str>" if isinstance(value, str) else "<NamePattern>"),
]


class FileSource(Selection):
    """Video files."""

    type: Literal["file"] = Field(default="file", description="`file`, or `package.module:Name` (see below).")
    path: SourcePath = Field(description="A file, a folder (read recursively) or a glob.")
    name: SourceName = Field(
        default_factory=lambda validated: named_after(validated["path"]),
        description="Unique. Default: the file's stem, or the name of the folder; in a glob, of its last fixed folder.",
    )
    start: Start | None = Field(
        None,
        description="Wall-clock time of the file's first frame: `creation_time` (from its header), `mtime` (its last "
        "change), a time as `2026-01-31T08:00:00+01:00`, or `{pattern, tz}`.",
    )
    regions: Regions | None = Field(default=None, description="Its regions, in place of the run's; see there.")
    regions_px: Regions | None = Field(default=None, description="The same in pixels.")


class CameraSource(Section):
    """A live camera. It is connected to anew for as long as the run goes on."""

    type: Literal["rtsp", "http"] = Field(description="`rtsp`, or `http` for MJPEG and HLS.")
    url: Url = Field(
        description="Its address; keep the password in a `${VARIABLE}`: `rtsp://user:${PASSWORD}@host/path`."
    )
    name: SourceName = Field(
        default_factory=lambda validated: named_after_url(validated["url"]),
        description="Unique. Default: the host and path of its address, a path with other signs than `/ . - _` "
        "left out. Must be given where the path holds a "
        "`${VARIABLE}`.",
    )
    transport: Literal["tcp", "udp"] = Field(default="tcp", description="How RTSP brings its packets.")
    fps: Annotated[float, Field(gt=0)] | None = Field(
        default=None, description="Label at most this many frames per second; the rest is counted as skipped."
    )
    dead_s: Annotated[float, Field(ge=1)] = Field(
        default=10.0, description="A connection over which nothing came for so long is given up for a new one."
    )
    regions: Regions | None = Field(default=None, description="Its regions, in place of the run's; see there.")
    regions_px: Regions | None = Field(default=None, description="The same in pixels.")


class SourceObject(OwnSection):
    """A source of one's own."""

    type: Annotated[str, object_type("file", "rtsp", "http")] = Field(
        description="`package.module:Name`; every other key is a keyword argument of it."
    )


SOURCES: dict[str, type[Section]] = {"file": FileSource, "rtsp": CameraSource, "http": CameraSource}

AnySource = Annotated[
    Annotated[FileSource, Tag("<FileSource>")]
    | Annotated[CameraSource, Tag("<CameraSource>")]
    | Annotated[SourceObject, Tag("<SourceObject>")],
    Discriminator(lambda value: tag_of(value, SOURCES, SourceObject, default="file")),
]


class LimitsSection(Section):
    """What a video file may ask for: one that asks for more is refused. A video may be made to do harm."""

    pixels: Annotated[int, Field(ge=1, le=1 << 30)] = Field(
        default=1 << 26, description="Of a picture: 67 million are 8192x8192."
    )
    streams: Count = Field(default=64, description="Of a file: of pictures, sound, texts.")
    hours: Annotated[float, Field(gt=0)] = Field(default=1000.0, description="By the times of a file's frames.")
    frames: Count = Field(default=100_000_000, description="Of a file.")
    segment_frames: Count = Field(
        default=20_000_000, description="Of a segment: a file that cannot be cut, or has few keyframes, is one."
    )
    memory_mb: Count = Field(
        default=4096, description="Of a decoder in a process of its own (`isolate`), beyond what that begins with."
    )


class DecodeSection(Section):
    """Decoding of video files. Labels never depend on `workers` and `isolate`."""

    workers: Count | None = Field(default=None, description="Decoders that work side by side. Default: one per core.")
    segment_frames: Count = Field(
        default=4096, description="A file is cut at the first clean keyframe after so many frames."
    )
    frames: Literal["all", "reference", "key"] = Field(
        default="all",
        description="Which frames are decoded: `all`; `reference`, without those that no other frame refers to; `key`, "
        "the keyframes alone. The rest is counted as skipped, and every frame keeps its number. `every`, `fps` and "
        "`limit` count those that are left; `from` and `to` are times of the file.",
    )
    fast: bool = Field(
        default=False,
        description="Leave out the loop filter of H.264, HEVC and VP8, which smooths the edges of blocks: decoding is "
        "faster, and pixels are not those that the model was trained on.",
    )
    device: DecodeDevice = Field(
        default="cpu",
        description="Where video is decoded: `cpu`, or an NVIDIA GPU, `cuda` or `cuda:1`. Of each file the GPU's first "
        "frames are compared with the CPU's; a file that differs, or that it does not decode, is decoded on the CPU, "
        "and so is a segment in which it fails; where the CPU does not fail, so is the file's rest. The log says so.",
    )
    isolate: bool = Field(
        default=False,
        description="Decode in processes of their own: one that crashes, hangs or takes too much memory is ended and "
        "started anew, and the segment that it was at tried again. On the CPU alone.",
    )
    tries: Count = Field(
        default=3,
        description="How often a segment is tried with `isolate` before it is given up, with what came of it.",
    )
    limit_s: Annotated[float, Field(gt=0)] = Field(
        default=60.0,
        description="A decoder that shows no sign of life for so many seconds is given up. Without `isolate` its "
        "thread stays behind, another goes on with the next segment, and the one that it was at is not committed.",
    )
    limits: LimitsSection = Field(default=LimitsSection(), description="What a file may ask for.")


class FoldSection(Section):
    """Groups of frames that pass through the network as one."""

    frames: Count | None = Field(
        default=None, description="f, frames in a group; must be what the model was trained for. Default: that."
    )
    order: Order | None = Field(
        default=None, description="How groups are formed. Another than the model's is a warning. Default: the model's."
    )
    seed: Annotated[int, Field(ge=0)] = Field(default=0, description="Seed of the order `shuffled`.")
    max_wait_ms: Annotated[float, Field(gt=0)] = Field(
        default=100.0,
        description="How long a frame of a camera waits for others of its group, which is padded then, and as long "
        "again for other groups of its forward pass, at most. Frames of files wait for as long as it takes.",
    )


class EventSection(Section):
    """What makes an event of a class: it comes, and it goes."""

    on: Annotated[float, Field(gt=0, le=1)] = Field(default=0.5, description="Score from which the class is there.")
    off: Annotated[float, Field(gt=0, le=1)] | None = Field(
        default=None, description="Score below which it is gone, at most `on`. Default: that of `on`."
    )
    min_s: Annotated[float, Field(ge=0)] = Field(default=0.0, description="Seconds that it must be there.")
    gap_s: Annotated[float, Field(ge=0)] = Field(default=0.0, description="Seconds that it must be gone.")


class FilterSection(Section):
    """A model that labels every frame. Keys after `keep` describe a model of one's own and go with nothing else."""

    model: PathOrObject = Field(
        description="A model file (`.safetensors`), or `package.module:Class` of a model of one's own."
    )
    name: Label = Field(
        default_factory=lambda validated: PurePath(validated["model"].rpartition(":")[2]).stem,
        description="Unique. Default: the stem of the model's file, or the name of the class.",
    )
    device: Device = Field(
        default="auto", description="`cpu`, `cuda`, `cuda:1`, or `auto`: cuda if there is one, else cpu."
    )
    engine: EngineName = Field(
        default="auto",
        description="What runs the model; `auto`: torch. The others are described in "
        "[models.md](models.md#engines), `onnx` and `openvino` are extras.",
    )
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = Field(
        default="auto",
        description="Type of the arithmetic; `auto`: 16 bits where the device has matrix units for them.",
    )
    batch: Count = Field(
        default=256,
        description="Pictures in a forward pass. Of cameras alone, if it is not given, no more than those of one frame "
        "of each.",
    )
    regions: Annotated[Names, Field(min_length=1)] | None = Field(
        default=None,
        description="Names of the regions that it labels, or patterns of them (`bay-*`). Default: all, and "
        "the frames of sources without regions.",
    )
    keep: Keep = Field(
        default={},
        description="Only rows in which one of these classes reaches its threshold go on, as `{person: 0.5}`; `auto`: "
        "thresholds that training chose and the model file stores.",
    )
    events: dict[str, EventSection] = Field(
        default={},
        description="Events of these classes are found, as `{person: {on: 0.6, off: 0.4, min_s: 1, gap_s: 2}}`: see "
        "[output.md](output.md#events).",
    )
    args: dict[str, JsonValue] = Field(default={}, description="Keyword arguments of the class.")
    input: Size | None = Field(default=None, description="`[H, W]` of a picture. Must be given.")
    classes: Names | None = Field(default=None, description="Names in the order of the scores. Must be given.")
    task: Task = Field(default="one_of", description="`one_of`: softmax over the classes; `any_of`: a sigmoid each.")
    thresholds: Annotated[tuple[Share, ...], Field(strict=False)] | None = Field(
        default=None, description="any_of: score from which a class is present, one per class. Default: 0.5 each."
    )
    fold: Count = Field(default=1, description="f that the model was trained for.")
    multiple_of: Count = Field(default=1, description="What its inner widths were rounded to multiples of.")
    order: Order = Field(default="consecutive", description="Order that the model was trained for.")
    resize: Resize = Field(default="area", description="How frames become pictures.")
    fit: Fit = Field(default="stretch", description="What becomes of another aspect ratio.")
    mean: Rgb = Field(default=(0.5, 0.5, 0.5), description="Of pictures scaled to 0..1; red, green, blue.")
    std: Std = Field(default=(0.25, 0.25, 0.25), description="Of pictures scaled to 0..1; red, green, blue.")
    weights: SourcePath | None = Field(
        default=None,
        description="`.safetensors`, or `.pt` and `.pth` with a state dict. Default: the class loads its own.",
    )


class TelemetrySection(Section):
    """Samples of the machine's load."""

    interval_s: Annotated[float, Field(gt=0)] = Field(default=0.5, description="Seconds between samples.")


class MetricsSection(Section):
    """How a run goes, over HTTP while it goes: `/metrics` for Prometheus, and `/healthz`, see [live.md](live.md)."""

    port: Annotated[int, Field(ge=0, le=65535)] = Field(
        default=9464, description="Where it listens; 0: at any free port, which the log names."
    )
    host: Annotated[str, Field(min_length=1)] = Field(
        default="127.0.0.1",
        description="Address or name of the interface. `0.0.0.0` is all of them: whoever reaches it can read it.",
    )
    lag_s: Annotated[float, Field(gt=0)] = Field(
        default=10.0, description="A camera whose newest label is of a frame older than this makes `/healthz` say 503."
    )


class PageSection(Section):
    """A page of the run, for a browser, while it goes (`vpipe[page]`), see [live.md](live.md#the-page)."""

    port: Annotated[int, Field(ge=0, le=65535)] = Field(
        default=8080, description="Where it listens; 0: at any free port, which the log names."
    )
    host: Annotated[str, Field(min_length=1)] = Field(
        default="127.0.0.1",
        description="Address or name of the interface. With any but that of this machine a `token` must be given.",
    )
    token: Secret | None = Field(
        default=None,
        description="Who opens `http://HOST:PORT/?token=TOKEN` may look, of 16 characters at least; keep it in a "
        "`${VARIABLE}`. What it protects is not encrypted on its way.",
    )


class RunConfig(Configuration):
    """Configuration of `vpipe run`."""

    run: RunSection = Field(default=RunSection(), description="The run and its folder.")
    sources: Annotated[tuple[AnySource, ...], Field(strict=False)] = Field(
        default=(), description="Where frames come from; one or more."
    )
    regions: Regions | None = Field(
        default=None,
        description="Parts of the picture that are labelled each on its own, by name: `[x, y, w, h]` in fractions of "
        "the picture's width and height, `{polygon: [[x, y], ...]}`, `{grid: [rows, columns, x, y, w, h]}`; or a file "
        "of them: CSV with the columns name, x, y, w, h, or JSON or YAML as here. Default: the whole picture.",
    )
    regions_px: Regions | None = Field(default=None, description="The same in pixels. Not together with `regions`.")
    decode: DecodeSection = Field(default=DecodeSection(), description="Decoding.")
    fold: FoldSection = Field(default=FoldSection(), description="Groups of frames.")
    filters: Annotated[tuple[FilterSection, ...], Field(strict=False)] = Field(
        default=(),
        description="The models, one or more, on one decoding of the frames. `filter: {...}` is the short form of one.",
    )
    sinks: Annotated[tuple[AnySink, ...], Field(strict=False)] = Field(
        default=(), description="Where labels go besides the run's own record, which is always written."
    )
    telemetry: TelemetrySection = Field(default=TelemetrySection(), description="Samples of the machine's load.")
    metrics: MetricsSection | None = Field(
        default=None, description="How it goes, over HTTP. Default: nothing listens; `{}`: with the defaults below."
    )

    page: PageSection | None = Field(
        default=None, description="How it goes, for a browser. Default: nothing listens; `{}`: with the defaults below."
    )

    @property
    def is_live(self) -> bool:
        """Whether it is of cameras, which have a run of their own."""
        return any(isinstance(source, CameraSource) for source in self.sources)
