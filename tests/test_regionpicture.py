"""The picture of regions: each where it lies, by its name, on a frame as players show it."""

from itertools import combinations
from pathlib import Path

import cv2
import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.text import Text

from pipeline.regionpicture import DPI, _draw_names, draw_regions, regions_for
from pipeline.regions import Region
from pipeline.sources.stills import read_still
from tests.clips import read, write_clip
from tests.test_cli import ODD, vpipe

MODEL = Path("specialized/weights/lobby-person-f4.safetensors").absolute()


def runs(folder, sources, *more):
    path = folder / "run.yaml"
    path.write_text("\n".join([f"sources: [{sources}]", f"filter: {{model: {MODEL}}}", *more]))
    return str(path)


def names(regions):
    return [region.name for region in regions]


def test_a_still_is_the_frame_in_the_middle_or_the_first_from_a_time_on(tmp_path):
    path = write_clip(tmp_path / "a.mp4", range(60), size=(96, 80), keyframe_every=12)
    shown = {at: int(read(read_still(path, from_s=at)[None])[0][0]) for at in (None, 0.0, 0.5, 2.36)}
    assert shown == {None: 30, 0.0: 0, 0.5: 13, 2.36: 59}
    assert read_still(path).shape == (80, 96, 3)
    counted = write_clip(tmp_path / "a.avi", range(20), size=(96, 80))
    assert int(read(read_still(counted)[None])[0][0]) == 10


def test_regions_are_drawn_around_their_very_pixels_on_an_enlarged_frame(tmp_path):
    boxes = [(8, 8, 24, 40), (40, 16, 48, 32)]
    path = write_clip(tmp_path / "a.mp4", range(3), size=(96, 80), regions=boxes)
    regions = [Region(f"r{k}", *box, in_pixels=True) for k, box in enumerate(boxes)]
    regions.append(Region("gate", 0.25, 0.7, 0.5, 0.25, polygon=((0.25, 0.95), (0.5, 0.7), (0.75, 0.95))))
    draw_regions(path, regions, tmp_path / "a.png")
    picture = cv2.imread(str(tmp_path / "a.png"))[..., ::-1].astype(int)
    frame = np.kron(read_still(path), np.ones((14, 14, 1), np.int64))
    assert picture.shape == frame.shape == (1120, 1344, 3)
    for (x, y, w, h), colour in zip(boxes, [(0xD5, 0x5E, 0x00), (0x00, 0x72, 0xB2)], strict=True):
        for across, down in [(x, y + h / 2), (x + w, y + h / 2), (x + w / 2, y + h)]:
            assert np.abs(picture[int(14 * down), int(14 * across)] - colour).max() < 8
        inner = np.s_[14 * y + 8 : 14 * (y + h) - 8, 14 * x + 8 : 14 * (x + w) - 8]
        assert (picture[inner] == frame[inner]).all(axis=2).mean() > 0.99
    assert np.abs(picture[14 * 76, 14 * 48] - (0x00, 0x9E, 0x73)).max() < 8
    assert (picture[14 * 60, 14 * 26] == frame[14 * 60, 14 * 26]).all()  # in the polygon's rectangle, not in it


@pytest.mark.parametrize(("rows", "columns"), [(8, 8), (4, 32), (1, 1)])
def test_names_are_apart_and_in_the_picture(rows, columns):
    width, height = 1600, 900
    regions = [
        Region(f"bay-{row}-{column}", column / columns, row / rows, 1 / columns, 1 / rows)
        for row in range(rows)
        for column in range(columns)
    ]
    figure = Figure((width / DPI, height / DPI), dpi=DPI)
    renderer = FigureCanvasAgg(figure).get_renderer()
    axes = figure.add_axes((0, 0, 1, 1), xlim=(0, width), ylim=(height, 0))
    _draw_names(axes, regions, np.array([region.box(width, height) for region in regions], float), (width, height))
    texts = axes.findobj(Text, include_self=False)
    extents = [text.get_window_extent(renderer) for text in texts if text.get_text()]
    assert len(extents) == len(regions)
    for one in extents:
        assert min(one.x0, one.y0, width - one.x1, height - one.y1) >= 0
    if columns < 32:
        assert not any(one.overlaps(other) for one, other in combinations(extents, 2))


def test_a_source_has_its_own_regions_and_another_video_the_common_ones(tmp_path):
    (tmp_path / "clips").mkdir()
    for name in ("a.mp4", "b.mp4"):
        (tmp_path / "clips" / name).touch()
    config = runs(
        tmp_path,
        "{path: clips/a.mp4, name: a, regions: {own: [0, 0, 1, 1]}}, {path: clips/b*}",
        "regions: {common: [0, 0, 0.5, 1]}",
    )
    (tmp_path / "link.mp4").symlink_to(tmp_path / "clips" / "a.mp4")
    assert names(regions_for(config, tmp_path / "clips" / "a.mp4")) == ["own"]
    assert names(regions_for(config, tmp_path / "link.mp4")) == ["own"]
    assert names(regions_for(config, tmp_path / "clips" / "b.mp4")) == ["common"]
    assert names(regions_for(config, tmp_path / "c.mp4")) == ["common"]


def test_a_clip_of_a_training_has_its_own_regions(tmp_path):
    write_clip(tmp_path / "a.mp4", range(3))
    write_clip(tmp_path / "b.mp4", range(3))
    (tmp_path / "l.csv").write_text("frame,region,label\n")
    (tmp_path / "train.yaml").write_text(
        "model: {architecture: coral}\nclasses: [{name: car, object: car}]\nsplit: {validation: [1]}\n"
        "clips: [{video: a.mp4, labels: l.csv, regions: {own: [0, 0, 1, 1]}}, {video: b.mp4, labels: l.csv}]\n"
        "regions: {common: [0, 0, 0.5, 1]}\noutput: m.safetensors\n"
    )
    config = str(tmp_path / "train.yaml")
    assert names(regions_for(config, tmp_path / "a.mp4")) == ["own"]
    assert names(regions_for(config, tmp_path / "b.mp4")) == ["common"]


def test_probe_draws_the_regions_of_a_file_of_them(tmp_path):
    (tmp_path / "bays.csv").write_text("name,x,y,w,h\na,0,0,0.5,1\n")
    (tmp_path / "bays.yaml").write_text("shelf: {grid: [1, 2, 0, 0, 1, 1]}\n")
    (tmp_path / "bays.json").write_text('{"a": [0, 0, 10, 10]}')
    (tmp_path / "wrong.yaml").write_text("a: [0, 0]\n")
    video = ODD / "h264-rotated-flag.mp4"
    assert names(regions_for(str(tmp_path / "bays.csv"), video)) == ["a"]
    assert names(regions_for(str(tmp_path / "bays.yaml"), video)) == ["shelf-1-1", "shelf-1-2"]
    assert regions_for(str(tmp_path / "bays.json"), video, in_pixels=True)[0].in_pixels
    picture = ("--picture", tmp_path / "a.png", "--overwrite")
    code, out, _ = vpipe("probe", video, "--regions", tmp_path / "bays.json", "--px", *picture)
    assert (code, out.splitlines()[-1]) == (0, str(tmp_path / "a.png"))
    code, _, err = vpipe("probe", video, "--regions", tmp_path / "bays.json", *picture)  # of ten pictures
    assert (code, f"{tmp_path}/bays.json: 'a': " in err) == (2, True)
    code, _, err = vpipe("probe", video, "--regions", tmp_path / "wrong.yaml", *picture)
    assert (code, f"{tmp_path}/wrong.yaml: 'a': " in err) == (2, True)
    config = runs(tmp_path, f"{{path: {video}}}", "regions: {a: [0, 0, 1, 1]}")
    code, _, err = vpipe("probe", video, "--regions", config, "--px", *picture)
    assert (code, "must be a file of regions where --px is given" in err) == (2, True)
    code, _, err = vpipe("probe", video, "--regions", tmp_path / "none.yaml", *picture)
    assert (code, f"{tmp_path}/none.yaml" in err) == (2, True)


def test_probe_draws_regions_on_the_frame_as_players_show_it(tmp_path):
    turned = ODD / "h264-rotated-flag.mp4"
    config = runs(tmp_path, f"{{path: {turned}}}", "regions_px: {wide: [0, 0, 216, 9], low: [200, 380, 16, 4]}")
    command = ("probe", turned, "--regions", config, "--picture", tmp_path / "a.png")
    code, out, _ = vpipe(*command)
    assert (code, out.splitlines()[-1]) == (0, str(tmp_path / "a.png"))
    assert cv2.imread(str(tmp_path / "a.png")).shape == (384 * 4, 216 * 4, 3)
    code, _, err = vpipe(*command)
    assert (code, err) == (2, f"vpipe: {tmp_path}/a.png: must not exist yet; --overwrite replaces it\n")
    code, out, err = vpipe(*command, "--overwrite", "--json", "--at", "1.5")
    assert (code, out.count("\n"), err) == (0, 1, f"{tmp_path}/a.png\n")
    code, _, err = vpipe(*command, "--overwrite", "--at", "1000")
    assert (code, err) == (1, f"vpipe: {turned}: must hold a frame from 1000 s on, got none that can be decoded\n")


def test_probe_refuses_regions_that_it_cannot_draw(tmp_path):
    turned = ODD / "h264-rotated-flag.mp4"
    config = runs(tmp_path, f"{{path: {turned}}}", "regions_px: {a: [0, 0, 384, 216], b: [0, 0, 9, 9]}")
    command = ("probe", turned, "--picture", tmp_path / "a.png", "--regions")
    code, _, err = vpipe(*command, config)
    assert code == 2
    rule = "region 'a': must lie in the picture of 216x384, got [0, 0, 384, 216]; change it under regions_px"
    assert err == f"vpipe: {turned}: {rule}\n"
    code, _, err = vpipe(*command, runs(tmp_path, f"{{path: {turned}}}"))
    told = f"must have regions of {turned}, got none; describe them under `regions`"
    assert (code, err) == (2, f"vpipe: {config}: {told}\n")
    assert list(tmp_path.glob("*.png")) == []


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--regions", "c.yaml"], "--regions and --picture go together"),
        (["--picture", "a.png"], "--regions and --picture go together"),
        (["--at", "3"], "--at, --px and --overwrite go with --picture"),
        ([ODD / "one-frame.mp4", "--regions", "c.yaml", "--picture", "a.png"], "--picture shows one video, and 2 are"),
    ],
)
def test_options_of_the_picture_go_together(arguments, told):
    code, _, err = vpipe("probe", ODD / "h264-720p.mp4", *arguments)
    assert code == 2
    assert told in err
