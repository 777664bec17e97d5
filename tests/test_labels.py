import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pipeline.errors import ConfigError
from pipeline.labels import answers, read_labels
from pipeline.regions import Region
from specialized.modelfile import Ask

HEADER = "frame,object_name,confidence,xmin,ymin,xmax,ymax,ind\n"
REQUIRED = "frame,object_name,confidence,xmin,ymin,xmax,ymax"
BEGINNING = f"{REQUIRED} or frame,region,label"
ROW = "3,person,0.9,0.1,0.2,0.3,0.4,7\n"


def labels(folder: Path, content: str | bytes) -> Path:
    path = folder / "clip.csv"
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def test_boxes_are_read_with_their_lines(tmp_path):
    boxes = read_labels(labels(tmp_path, HEADER + ROW + "\n" + "12,car,1,-0.1,0,1,1e-3,8\n"))
    assert boxes.place.tolist() == [":2", ":4"]
    assert boxes.told.tolist() == boxes.frame.tolist() == [3, 12]
    assert boxes.complete
    assert boxes.object_name.tolist() == ["person", "car"]
    assert boxes.confidence.tolist() == [0.9, 1.0]


def test_columns_may_stand_in_any_order_and_tracks_be_missing(tmp_path):
    text = '\ufeffconfidence, frame,object_name,ymax,ymin,xmax,xmin\r\n0.5,2,"traffic light",.4,.2,.3,.1\r\n'
    boxes = read_labels(labels(tmp_path, text))
    assert (boxes.frame.tolist(), boxes.object_name.tolist(), boxes.confidence.tolist()) == (
        [2],
        ["traffic light"],
        [0.5],
    )


def test_a_file_without_boxes_says_that_nothing_is_seen(tmp_path):
    boxes = read_labels(labels(tmp_path, HEADER))
    assert len(boxes) == 0
    assert answers(boxes, np.arange(3), [Ask(name="a", object="a")], "one_of").tolist() == [1, 1, 1]


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        ("", f":1: labels must begin with {BEGINNING}, got an empty file"),
        ("\n\n", f":1: labels must begin with {BEGINNING}, got an empty file"),
        (HEADER.replace("ymin,", ""), ":1: column 'ymin' must be there, got none"),
        (HEADER.replace("ind", "track"), f":1: columns must be {REQUIRED} and, if you like, ind, got 'track'"),
        ("\n" + ROW, f":2: labels must begin with {BEGINNING}, got {ROW.strip()!r}; add that line"),
        (
            HEADER.replace(",", ";") + ROW.replace(",", ";").replace(".", ","),
            f":1: labels must begin with {BEGINNING}, got {HEADER.strip().replace(',', ';')!r}; separate columns with "
            "commas",
        ),
        (HEADER.replace("ind", "frame"), ":1: columns must differ, got 'frame' twice"),
        (HEADER + ROW + ROW.replace("3,p", "-3,p"), ":3: frame must be a whole number from 0, got '-3'"),
        (HEADER + ROW.replace("3,p", "3.0,p"), ":2: frame must be a whole number from 0, got '3.0'"),
        (HEADER + ROW.replace("3,p", "9" * 19 + ",p"), f":2: frame must be a whole number from 0, got '{'9' * 19}'"),
        (HEADER + ROW.replace("person", " "), ":2: object_name must be a name of up to 200 characters, got ' '"),
        (
            HEADER + ROW.replace("person", "p" * 201),
            f":2: object_name must be a name of up to 200 characters, got {'p' * 80!r}",
        ),
        (HEADER + ROW.replace("0.9", "1.01"), ":2: confidence must be a number in 0..1, got '1.01'"),
        (HEADER + ROW.replace("0.9", "nan"), ":2: confidence must be a number in 0..1, got 'nan'"),
        (HEADER + ROW.replace("0.9", "-0.1"), ":2: confidence must be a number in 0..1, got '-0.1'"),
        (HEADER + ROW.replace("0.9", "high"), ":2: confidence must be a number in 0..1, got 'high'"),
        (
            HEADER + ROW.replace("0.1,0.2,0.3,0.4", "12,0.2,300,nan"),
            ":2: xmin, xmax, ymax must be fractions of the frame, got '12', '300', 'nan'; divide pixels by its width "
            "and height",
        ),
        (HEADER + ROW.replace("0.4", "0.15"), ":2: ymax must be ymin or more, got '0.15' under '0.2'"),
        (HEADER + ROW.replace(",7", ""), ":2: a row must have 8 fields as the first line has, got 7"),
        (HEADER + ROW + '3,"person,0.9', ":3: labels must be CSV, got: unexpected end of data"),
        (HEADER.encode("utf-16"), ": labels must be UTF-8 text, got UTF-16; save them anew as UTF-8"),
        (HEADER.encode() + b"3,per\0son", ":2: labels must be text, got a NUL byte; is it another file?"),
        (HEADER.encode() + b"\n3,\xff", ":3: labels must be UTF-8 text, got byte 0xff"),
    ],
)
def test_what_is_wrong_is_named_with_its_line(tmp_path, content, problem):
    path = labels(tmp_path, content)
    with pytest.raises(ConfigError) as caught:
        read_labels(path)
    assert caught.value.problems == (f"{path}{problem}",)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(ConfigError, match=r"gone\.csv: labels must be a readable file, got: No such file"):
        read_labels(tmp_path / "gone.csv")


def test_all_problems_are_told_line_by_line_whatever_their_kind(tmp_path):
    rows = [ROW.replace("0.9", "2"), ROW.replace("person", ""), "3,person\n", ROW.replace("3,p", "x,p"), '5,"car']
    path = labels(tmp_path, HEADER + "".join(rows) + ROW)
    with pytest.raises(ConfigError) as caught:
        read_labels(path)
    told = [problem.removeprefix(f"{path}:").partition(" must")[0] for problem in caught.value.problems]
    assert told == ["2: confidence", "3: object_name", "4: a row", "5: frame", "6: labels"]


def test_many_problems_are_told_at_once_up_to_a_limit(tmp_path):
    path = labels(tmp_path, HEADER + ROW.replace("0.9", "2").replace("person", "") * 8)
    with pytest.raises(ConfigError) as caught:
        read_labels(path)
    assert len(caught.value.problems) == 11
    assert caught.value.problems[-1] == f"{path}: and 6 more"


SEEN = """\
5,car,0.9,0,0,1,1
1,person,0.9,0,0,1,1
1,car,0.9,0,0,1,1
2,car,0.9,0,0,1,1
2,car,0.3,0,0,1,1
3,dog,0.9,0,0,1,1
"""
ASKS = [
    Ask(name="somebody", object="person"),
    Ask(name="traffic", object="car", at_least=2),
    Ask(name="car", object="car", min_confidence=0.5),
]


def test_one_of_takes_the_first_class_that_holds_else_none(tmp_path):
    boxes = read_labels(labels(tmp_path, HEADER.replace(",ind", "") + SEEN))
    found = answers(boxes, np.arange(7), ASKS, "one_of")
    assert found.dtype == np.int64
    assert found.tolist() == [3, 0, 1, 3, 3, 2, 3]


def test_any_of_answers_each_class_for_itself(tmp_path):
    boxes = read_labels(labels(tmp_path, HEADER.replace(",ind", "") + SEEN))
    found = answers(boxes, np.array([5, 2, 1, 100]), ASKS, "any_of")
    assert found.dtype == np.float32
    assert found.tolist() == [[0, 0, 1], [0, 1, 1], [1, 0, 1], [0, 0, 0]]


def test_a_box_below_the_confidence_does_not_count(tmp_path):
    boxes = read_labels(labels(tmp_path, HEADER.replace(",ind", "") + SEEN))
    ask = Ask(name="two", object="car", at_least=2, min_confidence=0.5)
    assert answers(boxes, np.arange(3), [ask], "any_of").ravel().tolist() == [0, 0, 0]


# ------------------------------------------------------------------------------------------------- COCO JSON

COCO = {
    "info": {"year": 2026},
    "categories": [{"id": 3, "name": "car"}, {"id": 1, "name": "person", "supercategory": "being"}],
    "images": [
        {"id": 50, "file_name": "cam2/frame_000007.png", "width": 96, "height": 80},
        {"id": 40, "file_name": "a.png", "frame_id": 2},
        {"id": 60, "file_name": "b.png", "frame_number": 4},
    ],
    "annotations": [
        {"id": 1, "image_id": 50, "category_id": 1, "bbox": [1, 2, 3, 4], "score": 0.25},
        {"id": 2, "image_id": 40, "category_id": 3, "iscrowd": 1, "score": None},
        {"id": 3, "image_id": 50, "category_id": 3, "ignore": 1},
    ],
}


def coco(folder: Path, *changes: tuple[str, object], name: str = "clip.json") -> Path:
    """COCO with other values at dotted keys."""
    document = json.loads(json.dumps(COCO))
    for keys, value in changes:
        *above, last = (int(key) if key.isdecimal() else key for key in keys.split("."))
        inner = document
        for key in above:
            inner = inner[key]
        inner[last] = value
    path = folder / name
    path.write_text(json.dumps(document), encoding="utf-8")
    return path


@pytest.mark.parametrize("name", ["clip.json", "clip.JSON", "instances"])
def test_coco_gives_the_same_boxes_as_a_table_does(tmp_path, name):
    boxes = read_labels(coco(tmp_path, name=name))
    assert boxes.frame.tolist() == [7, 2]
    assert boxes.object_name.tolist() == ["person", "car"]
    assert boxes.confidence.tolist() == [0.25, 1.0]
    assert (boxes.told.tolist(), boxes.place.tolist()) == ([7, 2, 4], [": images[0]", ": images[1]", ": images[2]"])
    assert not boxes.complete
    asks = [Ask(name="traffic", object="car")]
    assert answers(boxes, np.array([2, 4, 7]), asks, "one_of").tolist() == [0, 1, 1]


@pytest.mark.parametrize(
    ("image", "frame"),
    [
        ({"file_name": "lobby_1080p_000012.jpg"}, 12),
        ({"file_name": "000012"}, 12),
        ({"file_name": "C:\\clips\\07\\f3.jpeg"}, 3),
        ({"file_name": "frame_0012_jpg.rf.9a8b7c6d5e4f3a2b1c0d9e8f7a6b5c4d.jpg"}, 12),
        ({"file_name": "f3.jpg", "frame": 0}, 0),
        ({"frame_id": 8, "frame_number": 9}, 8),
        ({"frame_id": None, "file_name": "5.png"}, 5),
    ],
)
def test_the_frame_of_an_image_is_a_key_of_its_own_or_the_last_number_in_its_name(tmp_path, image, frame):
    path = coco(tmp_path, ("images", [{"id": 1, **image}]), ("annotations", []))
    assert read_labels(path).told.tolist() == [frame]


@pytest.mark.parametrize(
    ("key", "value", "problem"),
    [
        ("images", None, ": images: must be a list, got nothing"),
        ("images", [], ": images: must hold those of the annotations, got an empty list"),
        ("categories", [], ": categories: must hold those of the annotations, got an empty list"),
        ("annotations", {}, ": annotations: must be a list, got an empty mapping"),
        ("categories.0", "car", ": categories[0]: must be an object, got 'car'"),
        ("categories.1.id", 3, ": categories[1].id: must be unique, got 3"),
        ("categories.1.id", True, ": categories[1].id: must be a whole number, got true"),
        ("categories.1.name", "", ": categories[1].name: must be a name of up to 200 characters, got ''"),
        ("images.2.id", 40, ": images[2].id: must be unique, got 40"),
        ("images.2.frame_number", 2.0, ": images[2].frame_number: must be a whole number from 0, got 2.0"),
        ("images.2.frame_number", -2, ": images[2].frame_number: must be a whole number from 0, got -2"),
        ("images.2.frame_number", 10**18, f": images[2].frame_number: must be a whole number from 0, got {10**18}"),
        (
            "images.2.frame_number",
            2,
            ": images[2]: must be of another frame than images[1] (each clip needs a file of its own), got 2",
        ),
        (
            "images.0.file_name",
            "first.png",
            ": images[0].file_name: must be a name with the number of the frame in it, where no frame_id says it, "
            "got 'first.png'",
        ),
        ("annotations.1", [], ": annotations[1]: must be an object, got an empty list"),
        ("annotations.1.image_id", 41, ": annotations[1].image_id: must be the id of one image, got 41"),
        ("annotations.1.image_id", [40], ": annotations[1].image_id: must be the id of one image, got a list of 1"),
        ("annotations.1.category_id", 2, ": annotations[1].category_id: must be the id of one category, got 2"),
        ("annotations.1.score", 1.5, ": annotations[1].score: must be a number in 0..1, got 1.5"),
        ("annotations.1.score", float("nan"), ": annotations[1].score: must be a number in 0..1, got nan"),
        ("annotations.1.score", "1", ": annotations[1].score: must be a number in 0..1, got '1'"),
        ("annotations.1.ignore", "no", ": annotations[1].ignore: must be 0 or 1, got 'no'"),
    ],
)
def test_what_is_wrong_in_coco_is_named_with_its_place(tmp_path, key, value, problem):
    path = coco(tmp_path, (key, value))
    with pytest.raises(ConfigError) as caught:
        read_labels(path)
    assert caught.value.problems == (f"{path}{problem}",)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", ":1:1: labels must be JSON, got: Expecting value"),
        ('{"images": [],\n "categories": [1 2]}', ":2:19: labels must be JSON, got: Expecting ',' delimiter"),
        ("[1, 2]", ": labels must be COCO JSON, an object with categories, images, annotations, got a list of 2"),
        ("[" * 100_000, ": labels must be JSON of a sane shape, got: maximum recursion depth exceeded"),
        ('{"images": ' + "9" * 5000 + "}", ": labels must be JSON of a sane shape, got: Exceeds the limit"),
    ],
)
def test_what_is_not_coco_is_refused_with_line_and_column(tmp_path, text, problem):
    path = tmp_path / "clip.json"
    path.write_text(text)
    with pytest.raises(ConfigError) as caught:
        read_labels(path)
    (line,) = caught.value.problems
    assert line.startswith(f"{path}{problem}")


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=9),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["id", "name", "frame"]), inner),
    max_leaves=5,
)
KEYS = [
    *("images", "annotations", "categories", "images.0", "images.1.id", "images.0.file_name", "images.1.frame_id"),
    *("annotations.0.image_id", "annotations.0.category_id", "annotations.1.score", "annotations.2.ignore"),
    *("categories.0", "categories.0.id", "categories.1.name"),
]


@settings(max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.tuples(st.sampled_from(KEYS), JSON), max_size=1))
def test_a_hostile_document_is_read_or_refused_in_single_lines(tmp_path, changes):
    path = coco(tmp_path, *changes)
    try:
        boxes, problems = read_labels(path), ()
    except ConfigError as exc:
        boxes, problems = None, exc.problems
    assert all(problem.startswith(f"{path}: ") and len(problem.splitlines()) == 1 for problem in problems)
    if boxes is not None:
        assert np.isin(boxes.frame, boxes.told).all()
        assert ((boxes.confidence >= 0) & (boxes.confidence <= 1)).all()


@settings(max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.binary(max_size=60), st.sampled_from(["clip.json", "clip.csv"]))
def test_any_bytes_are_refused_in_lines_that_name_the_file(tmp_path, content, name):
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(ConfigError) as caught:
        read_labels(path)
    assert all(problem.startswith(f"{path}:") and len(problem.splitlines()) == 1 for problem in caught.value.problems)


REGIONS = (
    Region("left", 0.0, 0.0, 0.5, 1.0),
    Region("px", 60, 0, 40, 50, in_pixels=True),
    Region("corner", 0.5, 0.5, 0.5, 0.5, polygon=((0.5, 1.0), (1.0, 1.0), (1.0, 0.5))),
)


def test_a_box_counts_in_the_regions_that_hold_its_centre_or_enough_of_its_area(tmp_path):
    rows = [
        "0,car,1,0.1,0.1,0.3,0.3",  # left
        "1,car,1,0.4,0.0,0.7,0.4",  # its centre is in none; a third of it in left, a third in px
        "2,car,1,0.9,0.9,0.98,0.98",  # corner
        "3,car,1,0.52,0.52,0.62,0.62",  # in the rectangle around corner alone
        "4,cat,1,0.1,0.1,0.2,0.2",
    ]
    boxes = read_labels(labels(tmp_path, REQUIRED + "\n" + "\n".join(rows)))
    asks = [Ask(name="car", object="car")]
    where = {"regions": REGIONS, "size": (100, 100)}
    found = answers(boxes, np.arange(5), asks, "any_of", **where).reshape(5, 3)
    assert found.tolist() == [[1, 0, 0], [0, 0, 0], [0, 0, 1], [0, 0, 0], [0, 0, 0]]
    found = answers(boxes, np.arange(5), asks, "any_of", **where, inside=0.33).reshape(5, 3)
    assert found.tolist() == [[1, 0, 0], [1, 1, 0], [0, 0, 1], [0, 0, 0], [0, 0, 0]]
    of_frames = answers(boxes, np.arange(5), asks, "one_of")
    assert of_frames.tolist() == [0, 0, 0, 0, 1]
    one_of = answers(boxes, np.arange(5), asks, "one_of", **where)
    assert one_of.reshape(5, 3).tolist() == [[0, 1, 1], [1, 1, 1], [1, 1, 0], [1, 1, 1], [1, 1, 1]]


def test_a_share_of_a_box_is_counted_within_the_polygon(tmp_path):
    gate = Region("gate", 0.0, 0.0, 1.0, 0.5, polygon=((0.0, 0.0), (1.0, 0.0), (0.0, 0.5)))
    rows = ["0,car,1,0.8,0.38,0.95,0.48", "1,car,1,0.1,0.1,0.2,0.2", "2,car,1,0,0,1,0.5"]
    boxes = read_labels(labels(tmp_path, REQUIRED + "\n" + "\n".join(rows)))
    asks = [Ask(name="car", object="car")]
    found = answers(boxes, np.arange(3), asks, "any_of", regions=[gate], inside=0.45)
    assert found.ravel().tolist() == [0, 1, 1]


def test_labels_may_be_given_by_region(tmp_path):
    text = "region,frame,label\nleft,0,car\npx,0,\nleft,1,cat\npx,1,car\n"
    boxes = read_labels(labels(tmp_path, text))
    assert not boxes.complete
    asks = [Ask(name="car", object="car"), Ask(name="cat", object="cat")]
    found = answers(boxes, np.arange(2), asks, "one_of", regions=REGIONS[:2])
    assert found.reshape(2, 2).tolist() == [[0, 2], [1, 0]]


def test_labels_by_region_that_are_none_are_named_with_their_line(tmp_path):
    text = "frame,region,label\n-1,left,car\n0,,car\n0,left\n"
    with pytest.raises(ConfigError) as caught:
        read_labels(labels(tmp_path, text))
    assert [problem.partition("clip.csv")[2] for problem in caught.value.problems] == [
        ":2: frame must be a whole number from 0, got '-1'",
        ":3: region must be a name of up to 200 characters, got ''",
        ":4: a row must have 3 fields as the first line has, got 2",
    ]


def test_coco_says_where_boxes_are(tmp_path):
    document = {
        "categories": [{"id": 1, "name": "car"}],
        "images": [{"id": 5, "frame_id": 0, "width": 200, "height": 100}],
        "annotations": [{"image_id": 5, "category_id": 1, "bbox": [20, 10, 40, 20]}],
    }
    path = tmp_path / "clip.json"
    path.write_text(json.dumps(document))
    assert read_labels(path).corners.tolist() == [[0.1, 0.1, 0.3, 0.3]]
    document["images"][0]["width"] = 10**400
    path.write_text(json.dumps(document))
    assert np.isnan(read_labels(path).corners).all()
    del document["images"][0]["width"]
    path.write_text(json.dumps(document))
    assert np.isnan(read_labels(path).corners).all()


@pytest.mark.parametrize("box", [[20, 10, 1e308, 1e308], [0, 0, float("inf"), 1]])
def test_corners_that_are_out_of_range_are_unknown(tmp_path, box):
    path = tmp_path / "clip.json"
    document = {
        "images": [{"id": 5, "frame_id": 0, "width": 0.5, "height": 100}],
        "categories": [{"id": 1, "name": "car"}],
        "annotations": [{"image_id": 5, "category_id": 1, "bbox": box}],
    }
    path.write_text(json.dumps(document))
    assert np.isnan(read_labels(path).corners).all()
