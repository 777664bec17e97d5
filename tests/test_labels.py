from pathlib import Path

import numpy as np
import pytest

from pipeline.errors import ConfigError
from pipeline.labels import answers, read_labels
from specialized.modelfile import Ask

HEADER = "frame,object_name,confidence,xmin,ymin,xmax,ymax,ind\n"
ROW = "3,person,0.9,0.1,0.2,0.3,0.4,7\n"


def labels(folder: Path, content: str | bytes) -> Path:
    path = folder / "clip.csv"
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def test_boxes_are_read_with_their_lines(tmp_path):
    boxes = read_labels(labels(tmp_path, HEADER + ROW + "\n" + "12,car,1,-0.1,0,1,1e-3,8\n"))
    assert boxes.line.tolist() == [2, 4]
    assert boxes.frame.tolist() == [3, 12]
    assert boxes.object_name.tolist() == ["person", "car"]
    assert boxes.confidence.tolist() == [0.9, 1.0]


def test_columns_may_stand_in_any_order_and_tracks_be_missing(tmp_path):
    text = '\ufeffconfidence, frame,object_name,ymax,ymin,xmax,xmin\r\n0.5,2,"traffic light",4,2,3,1\r\n'
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
        ("", ": labels must begin with frame,object_name,confidence,xmin,ymin,xmax,ymax, got an empty file"),
        ("\n\n", ": labels must begin with frame,object_name,confidence,xmin,ymin,xmax,ymax, got an empty file"),
        (HEADER.replace("ymin,", ""), ":1: column 'ymin' must be there, got none"),
        (HEADER.replace("ind", "track"), f":1: columns must be {HEADER.strip()}, got 'track'"),
        (HEADER.replace("ind", "frame"), ":1: columns must differ, got 'frame' twice"),
        (HEADER + ROW + ROW.replace("3,p", "-3,p"), ":3: frame must be a whole number from 0, got '-3'"),
        (HEADER + ROW.replace("3,p", "3.0,p"), ":2: frame must be a whole number from 0, got '3.0'"),
        (HEADER + ROW.replace("3,p", "9" * 19 + ",p"), f":2: frame must be a whole number from 0, got '{'9' * 19}'"),
        (HEADER + ROW.replace("person", " "), ":2: object_name must be a name, got ' '"),
        (HEADER + ROW.replace("0.9", "1.01"), ":2: confidence must be a number in 0..1, got '1.01'"),
        (HEADER + ROW.replace("0.9", "nan"), ":2: confidence must be a number in 0..1, got 'nan'"),
        (HEADER + ROW.replace("0.9", "-0.1"), ":2: confidence must be a number in 0..1, got '-0.1'"),
        (HEADER + ROW.replace("0.9", "high"), ":2: confidence must be a number in 0..1, got 'high'"),
        (HEADER + ROW.replace(",7", ""), ":2: a row must have 8 fields as line 1 has, got 7"),
        (HEADER + ROW + '3,"person,0.9', ":3: labels must be CSV, got: unexpected end of data"),
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
