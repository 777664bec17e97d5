"""The ffmpeg command decodes and scales in a process of its own, and pipes small pictures.

It is the one on the PATH, or the one that comes with imageio-ffmpeg.
"""

import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch

from benchmarks.competitors.labelling import BATCH, Size, channels_first, main


def command() -> str:
    if found := shutil.which("ffmpeg"):
        return found
    try:
        from imageio_ffmpeg import get_ffmpeg_exe
    except ImportError as exc:
        raise ImportError("ffmpeg must be on the PATH, or imageio-ffmpeg installed, got neither") from exc
    return str(get_ffmpeg_exe())


COMMAND = command()


def pictures(video: Path, size: Size) -> Iterator[torch.Tensor]:
    height, width = size
    scale = ["-vf", f"scale={width}:{height}:flags=area", "-pix_fmt", "rgb24"]
    raw = ["-fps_mode", "passthrough", "-f", "rawvideo", "-"]
    told = [COMMAND, "-v", "error", "-nostdin", "-i", str(video), "-map", "0:v:0", *scale, *raw]
    with subprocess.Popen(told, stdout=subprocess.PIPE, bufsize=0) as process:
        while len(read := _read(process.stdout, BATCH * height * width * 3)):
            yield channels_first(read.reshape(-1, height, width, 3))
    if process.returncode:
        raise SystemExit(f"{video}: {COMMAND} ended with {process.returncode}")


def _read(pipe, n: int) -> np.ndarray:
    """Up to n bytes, fewer only at the end."""
    buffer = np.empty(n, np.uint8)
    view, have = memoryview(buffer), 0
    while have < n and (got := pipe.readinto(view[have:])):
        have += got
    return buffer[:have]


if __name__ == "__main__":
    main(pictures)
