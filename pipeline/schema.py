"""The types of the configurations: every key, its type, its default and its meaning.

`docs/config.md` is generated from these types. They say what one value must be; what must hold between values, and
between values and the world, is checked in `pipeline.config`.
"""

import difflib
import os
import re
import warnings
from collections.abc import Mapping
from datetime import datetime
from glob import escape, has_magic
from itertools import takewhile
from pathlib import Path, PurePath
from typing import Annotated, Literal, get_args
from zoneinfo import ZoneInfo

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Discriminator,
    Field,
    JsonValue,
    PrivateAttr,
    Tag,
    ValidationInfo,
)

from pipeline.yamlfile import Node, Step
from specialized.calibration import ErrorRate
from specialized.modelfile import Fit, Resize, Task
from specialized.orders import Order
from specialized.recipe import Recipe

OBJECT = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)*:[^\W\d]\w*(\.[^\W\d]\w*)*")  # package.module:Name

UNFOLDED = "unfolded"  # a teacher that is trained on the way

_CLOCK = re.compile(r"(?:(\d{1,4}):)?(\d{1,2}):(\d{1,2}(?:\.\d{1,9})?)", re.ASCII)
_ESCAPED = re.compile(r"\[([*?[])\]")  # as glob.escape does it
_NO_PATH = re.compile("[\x00-\x1f\x7f\ud800-\udc7f\udd00-\udfff]")  # these surrogates encode no file's name


def _absolute(path: str, info: ValidationInfo) -> str:
    """The path from the configuration's folder, as an absolute one."""
    if not path or _NO_PATH.search(path):
        raise ValueError("must be a path without control characters")
    folder = (info.context or {}).get("folder", os.curdir)
    joined = os.path.abspath(os.path.join(folder, os.path.expanduser(path)))
    if has_magic(path) and not os.path.isabs(path) and not os.path.exists(joined):
        return os.path.abspath(os.path.join(escape(str(folder)), path))  # a folder's own brackets are no pattern
    return joined


def _absolute_from_here(path: str) -> str:
    return os.path.abspath(os.path.expanduser(path))


def _absolute_or_stdout(path: str, info: ValidationInfo) -> str:
    return path if path == "-" else _absolute(path, info)


def _absolute_or_object(name: str, info: ValidationInfo) -> str:
    return name if OBJECT.fullmatch(name) else _absolute(name, info)


def _absolute_or_unfolded(name: str, info: ValidationInfo) -> str:
    return name if name == UNFOLDED else _absolute(name, info)


def _seconds(value: object) -> object:
    if not isinstance(value, str):
        return value
    clock = _CLOCK.fullmatch(value)
    if clock is None:
        raise ValueError("must be seconds or [HH:]MM:SS[.mmm]")
    hours, minutes, seconds = clock.groups(default="0")
    return int(hours) * 3600 + int(minutes) * 60 + float(seconds)


def _start(text: str) -> str:
    if text in ("creation_time", "mtime"):
        return text
    rule = "must be creation_time, mtime, {pattern, tz} or a time as 2026-01-31T08:00:00+01:00"
    try:
        if datetime.fromisoformat(text).tzinfo is not None:
            return text
    except ValueError as exc:
        raise ValueError(rule) from exc
    raise ValueError(f"{rule}, with its offset from UTC")


def _pattern(pattern: str) -> str:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of a day without a year
            datetime.strptime("", pattern)
    except (ValueError, re.error) as exc:
        if "does not match" not in str(exc):
            raise ValueError(f"must be a pattern of strptime ({exc})") from exc
    return pattern


def _zone(name: str) -> str:
    try:
        ZoneInfo(name)
    except (ValueError, OSError, KeyError) as exc:  # KeyError: not known
        raise ValueError("must be the name of a time zone; example: Europe/Berlin") from exc
    return name


def _object(name: str) -> str:
    if not OBJECT.fullmatch(name):
        raise ValueError("must be package.module:name")
    return name


def _label(name: str) -> str:
    """A name that also names a file or folder of the run."""
    if not name.strip() or name in (".", "..") or re.search(r"[/\\\x00-\x1f]", name):
        raise ValueError("must be a name without slashes or control characters")
    return name


def _source_name(name: str) -> str:
    if not name.strip() or not name.isprintable():
        raise ValueError("must be a name of printable characters")
    return name


def _device(name: str) -> str:
    if not re.fullmatch(r"auto|cpu|cuda(:\d{1,3})?", name):
        raise ValueError("must be auto, cpu, cuda or cuda:N")
    return name


def _named_after(path: str) -> str:
    """The default name of a source: a file's stem, or the last folder that a pattern names in full."""
    pure = PurePath(path)
    if os.path.exists(path) or not has_magic(path):
        return (pure.name if os.path.isdir(path) else pure.stem) or "files"
    fixed = takewhile(lambda part: not has_magic(_ESCAPED.sub("", part)), pure.parts)
    return _ESCAPED.sub(r"\1", PurePath(*fixed).name) or "files"


# Tags name the class that a value is read as; <...> cannot be taken for a key when an error's path is followed.
def _source_kind(value: object) -> str:
    return _kind(value, ("file",), "<FileSource>", "<SourceObject>", default="file")


def _sink_kind(value: object) -> str:
    kind = value.get("type") if isinstance(value, Mapping) else getattr(value, "type", None)
    if kind == "callback":
        return "<CallbackSink>"
    return _kind(value, ("csv", "jsonl"), "<FileSink>", "<SinkObject>", default="csv")


def _kind(value: object, built_in: tuple[str, ...], ours: str, theirs: str, *, default: str) -> str:
    kind = value.get("type", default) if isinstance(value, Mapping) else getattr(value, "type", default)
    return ours if kind in built_in or not isinstance(kind, str) else theirs


def _object_type(*built_in: str) -> AfterValidator:
    def check(name: str) -> str:
        if OBJECT.fullmatch(name):
            return name
        close = difflib.get_close_matches(name, built_in, n=1)
        advice = f"; did you mean {close[0]!r}?" if close else ""
        raise ValueError(f"must be {', '.join(built_in)} or package.module:Name{advice}")

    return AfterValidator(check)


SourcePath = Annotated[str, AfterValidator(_absolute)]
Seconds = Annotated[float, BeforeValidator(_seconds), Field(ge=0)]
Label = Annotated[str, AfterValidator(_label)]
Names = Annotated[tuple[str, ...], Field(strict=False)]
Size = Annotated[tuple[Annotated[int, Field(ge=1)], Annotated[int, Field(ge=1)]], Field(strict=False)]
Rgb = Annotated[tuple[float, float, float], Field(strict=False)]
Share = Annotated[float, Field(ge=0, le=1)]
Blocks = Annotated[tuple[Annotated[int, Field(ge=0)], ...], Field(strict=False)]
Count = Annotated[int, Field(ge=1)]


# A tag in <...> stands in an error's path, where it cannot be taken for a key.
Keep = Annotated[
    Annotated[Literal["auto"], Tag("<auto>")] | Annotated[dict[str, Share], Tag("<dict>")],
    Discriminator(lambda value: "<auto>" if isinstance(value, str) else "<dict>"),
]


class Section(BaseModel):
    """A mapping of known keys. Strict: a text is no number, and true is not 1."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False, protected_namespaces=())


class RunSection(Section):
    """The run and its folder."""

    name: Label = Field(default="run", description="Name of the run. Default: the stem of the configuration's file.")
    dir: Annotated[str, AfterValidator(_absolute_from_here)] = Field(
        default="runs", description="Where run folders lie, from the current directory.", validate_default=True
    )
    limit: Count | None = Field(
        default=None,
        description="At most this many frames of each source are labelled, the rest is counted as skipped.",
    )
    torch_threads: Count | None = Field(default=None, description="Threads of the CPU engine. Default: half the cores.")


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

    pattern: Annotated[str, AfterValidator(_pattern)] = Field(
        description="`strptime` pattern of the file's stem, as `%Y%m%d_%H%M%S`."
    )
    tz: Annotated[str, AfterValidator(_zone)] = Field(
        description="Time zone of those times: a name as `Europe/Berlin`, or `UTC`."
    )


Start = Annotated[
    Annotated[str, AfterValidator(_start), Tag("<str>")] | Annotated[NamePattern, Tag("<NamePattern>")],
    Discriminator(lambda value: "<str>" if isinstance(value, str) else "<NamePattern>"),
]


class FileSource(Selection):
    """Video files."""

    type: Literal["file"] = Field(default="file", description="`file`, or `package.module:Name` (see below).")
    path: SourcePath = Field(description="A file, a folder (read recursively) or a glob.")
    name: Annotated[str, AfterValidator(_source_name)] = Field(
        default_factory=lambda validated: _named_after(validated["path"]),
        description="Unique. Default: the file's stem, or the name of the folder; in a glob, of its last fixed folder.",
    )
    start: Start | None = Field(
        None,
        description="Wall-clock time of the file's first frame: `creation_time` (from its header), `mtime` (its last "
        "change), a time as `2026-01-31T08:00:00+01:00`, or `{pattern, tz}`.",
    )


class SourceObject(Section):
    """A source of one's own."""

    model_config = ConfigDict(extra="allow")

    type: Annotated[str, _object_type("file")] = Field(
        description="`package.module:Name`; every other key is a keyword argument of it."
    )

    @property
    def arguments(self) -> dict[str, object]:
        """The keyword arguments."""
        return dict(self.model_extra or {})


class DecodeSection(Section):
    """Decoding. It changes how fast frames come, never which."""

    workers: Count | None = Field(default=None, description="Decoders that work side by side. Default: one per core.")
    segment_frames: Count = Field(
        default=4096, description="A file is cut at the first clean keyframe after so many frames."
    )


class FoldSection(Section):
    """Groups of frames that pass through the network as one."""

    frames: Count | None = Field(
        default=None, description="f, frames in a group; must be what the model was trained for. Default: that."
    )
    order: Order | None = Field(
        default=None, description="How groups are formed. Another than the model's is a warning. Default: the model's."
    )
    seed: Annotated[int, Field(ge=0)] = Field(default=0, description="Seed of the order `shuffled`.")


class FilterSection(Section):
    """A model that labels every frame. Keys after `keep` describe a model of one's own and go with nothing else."""

    model: Annotated[str, AfterValidator(_absolute_or_object)] = Field(
        description="A model file (`.safetensors`), or `package.module:Class` of a model of one's own."
    )
    name: Label = Field(
        default_factory=lambda validated: PurePath(validated["model"].rpartition(":")[2]).stem,
        description="Unique. Default: the stem of the model's file, or the name of the class.",
    )
    device: Annotated[str, AfterValidator(_device)] = Field(
        default="auto", description="`cpu`, `cuda`, `cuda:1`, or `auto`: cuda if there is one, else cpu."
    )
    engine: Literal["auto", "torch"] = Field(default="auto", description="What runs the model.")
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = Field(
        default="auto",
        description="Type of the arithmetic; `auto`: 16 bits where the device has matrix units for them.",
    )
    batch: Count = Field(default=256, description="Pictures in a forward pass.")
    keep: Keep = Field(
        default={},
        description="Only rows in which one of these classes reaches its threshold go on, as `{person: 0.5}`; `auto`: "
        "thresholds that training chose and the model file stores.",
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
    std: Rgb = Field(default=(0.25, 0.25, 0.25), description="Of pictures scaled to 0..1; red, green, blue.")
    weights: SourcePath | None = Field(
        default=None,
        description="`.safetensors`, or `.pt` and `.pth` with a state dict. Default: the class loads its own.",
    )


class FileSink(Section):
    """Rows as text."""

    type: Literal["csv", "jsonl"] = Field(description="`csv` or `jsonl`.")
    path: Annotated[str, AfterValidator(_absolute_or_stdout)] = Field(
        description="A file, written at the end from the run's own record; `-` is the standard output, written as the "
        "run goes."
    )


class CallbackSink(Section):
    """A function that is called with the rows of each segment as they are committed."""

    type: Literal["callback"] = Field(description="`callback`.")
    call: Annotated[str, AfterValidator(_object)] = Field(
        description="`package.module:function`; its argument is a `pyarrow.Table`."
    )


class SinkObject(SourceObject):
    """A sink of one's own."""

    type: Annotated[str, _object_type("csv", "jsonl", "callback")] = Field(
        description="`package.module:Name`; every other key is a keyword argument of it."
    )


class TelemetrySection(Section):
    """Samples of the machine's load."""

    interval_s: Annotated[float, Field(gt=0)] = Field(default=0.5, description="Seconds between samples.")


AnySource = Annotated[
    Annotated[FileSource, Tag("<FileSource>")] | Annotated[SourceObject, Tag("<SourceObject>")],
    Discriminator(_source_kind),
]
AnySink = Annotated[
    Annotated[FileSink, Tag("<FileSink>")]
    | Annotated[CallbackSink, Tag("<CallbackSink>")]
    | Annotated[SinkObject, Tag("<SinkObject>")],
    Discriminator(_sink_kind),
]


class Configuration(Section):
    """What `pipeline.config` loads: the values, and where they came from."""

    _tree: Node = PrivateAttr(default_factory=lambda: Node({}, "", ""))
    _path: Path | None = PrivateAttr(default=None)
    _warnings: tuple[str, ...] = PrivateAttr(default=())

    @property
    def path(self) -> Path | None:
        """The configuration's file, None if there is none."""
        return self._path

    @property
    def warnings(self) -> tuple[str, ...]:
        """What is allowed, and probably not meant: `file:line: key: what should hold, got what`."""
        return self._warnings

    def problem(self, text: str, *keys: Step) -> str:
        """A line for a ConfigError about the value at these keys: `file:line: key: ` and the text."""
        node, missing = self._tree.reach(keys)
        return node.problem(text, *missing)

    def resolved(self) -> dict[str, JsonValue]:
        """All values, defaults included, as JSON has them; texts with ${VARIABLE} as they were written: secrets."""
        values: dict[str, JsonValue] = self.model_dump(mode="json", by_alias=True)
        return {key: _as_written(value, self._tree.child(key)) for key, value in values.items()}


def _as_written(value: JsonValue, node: Node | None) -> JsonValue:
    if node is None or node.raw is not None:
        return value if node is None else node.raw
    if isinstance(value, dict):
        return {key: _as_written(v, node.child(key)) for key, v in value.items()}
    if isinstance(value, list):
        return [_as_written(v, node.child(k)) for k, v in enumerate(value)]
    return value


class RunConfig(Configuration):
    """Configuration of `vpipe run`."""

    run: RunSection = Field(default=RunSection(), description="The run and its folder.")
    sources: Annotated[tuple[AnySource, ...], Field(strict=False)] = Field(
        default=(), description="Where frames come from; one or more."
    )
    decode: DecodeSection = Field(default=DecodeSection(), description="Decoding.")
    fold: FoldSection = Field(default=FoldSection(), description="Groups of frames.")
    filters: Annotated[tuple[FilterSection, ...], Field(strict=False)] = Field(
        default=(),
        description="The models, one or more; all see the same pictures. `filter: {...}` is the short form of one.",
    )
    sinks: Annotated[tuple[AnySink, ...], Field(strict=False)] = Field(
        default=(), description="Where labels go besides the run's own record, which is always written."
    )
    telemetry: TelemetrySection = Field(default=TelemetrySection(), description="Samples of the machine's load.")


class ArchitectureSection(Section):
    """The network."""

    architecture: str = Field(description="A name that `vpipe models` lists, or `package.module:Class`.")
    args: dict[str, JsonValue] = Field(
        default={}, description="Keyword arguments of the class, over those of the name."
    )
    fold: Count = Field(
        default=1,
        description="f, frames in a group. A class that has no parameter `fold` is folded for it: see docs/models.md.",
    )
    multiple_of: Count = Field(
        default=1, description="Folded inner widths are rounded to multiples of it; 8 suits matrix units."
    )
    order: Order = Field(default="consecutive", description="How groups are formed.")
    input: Size | None = Field(
        default=None, description="`[H, W]` of a picture. Default: that of the named architecture."
    )
    resize: Resize = Field(default="area", description="How frames become pictures.")
    fit: Fit = Field(default="stretch", description="What becomes of another aspect ratio.")
    mean: Rgb = Field(default=(0.5, 0.5, 0.5), description="Of pictures scaled to 0..1; red, green, blue.")
    std: Rgb = Field(default=(0.25, 0.25, 0.25), description="Of pictures scaled to 0..1; red, green, blue.")


class ClassSection(Section):
    """A question that training asks of the boxes of a frame."""

    name: Annotated[str, Field(min_length=1)] = Field(description="The class that is answered.")
    object: Annotated[str, Field(min_length=1)] = Field(description="`object_name` of the boxes that count.")
    at_least: Count = Field(default=1, description="So many boxes make the class true.")
    min_confidence: Share = Field(default=0.0, description="Boxes below do not count.")


class ClipSection(Selection):
    """A video with its labels."""

    video: SourcePath = Field(description="A video file.")
    labels: SourcePath = Field(description="Its boxes: CSV or COCO JSON, see docs/labels.md.")


class ImagesSection(Section):
    """Images with a sub-folder per class (png, jpg, jpeg, bmp, webp). Either `folder`, or the others."""

    folder: SourcePath | None = Field(default=None, description="A folder that `split` cuts into parts, by chance.")
    training: SourcePath | None = Field(default=None, description="The folder to train on.")
    validation: SourcePath | None = Field(default=None, description="The folder on which the best epoch is chosen.")
    test: SourcePath | None = Field(default=None, description="The folder that is only used to measure the result.")


class SplitSection(Section):
    """How footage is divided by time. Blocks that are named nowhere are trained on."""

    blocks: Annotated[int, Field(ge=2)] = Field(
        default=10,
        description="Each clip is cut into so many blocks of equal time, each class of images into equal shares.",
    )
    validation: Blocks = Field(description="Numbers of the blocks, from 0, on which the best epoch is chosen.")
    test: Blocks = Field(default=(), description="Numbers of the blocks that are only used to measure the result.")
    gap_s: Annotated[float, Field(ge=0)] = Field(
        default=2.0, description="Seconds left out between blocks of different use."
    )


class TrainingRunSection(Section):
    """The training and its folder."""

    name: Label = Field(
        default="training", description="Name of the training. Default: the stem of the configuration's file."
    )
    dir: Annotated[str, AfterValidator(_absolute_from_here)] = Field(
        default="runs", description="Where run folders lie, from the current directory.", validate_default=True
    )


class OperatingSection(Section):
    """The error rate for which training chooses the thresholds of classes on the validation blocks. Give one."""

    false_negative_rate: Share | None = Field(
        default=None,
        description="At most this share of the pictures with the class is missed. Default: 0.01, if neither is given.",
    )
    false_positive_rate: Share | None = Field(
        default=None, description="At most this share of the pictures without the class is kept."
    )

    @property
    def target(self) -> tuple[ErrorRate, float]:
        """Which rate, and the most that it may be."""
        if self.false_positive_rate is not None:
            return "false_positive_rate", self.false_positive_rate
        return "false_negative_rate", 0.01 if self.false_negative_rate is None else self.false_negative_rate


class TrainConfig(Configuration):
    """Configuration of `vpipe train` and `vpipe eval`."""

    run: TrainingRunSection = Field(default=TrainingRunSection(), description="The training and its folder.")
    model: ArchitectureSection = Field(description="The network.")
    task: Task = Field(
        default="one_of",
        description="`one_of`: the first class that holds wins, else `none`; `any_of`: each by itself.",
    )
    classes: Annotated[tuple[ClassSection, ...], Field(strict=False)] = Field(
        default=(),
        description="What is asked; one or more. With `images` none: sub-folders are the classes, in natural order.",
    )
    clips: Annotated[tuple[ClipSection, ...], Field(strict=False)] = Field(
        default=(), description="Labelled footage; one or more."
    )
    images: ImagesSection | None = Field(default=None, description="Folders of images instead of `clips`.")
    split: SplitSection = Field(
        default=SplitSection(validation=()),
        description="How footage is divided by time. Must be given, unless `images` says what is for what.",
    )
    teacher: Annotated[str, AfterValidator(_absolute_or_unfolded)] | None = Field(
        default=None,
        description="An unfolded model whose logits a folded one learns from, beside the labels: a model file of the "
        "same classes and input, or `unfolded`, the same network trained unfolded first.",
    )
    train: Recipe = Field(default=Recipe(), description="How to train.")
    operating: OperatingSection = Field(
        default=OperatingSection(), description="Error rates that `keep: auto` of a run aims at."
    )
    output: SourcePath = Field(description="The model file to write.")


def sections_in(annotation: object) -> list[type[BaseModel]]:
    """The sections that a value of this type can be or hold."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [section for part in get_args(annotation) for section in sections_in(part)]
