"""What single values of a configuration may be: paths, times, names, shares. What is none of these says so in words."""

import difflib
import errno
import os
import re
import warnings
from collections.abc import Mapping
from datetime import datetime
from glob import escape, has_magic
from itertools import takewhile
from pathlib import PurePath
from typing import Annotated, Literal
from urllib.parse import urlsplit, urlunsplit
from zoneinfo import ZoneInfo

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Discriminator,
    Field,
    JsonValue,
    PlainSerializer,
    Tag,
    ValidationInfo,
)
from pydantic_core import PydanticCustomError

OBJECT = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)*:[^\W\d]\w*(\.[^\W\d]\w*)*")  # package.module:Name

UNFOLDED = "unfolded"  # a teacher that is trained on the way

_CLOCK = re.compile(r"(?:(\d{1,4}):)?(\d{1,2}):(\d{1,2}(?:\.\d{1,9})?)", re.ASCII)
_ESCAPED = re.compile(r"\[([*?[])\]")  # as glob.escape does it
_NO_PATH = re.compile("[\x00-\x1f\x7f\ud800-\udc7f\udd00-\udfff]")  # these surrogates encode no file's name


def _absolute(path: str, info: ValidationInfo) -> str:
    """The path from the configuration's folder, as an absolute one."""
    folder = (info.context or {}).get("folder", os.curdir)
    joined = _possible(path, os.path.abspath(os.path.join(folder, os.path.expanduser(path))))
    if has_magic(path) and not os.path.isabs(path) and not os.path.exists(joined):
        return os.path.abspath(os.path.join(escape(str(folder)), path))  # a folder's own brackets are no pattern
    return joined


def _possible(path: str, absolute: str) -> str:
    """The absolute path, if the system can have a file there at all."""
    if not path or _NO_PATH.search(path):
        raise ValueError("must be a path without control characters")
    try:
        os.lstat(absolute)
    except OSError as exc:
        if exc.errno == errno.ENAMETOOLONG:
            raise ValueError("must be a path that the system takes, and this one is too long") from exc
    return absolute


def _absolute_from_here(path: str) -> str:
    return _possible(path, os.path.abspath(os.path.expanduser(path)))


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


HIDDEN = "..."  # stands for what may be secret
STRICT = ("postgres", "postgresql")  # whose library shows what it cannot read


def _url(*schemes: str) -> AfterValidator:
    """An address of one of these; the first two are what an error shows, for it must not show the address."""
    rule = f"must be an address as {' or '.join(f'{scheme}://host/path' for scheme in schemes[:2])}"
    advice = "write what is none of A-Z a-z 0-9 - . _ ~ in a name or password as %XX"

    def check(url: str) -> str:
        try:
            parts = urlsplit(url)
            whole = parts.hostname and (parts.port is None or parts.port > 0) and not re.search(r"\s", url)
            whole = whole and "@" not in parts.path + parts.query + parts.fragment  # of a password that was cut in two
            whole = whole and not (parts.scheme in STRICT and re.search(r"%(?![0-9A-Fa-f]{2})", url))
        except ValueError:  # a port that is no number, say
            whole = None
        if not whole or parts.scheme not in schemes:
            text = f"{rule}, got another text; {advice}"
            raise PydanticCustomError("url", text.replace("{", "{{").replace("}", "}}"))
        return url

    return AfterValidator(check)


def without_secrets(url: str) -> str:
    """An address without what may be secret: name and password, and the values of a query."""
    parts = urlsplit(url)
    query = re.sub("=[^&;]*", "=...", parts.query)
    return urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2], query=query))


def without_path(url: str) -> str:
    """An address without what may be secret, its path too: that is the key of many receivers."""
    parts = urlsplit(without_secrets(url))
    return urlunsplit(parts._replace(path="/..." if len(parts.path) > 1 else parts.path))


def _secret(text: object) -> object:
    if not isinstance(text, str) or not text:
        # It must not be shown.
        raise PydanticCustomError("secret", "must be a text, got something else; put it in quotes, or in a variable")
    return text


def _headers(headers: object) -> object:
    if not isinstance(headers, Mapping):
        raise PydanticCustomError("secret", "must be a mapping of names to texts, got something else")
    for name, value in headers.items():
        if not re.fullmatch(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+", str(name)):
            raise PydanticCustomError("secret", "must have names of headers of HTTP, got another one")
        if not isinstance(value, str) or not re.fullmatch(r"[\x20-\x7e]*", value):
            raise PydanticCustomError("secret", "must be texts in ASCII on one line, got something else in one of them")
    return headers


def named_after_url(url: str) -> str:
    """The default name of a camera: its host, and its path if that is but a path: some cameras take passwords there."""
    parts = urlsplit(url)
    path = parts.path if re.fullmatch(r"[\w/.-]*", parts.path) else ""
    return f"{parts.hostname or ''}{path}".rstrip("/") or "camera"


def _device(name: str) -> str:
    if not re.fullmatch(r"auto|cpu|cuda(:\d{1,3})?", name):
        raise ValueError("must be auto, cpu, cuda or cuda:N")
    return name


def _decode_device(name: str) -> str:
    if not re.fullmatch(r"cpu|cuda(:\d{1,3})?", name):
        raise ValueError("must be cpu, cuda or cuda:N")
    return name


def named_after(path: str) -> str:
    """The default name of a source: a file's stem, or the last folder that a pattern names in full."""
    pure = PurePath(path)
    if os.path.exists(path) or not has_magic(path):
        return (pure.name if os.path.isdir(path) else pure.stem) or "files"
    fixed = takewhile(lambda part: not has_magic(_ESCAPED.sub("", part)), pure.parts)
    return _ESCAPED.sub(r"\1", PurePath(*fixed).name) or "files"


def object_type(*built_in: str) -> AfterValidator:
    def check(name: str) -> str:
        if OBJECT.fullmatch(name):
            return name
        close = difflib.get_close_matches(name, built_in, n=1)
        advice = f"; did you mean {close[0]!r}?" if close else ""
        raise ValueError(f"must be {', '.join(built_in)} or package.module:Name{advice}")

    return AfterValidator(check)


SourcePath = Annotated[str, AfterValidator(_absolute)]
PathFromHere = Annotated[str, AfterValidator(_absolute_from_here)]
PathOrStdout = Annotated[str, AfterValidator(_absolute_or_stdout)]
PathOrObject = Annotated[str, AfterValidator(_absolute_or_object)]
PathOrUnfolded = Annotated[str, AfterValidator(_absolute_or_unfolded)]
ObjectName = Annotated[str, AfterValidator(_object)]
SourceName = Annotated[str, AfterValidator(_source_name)]
StartText = Annotated[str, AfterValidator(_start)]
TimePattern = Annotated[str, AfterValidator(_pattern)]
TimeZone = Annotated[str, AfterValidator(_zone)]
Url = Annotated[str, _url("rtsp", "http", "rtsps", "https"), PlainSerializer(without_secrets)]
WebUrl = Annotated[str, _url("http", "https"), PlainSerializer(without_path)]
PostgresUrl = Annotated[str, _url("postgresql", "postgres"), PlainSerializer(without_secrets)]
Secret = Annotated[str, BeforeValidator(_secret), PlainSerializer(lambda _: HIDDEN)]
Headers = Annotated[
    dict[str, str],
    BeforeValidator(_headers),
    PlainSerializer(lambda headers: dict.fromkeys(headers, HIDDEN)),
]
Device = Annotated[str, AfterValidator(_device)]
DecodeDevice = Annotated[str, AfterValidator(_decode_device)]
Seconds = Annotated[float, BeforeValidator(_seconds), Field(ge=0)]
Label = Annotated[str, AfterValidator(_label)]
Names = Annotated[tuple[str, ...], Field(strict=False)]
Size = Annotated[tuple[Annotated[int, Field(ge=1)], Annotated[int, Field(ge=1)]], Field(strict=False)]
Rgb = Annotated[tuple[float, float, float], Field(strict=False)]
OverZero = Annotated[float, Field(gt=0)]
Std = Annotated[tuple[OverZero, OverZero, OverZero], Field(strict=False)]
Share = Annotated[float, Field(ge=0, le=1)]
Blocks = Annotated[tuple[Annotated[int, Field(ge=0)], ...], Field(strict=False)]
Count = Annotated[int, Field(ge=1)]


# A tag in <...> stands in an error's path, where it cannot be taken for a key.
Keep = Annotated[
    Annotated[Literal["auto"], Tag("<auto>")] | Annotated[dict[str, Share], Tag("<dict>")],
    Discriminator(lambda value: "<auto>" if isinstance(value, str) else "<dict>"),
]

# What is in the mapping is checked by `pipeline.regionfile`, as are files of regions.
Regions = Annotated[
    Annotated[SourcePath, Tag("<path>")] | Annotated[dict[str, JsonValue], Tag("<dict>")],
    Discriminator(lambda value: "<path>" if isinstance(value, str) else "<dict>"),
]

Inside = Annotated[
    Annotated[Literal["centre"], Tag("<centre>")] | Annotated[float, Field(gt=0, le=1), Tag("<float>")],
    Discriminator(lambda value: "<centre>" if isinstance(value, str) else "<float>"),
]
