"""Decoding alone: single-threaded decoders, one per core, take the files in turn. Nothing is resized or labelled."""

import argparse
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import av

from pipeline.machine import cores


def decode(videos: Sequence[Path]) -> int:
    """How many frames the videos have."""
    with ThreadPoolExecutor(cores()) as threads:
        return sum(threads.map(_decode, videos))


def _decode(video: Path) -> int:
    with av.open(str(video)) as container:
        stream = container.streams.video[0]
        stream.codec_context.thread_type = "NONE"
        stream.codec_context.thread_count = 1
        return sum(1 for _ in container.decode(stream))


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("videos", nargs="*", type=Path)
    print(decode(parser.parse_args().videos))
