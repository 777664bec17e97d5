"""Rendered pictures that stand in for footage which cannot be had: displays of games, and single digits.

    python -m benchmarks.displays goldnumber-fraction OUT --frames 3000 --seed 0
    python -m benchmarks.displays digits OUT --frames 5000 --size 32x32

writes OUT/training, OUT/validation and OUT/test, each with a folder of PNG files per class. A file is named by its
number in time, so that the files of all classes sorted by name are the sequence again.

A *display* is a value drawn over a moving background, at the sizes and with the numbers of classes of the six tasks of
Kosaian et al. (ICML 2021), whose own footage is not public. A value stays for some frames and gives way to another one,
so neighbouring frames mostly agree, as in footage. The values come in random order, each once before any comes again:
classes are even, and a frame says nothing about the value after the next change. What moves or changes besides: the
background, the light, the noise, the position by a pixel, the digits that are shown and not asked for; and from scene
to scene the font, its colours and what is behind it. The last class of all six, "none", is the background alone.

Everything is drawn from the seed: the same one gives the same pictures (on one version of OpenCV, which has the fonts),
another one has other scenes. Nothing is read from disk.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import click
import cv2
import numpy as np
from numpy.typing import NDArray

Pictures = NDArray[np.uint8]  # (N, H, W, 3) RGB
Labels = NDArray[np.int64]  # (N,) numbers of classes

FINE = 4  # text is drawn with so many points per pixel and side, and averaged down
CAPITAL = 48  # points that a digit is high before it is brought to its size
PARTS = {"training": 1.0, "validation": 1 / 3, "test": 1 / 3}  # in multiples of --frames
TEN = tuple("0123456789")

# OpenCV's faces are bitmaps of its own choice; the segments are those of a clock.
FACES: tuple[int | None, ...] = (
    cv2.FONT_HERSHEY_SIMPLEX,
    cv2.FONT_HERSHEY_DUPLEX,
    cv2.FONT_HERSHEY_SCRIPT_COMPLEX,
    cv2.FONT_HERSHEY_SCRIPT_SIMPLEX,
    None,
)
SEGMENTS = ("abcdef", "bc", "abged", "abgcd", "fgbc", "afgcd", "afgedc", "abc", "abcdefg", "abcdfg")
ENDS = {"a": "01", "b": "13", "c": "35", "d": "54", "e": "42", "f": "20", "g": "23"}  # corners, row by row


@dataclass(frozen=True, slots=True, kw_only=True)
class Display:
    """A value that is shown and asked for, and what is shown with it."""

    size: tuple[int, int]  # (H, W)
    values: int  # 0 .. values - 1, each a class of its own
    text: Callable[[int, int], str]  # of the value and the number beside it
    others: int = 1  # the number beside it is one of 0 .. others - 1, and not asked for
    none: bool = True  # whether pictures without it are shown too, as a class of their own
    hold: tuple[int, int] = (4, 12)  # the fewest and the most frames for which a value stays

    @property
    def classes(self) -> tuple[str, ...]:
        """The values, and "none" for a picture without a display."""
        return (*map(str, range(self.values)), *["none"] * self.none)


DISPLAYS: Mapping[str, Display] = {
    "goldnumber-fraction": Display(size=(22, 52), values=10, others=110, text=lambda v, o: f"{o}.{v}k"),
    "goldnumber-int": Display(size=(22, 52), values=110, others=10, text=lambda v, o: f"{v}.{o}k"),
    "timer-minutes": Display(size=(15, 35), values=61, others=60, text=lambda v, o: f"{v}:{o:02}"),
    "squad-count": Display(size=(19, 25), values=21, text=lambda v, o: f"{v}"),
    "coin-count": Display(size=(17, 40), values=14, others=100, text=lambda v, o: f"{v}{o:02}"),
    "timer3": Display(size=(22, 30), values=26, text=lambda v, o: f"{v}"),
}


def sequence(shown: Display, frames: int, *, seed: int) -> tuple[Pictures, Labels]:
    """Renders a sequence in time of a display.

    Args:
        shown: one of `DISPLAYS`, or another.
        frames: N. To show each of K classes at least once takes K times the longest hold.
        seed: of everything.

    Returns:
        Pictures, and the number of each one's class in `shown.classes`.
    """
    rng = np.random.default_rng(seed)
    labels = held(rng, len(shown.classes), frames, shown.hold)
    others = held(rng, shown.others, frames, (1, shown.hold[1]))
    texts = [shown.text(v, o) if v < shown.values else "" for v, o in zip(labels, others, strict=True)]
    longest = shown.text(shown.values - 1, shown.others - 1)
    pictures, start = np.empty((frames, *shown.size, 3), np.uint8), 0
    while start < frames:
        scene = slice(start, min(frames, start + int(rng.integers(30, 90))))
        pictures[scene] = _scene(rng, shown.size, texts[scene], longest)
        start = scene.stop
    return pictures, labels


def digits(n: int, *, size: tuple[int, int] = (32, 32), seed: int) -> tuple[Pictures, Labels]:
    """Renders single digits, each with a font, place, slant, colour and background of its own.

    Args:
        n: N, pictures. Each digit comes as often as any other, or once more.
        size: (H, W).
        seed: of everything.

    Returns:
        Pictures, and the digit of each.
    """
    rng = np.random.default_rng(seed)
    labels = rng.permutation(np.arange(n) % 10)
    textures = np.stack([scenery(rng, (2 * size[0], 2 * size[1])) for _ in range(64)])
    ink, edge = np.empty((2, n, *size), np.float32)
    for i, label in enumerate(labels):
        drawn = letters(str(label), FACES[rng.integers(len(FACES))])
        scale = min(size[0] / drawn.shape[0], size[1] / drawn.shape[1]) * rng.uniform(0.45, 0.8)
        turn = cv2.getRotationMatrix2D((0, 0), rng.uniform(-12, 12), scale)[:, :2] @ np.diag([rng.uniform(0.8, 1.1), 1])
        room = (np.array(size[::-1]) - scale * np.array(drawn.shape[::-1])) / 2
        ink[i], edge[i] = masks(drawn, turn @ _lean(rng), rng.uniform(-0.8, 0.8, 2) * room, size)
    corners = rng.integers(0, size, (n, 2))
    return _finished(rng, _windows(textures, rng.integers(len(textures), size=n), corners, size), ink, edge, n), labels


def held(rng: np.random.Generator, k: int, n: int, hold: tuple[int, int]) -> NDArray[np.int64]:
    """N numbers in 0 .. k - 1. Each stays for a while; each comes once before any comes again."""
    changes = n // hold[0] + 1
    values = np.concatenate([rng.permutation(k) for _ in range(changes // k + 1)])[:changes]
    return np.repeat(values, rng.integers(hold[0], hold[1] + 1, changes))[:n]


def _scene(rng: np.random.Generator, size: tuple[int, int], texts: list[str], longest: str) -> Pictures:
    """Frames with one font over one background that moves."""
    n, (height, width) = len(texts), size
    face = FACES[rng.integers(len(FACES))]
    widest = letters(longest, face).shape[::-1]
    scale = np.array([0.9 * width, 0.75 * height]) / widest * rng.uniform(0.92, 1, 2)  # the longest text fills it
    matrix = np.diag(scale) @ _lean(rng)
    place = rng.uniform(-1, 1, 2) + rng.uniform(-0.7, 0.7, (n, 2))
    ink, edge = np.zeros((2, n, *size), np.float32)
    for i, text in enumerate(texts):
        if text:
            drawn = letters(text, face)
            place[i, 0] += scale[0] * (drawn.shape[1] - widest[0]) / 2  # and all begin where it does
            ink[i], edge[i] = masks(drawn, matrix, place[i], size)
    path = rng.uniform(0, 512, 2) + np.cumsum(rng.normal(rng.normal(0, 1.5, 2), 0.7, (n, 2)), axis=0)
    texture = scenery(rng, (4 * height, 4 * width))[None]
    behind = _windows(texture, np.zeros(n, np.int64), path.astype(np.int64), size)
    return _finished(rng, behind, ink, edge, 1)


def _lean(rng: np.random.Generator) -> NDArray[np.float64]:
    """A matrix that leans letters to one side."""
    return np.array([[1, rng.uniform(-0.25, 0.1)], [0, 1]])


@functools.lru_cache(maxsize=20_000)
def letters(text: str, face: int | None) -> NDArray[np.uint8]:
    """A text, cut to its ink and `CAPITAL` points high, or less where nothing in it is as high as a digit."""
    canvas = np.zeros((2 * CAPITAL, 2 * CAPITAL * (len(text) + 1)), np.uint8)
    if face is None:
        x = CAPITAL // 2
        for letter in text:
            x = _draw_segments(canvas, letter, x)
    else:
        scale = CAPITAL / cv2.getTextSize("0", face, 1, 2)[0][1]
        cv2.putText(canvas, text, (CAPITAL // 2, 3 * CAPITAL // 2), face, scale, 255, 4, cv2.LINE_AA)
    x, y, width, height = cv2.boundingRect(canvas)
    return canvas[y : y + height, x : x + width]


def _draw_segments(canvas: NDArray[np.uint8], letter: str, x: int) -> int:
    """Draws a letter of a clock at x, and returns the x of the next one."""
    top, middle, bottom, wide = CAPITAL // 2, CAPITAL, 3 * CAPITAL // 2, CAPITAL // 2
    corners = [(left, y) for y in (top, middle, bottom) for left in (x, x + wide)]
    if letter.isdigit():
        for segment in SEGMENTS[int(letter)]:
            a, b = (corners[int(end)] for end in ENDS[segment])
            cv2.line(canvas, a, b, 255, CAPITAL // 7, cv2.LINE_AA)
    elif letter == "k":
        for a, b in (((x, top), (x, bottom)), ((x, middle), corners[3]), ((x, middle), corners[5])):
            cv2.line(canvas, a, b, 255, CAPITAL // 7, cv2.LINE_AA)
    else:  # a colon or a point
        for y in (bottom,) if letter == "." else (middle - CAPITAL // 4, middle + CAPITAL // 4):
            cv2.circle(canvas, (x, y), CAPITAL // 9, 255, -1, cv2.LINE_AA)
        return x + CAPITAL // 3
    return x + wide + CAPITAL // 3


def masks(
    drawn: NDArray[np.uint8], matrix: NDArray[np.float64], offset: NDArray[np.float64], size: tuple[int, int]
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """How far ink, and the edge around it, cover each pixel, 0..255, with the text's middle `offset` off the centre."""
    height, width = size
    matrix = FINE * matrix
    centre = FINE * (np.array([width, height]) / 2 + offset) - matrix @ np.array(drawn.shape[::-1]) / 2
    fine = cv2.warpAffine(drawn, np.column_stack([matrix, centre]), (FINE * width, FINE * height))
    edge = cv2.dilate(fine, np.ones((2 * FINE - 1, 2 * FINE - 1), np.uint8))
    small = [cv2.resize(mask, (width, height), interpolation=cv2.INTER_AREA) for mask in (fine, edge)]
    return small[0].astype(np.float32), small[1].astype(np.float32)


def scenery(rng: np.random.Generator, size: tuple[int, int]) -> NDArray[np.float32]:
    """Float32 (H, W, 3) in 0..255: coarse and fine patches of colour with some shapes on them."""
    height, width = size
    texture = np.zeros((height, width, 3), np.float32)
    texture += rng.uniform(20, 150, 3)
    for cell, strength in ((24, 45), (8, 30), (3, 15)):
        patches = rng.normal(0, strength, (height // cell + 2, width // cell + 2, 3)).astype(np.float32)
        texture += cv2.resize(patches, (width, height), interpolation=cv2.INTER_CUBIC)
    for _ in range(height * width // 400):
        colour, reach = rng.uniform(0, 255, 3), rng.integers(2, 12, 2)
        a = rng.integers(0, (width, height))
        if rng.random() < 0.5:
            cv2.line(texture, a.tolist(), (a + reach * rng.choice([-1, 1], 2)).tolist(), colour.tolist(), 1)
        else:
            cv2.ellipse(texture, a.tolist(), (reach // 2 + 1).tolist(), 0, 0, 360, colour.tolist(), -1)
    return texture.clip(0, 255)


def _windows(
    textures: NDArray[np.float32], which: NDArray[np.int64], corners: NDArray[np.int64], size: tuple[int, int]
) -> NDArray[np.float32]:
    """Cuts (N, H, W, 3) out of textures that repeat beyond their borders, at (N, 2) corners (y, x)."""
    rows = (corners[:, :1] + np.arange(size[0])) % textures.shape[1]
    columns = (corners[:, 1:] + np.arange(size[1])) % textures.shape[2]
    cut: NDArray[np.float32] = textures[which[:, None, None], rows[:, :, None], columns[:, None, :]]
    return cut


def _finished(
    rng: np.random.Generator,
    behind: NDArray[np.float32],
    ink: NDArray[np.float32],
    edge: NDArray[np.float32],
    styles: int,
) -> Pictures:
    """Puts (N, H, W) ink and its edge on (N, H, W, 3) backgrounds, and sends all through light, noise and JPEG.

    Args:
        styles: in how many colours, N or 1.
    """
    n = len(behind)
    bright = rng.uniform(0, 1, (styles, 1, 1, 1)) < 0.85
    light = rng.uniform(190, 255, (styles, 1, 1, 3)).astype(np.float32)
    dark = rng.uniform(0, 50, (styles, 1, 1, 3)).astype(np.float32)
    cover = rng.uniform(0.5, 0.9, (styles, 1, 1, 1)).astype(np.float32) * edge[..., None] / 255
    pictures = behind + cover * (np.where(bright, dark, light) - behind)
    pictures += ink[..., None] / 255 * (np.where(bright, light, dark) - pictures)
    beat = np.sin(np.arange(n) * rng.uniform(0.05, 0.3) + rng.uniform(0, 6))
    pictures *= (1 + 0.15 * beat + rng.normal(0, 0.03, n))[:, None, None, None].astype(np.float32)
    pictures += rng.standard_normal(pictures.shape, np.float32) * np.float32(rng.uniform(2, 6))
    raw = pictures.clip(0, 255).astype(np.uint8)
    for picture, quality in zip(raw, rng.integers(40, 90, n).tolist(), strict=True):
        picture[:] = cv2.imdecode(cv2.imencode(".jpg", picture, [cv2.IMWRITE_JPEG_QUALITY, quality])[1], 1)
    return raw


def write(folder: Path, pictures: Pictures, labels: Labels, classes: tuple[str, ...]) -> None:
    """Writes FOLDER/class/number.png. Numbers count in time, over all classes."""
    for name in classes:
        (folder / name).mkdir(parents=True)
    for number, (picture, label) in enumerate(zip(pictures, labels, strict=True)):
        cv2.imwrite(str(folder / classes[label] / f"{number:06}.png"), picture[..., ::-1])


def _size(_: click.Context, __: click.Parameter, text: str) -> tuple[int, int]:
    try:
        height, width = map(int, text.split("x"))
    except ValueError:
        raise click.BadParameter(f"must be HEIGHTxWIDTH, as 32x32, got {text!r}") from None
    return height, width


@click.command()
@click.argument("name", type=click.Choice([*DISPLAYS, "digits"]))
@click.argument("out", type=click.Path(path_type=Path))
@click.option("--frames", default=3000, show_default=True, type=click.IntRange(3), help="Pictures for training.")
@click.option("--seed", default=0, show_default=True, type=click.IntRange(0), help="Another seed, other pictures.")
@click.option("--size", default="32x32", show_default=True, callback=_size, help="Of digits; displays have their own.")
def main(name: str, out: Path, frames: int, seed: int, size: tuple[int, int]) -> None:
    """Write training, validation and test pictures of NAME below OUT, a folder of PNG files per class."""
    classes = TEN if name == "digits" else DISPLAYS[name].classes
    taken = [str(out / part) for part in PARTS if (out / part).exists()]
    if taken:
        raise click.UsageError(f"{', '.join(taken)}: must not exist yet; remove it, or name another folder")
    for number, (part, share) in enumerate(PARTS.items()):
        n, own_seed = round(frames * share), len(PARTS) * seed + number
        pictures, labels = (
            digits(n, size=size, seed=own_seed) if name == "digits" else sequence(DISPLAYS[name], n, seed=own_seed)
        )
        write(out / part, pictures, labels, classes)
        click.echo(f"{out / part}: {n} pictures of {len(classes)} classes")


if __name__ == "__main__":
    main()
