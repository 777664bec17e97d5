import json
from pathlib import Path

import numpy as np
import pytest

from pipeline.errors import ConfigError, SourceError
from pipeline.footage import Footage, LabelledClip, outline_clip, read_clip, read_footage
from pipeline.sources.file import FileSource
from pipeline.sources.scaler import PictureFormat, View
from pipeline.sources.selection import Selection
from specialized.examples import Examples
from specialized.modelfile import Ask
from tests.clips import UNEVEN_S, clip, read

PICTURE = PictureFormat(40, 32)
ODD = Path(__file__).parent / "data/odd"
ASK = Ask(name="person", object="person")


def labelled(folder: Path, video: Path, frames: range, **selection: object) -> LabelledClip:
    path = folder / f"{video.name}.csv"
    rows = [f"{n},person,1,0,0,1,1" for n in frames]
    path.write_text("\n".join(["frame,object_name,confidence,xmin,ymin,xmax,ymax", *rows]) + "\n")
    return LabelledClip(video, path, Selection(**selection))  # type: ignore[arg-type]


def footage(*clips: LabelledClip) -> Footage:
    return read_footage(clips, picture=PICTURE, asks=[ASK], task="one_of", workers=2)


@pytest.mark.parametrize("kind", ["h264-bframes-opengop.mp4", "vp9.webm", "h264-bframes.avi"])
def test_training_sees_the_pixels_that_running_sees(kind):
    path = clip(kind)
    training = read_clip(path, View(PICTURE), workers=3)
    running = sorted(
        (int(number), float(pts_s), picture.tobytes())
        for batch in FileSource(path, name="clip", views=[View(PICTURE)], batch_frames=7, segment_frames=1)
        for number, pts_s, picture in zip(batch.index, batch.pts_s, batch.frames, strict=True)
    )
    assert training.numbers.tolist() == [number for number, _, _ in running] == list(range(60))
    assert training.pts_s.tolist() == [pts_s for _, pts_s, _ in running]
    assert [picture.tobytes() for picture in training.pictures] == [pixels for _, _, pixels in running]


def test_a_clip_of_many_segments_comes_in_order_of_frame_whatever_the_workers():
    path = clip("h264-closed.mp4", 1300)  # cut into segments of 300 frames or more
    tasks = list(FileSource(path, name="clip", views=[View(PICTURE)]).segments())
    assert len(tasks) > 2
    one, many = read_clip(path, View(PICTURE), workers=1), read_clip(path, View(PICTURE), workers=4)
    assert read(many.pictures)[0].tolist() == many.numbers.tolist() == list(range(1300))
    assert (one.pictures == many.pictures).all()
    assert (one.pts_s == many.pts_s).all()


def test_only_selected_frames_are_read_and_all_are_counted():
    found = read_clip(clip("h264-closed.mp4"), View(PICTURE), Selection(every=4, from_s=1.0))
    assert found.numbers.tolist() == read(found.pictures)[0].tolist() == list(range(28, 60, 4))
    assert found.frames == 60


@pytest.mark.parametrize(
    ("name", "loss"),
    [
        ("broken-hole.mp4", r"frames \d+ to \d+ corrupt"),
        ("broken-cut.mp4", "unread|more than the last packet|promises"),
        ("not-a-video.mp4", "cannot be opened as a video"),
        ("gone.mp4", "cannot be opened as a video: No such file"),
    ],
)
def test_a_damaged_clip_is_refused_with_its_loss(name, loss):
    with pytest.raises(SourceError, match=loss) as caught:
        read_clip(ODD / name, View(PICTURE))
    assert str(caught.value).startswith(f"{ODD / name}: training footage must be whole, got ")
    assert "\n" not in str(caught.value)


def test_frames_before_the_damage_can_be_trained_on():
    found = read_clip(ODD / "broken-hole.mp4", View(PICTURE), Selection(to_s=0.4))
    assert found.numbers.tolist() == list(range(len(found.numbers)))
    assert len(found.numbers) == 5
    assert found.frames > 90


@pytest.mark.parametrize("kind", ["h264-bframes-opengop.mp4", "vp9.webm", "h264-variable-rate.mp4", "h264-bframes.avi"])
@pytest.mark.parametrize("selection", [Selection(), Selection(every=7, from_s=0.5), Selection(fps=4, to_s=1.7)])
def test_the_outline_of_a_clip_is_what_reading_it_gives_but_for_the_pictures(kind, selection):
    path = clip(kind)
    outline, whole = outline_clip(path, View(PICTURE), selection), read_clip(path, View(PICTURE), selection)
    assert outline.numbers.tolist() == whole.numbers.tolist()
    assert outline.pts_s.tolist() == whole.pts_s.tolist()
    assert outline.pictures.shape == whole.pictures.shape
    assert (outline.frames, outline.size) == (whole.frames, whole.size) == (60, (80, 96))


@pytest.mark.parametrize("name", ["broken-hole.mp4", "broken-cut.mp4", "not-a-video.mp4"])
def test_the_outline_of_a_damaged_clip_is_refused_as_the_clip_is(name):
    with pytest.raises(SourceError, match="training footage must be whole"):
        outline_clip(ODD / name, View(PICTURE))


def test_labels_follow_the_numbers_of_selected_frames(tmp_path):
    joined = footage(labelled(tmp_path, clip("h264-closed.mp4"), range(20, 31), every=3))
    numbers = read(joined.examples.pictures)[0]
    assert numbers.tolist() == list(range(0, 60, 3))
    assert joined.examples.labels.tolist() == [0 if 20 <= n <= 30 else 1 for n in numbers]
    assert joined.step_s == pytest.approx(3 / 25)


@pytest.mark.parametrize(
    ("frames", "every", "said"),
    [
        (range(20, 41, 5), 1, "has boxes in multiples of 5 alone, so 48 of the 60 frames that are taken count "),
        (range(20, 41, 5), 3, "has boxes in multiples of 5 alone, so 16 of the 20 frames that are taken count "),
        (range(20, 41, 5), 10, ""),
        (range(20, 41), 1, ""),
        (range(20, 21), 1, ""),
        (range(0), 1, ""),
    ],
)
def test_frames_between_those_that_were_looked_at_are_warned_of(tmp_path, frames, every, said):
    one = labelled(tmp_path, clip("h264-closed.mp4"), frames, every=every)
    warnings = footage(one).warnings
    assert len(warnings) == bool(said)
    assert all(warning.startswith(f"{one.labels}: {said}") for warning in warnings)


def test_labels_beyond_the_clip_are_refused_with_their_line(tmp_path):
    one = labelled(tmp_path, clip("h264-closed.mp4"), range(55, 63), to_s=1.0)
    with pytest.raises(ConfigError, match=r"mp4\.csv:7: frame must be below 60, the clip's number of frames, got 60"):
        footage(one)


def as_coco(folder: Path, video: Path, numbers: range, *, person: range, **selection: object) -> LabelledClip:
    path = folder / f"{video.name}.json"
    document = {
        "categories": [{"id": 1, "name": "person"}],
        "images": [{"id": 100 + n, "frame_id": n} for n in numbers],
        "annotations": [{"image_id": 100 + n, "category_id": 1} for n in person],
    }
    path.write_text(json.dumps(document))
    return LabelledClip(video, path, Selection(**selection))  # type: ignore[arg-type]


def test_coco_labels_the_frames_of_its_images(tmp_path):
    video = clip("h264-closed.mp4")
    joined = footage(as_coco(tmp_path, video, range(0, 60, 4), person=range(20, 32, 4), every=4))
    numbers = read(joined.examples.pictures)[0]
    assert joined.examples.labels.tolist() == [0 if n in (20, 24, 28) else 1 for n in numbers]


def test_frames_of_which_coco_says_nothing_are_refused(tmp_path):
    one = as_coco(tmp_path, clip("h264-closed.mp4"), range(0, 60, 4), person=range(20, 32, 4))
    said = (
        r"mp4\.json: images must be there for every frame that is taken, got none for 45 of 60, first for frame 1; take"
    )
    with pytest.raises(ConfigError, match=said):
        footage(one)


def test_an_image_beyond_the_clip_is_refused_with_its_place(tmp_path):
    one = as_coco(tmp_path, clip("h264-closed.mp4"), range(1, 61), person=range(20, 32))
    with pytest.raises(
        ConfigError, match=r"mp4\.json: images\[59\]: frame must be below 60, .* got 60; .*count from 1"
    ):
        footage(one)


def test_all_label_files_are_checked_before_the_first_video_is_opened(tmp_path):
    clips = [labelled(tmp_path, ODD / name, range(3)) for name in ("not-a-video.mp4", "gone.mp4", "gone.mp4")]
    clips[0].labels.write_text("")
    clips[1].labels.unlink()
    with pytest.raises(ConfigError) as caught:
        footage(*clips)
    empty, missing, twice, missing_again = caught.value.problems
    assert "empty file" in empty
    assert "No such file" in missing
    assert "gone.mp4: must be given once" in twice
    assert missing_again == missing


def test_a_selection_without_frames_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="must have frames in the selection, got none"):
        footage(labelled(tmp_path, clip("h264-closed.mp4"), range(3), from_s=100.0))


def test_runs_never_cross_clips_and_parts_lie_gap_seconds_apart(tmp_path):
    joined = footage(
        labelled(tmp_path, clip("h264-closed.mp4"), range(30)),
        labelled(tmp_path, clip("h264-closed.mp4", 100, source=1), range(50), every=2),
    )
    assert joined.examples.runs == ((0, 60), (60, 110))
    parts = joined.split(blocks=5, validation=[4], test=[0], gap_s=0.2)
    assert parts["test"].runs == ((0, 12), (60, 70))
    assert parts["training"].runs == ((17, 43), (73, 97))  # 5 frames of 1/25 s left out, and 3 of 2/25 s
    assert parts["validation"].runs == ((48, 60), (100, 110))
    number, source = read(parts["test"].pictures)
    assert source[59:61].tolist() == [0, 1]
    assert number[70] == 20


def test_the_gap_holds_in_seconds_where_the_rate_varies(tmp_path):
    joined = footage(labelled(tmp_path, clip("h264-variable-rate.mp4"), range(30)))
    parts = joined.split(blocks=3, validation=[2], test=[0], gap_s=0.5)
    times = {part: np.concatenate([joined.pts_s[a:b] for a, b in examples.runs]) for part, examples in parts.items()}
    assert times["training"].min() - times["test"].max() >= 0.5
    assert times["validation"].min() - times["training"].max() >= 0.5
    assert joined.step_s == pytest.approx(np.median(np.diff(UNEVEN_S[:60])))


def test_without_times_there_is_no_gap_and_no_step():
    examples = Examples(np.zeros((10, 4, 4, 3), np.uint8), np.zeros(10, np.int64), ((0, 10),))
    timeless = Footage(examples, np.full(10, np.nan), (Path("raw.h264"),))
    with pytest.raises(
        ConfigError, match=r"raw\.h264: must have times to leave a gap of 2 s, got none; set gap_s to 0"
    ):
        timeless.split(blocks=2, validation=[1], test=[], gap_s=2)
    assert timeless.split(blocks=2, validation=[1], test=[], gap_s=0)["validation"].runs == ((5, 10),)
    assert timeless.step_s is None


def test_a_clip_with_fewer_frames_than_blocks_is_refused(tmp_path):
    joined = footage(labelled(tmp_path, clip("h264-closed.mp4"), range(3), every=20))
    with pytest.raises(ConfigError, match="must give a frame to each of 4 blocks, got 3; ask for fewer blocks"):
        joined.split(blocks=4, validation=[1], test=[2], gap_s=0)
