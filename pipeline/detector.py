"""A detector of objects: a network of the YOLOX family, as an ONNX file.

YOLOX (Ge et al., 2021, https://arxiv.org/abs/2107.08430) looks at a picture in cells of 8, 16 and 32 pixels. For each
cell it gives the centre of a box as an offset in cells, its size as a logarithm in cells, how likely there is an
object, and how likely it is of each class. Files as the `export_onnx.py` of its authors writes them are of this kind:

    float32 (1, 3, H, W), BGR, 0..255, the picture at the top left, the rest 114   H, W: multiples of 32, fixed or free
      ──▶ float32 (1, cells, 5 + K): x, y, log w, log h, objectness, K classes      scores after their sigmoid
"""

from __future__ import annotations

import functools
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.batch import Pixels
from pipeline.errors import ConfigError, ModelError, VpipeError
from pipeline.machine import cores
from pipeline.yamlfile import did_you_mean
from specialized.objects import one_line
from specialized.untracked import import_onnxruntime

__all__ = ["COCO_NAMES", "Detections", "Detector", "open_detector"]

STRIDES = (8, 16, 32)  # pixels, in the order of the output
BACKGROUND = 114  # gray beside the picture
MOST_CELLS = 30  # of an offset, or logarithm of a size, on an empty picture; in pixels there are larger ones
TRIAL = 2 * STRIDES[-1]  # pixels, of the side of the picture that a detector is tried with where it takes any

# The classes of COCO (https://cocodataset.org) in the order of their category ids.
_COCO = """
    person, bicycle, car, motorcycle, airplane, bus, train, truck, boat, traffic light, fire hydrant, stop sign,
    parking meter, bench, bird, cat, dog, horse, sheep, cow, elephant, bear, zebra, giraffe, backpack, umbrella,
    handbag, tie, suitcase, frisbee, skis, snowboard, sports ball, kite, baseball bat, baseball glove, skateboard,
    surfboard, tennis racket, bottle, wine glass, cup, fork, knife, spoon, bowl, banana, apple, sandwich, orange,
    broccoli, carrot, hot dog, pizza, donut, cake, chair, couch, potted plant, bed, dining table, toilet, tv, laptop,
    mouse, remote, keyboard, cell phone, microwave, oven, toaster, sink, refrigerator, book, clock, vase, scissors,
    teddy bear, hair drier, toothbrush
"""
COCO_NAMES = tuple(name.strip() for name in _COCO.split(","))


@dataclass(frozen=True, slots=True, eq=False)
class Detections:
    """D objects in one picture, the surest first."""

    kind: NDArray[np.int64]  # (D,) number of the class
    confidence: NDArray[np.float32]  # (D,) 0..1
    corners: NDArray[np.float32]  # (D, 4) xmin, ymin, xmax, ymax in fractions of the picture, 0..1

    def __len__(self) -> int:
        return len(self.kind)


class Detector:
    """Finds objects in pictures, one at a time. Made by `open_detector`; one thread's own."""

    def __init__(
        self,
        session: Any,
        *,
        path: Path,
        names: Sequence[str],
        kinds: Collection[int],
        confidence: float,
        iou: float,
        size: int,
        canvas: tuple[int, int] | None,
    ) -> None:
        """
        Args:
            session: Of onnxruntime.
            path: The file, for messages.
            names: Of all classes.
            kinds: Numbers of the classes that are wanted.
            confidence: Detections below are dropped.
            iou: Of two boxes of a class that overlap by more (intersection over union), the surer one stays.
            size: Pixels of the longer side of a picture, where the file leaves that open.
            canvas: (H, W) that the file prescribes, or None.
        """
        self.names = tuple(names)
        self._session = session
        self._input = session.get_inputs()[0].name
        self._path = path
        self._kinds = np.array(sorted(kinds), np.int64)
        self._confidence = confidence
        self._iou = iou
        self._size = size
        self._canvas = canvas

    def picture_size(self, height: int, width: int) -> tuple[int, int]:
        """(H, W) in which a frame of this size is to be shown to the detector: as large as it may be."""
        room = self._canvas or (self._size, self._size)
        scale = min(room[0] / height, room[1] / width)
        return max(1, round(height * scale)), max(1, round(width * scale))

    def __call__(self, picture: Pixels) -> Detections:
        """Finds the objects in a picture, uint8 (H, W, 3) RGB of `picture_size`.

        Raises:
            ModelError: the network fails, or gives what such a network does not.
        """
        height, width = picture.shape[:2]
        canvas_height, canvas_width = self._canvas or (_round_up(height), _round_up(width))
        canvas = np.full((1, 3, canvas_height, canvas_width), BACKGROUND, np.float32)
        canvas[0, :, :height, :width] = picture[:, :, ::-1].transpose(2, 0, 1)
        rows = _run(self._session, self._input, canvas, self._path)
        _check_output(rows, canvas_height, canvas_width, self._path, classes=len(self.names))
        scores = rows[:, 4:5] * rows[:, 5:]
        kind, confidence = scores.argmax(axis=1), scores.max(axis=1)
        sure = (confidence >= self._confidence) & np.isin(kind, self._kinds)
        origin, stride = (part[sure] for part in _cells(canvas_height, canvas_width))
        centre = (rows[sure, :2] + origin) * stride
        with np.errstate(over="ignore"):  # a box without end is cut to the picture
            half = np.exp(rows[sure, 2:4]) * stride / 2
        pixels = np.concatenate([centre - half, centre + half], axis=1)
        corners = (pixels / np.array([width, height, width, height])).clip(0, 1).astype(np.float32)
        kind, confidence = kind[sure], confidence[sure]
        kept = _suppressed(kind, confidence, corners, self._iou)
        return Detections(kind[kept], confidence[kept], corners[kept])


def open_detector(
    path: Path,
    *,
    names: Sequence[str] | None = None,
    classes: Collection[str] = (),
    confidence: float = 0.3,
    iou: float = 0.45,
    size: int | None = None,
) -> Detector:
    """Opens an ONNX file and tries it on an empty picture.

    Args:
        path: The file.
        names: Of its classes; None: those of COCO, if it has 80.
        classes: Names of those that are wanted; empty: all.
        confidence, iou: See Detector.
        size: Pixels of the longer side of a picture, a multiple of 32; None: what the file prescribes, else 640.

    Raises:
        ConfigError: the names do not fit the file, or the size does not.
        ModelError: the file is no detector of this kind.
        VpipeError: onnxruntime is not installed.
    """
    session = _session(path)
    canvas = _prescribed(session, path)
    if size is not None and (size < STRIDES[-1] or size % STRIDES[-1]):
        raise ConfigError([f"--size: must be a multiple of {STRIDES[-1]}, got {size}"])
    if size is not None and canvas is not None and size != max(canvas):
        raise ConfigError([f"--size: must be left out, since {path} takes {canvas[0]}x{canvas[1]} alone, got {size}"])
    height, width = canvas or (TRIAL, TRIAL)
    blank = np.full((1, 3, height, width), BACKGROUND, np.float32)
    rows = _run(session, session.get_inputs()[0].name, blank, path)
    _check_output(rows, height, width, path)
    if rows[:, :4].max() > MOST_CELLS:
        raise ModelError(
            f"{path}: a detector must give its boxes in cells, got numbers up to {rows[:, :4].max():g}; "
            "export it without decode_in_inference"
        )
    known = _names(names, rows.shape[1] - 5, path)
    if strangers := [name for name in classes if name not in known]:
        raise ConfigError(
            [
                f"--classes: must be classes of the detector, got {name!r}{did_you_mean(name, known)}"
                for name in strangers
            ]
        )
    return Detector(
        session,
        path=path,
        names=known,
        kinds=[k for k, name in enumerate(known) if not classes or name in classes],
        confidence=confidence,
        iou=iou,
        size=size or 640,
        canvas=canvas,
    )


# ----------------------------------------------------------------------------------------- the file


def _session(path: Path) -> Any:
    """Loads the file. onnxruntime has no types, so its session is Any; nothing of it leaves this module."""
    try:
        onnxruntime = import_onnxruntime()
    except ImportError as exc:
        raise VpipeError("a detector needs onnxruntime, which is not installed; pip install 'vpipe[label]'") from exc
    if not path.is_file():
        raise ConfigError([f"{path}: the detector must be an ONNX file, got none there"])
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = cores()
    options.log_severity_level = 4  # what fails is raised too
    providers = [name for name in onnxruntime.get_available_providers() if name.startswith(("CUDA", "CPU"))]
    try:
        return onnxruntime.InferenceSession(str(path), options, providers=providers)
    except Exception as exc:  # the user's file: the errors of onnxruntime have no common base
        raise ModelError(f"{path}: the detector must be an ONNX file, got {one_line(exc)}") from exc


def _prescribed(session: Any, path: Path) -> tuple[int, int] | None:
    """The (H, W) that the file takes, None if any."""
    inputs = session.get_inputs()
    got = ", ".join(f"{one.type} {one.shape}" for one in inputs)
    shape = inputs[0].shape if len(inputs) == 1 else []
    free = [not isinstance(size, int) for size in shape]
    fits = len(shape) == 4 and (free[0] or shape[0] == 1) and (free[1] or shape[1] == 3) and free[2] == free[3]
    if not fits or inputs[0].type != "tensor(float)" or (not free[2] and (shape[2] % 32 or shape[3] % 32)):
        raise ModelError(
            f"{path}: a detector must take one tensor(float) [1, 3, H, W] with H and W multiples of 32, got {got}"
        )
    return None if free[2] else (shape[2], shape[3])


def _run(session: Any, name: str, canvas: NDArray[np.float32], path: Path) -> NDArray[np.float32]:
    """What the network gives for a picture (1, 3, H, W): (cells, 5 + K) if it is one of this kind."""
    try:
        output = session.run(None, {name: canvas})[0]
    except Exception as exc:  # the user's file, as above
        raise ModelError(f"{path}: the detector must run, got {one_line(exc)}") from exc
    if not isinstance(output, np.ndarray) or output.ndim != 3 or len(output) != 1 or output.dtype != np.float32:
        got = f"{output.dtype} {output.shape}" if isinstance(output, np.ndarray) else type(output).__name__
        raise ModelError(f"{path}: a detector must give float32 (1, cells, 5 + classes), got {got}")
    return np.asarray(output[0])


def _check_output(
    rows: NDArray[np.float32], height: int, width: int, path: Path, *, classes: int | None = None
) -> None:
    cells = sum((height // stride) * (width // stride) for stride in STRIDES)
    least = 6 if classes is None else 5 + classes
    if len(rows) != cells or rows.shape[1] < least:
        raise ModelError(
            f"{path}: a detector must give {cells} cells of 5 + classes numbers for {height}x{width} (strides "
            f"{', '.join(map(str, STRIDES))}), got {rows.shape}; is it of the YOLOX family?"
        )
    scores = rows[:, 4:]
    if not (np.isfinite(rows).all() and scores.min() >= 0 and scores.max() <= 1):
        raise ModelError(
            f"{path}: a detector must give finite numbers and scores in 0..1, got scores in {scores.min():g} to "
            f"{scores.max():g}; export it with its sigmoid"
        )


def _names(names: Sequence[str] | None, classes: int, path: Path) -> Sequence[str]:
    if names is None and classes == len(COCO_NAMES):
        return COCO_NAMES
    if names is None:
        raise ConfigError(
            [f"--names: must be given, since {path} has {classes} classes, not the {len(COCO_NAMES)} of COCO"]
        )
    if len(names) != classes:
        raise ConfigError([f"--names: must be {classes}, as many as {path} has classes, got {len(names)}"])
    return names


# ---------------------------------------------------------------------------------------- the boxes


@functools.lru_cache(maxsize=8)
def _cells(height: int, width: int) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Of each cell its place (cells, 2) as x and y in cells, and its stride (cells, 1) in pixels."""
    places, strides = [], []
    for stride in STRIDES:
        y, x = np.mgrid[: height // stride, : width // stride]
        places.append(np.stack([x, y], axis=-1).reshape(-1, 2))
        strides.append(np.full((x.size, 1), stride))
    return np.concatenate(places).astype(np.float32), np.concatenate(strides).astype(np.float32)


def _suppressed(
    kind: NDArray[np.int64], confidence: NDArray[np.float32], corners: NDArray[np.float32], iou: float
) -> NDArray[np.intp]:
    """Non-maximum suppression per class: places of the boxes that stay, the surest first."""
    waiting = np.argsort(-confidence, kind="stable")
    kept = []
    while len(waiting):
        best, waiting = waiting[0], waiting[1:]
        kept.append(best)
        doubles = (kind[waiting] == kind[best]) & (_overlap(corners[best], corners[waiting]) > iou)
        waiting = waiting[~doubles]
    return np.array(kept, np.intp)


def _overlap(box: NDArray[np.float32], others: NDArray[np.float32]) -> NDArray[np.float32]:
    """Intersection over union of a box (4,) with others (D, 4)."""
    sides = np.minimum(box[2:], others[:, 2:]) - np.maximum(box[:2], others[:, :2])
    shared = sides.clip(min=0).prod(axis=1)
    areas = (others[:, 2:] - others[:, :2]).prod(axis=1)
    union = (box[2:] - box[:2]).prod() + areas - shared
    return np.asarray(np.divide(shared, union, out=np.zeros_like(shared), where=union > 0))


def _round_up(pixels: int) -> int:
    return -(-pixels // STRIDES[-1]) * STRIDES[-1]
