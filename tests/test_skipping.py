"""Keyframes alone, or those that others refer to: with their own numbers, times and pixels, and the rest counted."""

import zlib

import av
import numpy as np
import pytest

from pipeline.batch import Counts
from pipeline.probe import probe
from pipeline.sources.cuts import whole_file
from pipeline.sources.disposable import disposable_packets, is_referred_to
from pipeline.sources.file import FileSource
from pipeline.sources.index import index_file
from pipeline.sources.reader import Reader
from pipeline.sources.scaler import PictureFormat, View
from pipeline.sources.selection import Selection
from pipeline.sources.skipping import fed_packets
from pipeline.testing import check_source
from tests.clips import KINDS, clip, read, write_clip

FRAMES = 60

# Neither by their times nor by their streams do these tell which frames nothing refers to.
UNTOLD = {"h264-bframes.avi", "h264-raw.h264", "mpeg4-bframes.avi", "vp9.webm", "av1.mkv", "ffv1.mkv", "ffv1-gray.mkv"}
TOLD = sorted(set(KINDS) - UNTOLD)
ALL_KEY = {"h264-intra.mov", "mjpeg.avi"}
WITHOUT_B = {"h264-closed.mp4", *ALL_KEY}


def decoded(path, frames="all", *, cut=True, **selection):
    """number -> (time, checksum of the picture), and the counts."""
    source = FileSource(
        path,
        name="clip",
        views=[View(PictureFormat(40, 32))],
        selection=Selection(frames=frames, **selection),
        segment_frames=1 if cut else 4096,
    )
    rows, counts = {}, Counts()
    for batch in source:
        assert read(batch.frames)[0].tolist() == batch.index.tolist()  # each picture shows its number
        rows |= {
            n: (t, zlib.crc32(picture))
            for n, t, picture in zip(batch.index.tolist(), batch.pts_s.tolist(), batch.frames, strict=True)
        }
        if batch.end is not None:
            counts += batch.end.counts
            assert (batch.end.error, batch.end.lost) == (None, ())
    return rows, counts


def plain(path, wanted=lambda frame: True, **options):
    """Time stamps of frames by a plain decode, without anything of ours, in order."""
    with av.open(str(path)) as container:
        for name, value in options.items():
            setattr(container.streams.video[0].codec_context, name, value)
        return [frame.pts for frame in container.decode(video=0) if wanted(frame)]


def expect_accounted(counts, decoded):
    assert counts.indexed == FRAMES
    assert (counts.decoded, counts.skipped, counts.corrupt) == (decoded, FRAMES - decoded, 0)


@pytest.mark.parametrize("cut", [True, False])
@pytest.mark.parametrize("kind", sorted(KINDS))
def test_keyframes_come_with_their_own_numbers_times_and_pixels(kind, cut):
    path = clip(kind, FRAMES)
    with av.open(str(path)) as container:
        keys = [n for n, frame in enumerate(container.decode(video=0)) if frame.key_frame]
    assert len(keys) >= (FRAMES if kind in ALL_KEY else 4)
    rows, counts = decoded(path, "key", cut=cut)
    everything, _ = decoded(path)
    assert rows == {n: everything[n] for n in keys}
    expect_accounted(counts, len(keys))


@pytest.mark.parametrize("every", [20, 28])
def test_keyframes_so_far_apart_that_their_counters_wrap_are_all_there(tmp_path, every):
    path = write_clip(tmp_path / "far.mkv", range(FRAMES), keyframe_every=every, bframes=3, open_gop=True)
    rows, counts = decoded(path, "key", cut=False)
    everything, _ = decoded(path)
    assert rows == {n: everything[n] for n in range(0, FRAMES, every)}
    expect_accounted(counts, len(rows))


@pytest.mark.parametrize("cut", [True, False])
@pytest.mark.parametrize("kind", TOLD)
def test_frames_that_others_refer_to_come_with_their_own_numbers_times_and_pixels(kind, cut):
    path = clip(kind, FRAMES)
    shown = plain(path)
    kept = plain(path, skip_frame="NONREF")  # by FFmpeg's own judgement
    rows, counts = decoded(path, "reference", cut=cut)
    everything, _ = decoded(path)
    assert rows == {shown.index(pts): everything[shown.index(pts)] for pts in kept}
    assert (len(rows) == FRAMES) if kind in WITHOUT_B else (FRAMES / 4 < len(rows) < FRAMES)
    expect_accounted(counts, len(rows))


@pytest.mark.parametrize("kind", sorted(UNTOLD))
def test_a_file_that_does_not_tell_which_frames_others_refer_to_is_refused(kind):
    path = clip(kind, FRAMES)
    (batch,) = FileSource(
        path, name="clip", views=[View(PictureFormat(40, 32))], selection=Selection(frames="reference")
    )
    assert f"{path}: decode.frames: reference must have " in batch.end.error
    assert batch.end.error.endswith("; use all or key")


@pytest.mark.parametrize("kind", ["h264-bframes-opengop.ts", "h264-bframes.avi"])  # by time stamps, and counted
@pytest.mark.parametrize(
    ("selection", "expected"),
    [
        ({"every": 2}, [0, 24, 48]),  # every second keyframe, not those at even numbers
        ({"every": 5}, [0]),
        ({"limit": 2}, [0, 12]),
        ({"from_s": 0.48, "to_s": 1.44}, [12, 24]),  # times of the file
        ({"fps": 1}, [0, 36]),  # the first keyframe of each second
        ({"from_s": 1.0, "every": 2}, [48]),
    ],
)
def test_a_selection_chooses_among_the_keyframes(kind, selection, expected):
    path = clip(kind, FRAMES)
    assert sorted(decoded(path, "key")[0]) == [0, 12, 24, 36, 48]
    rows, counts = decoded(path, "key", **selection)
    assert sorted(rows) == expected
    expect_accounted(counts, len(expected))


def test_a_selection_chooses_among_the_frames_that_others_refer_to():
    path = clip("hevc-bframes.mp4", FRAMES)
    every_reference = sorted(decoded(path, "reference")[0])
    rows, counts = decoded(path, "reference", every=3)
    assert sorted(rows) == every_reference[::3]
    expect_accounted(counts, len(rows))


def test_times_of_a_selection_begin_at_the_first_frame_though_it_is_no_keyframe():
    path = clip("h264-edit-list.mp4", FRAMES)  # its first keyframe is hidden, the next is frame 7
    assert sorted(decoded(path, "key")[0])[:2] == [7, 19]
    assert sorted(decoded(path, "key", from_s=0.0, to_s=0.28)[0]) == []
    assert sorted(decoded(path, "key", from_s=0.28, to_s=0.32)[0]) == [7]


@pytest.mark.parametrize("frames", ["key", "reference"])
def test_the_contract_of_a_source_is_kept_whatever_is_left_out(frames):
    selection = Selection(frames=frames)
    path = clip("h264-bframes-opengop.mkv", FRAMES)
    check_source(
        FileSource(path, name="clip", views=[View(PictureFormat(40, 32))], batch_frames=4, selection=selection),
    )


def test_pictures_that_a_higher_temporal_layer_may_refer_to_are_kept(tmp_path):
    shape = "keyint=12:min-keyint=12:scenecut=0:bframes=3:b-adapt=0:temporal-layers=1:log-level=none:pools=1"
    path = write_clip(tmp_path / "layers.mp4", range(FRAMES), codec="libx265", options={"x265-params": shape})
    rows, counts = decoded(path, "reference")
    everything, _ = decoded(path)
    assert rows == {n: everything[n] for n in rows}
    assert FRAMES / 4 < len(rows) < FRAMES
    expect_accounted(counts, len(rows))


def test_a_keyframe_that_is_lost_is_corrupt_and_the_frames_left_out_are_not(tmp_path):
    path = tmp_path / "damaged.webm"
    whole = clip("vp9.webm", FRAMES)
    index = index_file(whole, "clip")
    data = bytearray(whole.read_bytes())
    at = data.index(b"\x49\x83\x42", int(index.pos[index.entries[2]]))  # VP9's sync code, in the header of a keyframe
    data[at : at + 3] = bytes(3)
    path.write_bytes(data)
    source = FileSource(path, name="clip", views=[View(PictureFormat(40, 32))], selection=Selection(frames="key"))
    batches = list(source)
    counts = batches[-1].end.counts
    lost = index.shown.searchsorted(index.pts[index.entries[2]])
    assert [(hole.first, hole.last, hole.why) for hole in batches[-1].end.lost] == [(lost, lost, "corrupt")]
    assert (counts.decoded, counts.corrupt) == (len(index.entries) - 1, 1)
    assert counts.skipped == FRAMES - len(index.entries)


# A start code and the head of what it begins; unit types and codes from the standards that `disposable` names.
@pytest.mark.parametrize(
    ("codec", "packet", "referred", "layer"),
    [
        ("h264", b"\0\0\1\x09\x10\0\0\1\x41\x9a", True, 0),
        ("h264", b"\0\0\1\x09\x10\0\0\1\x01\x9a", False, 0),
        ("h264", b"\0\0\1\x41\x9a\0\0\1\x01\x9a", True, 0),  # two fields, the second is not referred to
        ("h264", b"\0\0\1\x09\x10", True, 0),  # no slice: nothing is known, so it is kept
        ("hevc", b"\0\0\1\x02\x01\x80", True, 0),  # TRAIL_R
        ("hevc", b"\0\0\1\x00\x01\x80", False, 0),  # TRAIL_N
        ("hevc", b"\0\0\1\x04\x02\x80", False, 1),  # TSA_N
        ("hevc", b"\0\0\1\x2a\x01\x80", True, 0),  # CRA
        ("mpeg2video", b"\0\0\1\x00\x00\x10", True, 0),  # P
        ("mpeg2video", b"\0\0\1\x00\x00\x18", False, 0),  # B
        ("mpeg4", b"\0\0\1\xb6\x40", True, 0),  # P
        ("mpeg4", b"\0\0\1\xb6\x80", False, 0),  # B
        ("mpeg4", b"\0\0\1\xb6\xc0", True, 0),  # S
        *((codec, b"", True, 0) for codec in ("h264", "hevc", "mpeg2video", "mpeg4")),
    ],
)
def test_streams_say_which_pictures_are_referred_to(codec, packet, referred, layer):
    assert is_referred_to(codec, packet, 0) == (referred, layer)


def test_marks_are_read_behind_the_length_of_a_unit_too():
    assert is_referred_to("h264", b"\0\0\0\2\x09\x10\0\0\0\2\x01\x9a", 4) == (False, 0)


def test_only_the_highest_layer_holds_pictures_that_nothing_refers_to():
    assert disposable_packets([(True, 0), (False, 0)]).tolist() == [False, True]
    assert disposable_packets([(True, 0), (False, 0), (True, 1), (False, 1)]).tolist() == [False, False, False, True]
    assert disposable_packets([]).tolist() == []


@pytest.mark.parametrize(
    "selection", [{"every": 2}, {"every": 7}, {"fps": 10}, {"limit": 5}, {"from_s": 0.9, "to_s": 1.7}, {"every": 59}]
)
@pytest.mark.parametrize("kind", sorted(KINDS))
def test_packets_that_are_spared_change_no_picture_that_is_selected(kind, selection):
    path = clip(kind, FRAMES)
    everything, _ = decoded(path)
    for cut in (True, False):
        rows, counts = decoded(path, cut=cut, **selection)
        assert rows
        assert rows == {n: everything[n] for n in rows}
        expect_accounted(counts, len(rows))


def test_a_decoder_is_spared_what_no_selected_frame_needs():
    index = index_file(clip("h264-bframes-opengop.mp4", FRAMES), "clip", disposable=True)
    (whole,) = whole_file(index)
    disposable = np.count_nonzero(index.disposable)
    assert disposable > 20

    def fed(numbers, frames="all"):
        mask = fed_packets(frames, index, whole, np.isin(np.arange(FRAMES), numbers))
        with Reader() as reader:
            came = list(reader.frames(index, whole, "clip", fed=mask, apart=frames == "key"))
        return len(came)

    assert fed(range(FRAMES)) == FRAMES
    assert fed([0]) == 1
    assert fed([0, 12, 24], "key") == 3
    place = int(np.flatnonzero(index.pts == index.shown[40])[0])
    assert fed([40]) == np.count_nonzero(~index.disposable[:place]) + 1 < 30


def test_probe_tells_how_many_frames_each_choice_decodes():
    path = clip("h264-bframes-opengop.ts", FRAMES)
    told = probe(path)
    assert told["clean_entries"] == len(decoded(path, "key")[0])
    assert told["frames"] - told["disposable"] == len(decoded(path, "reference")[0])
    assert probe(clip("vp9.webm", FRAMES))["disposable"] is None


def test_nobody_pays_for_marks_that_are_not_asked_for():
    assert index_file(clip("h264-bframes-opengop.mp4", FRAMES), "clip").disposable is None
