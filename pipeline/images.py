"""Folders of images as training footage: a sub-folder per class, in it the images that show it.

    folder/0/*.png, folder/1/*.jpg, ... ──read_images──▶ Images ──split──▶ training, validation, test

Images are decoded by FFmpeg and resized by the scaler that resizes the frames of a run. They have no time: chance puts
them in an order, so that groups mix classes, and cuts a single folder into blocks.
"""

from __future__ import annotations

import hashlib
import io
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import av
import av.error
import numpy as np
from av.video.frame import VideoFrame
from numpy.typing import NDArray

from pipeline.errors import refuse
from pipeline.sources.container import OPEN_OPTIONS, reason
from pipeline.sources.orientation import orientation_of
from pipeline.sources.scaler import PictureFormat, Scaler, View
from pipeline.text import printable
from specialized.examples import Examples

__all__ = ["Images", "class_names", "facts", "read_images"]

SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".webp")
# FFmpeg's demuxers by how a file begins. They are named, never probed for: what looks like a playlist may open others.
DEMUXERS = {b"\x89PNG\r\n": "png_pipe", b"\xff\xd8\xff": "jpeg_pipe", b"BM": "bmp_pipe", b"RIFF": "webp_pipe"}

SEED = 0  # of the order and the blocks, whatever the seed of a training: all seeds are measured on the same images


@dataclass(frozen=True, slots=True, eq=False)
class Images:
    """The images of one or more folders, N of them, in random order within each run."""

    examples: Examples  # a run per block
    parts: tuple[str, ...] = ()  # what each run is for, where folders say it; empty: runs are blocks to choose from

    step_s: ClassVar[float | None] = None  # as of Footage: the time between neighbours
    block_frames: ClassVar[int] = 1  # of an interval: no image is another's neighbour
    objects: ClassVar[tuple[str, ...]] = ()  # there are no boxes
    warnings: ClassVar[tuple[str, ...]] = ()  # folders say all that they mean

    def split(
        self, *, blocks: int, validation: Collection[int], test: Collection[int], gap_s: float
    ) -> dict[str, Examples]:
        """Gives the parts as the folders say, or chooses blocks for them; see `Footage.split`.

        Args:
            blocks: Number of blocks, as at reading.
            validation: Blocks that choose the epoch.
            test: Blocks that measure.
            gap_s: Not used: there is no time.
        """
        runs = self.examples.runs
        if not self.parts and blocks != len(runs):
            raise ValueError(f"Images.split: blocks must be {len(runs)}, as they were read, got {blocks}")
        of = self.parts or [_part(block, validation, test) for block in range(blocks)]
        return {
            part: self.examples.only(tuple(run for run, its in zip(runs, of, strict=True) if its == part))
            for part in ("training", "validation", "test")
        }


def _part(block: int, validation: Collection[int], test: Collection[int]) -> str:
    return "validation" if block in validation else "test" if block in test else "training"


def class_names(folder: Path) -> tuple[str, ...]:
    """The classes of a folder: its sub-folders in natural order, 2 before 10. `none`, none of the others, comes last as
    it does for clips.

    Raises:
        ConfigError: it cannot be read, holds fewer than two, or one whose name is not UTF-8.
    """
    problems: list[str] = []
    names = tuple(path.name for path in _inside(folder, problems) if path.is_dir())
    problems += [
        f"{folder}/{printable(name)}: must have a name in UTF-8, for it is a class, got other bytes; rename it"
        for name in names
        if printable(name) != name
    ]
    if not problems and len(names) < 2:
        problems.append(f"{folder}: must hold a sub-folder per class, two or more, got {len(names)}")
    refuse("images", problems)
    return tuple(sorted(names, key=lambda name: name == "none"))


def read_images(folders: Mapping[str, Path], *, picture: PictureFormat, blocks: int) -> Images:
    """Reads the images of folders whose sub-folders are classes.

    Args:
        folders: By part, "training" first, whose classes are those of all; or one, "folder", to be cut into blocks.
        picture: What the model takes.
        blocks: Into how many blocks of random images, each with its share of every class, a single folder is cut.

    Raises:
        ConfigError: all that is wrong with the folders; or else all images that cannot be read.
    """
    classes = class_names(next(iter(folders.values())))
    problems: list[str] = []
    files: list[Path] = []
    labels: list[int] = []
    run: list[int] = []
    for number, (part, folder) in enumerate(folders.items()):
        for name, images in _by_class(folder, problems).items():
            least = blocks if part == "folder" else 1 if part == "training" else 0
            if name not in classes:
                problems.append(
                    f"{folder / name}: must be a class to train on, one of {', '.join(classes)}, got another"
                )
            elif len(images) < least:
                problems.append(f"{folder / name}: must hold {least} images or more, got {len(images)}")
            else:
                files += images
                labels += [classes.index(name)] * len(images)
                run += [number] * len(images)
    refuse("images", problems)
    label, block = np.array(labels, np.int64), np.array(run, np.int64)
    parts = tuple(folders)
    if parts == ("folder",):
        block, parts = _blocks(label, blocks), ()
    order = np.lexsort((_random(len(files)), block))
    stops = np.cumsum(np.bincount(block, minlength=len(parts))).tolist()
    empty = [part for part, start, stop in zip(parts, [0, *stops], stops, strict=False) if start == stop]
    refuse("images", [f"{folders[part]}: must hold images in its sub-folders, got none" for part in empty])
    pictures = _read([files[place] for place in order], picture)
    runs = tuple(zip([0, *stops[:-1]], stops, strict=True))
    return Images(Examples(pictures, label[order], runs, in_time=False), parts)


def facts(folder: Path) -> dict[str, object]:
    """What a folder held, for a model's card: its name, how many images, a hash over their names and contents."""
    digest, count = hashlib.sha256(), 0
    for name, images in _by_class(folder, []).items():
        for path in images:
            digest.update(f"{name}/{path.name}\0".encode(errors="surrogateescape"))
            digest.update(hashlib.sha256(path.read_bytes()).digest())
            count += 1
    return {"folder": folder.name, "images": count, "images_sha256": digest.hexdigest()}


# ------------------------------------------------------------------------------------------ folders


def _by_class(folder: Path, problems: list[str]) -> dict[str, list[Path]]:
    """The images of each sub-folder; what is no image is a problem."""
    found: dict[str, list[Path]] = {}
    for inner in _inside(folder, problems):
        if not inner.is_dir():
            problems.append(f"{inner}: must lie in a sub-folder that is named after its class, got it beside them")
            continue
        found[inner.name] = images = []
        for path in _inside(inner, problems):
            if path.suffix.lower() in SUFFIXES and path.is_file():
                images.append(path)
            else:
                problems.append(f"{path}: must be an image ({', '.join(SUFFIXES)}), got something else; remove it")
    return found


def _inside(folder: Path, problems: list[str]) -> list[Path]:
    """What a folder holds, in natural order; names that start with a dot are passed over."""
    try:
        return sorted((path for path in folder.iterdir() if not path.name.startswith(".")), key=_natural)
    except OSError as exc:
        problems.append(f"{folder}: must be a folder that can be read, got: {exc.strerror or exc}")
        return []


def _natural(path: Path) -> tuple[list[tuple[str, int]], str]:
    """Orders names by the numbers in them, 2 before 10; equal ones (2, 02) as texts."""
    pieces = re.split(r"([0-9]+)", path.name)
    return [(text, int(digits or -1)) for text, digits in zip(pieces[::2], [*pieces[1::2], ""], strict=True)], path.name


# -------------------------------------------------------------------------------------------- chance


def _blocks(labels: NDArray[np.int64], blocks: int) -> NDArray[np.int64]:
    """Deals the images of each class out to the blocks, equally and by chance."""
    block = np.empty(len(labels), np.int64)
    for k in np.unique(labels):
        members = np.flatnonzero(labels == k)
        dealt = np.arange(len(members)) * blocks // len(members)
        block[members[np.argsort(_random(len(members), int(k) + 1))]] = dealt
    return block


def _random(n: int, stream: int = 0) -> NDArray[np.uint64]:
    return np.asarray(np.random.PCG64((SEED, stream)).random_raw(n))  # raw: numpy promises never to change it


# ------------------------------------------------------------------------------------------ pictures


def _read(files: Sequence[Path], picture: PictureFormat) -> NDArray[np.uint8]:
    """The images as pictures (N, H, W, 3)."""
    pictures = np.empty((len(files), picture.height, picture.width, 3), np.uint8)
    problems: list[str] = []
    for out, path in zip(pictures, files, strict=True):
        try:
            frame = _decoded(path)
            Scaler(View(picture), orientation_of(frame)).draw(frame, out[None])
        except av.error.FFmpegError as exc:
            problems.append(f"{path}: must be a whole image, got: {reason(exc, path)}")
        except (OSError, ValueError) as exc:
            problems.append(f"{path}: must be an image that can be read, got: {getattr(exc, 'strerror', None) or exc}")
    refuse("images", sorted(problems))
    return pictures


def _decoded(path: Path) -> VideoFrame:
    """The image as a frame.

    Raises:
        FFmpegError: It is damaged. What is missing is not made up: by default half a JPEG is filled with gray.
        ValueError: It is something else.
        OSError: It cannot be read.
    """
    content = path.read_bytes()
    demuxer = next((name for start, name in DEMUXERS.items() if content.startswith(start)), None)
    if demuxer is None:
        raise ValueError("neither PNG, JPEG, BMP nor WebP" if content else "an empty file")
    with av.open(io.BytesIO(content), "r", format=demuxer, options=OPEN_OPTIONS) as container:
        stream = container.streams.video[0]
        stream.codec_context.options = {"err_detect": "explode"}
        stream.codec_context.thread_count = 1
        for frame in container.decode(stream):
            return frame
    raise ValueError("an image file without an image")
