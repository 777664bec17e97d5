"""Every frame of every kind of file, with its own number and time, cut in one segment or many."""

import os
import shutil
import zlib
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from pipeline.errors import SourceError
from pipeline.fold import Grouping, fold
from pipeline.identity import stamp
from pipeline.sources import reader
from pipeline.sources.cuts import cut_file
from pipeline.sources.file import FileSource, NamePattern
from pipeline.sources.index import index_file
from pipeline.sources.paths import find_videos, matches
from pipeline.sources.pool import Here, bundles, decode
from pipeline.sources.scaler import PictureFormat, Scaler, View
from pipeline.sources.selection import Selection
from pipeline.sources.stills import read_stills
from pipeline.testing import check_source
from tests.clips import KINDS, clip, clobbered_avi, read, write_clip

PICTURE = PictureFormat(40, 32)
FRAMES = 60

# One segment, whatever is asked for: their frames cannot be found again after a seek.
UNCUT = {"h264-bframes.avi", "h264-raw.h264", "mpeg4-bframes.avi", "mpeg2.mpg"}
CUT = sorted(set(KINDS) - UNCUT)


def source(path, **options):
    return FileSource(Path(path), **{"name": "clip", "views": [View(PICTURE)], "batch_frames": 16} | options)


def decoded(batches):
    """Rows (number, time, picture checksum) in order of frame, and the ends in order of segment."""
    rows, ends = [], []
    for batch in batches:
        rows += [
            (int(n), float(t), zlib.crc32(picture))
            for n, t, picture in zip(batch.index, batch.pts_s, batch.frames, strict=True)
        ]
        ends += [batch.end] if batch.end else []
    return sorted(rows), sorted(ends, key=lambda end: end.segment.number)


def one_pass(path):
    """Times of all frames by a plain decode, without anything of ours."""
    with av.open(str(path)) as container:
        return [frame.time for frame in container.decode(video=0)]


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_each_frame_has_its_own_number(kind):
    batches = list(source(clip(kind, FRAMES), segment_frames=1))
    numbers = np.concatenate([batch.index for batch in batches])
    shown, _ = read(np.concatenate([batch.frames for batch in batches]))
    assert shown.tolist() == numbers.tolist()
    assert sorted(numbers.tolist()) == list(range(FRAMES))


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_many_segments_give_the_pixels_and_times_of_one(kind):
    path = clip(kind, FRAMES)
    whole, _ = decoded(source(path))
    cut, ends = decoded(source(path, segment_frames=1))
    assert cut == whole
    assert (len(ends) == 1) if kind in UNCUT else (len(ends) > 3)
    assert sum(end.counts.decoded for end in ends) == FRAMES
    assert [end.segment.first_frame for end in ends] == np.cumsum(
        [0, *(end.counts.indexed for end in ends[:-1])]
    ).tolist()


@pytest.mark.parametrize("kind", sorted(set(KINDS) - {"h264-bframes.avi", "mpeg4-bframes.avi", "h264-raw.h264"}))
def test_times_are_those_of_the_container(kind):
    path = clip(kind, FRAMES)
    rows, _ = decoded(source(path, segment_frames=1))
    assert [t for _, t, _ in rows] == pytest.approx(one_pass(path))


def test_containers_without_times_get_them_from_the_rate():
    rows, _ = decoded(source(clip("mpeg4-bframes.avi", FRAMES)))
    assert [t for _, t, _ in rows] == pytest.approx([n / 25 for n in range(FRAMES)])


@pytest.mark.parametrize("workers", [1, 2, 5])
def test_any_number_of_workers_decodes_the_same(workers):
    files = [source(clip(kind, FRAMES), name=kind, segment_frames=1) for kind in CUT[:6]]
    by_source = {}
    for batch in decode(files, workers=workers):
        by_source.setdefault(batch.source, []).append(batch)
    for file in files:
        assert decoded(by_source[file.name])[0] == decoded(file)[0]


@pytest.mark.parametrize("kind", ["h264-bframes-opengop.mkv", "mpeg4-bframes.avi", "mjpeg.avi"])
def test_file_source_keeps_the_contract_of_a_source(kind):
    check_source(source(clip(kind, FRAMES), segment_frames=1))


def test_batches_are_full_but_for_the_last_of_a_segment():
    lengths = [len(batch) for batch in source(clip("h264-closed.mp4", FRAMES))]
    assert lengths == [16, 16, 16, 12]


def test_nothing_is_cut_where_pictures_are_built_up_over_many_frames(tmp_path):
    options = {"x264-params": "intra-refresh=1:keyint=12:scenecut=0"}
    path = write_clip(tmp_path / "refresh.mkv", range(FRAMES), options=options, bframes=0)
    index = index_file(path, "clip")
    assert index.keys > 1
    assert len(cut_file(index, segment_frames=1)) == 1
    assert [n for n, _, _ in decoded(source(path))[0]] == list(range(FRAMES))


@pytest.mark.parametrize(
    ("selection", "expected"),
    [
        (Selection(every=7), list(range(0, FRAMES, 7))),
        (Selection(limit=5), [0, 1, 2, 3, 4]),
        (Selection(every=2, limit=3), [0, 2, 4]),
        (Selection(from_s=1.0, to_s=1.2), [25, 26, 27, 28, 29]),
        (Selection(fps=5), list(range(0, FRAMES, 5))),
        (
            Selection(fps=10),
            [0, 3, 5, 8, 10, 13, 15, 18, 20, 23, 25, 28, 30, 33, 35, 38, 40, 43, 45, 48, 50, 53, 55, 58],
        ),
        (Selection(fps=100), list(range(FRAMES))),
        (Selection(from_s=99), []),
    ],
)
@pytest.mark.parametrize("kind", ["h264-late-start.ts", "mpeg4-bframes.avi"])
def test_selection_counts_what_it_skips(kind, selection, expected):
    rows, ends = decoded(source(clip(kind, FRAMES), selection=selection, segment_frames=1))
    assert [n for n, _, _ in rows] == expected
    assert sum(end.counts.indexed for end in ends) == FRAMES
    assert sum(end.counts.skipped for end in ends) == FRAMES - len(expected)


def test_a_frame_rate_asked_of_uneven_times_follows_the_times():
    path = clip("h264-variable-rate.mp4", FRAMES)
    times = np.array(one_pass(path))
    rows, _ = decoded(source(path, selection=Selection(fps=4)))
    stretches = np.floor((times - times[0] + 1e-6) * 4)
    first_of_each = np.flatnonzero(np.diff(stretches, prepend=-1) > 0)
    assert [n for n, _, _ in rows] == first_of_each.tolist()


def test_the_rotation_flag_turns_the_pictures_as_players_do():
    flagged = source("tests/data/odd/h264-rotated-flag.mp4", views=[View(PictureFormat(384, 216))])
    plain = source("tests/data/odd/h264-faststart.mp4", views=[View(PictureFormat(216, 384))])
    turned = np.concatenate([batch.frames for batch in flagged])
    upright = np.concatenate([batch.frames for batch in plain])
    np.testing.assert_array_equal(turned, np.rot90(upright, k=-1, axes=(1, 2)))  # clockwise


def test_letterbox_keeps_the_proportions_between_black_bars():
    (batch,) = source(clip("h264-closed.mp4", 1), views=[View(PictureFormat(96, 96, fit="letterbox"))])
    assert not batch.frames[0, :8].any()
    assert not batch.frames[0, 88:].any()
    shown, _ = read(batch.frames[:, 8:88])  # 96 x 80 within 96 x 96
    assert shown.tolist() == [0]


def test_start_gives_wall_clock_times(tmp_path):
    path = tmp_path / "gate_20260301_235959.ts"
    shutil.copy(clip("h264-late-start.ts", FRAMES), path)
    batches = list(source(path, start=NamePattern("%Y%m%d_%H%M%S", tz="Europe/Berlin")))
    captured = np.concatenate([batch.captured_s for batch in batches])
    assert captured[0] == 1772405999.0  # 22:59:59 UTC
    np.testing.assert_allclose(np.diff(captured), 0.04, atol=1e-4)


@pytest.mark.parametrize(
    ("name", "error"),
    [
        ("empty.mp4", "it is empty"),
        ("not-a-video.mp4", "in no known video format"),
        ("broken-no-index.mp4", "moov atom not found"),
        ("sound-only.mp4", "holds no video stream (found: audio)"),
        ("is-not-there.mp4", "No such file"),
    ],
)
def test_a_file_that_cannot_be_read_ends_with_an_error_that_names_it(name, error):
    (batch,) = source(f"tests/data/odd/{name}")
    assert len(batch) == 0
    assert name in batch.end.error
    assert error in batch.end.error


def test_a_hole_in_the_data_is_named_and_later_frames_keep_their_numbers():
    rows, (end,) = decoded(source("tests/data/odd/broken-hole.mp4"))
    plain = dict(zip(range(96), decoded(source("tests/data/odd/h264-faststart.mp4"))[0], strict=True))
    assert len(rows) >= 85
    assert end.counts.decoded + end.counts.corrupt == 96
    missing = {n for lost in end.lost for n in range(lost.first, lost.last + 1)}
    assert {n for n, _, _ in rows} | missing == set(range(96))
    assert all(plain[n][1] == t for n, t, _ in rows)


def test_a_missing_end_is_named():
    rows, (end,) = decoded(source("tests/data/odd/broken-cut.mp4"))
    assert len(rows) == 41
    assert (end.counts.indexed, end.counts.unread) == (96, 54)
    assert "its end is missing" in end.error
    rows, (end,) = decoded(source("tests/data/odd/broken-cut.mkv"))
    assert len(rows) == 38
    assert "its end is missing" in end.error
    assert not end.retry


def test_pictures_that_change_size_are_all_there():
    rows, (end,) = decoded(source("tests/data/odd/size-change.ts"))
    assert len(rows) == end.counts.decoded == 80


def test_sound_that_lasts_longer_than_the_picture_is_no_damage():
    _, (end,) = decoded(source("tests/data/odd/h264-with-sound.mp4"))
    assert end.error is None
    assert end.counts.decoded == 48


def test_a_loss_that_nothing_locates_is_never_silent(tmp_path):
    rows, (end,) = decoded(source(clobbered_avi(tmp_path / "clobbered.avi", FRAMES)))
    assert len(rows) == end.counts.decoded < FRAMES
    assert end.counts.indexed == FRAMES
    assert not end.counts.complete
    assert "gave no picture" in end.error


def test_slow_footage_is_not_taken_for_truncated(tmp_path):
    path = write_clip(tmp_path / "slow.mp4", range(6), rate=Fraction(1, 3))
    _, (end,) = decoded(source(path))
    assert end.error is None
    assert end.counts.decoded == 6


@pytest.mark.parametrize("kind", ["h264-closed.mp4", "mpeg4-bframes.avi"])
def test_a_picture_that_cannot_be_converted_has_no_row(kind, monkeypatch):
    real = Scaler.draw

    def draw(self, frame, out):
        real(self, frame, out)
        if read(out)[0] == 7:
            raise ValueError("no such format")

    monkeypatch.setattr(Scaler, "draw", draw)
    rows, (end,) = decoded(source(clip(kind, FRAMES)))
    assert [n for n, _, _ in rows] == [n for n in range(FRAMES) if n != 7]
    assert [(lost.first, lost.last, lost.why) for lost in end.lost] == [(7, 7, "corrupt")]
    assert "frame 7: cannot be converted" in end.error


def test_stills_of_a_source_are_of_the_file_that_the_run_began_with(tmp_path):
    path = tmp_path / "a.mp4"
    shutil.copy(clip("h264-closed.mp4", FRAMES), path)
    file = source(path)
    file.stamp = stamp(path)
    assert [number for number, _ in read_stills(file, [3, 40], width=96)] == [3, 40]
    shutil.copy(clip("h264-closed.mp4", FRAMES, source=1), path)
    os.utime(path, ns=(0, 1))
    with pytest.raises(SourceError, match=r"a\.mp4: changed since the run began"):
        next(read_stills(file, [3], width=96))
    assert [number for number, _ in read_stills(path, [3], width=96)] == [3]


def test_a_missing_end_that_nobody_asked_for_is_no_loss():
    for selection in (Selection(limit=5), Selection(to_s=2.0)):
        _, (end,) = decoded(source("tests/data/odd/broken-cut.mp4", selection=selection))
        assert (end.error, end.counts.unread) == (None, 0)


def test_a_time_in_a_name_is_found_behind_other_digits(tmp_path):
    path = tmp_path / "cam12345678_20260131.mp4"
    shutil.copy(clip("h264-closed.mp4", 1), path)
    (batch,) = source(path, start=NamePattern("%Y%m%d"))
    assert batch.captured_s[0] == 1769817600.0
    (batch,) = source(tmp_path / "cam12345678_20260131.mp4", start=NamePattern("%H:%M"))
    assert "its name must hold a time like `%H:%M`" in batch.end.error


def test_folders_are_read_through_links_and_each_file_once(tmp_path):
    (tmp_path / "real").mkdir()
    shutil.copy(clip("h264-closed.mp4", 1), tmp_path / "real" / "a.mp4")
    (tmp_path / "top").mkdir()
    (tmp_path / "top" / "link").symlink_to(tmp_path / "real")
    (tmp_path / "top" / "loop").symlink_to(tmp_path / "top")
    (tmp_path / "top" / "notes.txt").write_text("")
    found = find_videos(str(tmp_path / "top"), "cams")
    assert [name for name, _ in found.videos] == ["cams/link/a.mp4"]
    assert [path.name for path in found.ignored] == ["notes.txt"]
    assert find_videos(str(tmp_path / "*" / "a.mp4"), "g").videos == (("g/real/a.mp4", tmp_path / "real" / "a.mp4"),)


@pytest.fixture
def linked(tmp_path):
    """A folder whose links lead in circles, two from each folder, as one alone ends where names are too long."""
    top = tmp_path / "top"
    for folder in ("day", "day/.cache", "odd[1]"):
        (top / folder).mkdir(parents=True)
    for name in ("z.mp4", "day/a.mp4", "day/.cache/b.mp4", "day/.c.mp4", "odd[1]/d.mp4", "day/notes.txt"):
        (top / name).touch()
    for folder in ("day", "odd[1]"):
        (top / folder / "up").symlink_to(top)
        (top / folder / "over").symlink_to(top)
    return top


@pytest.mark.timeout(20)
@pytest.mark.parametrize(
    ("pattern", "names"),
    [
        ("**/*.mp4", ["day/a.mp4", "odd[1]/d.mp4", "z.mp4"]),
        ("**", ["day/a.mp4", "odd[1]/d.mp4", "z.mp4"]),
        ("**/**/?.mp4", ["day/a.mp4", "odd[1]/d.mp4", "z.mp4"]),
        ("**/day/**/*.mp4", ["day/a.mp4", "day/over/odd[1]/d.mp4", "day/over/z.mp4"]),
        ("**/odd[[]1]/*", ["odd[1]/d.mp4"]),
        ("d*/**/a.mp4", ["day/a.mp4"]),
        ("odd[[]1]/**/d.mp4", ["odd[1]/d.mp4"]),
        ("**/.cache/*.mp4", ["day/.cache/b.mp4"]),
        ("**/.*.mp4", ["day/.c.mp4"]),
        ("day/*/z.mp4", ["day/over/z.mp4", "day/up/z.mp4"]),  # without ** it means what it says
        ("**/*.mov", []),
        ("gone/**", []),
    ],
)
def test_a_glob_goes_into_each_folder_once_though_links_lead_in_circles(linked, pattern, names):
    assert [path for _, path in find_videos(f"{linked}/{pattern}", "g").videos] == [linked / name for name in names]
    assert (next(matches(f"{linked}/{pattern}"), None) is not None) == bool(names)


def test_a_glob_takes_a_file_once_by_the_first_of_its_names(tmp_path):
    (tmp_path / "b.mp4").touch()
    for link in ("a", "c.mp4"):  # the first is not called a video
        (tmp_path / link).symlink_to(tmp_path / "b.mp4")
    (tmp_path / "d.mp4").symlink_to(tmp_path / "gone.mp4")
    found = find_videos(f"{tmp_path}/**", "g")
    assert [name for name, _ in found.videos] == ["g/b.mp4", "g/d.mp4"]
    assert [path.name for path in found.ignored] == ["a"]


def test_a_glob_with_one_link_to_the_folder_above_is_as_the_folder(tmp_path):
    (tmp_path / "day").mkdir()
    (tmp_path / "day" / "a.mp4").touch()
    (tmp_path / "day" / "up").symlink_to(tmp_path)
    expected = (("g/day/a.mp4", tmp_path / "day" / "a.mp4"),)
    assert find_videos(f"{tmp_path}/**/*.mp4", "g").videos == find_videos(str(tmp_path), "g").videos == expected


def test_a_worker_that_yields_nothing_hears_of_a_stop():
    path = clip("mpeg4-bframes.avi", 1200)  # one segment
    ticks = [batch for batch in source(path, selection=Selection(every=1000)) if not len(batch) and batch.end is None]
    assert ticks


@pytest.mark.parametrize("silent", [0, 1])
def test_of_a_bundle_no_more_than_a_round_waits_for_a_file_that_is_silent_for_long(silent, monkeypatch):
    monkeypatch.setattr("pipeline.sources.decode.SILENT_FRAMES", 8)
    path = clip("mpeg4-bframes.avi", 240)
    selections = [None, None]
    selections[silent] = Selection(every=100)
    files = [source(path, name=f"s{k}", selection=selection, batch_frames=4) for k, selection in enumerate(selections)]
    (bundle,) = bundles(files, 2)
    waiting, ticks, groups = 0, 0, []

    def told(batches):
        nonlocal waiting, ticks
        for batch in batches:
            waiting += len(batch)
            ticks += not len(batch) and batch.end is None
            assert waiting <= 2 * 4
            yield batch

    for folded in fold(Grouping(2, "streams"))(told(bundle.frames(Here()))):
        waiting -= sum(map(len, folded.parts))
        numbers = np.concatenate([part.index for part in folded.parts])
        groups += [[int(numbers[at]) if at >= 0 else None for at in row] for row in folded.slot.reshape(-1, 2)]
    assert ticks > 20  # a worker hears of a stop when it yields
    assert waiting == 0
    expected = [(number, 100 * number if number < 3 else None) for number in range(240)]
    assert groups == [list(pair if silent else pair[::-1]) for pair in expected]


def test_a_folder_that_cannot_be_read_is_a_source_that_is_refused(tmp_path, monkeypatch):
    shutil.copy(clip("h264-closed.mp4", 1), tmp_path / "a.mp4")
    (tmp_path / "lost+found").mkdir()
    real = os.scandir

    def scandir(path):  # the tests may run as root, whom no mode keeps out
        if str(path).endswith("lost+found"):
            raise PermissionError(13, "Permission denied", str(path))
        return real(path)

    monkeypatch.setattr(os, "scandir", scandir)
    found = find_videos(str(tmp_path), "mnt")
    assert [name for name, _ in found.videos] == ["mnt/a.mp4", "mnt/lost+found"]
    (batch,) = source(tmp_path / "lost+found")
    assert "lost+found: cannot be opened" in batch.end.error


def test_paths_that_the_system_does_not_take_stand_for_a_video_that_is_refused(tmp_path):
    (tmp_path / "a.mp4").touch()
    for path in (f"{tmp_path}/{'x' * 300}.mp4", f"{tmp_path}/a.mp4/b", f"{tmp_path}/a.mp4\0b"):
        assert find_videos(path, "gate").videos == (("gate", Path(path)),)
        (refused,) = source(path).segments()
        assert path in refused.error


def test_a_cut_that_no_seek_reaches_is_decoded_from_the_start(monkeypatch):
    class Unseekable:
        def __init__(self, container):
            self._container = container

        def __getattr__(self, name):
            return getattr(self._container, name)

        def seek(self, *args, **options):
            raise av.error.InvalidDataError(1, "no seek")

    path = clip("h264-closed.mp4", FRAMES)
    expected = decoded(source(path, segment_frames=1))
    assert len(expected[1]) > 1
    real = reader.open_decoder

    def unseekable(*args, **options):
        container, stream = real(*args, **options)
        return Unseekable(container), stream

    monkeypatch.setattr(reader, "open_decoder", unseekable)
    assert decoded(source(path, segment_frames=1))[0] == expected[0]


def test_nothing_is_cut_where_reading_broke_off_lest_pictures_that_are_shown_before_a_key_are_missing():
    index = index_file(clip("h264-bframes-opengop.mp4", 240), "clip")
    last = cut_file(index, segment_frames=1)[-1].first
    assert len(index.pts) - last < 64
    broken = replace(index, io_error="Input/output error")
    assert cut_file(broken, segment_frames=1)[-1].first <= len(index.pts) - 64
