"""Decoding on a GPU: only what gives the CPU's pictures is trusted, and nothing is lost where there is none."""

import logging

import av
import numpy as np
import pytest
from av.error import InvalidDataError

from pipeline.config import load_run_config
from pipeline.errors import ConfigError, SourceError
from pipeline.runner import run
from pipeline.sources import container, hardware, reader
from pipeline.sources.container import Limits
from pipeline.sources.decode import SegmentTask
from pipeline.sources.file import FileSource
from pipeline.sources.scaler import PictureFormat, View
from tests.clips import clip, many_streams, read
from tests.test_times import configured

FRAMES = 60
KIND = "h264-bframes-opengop.mp4"
SIZE = PictureFormat(40, 32)


def source(device, path=None, **options):
    return FileSource(path or clip(KIND, FRAMES), name="clip", views=[View(SIZE)], device=device, **options)


def decoded(device, frames=FRAMES, **options):
    """The pictures of the clip, each of which must be there once and in its place."""
    pictures = []
    for task in source(device, **options).segments():
        with reader.Reader() as own:
            batches = list(task.frames(own))
        numbers = np.concatenate([batch.index for batch in batches])
        pictures += [batch.frames for batch in batches]
        assert (np.diff(numbers) == 1).all()
        assert batches[-1].end.error is None
        assert batches[-1].end.counts.decoded == len(numbers)
    pictures = np.concatenate(pictures)
    np.testing.assert_array_equal(read(pictures)[0], np.arange(frames))
    return pictures


def on_gpu(**options):
    """Whether the GPU is trusted with the clip."""
    (task,) = (task for task in source("cuda", **options).segments(whole=True) if isinstance(task, SegmentTask))
    return task.gpu.is_trusted


@pytest.fixture
def gpu(monkeypatch):
    """As if there were a GPU, which decodes as the CPU does."""
    monkeypatch.setattr(container, "accelerator", lambda device: None)
    monkeypatch.setattr(container, "is_accelerated", lambda stream: True)


def test_where_there_is_no_such_gpu_a_run_says_so_once_and_decodes_on_the_cpu(tmp_path, caplog):
    videos = [{"path": str(clip(KIND, FRAMES)), "name": f"s{k}"} for k in range(3)]
    with caplog.at_level(logging.WARNING, "pipeline"):
        outcome = run(configured(tmp_path, sources=videos, decode={"device": "cuda:99"}))
    assert outcome.exit_code == 0
    (told,) = [record.message for record in caplog.records if "decoded on the CPU" in record.message]
    assert ": decode.device: must be there, got cuda:99: " in told


def test_a_gpu_cannot_leave_out_the_loop_filter(tmp_path):
    (tmp_path / "run.yaml").write_text(
        f"sources: [{{path: {clip(KIND, FRAMES)}}}]\n"
        "filter: {model: 'tests.models:NumberReader', input: [24, 36], classes: [a, b]}\n"
        "decode: {device: cuda, fast: true}\n"
    )
    with pytest.raises(ConfigError, match=r"decode\.fast: must be false with decode\.device: cuda, got true"):
        load_run_config(tmp_path / "run.yaml")


def test_a_file_that_the_gpu_cannot_open_is_decoded_on_the_cpu(caplog):
    with caplog.at_level(logging.WARNING, "pipeline"):
        pictures = decoded("cuda:99")
    np.testing.assert_array_equal(pictures, decoded("cpu"))
    (said,) = [record.message for record in caplog.records]
    assert said.startswith(f"clip: is decoded on the CPU: {clip(KIND, FRAMES)}: cannot be decoded on cuda:99: ")


def test_a_gpu_that_gives_the_same_pictures_is_trusted(gpu, caplog):
    assert on_gpu()
    np.testing.assert_array_equal(decoded("cuda", segment_frames=1), decoded("cpu"))
    short = clip(KIND, 7)  # whose last frames come when the decoder is emptied
    np.testing.assert_array_equal(decoded("cuda", 7, path=short), decoded("cpu", 7, path=short))
    assert not caplog.records


def test_a_gpu_is_compared_within_the_limits_of_the_run(gpu, tmp_path, caplog):
    path = many_streams(clip(KIND, FRAMES), tmp_path / "many.mkv")
    limits = Limits(streams=100)
    assert on_gpu(path=path, limits=limits)
    np.testing.assert_array_equal(
        decoded("cuda", path=path, limits=limits, segment_frames=1), decoded("cpu", path=path, limits=limits)
    )
    assert not caplog.records


@pytest.mark.parametrize(
    ("other", "said"),
    [
        (lambda: clip(KIND, FRAMES, source=1), "cuda gives other pictures: frame 0 is "),
        (lambda: clip(KIND, 20), "cuda gives other frames: 20 where the CPU gives 48, or at other times"),
    ],
)
def test_a_gpu_that_gives_others_is_not(other, said, monkeypatch, caplog):
    plain = container.open_decoder

    def wrong(path, name, *, device="cpu", **options):
        return plain(path if device == "cpu" else other(), name, **options)

    monkeypatch.setattr(hardware, "open_decoder", wrong)
    with caplog.at_level(logging.WARNING, "pipeline"):
        assert not on_gpu()
    assert f"clip: is decoded on the CPU: {said}" in caplog.text


def test_frames_that_are_counted_are_decoded_on_the_cpu(gpu, caplog):
    with caplog.at_level(logging.WARNING, "pipeline"):
        assert not on_gpu(path=clip("mpeg4-bframes.avi", FRAMES))
    assert "its frames are counted" in caplog.text


def test_a_stream_that_ffmpeg_would_decode_on_the_cpu_after_all_is_not_taken_for_the_gpus(monkeypatch, caplog):
    monkeypatch.setattr(container, "accelerator", lambda device: None)
    with caplog.at_level(logging.WARNING, "pipeline"):
        assert not on_gpu()
    assert "cannot be decoded on cuda: it has no decoder for h264" in caplog.text


def test_a_gpu_with_no_decoder_left_hands_over_to_the_cpu(gpu, monkeypatch, caplog):
    plain = container.open_decoder

    def full(path, name, *, device="cpu", **options):
        if device != "cpu":
            raise SourceError(name, f"{path}: cannot be decoded on {device}: all are taken")
        return plain(path, name, **options)

    monkeypatch.setattr(reader, "open_decoder", full)
    with caplog.at_level(logging.WARNING, "pipeline"):
        np.testing.assert_array_equal(decoded("cuda", segment_frames=1), decoded("cpu"))
    assert "frames from 0 on are decoded on the CPU: " in caplog.text
    assert "cannot be decoded on cuda: all are taken" in caplog.text


@pytest.mark.parametrize("at", [0, 1, 17, FRAMES - 1])
@pytest.mark.parametrize("fault", ["an error", "a frame left out", "an end", "a frame of no time"])
def test_where_a_gpu_fails_the_cpu_goes_on_and_no_frame_is_lost_or_comes_twice(at, fault, gpu, monkeypatch, caplog):
    plain = reader.Reader.frames

    def failing(self, *args, device="cpu", **options):
        for n, frame in enumerate(plain(self, *args, device=device, **options)):
            if device != "cpu" and n == at:
                if fault == "an end":
                    return
                if fault == "an error":
                    yield InvalidDataError(1, "no more surfaces")
                if fault == "a frame left out":
                    continue
                if fault == "a frame of no time":
                    frame.pts = None
            yield frame

    monkeypatch.setattr(reader.Reader, "frames", failing)
    with caplog.at_level(logging.WARNING, "pipeline"):
        np.testing.assert_array_equal(decoded("cuda", batch_frames=8), decoded("cpu"))
    assert "clip: frames from 0 on are decoded on the CPU: " in caplog.text


def test_a_gpu_that_fails_where_the_cpu_does_not_is_left_for_the_rest_of_the_file(gpu, monkeypatch, caplog):
    plain = reader.Reader.frames
    asked = []

    def failing(self, index, cut, *args, device="cpu", **options):
        asked.append((device, cut.number))
        if device != "cpu":
            yield InvalidDataError(1, "no more surfaces")
        yield from plain(self, index, cut, *args, **options)

    monkeypatch.setattr(reader.Reader, "frames", failing)
    tasks = list(source("cuda", segment_frames=1).segments())
    assert len(tasks) > 2
    with caplog.at_level(logging.WARNING, "pipeline"), reader.Reader() as own:
        batches = [batch for task in tasks for batch in task.frames(own)]
    assert asked == [("cuda", 0), *(("cpu", number) for number in range(len(tasks)))]
    assert "clip: its rest is decoded on the CPU: cuda failed where that did not" in caplog.text
    np.testing.assert_array_equal(read(np.concatenate([batch.frames for batch in batches]))[0], np.arange(FRAMES))


def test_damage_that_the_cpu_finds_too_does_not_send_the_rest_of_the_file_there(gpu, monkeypatch):
    plain = reader.Reader.frames
    asked = []

    def damaged(self, index, cut, *args, device="cpu", **options):
        asked.append((device, cut.number))
        for n, frame in enumerate(plain(self, index, cut, *args, **options)):
            yield InvalidDataError(1, "damaged") if cut.number == 0 and n == 3 else frame

    monkeypatch.setattr(reader.Reader, "frames", damaged)
    tasks = list(source("cuda", segment_frames=1).segments())
    with reader.Reader() as own:
        ends = [batch.end for task in tasks for batch in task.frames(own) if batch.end]
    assert asked == [("cuda", 0), ("cpu", 0), *(("cuda", number) for number in range(1, len(tasks)))]
    assert [end.counts.corrupt for end in ends] == [1] + [0] * (len(tasks) - 1)


def test_files_are_compared_when_they_are_decoded_and_once(gpu, monkeypatch):
    compared = []
    monkeypatch.setattr(hardware, "_trouble", lambda *args, **options: compared.append(args))
    tasks = list(source("cuda", segment_frames=1).segments())
    assert not compared
    with reader.Reader() as own:
        for task in tasks[1:]:
            list(task.frames(own))
    assert len(compared) == 1


def test_chroma_that_comes_interleaved_makes_pictures_that_pass_for_the_same():
    with av.open(str(clip(KIND, 8))) as file:
        for frame in file.decode(video=0):
            one, other = np.empty((1, 40, 32, 3), np.uint8), np.empty((1, 40, 32, 3), np.uint8)
            hardware.Scaler(View(SIZE)).draw(frame, one)
            hardware.Scaler(View(SIZE)).draw(frame.reformat(format="nv12"), other)
            assert np.abs(one.astype(int) - other).mean() < hardware.MOST / 2


@pytest.mark.gpu
def test_a_real_gpu_gives_the_pictures_of_the_cpu(caplog):
    on_gpu, on_cpu = decoded("cuda", segment_frames=1), decoded("cpu")
    assert not caplog.records
    assert np.abs(on_gpu.astype(int) - on_cpu).mean() <= hardware.MOST
