"""What a video file may ask for, `decode.limits`, and what is said of one that asks for more."""

import re
import shutil
import subprocess
import sys
from fractions import Fraction
from pathlib import Path
from types import SimpleNamespace

import av.error
import numpy as np
import pytest
from PIL import Image

from pipeline.config import load_run_config
from pipeline.errors import SourceError
from pipeline.runner import run
from pipeline.sources.container import Limits, is_io_error, of_data
from pipeline.sources.file import FileSource
from pipeline.sources.index import _hours
from pipeline.sources.scaler import PictureFormat, View
from pipeline.sources.stills import read_stills
from tests import test_runner
from tests.clips import KINDS, clip, many_streams, read

FRAMES = 60


def error(limits, kind="h264-closed.mp4"):
    path = clip(kind, FRAMES)
    file = FileSource(path, name="a", views=[View(PictureFormat(8, 8))], limits=limits, segment_frames=1)
    batches = list(file)
    told = batches[-1].end.error
    assert sum(len(batch) for batch in batches) == (FRAMES if told is None else 0)
    return None if told is None else told.replace(f"{path}: ", "")


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_what_is_usual_is_let_through(kind):
    assert error(Limits(), kind) is None


@pytest.mark.parametrize(
    ("limits", "told"),
    [
        (
            Limits(pixels=1000),
            r"asks for pictures of \d+x\d+ pixels, where 1,000 are .* decode\.limits\.pixels",
        ),
        (Limits(streams=0), r"asks for 1 streams, where 0 are let through; .* raise decode\.limits\.streams"),
        (Limits(frames=FRAMES - 1), r"asks for more frames, where 59 are let through; .* raise decode\.limits\.frames"),
        (Limits(hours=0.0001), r"asks for 0\.0 hours, where 0\.0001 are let through; .* decode\.limits\.hours"),
        (Limits(segment_frames=11), r"asks for a segment of 12 frames, where 11 are .* decode\.limits\.segment_frames"),
    ],
)
def test_more_is_refused_with_the_key_to_raise(limits, told):
    assert re.search(told, error(limits))


def test_what_is_just_right_is_let_through():
    assert error(Limits(frames=FRAMES, segment_frames=12, streams=1)) is None


def test_stills_of_a_source_are_read_within_its_limits(tmp_path):
    path = many_streams(clip("h264-closed.mp4", FRAMES), tmp_path / "many.mkv")
    file = FileSource(path, name="a", views=[View(PictureFormat(8, 8))], limits=Limits(streams=100))
    stills = dict(read_stills(file, [3, 40], width=96))
    assert read(np.stack([*stills.values()]))[0].tolist() == [*stills] == [3, 40]
    with pytest.raises(SourceError, match=r"asks for 70 streams, where 64 are let through"):
        next(read_stills(path, [3], width=96))


def test_a_file_that_asks_for_too_much_does_not_stop_others(tmp_path):
    files = [{"path": str(clip(kind, FRAMES)), "name": kind} for kind in ("h264-444.mp4", "vp9.webm")]
    config = test_runner.configured(tmp_path, files)
    config = load_run_config(config.path, overrides=[f"decode.limits.pixels={97 * 81 - 1}"])
    outcome = run(config)
    assert (outcome.state, outcome.exit_code) == ("partial", 3)
    assert "decode.limits.pixels" in outcome.summary["sources"]["h264-444.mp4"]["error"]
    again = run(load_run_config(config.path), mode="resume")  # with the limit as it is by default
    assert (again.state, again.summary["frames"]["labelled"]) == ("done", 2 * FRAMES)


def test_the_largest_limit_is_one_that_decoders_take():
    assert error(Limits(pixels=1 << 30)) is None


def test_a_decoder_that_takes_too_much_memory_gets_none():
    code = (
        "from pipeline.sources.child import _limit_memory; import numpy as np\n"
        "_limit_memory(200)\n"
        "np.ones(100_000_000, np.uint8)\n"
        "try: np.ones(300_000_000, np.uint8)\n"
        "except MemoryError: print('refused')\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=Path(__file__).parents[1], capture_output=True, text=True)
    assert done.stdout == "refused\n"


def test_one_wild_time_stamp_is_no_long_film():
    pts = np.arange(1000, dtype=np.int64) * 40
    pts[17] = 2**50
    assert _hours(SimpleNamespace(pts=pts, time_base=Fraction(1, 1000))) < 1


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("list.m3u8", "#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:9,\nother.ts\n#EXT-X-ENDLIST\n"),
        ("list.mp4", "ffconcat version 1.0\nfile other.ts\n"),
        ("list.sdp", "v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\nm=video 9 RTP/AVP 96\n"),
    ],
)
def test_a_list_of_other_files_reads_none(tmp_path, name, text):
    shutil.copy(clip("h264-bframes-opengop.ts", FRAMES), tmp_path / "other.ts")
    (tmp_path / name).write_text(text)
    file = FileSource(tmp_path / name, name="a", views=[View(PictureFormat(8, 8))])
    (batch,) = list(file)
    assert batch.end.error.endswith("it is a list of other files or addresses, of which none is read; give those")


def test_a_name_with_a_pattern_is_that_file_alone(tmp_path):
    for number in (1, 2, 3):
        Image.new("RGB", (16, 16)).save(tmp_path / f"a{number:03}.jpg")
    Image.new("RGB", (16, 16)).save(tmp_path / "a%03d.jpg")
    file = FileSource(tmp_path / "a%03d.jpg", name="a", views=[View(PictureFormat(8, 8))])
    assert sum(len(batch) for batch in file) == 1


def test_what_a_decoder_says_is_of_the_data_but_for_want_of_memory():
    small, vast = ((width, width) for width in (96, 1 << 24))
    refused = of_data(av.error.PermissionError(1, "Operation not permitted"), *small)
    assert (is_io_error(refused), refused.strerror) == (False, "Operation not permitted")
    assert not is_io_error(of_data(av.error.MemoryError(12, "Cannot allocate memory"), *small))
    assert is_io_error(of_data(av.error.MemoryError(12, "Cannot allocate memory"), *vast))
