"""Decoding on a GPU: only what gives the CPU's pictures is trusted, and nothing is lost where there is none."""

import logging

import numpy as np
import pytest

from pipeline.errors import SourceError
from pipeline.sources import container, hardware, reader
from pipeline.sources.decode import SegmentTask
from pipeline.sources.file import FileSource
from pipeline.sources.scaler import PictureFormat
from tests.clips import clip, read

FRAMES = 60
KIND = "h264-bframes-opengop.mp4"


def source(device: str, **options: object) -> FileSource:
    return FileSource(clip(KIND, FRAMES), name="clip", picture=PictureFormat(40, 32), device=device, **options)  # type: ignore[arg-type]


def decoded(device: str, **options: object) -> np.ndarray:
    """The pictures of the clip, each of which must be there once and in its place."""
    batches = list(source(device, **options))
    order = np.argsort(np.concatenate([batch.index for batch in batches]))
    pictures = np.concatenate([batch.frames for batch in batches])[order]
    assert all(batch.end.error is None for batch in batches if batch.end is not None)
    np.testing.assert_array_equal(read(pictures)[0], np.arange(FRAMES))
    return pictures


def devices() -> set[str]:
    return {task.device for task in source("cuda", segment_frames=1).segments() if isinstance(task, SegmentTask)}


def test_without_that_gpu_a_file_is_decoded_on_the_cpu_and_the_log_says_why(caplog):
    with caplog.at_level(logging.WARNING, "pipeline"):
        pictures = decoded("cuda:99")
    np.testing.assert_array_equal(pictures, decoded("cpu"))
    (said,) = [record.message for record in caplog.records]
    assert said.startswith(f"clip: is decoded on the CPU: {clip(KIND, FRAMES)}: cannot be decoded on cuda:99: ")


def test_a_gpu_that_gives_the_same_pictures_is_trusted(monkeypatch, caplog):
    monkeypatch.setattr(container, "_accelerator", lambda device: None)
    assert devices() == {"cuda"}
    np.testing.assert_array_equal(decoded("cuda", segment_frames=1), decoded("cpu"))
    assert not caplog.records


@pytest.mark.parametrize(
    ("other", "said"),
    [
        (lambda: clip(KIND, FRAMES, source=1), "cuda gives other pictures: frame 0 is "),
        (lambda: clip(KIND, 20), "cuda gives other frames: 18 where the CPU gives 48, or at other times"),
    ],
)
def test_a_gpu_that_gives_others_is_not(other, said, monkeypatch, caplog):
    plain = container.open_decoder

    def wrong(path, name, *, device="cpu", **options):
        return plain(path if device == "cpu" else other(), name, **options)

    monkeypatch.setattr(hardware, "open_decoder", wrong)
    with caplog.at_level(logging.WARNING, "pipeline"):
        assert devices() == {"cpu"}
    assert f"clip: is decoded on the CPU: {said}" in caplog.text


def test_a_gpu_with_no_decoder_left_hands_over_to_the_cpu(monkeypatch, caplog):
    plain = container.open_decoder

    def full(path, name, *, device="cpu", **options):
        if device != "cpu":
            raise SourceError(name, f"{path}: cannot be decoded on {device}: all are taken")
        return plain(path, name, **options)

    monkeypatch.setattr(container, "_accelerator", lambda device: None)  # for the comparison
    monkeypatch.setattr(reader, "open_decoder", full)
    with caplog.at_level(logging.WARNING, "pipeline"):
        np.testing.assert_array_equal(decoded("cuda", segment_frames=1), decoded("cpu"))
    assert "cannot be decoded on cuda: all are taken; it goes on on the CPU" in caplog.text


@pytest.mark.gpu
def test_a_real_gpu_gives_the_pictures_of_the_cpu(caplog):
    on_gpu, on_cpu = decoded("cuda", segment_frames=1), decoded("cpu")
    assert not caplog.records
    assert np.abs(on_gpu.astype(int) - on_cpu).mean() <= hardware.MOST
