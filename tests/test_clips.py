"""The clips of the other tests are what they say: every frame's number can be read back, and nothing else can."""

import itertools
from collections.abc import Iterator
from pathlib import Path

import av
import numpy as np
import pytest
from av.video.stream import VideoStream
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from tests.clips import COLUMNS, KINDS, ROWS, SMALLEST, UNEVEN_S, centres, clip, draw, read, write_clip

OPEN = [kind for kind, arguments in KINDS.items() if arguments.get("open_gop") and not kind.endswith(".h264")]


def decode(path: Path) -> Iterator[av.VideoFrame]:
    with av.open(str(path)) as container:
        yield from container.decode(video=0)


def packets(path: Path) -> Iterator["av.Packet[VideoStream]"]:
    with av.open(str(path)) as container:
        yield from (packet for packet in container.demux(video=0) if packet.size)


def pixels(path: Path, *, height: int, width: int) -> NDArray[np.uint8]:
    return np.stack(
        [frame.reformat(width, height, "rgb24", interpolation="AREA").to_ndarray() for frame in decode(path)]
    )


def seconds(path: Path) -> list[float]:
    return [-1.0 if frame.time is None else frame.time for frame in decode(path)]


# ------------------------------------------------------------------------------------------ pictures


@given(
    number=st.integers(0, 2**16 - 1),
    source=st.integers(0, 15),
    height=st.integers(SMALLEST[0], 120),
    width=st.integers(SMALLEST[1], 120),
)
def test_a_drawn_picture_reads_back_at_any_size(number: int, source: int, height: int, width: int) -> None:
    numbers, sources = read(draw(number, source, height=height, width=width)[None])
    assert (numbers.tolist(), sources.tolist()) == ([number], [source])


@pytest.mark.parametrize(("height", "width"), [(20, 20), (24, 40), (32, 32), (50, 50), (112, 80)])
def test_numbers_survive_coding_and_a_resize_to_the_model_input(tmp_path: Path, height: int, width: int) -> None:
    wanted = [0, 1, 2, 3, 255, 256, 4095, 21845, 43690, 32768, 65534, 65535]
    path = write_clip(tmp_path / "few.mp4", wanted, source=9, bframes=3)
    numbers, sources = read(pixels(path, height=height, width=width))
    assert numbers.tolist() == wanted
    assert sources.tolist() == [9] * len(wanted)


@pytest.mark.parametrize("level", [0, 16, 100, 127, 128, 129, 200, 255])
def test_a_constant_picture_shows_no_number(level: int) -> None:
    numbers, sources = read(np.full((1, 32, 40, 3), level, np.uint8))
    assert (numbers.tolist(), sources.tolist()) == ([-1], [-1])


def test_noise_shows_no_number() -> None:
    noise = np.random.default_rng(0).integers(0, 256, (200, 32, 40, 3), dtype=np.uint8)
    assert (read(noise)[0] == -1).all()


def test_a_mix_of_two_frames_shows_no_number() -> None:
    mixes = [(draw(n, height=32, width=40) // 2 + draw(n + 1, height=32, width=40) // 2) for n in range(100)]
    assert (read(np.stack(mixes))[0] == -1).all()


def test_one_wrong_cell_is_noticed() -> None:
    right = draw(12345, 6, height=40, width=60)
    for row, column in itertools.product(range(ROWS), range(COLUMNS)):
        wrong = right.copy()
        wrong[row * 10 : row * 10 + 10, column * 10 : column * 10 + 10] ^= 255
        assert read(wrong[None])[0].tolist() == [-1], (row, column)


def test_pictures_too_small_for_the_grid_are_refused() -> None:
    with pytest.raises(ValueError, match="at least 12 pixels for 6 cells, got 11"):
        read(np.zeros((1, 8, 11, 3), np.uint8))


def test_no_pictures_give_no_numbers() -> None:
    numbers, sources = read(np.zeros((0, 32, 40, 3), np.uint8))
    assert (numbers.shape, sources.shape) == ((0,), (0,))


@pytest.mark.parametrize(("number", "source"), [(-1, 0), (2**16, 0), (0, -1), (0, 16)])
def test_a_number_that_does_not_fit_is_refused(number: int, source: int) -> None:
    with pytest.raises(ValueError, match="must fit"):
        draw(number, source, height=32, width=40)


def test_hidden_frames_have_no_place_in_a_list_of_times(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="hidden must be 0 where times are given, got 2"):
        write_clip(tmp_path / "no.mp4", [0, 1], times=[0.0, 0.5], hidden=2)


@pytest.mark.parametrize("length", [12, 20, 31, 50])
def test_each_cell_weighs_only_its_own_pixels(length: int) -> None:
    weights = centres(length, COLUMNS)
    own = np.arange(length) * COLUMNS // length == np.arange(COLUMNS)[:, None]
    assert np.allclose(weights.sum(axis=1), 1)
    assert not weights[~own].any()


# --------------------------------------------------------------------------------------------- clips


@pytest.mark.parametrize("kind", KINDS)
def test_one_pass_over_a_clip_reads_every_number_in_order(kind: str) -> None:
    # By order of arrival: AVI keeps no presentation times, so with B-frames its pts are not in order, the pictures are.
    numbers, sources = read(pixels(clip(kind, 60, source=5), height=32, width=40))
    assert numbers.tolist() == list(range(60))
    assert set(sources.tolist()) == {5}


@pytest.mark.parametrize("frames", [1, 2, 13])
def test_a_clip_may_be_short(frames: int) -> None:
    numbers, _ = read(pixels(clip("h264-bframes-opengop.mp4", frames), height=32, width=40))
    assert numbers.tolist() == list(range(frames))


def test_a_clip_is_made_once() -> None:
    first = clip("mjpeg.avi")
    made = first.stat().st_mtime_ns
    again = clip("mjpeg.avi", frames=60, source=0)
    assert (again, again.stat().st_mtime_ns) == (first, made)


@pytest.mark.parametrize("kind", OPEN)
def test_open_groups_have_pictures_that_precede_their_keyframe(kind: str) -> None:
    keyframe, leading, keyframes = 0, 0, 0
    for packet in packets(clip(kind)):
        assert packet.pts is not None
        if packet.is_keyframe:
            keyframe, keyframes = packet.pts, keyframes + 1
        leading += packet.pts < keyframe
    assert keyframes == 5
    assert leading >= 4


@pytest.mark.parametrize("kind", ["h264-variable-rate.mp4", "h264-variable-rate.mkv"])
def test_variable_rate_clips_keep_their_times(kind: str) -> None:
    assert seconds(clip(kind, 60)) == pytest.approx(UNEVEN_S[:60], abs=0.001)


@pytest.mark.parametrize(("kind", "start_s"), [("h264-late-start.mp4", 4.0), ("h264-late-start.ts", 50_000.0)])
def test_late_clips_start_late(kind: str, start_s: float) -> None:
    assert seconds(clip(kind))[:2] == pytest.approx([start_s, start_s + 0.04], abs=0.001)


def test_the_edit_list_discards_packets_and_starts_at_zero() -> None:
    path = clip("h264-edit-list.mp4", 60)
    discarded = [packet.is_discard for packet in packets(path)]
    assert (len(discarded), sum(discarded)) == (65, 5)
    assert seconds(path)[0] == 0


def test_vp9_packets_hold_hidden_frames() -> None:
    # A superframe, that is a packet of several frames, ends with a marker byte 110xxxxx.
    hidden = sum(bytes(packet)[-1] >> 5 == 0b110 for packet in packets(clip("vp9.webm", 60)))
    assert hidden >= 1


def test_avi_with_b_frames_has_times_out_of_order() -> None:
    times = seconds(clip("h264-bframes.avi"))
    assert times != sorted(times)


@pytest.mark.parametrize(
    ("kind", "pix_fmt", "bits"),
    [("h264-10bit.mkv", "yuv420p10le", 10), ("h264-444.mp4", "yuv444p", 8), ("ffv1-gray.mkv", "gray", 8)],
)
def test_pixel_formats_are_as_named(kind: str, pix_fmt: str, bits: int) -> None:
    frame = next(decode(clip(kind)))
    assert (frame.format.name, frame.format.components[0].bits) == (pix_fmt, bits)
