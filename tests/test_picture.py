import json
import os
import shutil

import av
import numpy as np
import pytest
from matplotlib.axes import Axes

from pipeline.batch import Counts, FrameBatch, Segment, SegmentEnd
from pipeline.errors import VpipeError
from pipeline.identity import identity, stamp
from pipeline.picture import strip
from pipeline.rows import Labelling
from pipeline.runs import RunFolder
from pipeline.sinks.parts import PartsSink
from pipeline.timeline import CELLS, COLUMNS, read_timelines
from tests.clips import clip, read, write_clip

PERSON = Labelling("person", ("person", "none"))
THINGS = Labelling("things", ("car", "bus"), "any_of", (0.5, 0.5))


def scores_of(labelling, frames, period):
    """The first class is there in the first half of every `period` frames."""
    first = np.where(frames % period < period / 2, 0.9, 0.2).astype(np.float32)
    return np.stack([first, 1 - first], axis=1)


def shown(shows, index, regions):
    """The first class is there in the rows of which `shows`, told frame and place, says so."""
    first = np.where(shows(index, np.arange(len(index)) % regions), 0.9, 0.2).astype(np.float32)
    return np.stack([first, 1 - first], axis=1)


def make_run(
    root,
    footage,
    *,
    labellings=(PERSON,),
    segment=25,
    rate=25.0,
    start=None,
    kept=lambda frame: frame >= 0,
    regions=(),
    shows=None,
):
    """The folder of a run that labelled these sources: name -> (path or None, frames)."""
    run = RunFolder.create(root, "lobby")
    files = [(name, path) for name, (path, _) in footage.items() if path is not None]
    fold = {"frames": 4, "order": "consecutive"}
    sources = {name: stamp(path) for name, path in files}
    document, sha = identity(sources, decode={}, fold=fold, filters={})
    models = [{"name": labelling.name, "model": f"models/{labelling.name}.safetensors"} for labelling in labellings]
    run.write_run_json({"filters": models}, document)
    sink = PartsSink(run.path, labellings, identity=sha)
    for name, (_, n) in footage.items():
        for number, first in enumerate(range(0, n, segment)):
            index = np.repeat(np.arange(first, min(n, first + segment)), max(1, len(regions)))
            part = Segment(name, number, first)
            rows = {}
            for labelling in labellings:
                batch = FrameBatch(
                    part,
                    frames=np.zeros((len(index), 1, 1, 3), np.uint8),
                    index=index,
                    pts_s=index / rate if rate else np.full(len(index), np.nan),
                    captured_s=None if start is None else start + index / rate,
                    regions=regions,
                    region=(np.arange(len(index)) % len(regions)).astype(np.int16) if regions else None,
                    scores=scores_of(labelling, index, 40) if shows is None else shown(shows, index, len(regions)),
                    filter=labelling.name,
                ).rows(kept(index))
                sink.write(batch)
                rows[labelling.name] = len(batch)
            counts = Counts(indexed=len(index), decoded=len(index), labelled=len(index), written=len(index))
            sink.commit(SegmentEnd(part, counts, filters=rows))
    sink.close()
    return run


def size_of(png):
    with av.open(str(png)) as container:
        frame = next(container.decode(video=0))
        return frame.width, frame.height


@pytest.mark.parametrize("kind", ["h264-bframes-opengop.mp4", "vp9.webm", "mpeg4-bframes.avi"])
def test_each_cell_shows_the_very_frame_from_the_middle_of_its_time(tmp_path, kind):
    run = make_run(tmp_path, {"a": (clip(kind, 120), 120)})
    (timeline,) = read_timelines(run, ["a"])
    assert timeline.absent is None
    assert sorted(timeline.pictures) == list(range(CELLS))
    for cell, (frame, label) in timeline.chosen.items():
        assert abs(frame - (cell + 0.5) * 120 / CELLS) <= 1
        assert label == (0 if frame % 40 < 20 else 1)
        numbers, _ = read(timeline.pictures[cell][None])
        assert numbers.tolist() == [frame]


def test_the_picture_says_where_rows_were_left_out_on_request(tmp_path, monkeypatch):
    run = make_run(tmp_path, {"a": (None, 120)}, labellings=(PERSON, THINGS))
    document = json.loads(run.run_json.read_bytes())
    document["config"]["filters"][1]["keep"] = "auto"
    run.run_json.write_text(json.dumps(document))
    titles = []
    monkeypatch.setattr(Axes, "set_title", lambda axes, text, **options: titles.append(text))
    strip(run.path, tmp_path / "s.png")
    person, things = titles
    assert person == "person: person.safetensors, 4 frames folded, consecutive"
    assert things == "things: things.safetensors, 4 frames folded, consecutive, only rows that `keep` lets pass"


@pytest.mark.parametrize("regions", [(), ("a",), ("a", "b"), ("a", "b", "c")])
def test_regions_leave_no_column_empty_that_whole_frames_fill(tmp_path, regions):
    (timeline,) = read_timelines(make_run(tmp_path, {"a": (None, 300)}, regions=regions), ["a"])
    assert timeline.last == pytest.approx(300 / 25)
    (band,) = timeline.bands
    assert (band.labels.sum(axis=1) > 0).all()
    assert band.rows.sum() == 300 * max(1, len(regions))


def test_every_column_holds_all_regions_of_its_frame(tmp_path):
    """The first region shows a person in every frame, the second never."""
    run = make_run(tmp_path, {"a": (None, 60)}, regions=("a", "b"), shows=lambda index, place: place == 0)
    (timeline,) = read_timelines(run, ["a"])
    (band,) = timeline.bands
    assert (band.labels[:, 0] == band.labels[:, 1]).all()
    assert (band.labels[:, 0] > 0).all()


def test_columns_hold_every_row_and_gaps_stay_empty(tmp_path):
    run = make_run(tmp_path, {"a": (clip("mjpeg.avi"), 60)}, kept=lambda frame: (frame < 15) | (frame >= 45))
    (timeline,) = read_timelines(run, ["a"])
    (band,) = timeline.bands
    rows = band.labels.sum(axis=1)
    assert band.rows.tolist() == [30, 0, 0]  # frames 0 to 14 and 45 to 59 are in first halves of 40
    per_frame = COLUMNS // 60
    assert (rows[: 15 * per_frame - 1] > 0).all()
    assert (rows[15 * per_frame + 1 : 45 * per_frame - 1] == 0).all()
    assert (rows[45 * per_frame + 1 :] > 0).all()
    assert set(timeline.chosen) == {0, 1, 2, 9, 10, 11}
    mean = band.scores[rows > 0] / rows[rows > 0, None]
    np.testing.assert_allclose(mean, np.broadcast_to([0.9, 0.1], mean.shape), rtol=1e-6)


def test_many_frames_share_a_column_as_they_are_divided(tmp_path):
    run = make_run(tmp_path, {"a": (None, 48_000)}, segment=10_000)
    (timeline,) = read_timelines(run, ["a"])
    (band,) = timeline.bands
    assert band.rows.tolist() == [24_000, 24_000, 0]
    assert band.labels.sum() == 48_000
    np.testing.assert_allclose(band.labels.sum(axis=1), 40, atol=1)  # whole periods of 40 frames
    np.testing.assert_allclose(band.labels[:, 0], 20, atol=1)


@pytest.mark.parametrize(
    ("options", "clock", "first", "last"),
    [
        ({}, "pts_s", 0.0, 2.4),
        ({"start": 1.7e9}, "captured", 1.7e9, 1.7e9 + 2.4),
        ({"rate": 0.0}, "frame", 0.0, 60.0),
    ],
)
def test_time_is_the_wall_clock_else_that_of_the_footage_else_the_frame_number(tmp_path, options, clock, first, last):
    run = make_run(tmp_path, {"a": (None, 60)}, **options)
    (timeline,) = read_timelines(run, ["a"])
    assert timeline.clock == clock
    assert timeline.first == pytest.approx(first)
    assert timeline.last == pytest.approx(last)
    strip(run.path, run.path / "strip.png")
    assert size_of(run.path / "strip.png")[0] > 1000


def test_several_sources_and_filters_make_a_taller_picture(tmp_path):
    one = make_run(tmp_path / "one", {"a": (clip("vp9.webm"), 60)})
    both = {"a": (clip("vp9.webm"), 60), "$b_{": (clip("vp9.webm", source=1), 60)}
    two = make_run(tmp_path / "two", both, labellings=(PERSON, THINGS))
    assert strip(one.path, tmp_path / "one.png") == []
    assert strip(two.path, tmp_path / "two.png") == []
    assert strip(two.path, tmp_path / "b.png", sources=["$b_{"]) == []
    heights = [size_of(tmp_path / name)[1] for name in ("one.png", "b.png", "two.png")]
    assert heights == sorted(set(heights))


def test_footage_that_is_gone_or_changed_leaves_the_labels_and_a_note(tmp_path):
    gone, changed = tmp_path / "gone.webm", tmp_path / "changed.webm"
    for path in (gone, changed):
        shutil.copy(clip("vp9.webm"), path)
    run = make_run(tmp_path, {"gone": (gone, 60), "changed": (changed, 60), "made": (None, 60)})
    gone.unlink()
    os.utime(changed, (1, 1))
    notes = strip(run.path, run.path / "strip.png")
    assert [note.partition(",")[0] for note in notes] == [
        f"{name}: drawn without frames" for name in ("changed", "gone", "made")
    ]
    assert "has changed since the run" in notes[0]
    assert "No such file" in notes[1]
    assert "not come from a file" in notes[2]
    assert (run.path / "strip.png").stat().st_size > 10_000


def test_a_portrait_clip_keeps_its_proportions(tmp_path):
    tall = write_clip(tmp_path / "tall.mkv", range(24), size=(64, 112), codec="ffv1")
    (timeline,) = read_timelines(make_run(tmp_path, {"a": (tall, 24)}), ["a"])
    assert {picture.shape for picture in timeline.pictures.values()} == {(420, 240, 3)}


def test_more_sources_than_are_drawn_are_said_to_be_left_out(tmp_path):
    run = make_run(tmp_path, {f"cam{n}": (None, 30) for n in range(6)})
    assert strip(run.path, tmp_path / "a.png")[-1] == "4 of 6 sources are drawn; name others with --source"


@pytest.mark.parametrize(
    ("make", "sources", "message"),
    [
        (lambda root: root, [], "must be the folder of a run, got no run.json"),
        (lambda root: make_run(root, {"a": (None, 30)}).path, ["b"], "source must be one of a, got b"),
        (
            lambda root: make_run(root, {"a": (None, 30)}, kept=lambda frame: frame < 0).path,
            [],
            "must hold rows to draw, got none",
        ),
    ],
)
def test_what_cannot_be_drawn_is_said_in_one_line(tmp_path, make, sources, message):
    with pytest.raises(VpipeError, match=message) as error:
        strip(make(tmp_path), tmp_path / "strip.png", sources=sources)
    assert "\n" not in str(error.value)


def test_a_place_that_cannot_be_written_is_named(tmp_path):
    run = make_run(tmp_path, {"a": (None, 30)})
    with pytest.raises(VpipeError, match=r"nowhere/strip\.png: must be writable"):
        strip(run.path, tmp_path / "nowhere" / "strip.png")
