"""Wide text: a row per frame, and every label in the column of its region."""

import csv
import json
from functools import partial

import pyarrow.dataset
import pytest

from pipeline.config import load_run_config
from pipeline.errors import ConfigError, SinkError
from pipeline.regions import columns_of
from pipeline.runner import run
from pipeline.sinks import text, wide
from tests.test_regions import BOXES, NAMES, configured
from tests.test_sinks import a_run_of_two_filters, texts

OF_FRAMES = ["source", "frame", "pts_s", "captured"]


def ran(folder, **options):
    """The wide rows of a run, in csv and as JSON lines."""
    sinks = ", ".join(f"{{type: {type}, path: wide.{type}, wide: true}}" for type in ("csv", "jsonl"))
    config = configured(folder, more=f"sinks: [{sinks}]\ndecode: {{segment_frames: 30}}", **options)
    outcome = run(config)
    assert outcome.exit_code == 0, outcome.error
    return read(folder)


def read(folder):
    with (folder / "wide.csv").open(newline="") as file:
        table = list(csv.reader(file))
    return table, [json.loads(line) for line in (folder / "wide.jsonl").read_text().splitlines()]


def labels_in(folder, name):
    """What the run's record says of a filter: the label by source, frame and region."""
    rows = pyarrow.dataset.dataset(folder / "run" / "frames" / name).to_table().to_pylist()
    return {(row["source"], row["frame"], row["region"]): row["label"] for row in rows}


def same(table, objects):
    """Whether both hold the same."""
    header, *rows = table
    told = [
        [
            o["source"],
            str(o["frame"]),
            f"{o['pts_s']:.6g}",
            o["captured"] or "",
            *(v or "" for v in o["labels"].values()),
        ]
        for o in objects
    ]
    got = [[row[0], row[1], f"{float(row[2]):.6g}", *row[3:]] for row in rows]
    return got == told and all([*OF_FRAMES, *o["labels"]] == header for o in objects)


def test_a_run_has_a_row_per_frame_and_a_column_for_each_region(tmp_path, monkeypatch):
    monkeypatch.setattr(text, "ROWS", 7)  # frames go on in the next piece of a part
    monkeypatch.setattr(wide, "CELLS", 25)
    filters = ["input: [24, 36], fold: 4, regions: ['bay-*']", "input: [40, 32], regions: [door-2, door-5, bay-1]"]
    table, objects = ran(tmp_path, filters=filters, frames=40)
    assert table[0] == [*OF_FRAMES, "bay-0", "m0.bay-1", "bay-3", "bay-4", "m1.bay-1", "door-2", "door-5"]
    assert [(o["source"], o["frame"]) for o in objects] == [("s0", n) for n in range(40)] + [
        ("s1", n) for n in range(33)
    ]
    assert same(table, objects)
    of = {name: labels_in(tmp_path, name) for name in ("m0", "m1")}
    assert len({label for labels in of.values() for label in labels.values()}) > 3
    for o in objects:
        at = o["source"], o["frame"]
        for column, label in o["labels"].items():
            filter, _, region = column.rpartition(".")
            assert label == of[filter or ("m0" if region.startswith("bay") else "m1")][*at, region]
    assert table[2][:4] == ["s0", "1", "0.04", ""]


def test_rows_that_keep_drops_leave_their_cells_empty(tmp_path):
    # Of each picture, b09 is set where its frame's number is odd, and b15 where the number of its region is.
    filters = ["input: [24, 36], keep: {b09: 0.5}", "input: [24, 36], regions: [bay-3], keep: {b15: 0.5}"]
    table, objects = ran(tmp_path, filters=filters, sources=1, frames=9)
    assert same(table, objects)
    by_frame = {o["frame"]: o["labels"] for o in objects}
    assert sorted(by_frame) == list(range(9))
    for frame, labels in by_frame.items():
        there = {name for name, label in labels.items() if label is not None}
        assert there == {"m1.bay-3"} | ({*NAMES, "m0.bay-3"} - {"bay-3"} if frame % 2 else set())


def test_sources_with_other_regions_share_the_columns(tmp_path):
    configured(tmp_path, filters=["input: [24, 36]"], frames=20)
    file = tmp_path / "run.yaml"
    x, y, w, h = BOXES[1]
    own = f"regions_px: {{odd: [{x}, {y}, {w}, {h}], bay-0: [3, 5, 61, 43]}}"
    sinks = "sinks: [{type: csv, path: wide.csv, wide: true}, {type: jsonl, path: wide.jsonl, wide: true}]"
    file.write_text(file.read_text().replace("name: s1}", f"name: s1, {own}}}") + sinks)
    assert run(load_run_config(file)).exit_code == 0
    table, objects = read(tmp_path)
    assert table[0] == [*OF_FRAMES, *NAMES, "odd"]
    assert same(table, objects)
    for o in objects:
        there = [name for name, label in o["labels"].items() if label is not None]
        assert there == (NAMES if o["source"] == "s0" else ["bay-0", "odd"])


def test_whole_frames_have_a_column_per_filter(tmp_path):
    a_run_of_two_filters(tmp_path)
    columns = columns_of({"person": (), "things": ()}, [(), ()])
    for type in ("csv", "jsonl"):
        sink = texts(tmp_path, type, tmp_path / f"wide.{type}", columns=columns)
        sink.finish()
        sink.close()
    table, objects = read(tmp_path)
    assert table[0] == [*OF_FRAMES, "person", "things"]
    assert same(table, objects)
    got = [(o["source"], o["frame"]) for o in objects]
    assert got == [("a", frame) for frame in range(8)] + [("b", frame) for frame in range(4)]
    assert {o["labels"]["person"] for o in objects} == {"person"}
    assert {o["labels"]["things"] for o in objects} == {None}  # an any_of model that finds no class


def test_standard_output_gets_wide_rows_at_each_commit_and_one_header(tmp_path, capfdbinary):
    a_run_of_two_filters(tmp_path)
    sink = texts(tmp_path, "csv", columns=columns_of({"person": (), "things": ()}, [()]))
    for end in [*text.committed(tmp_path, "a"), *text.committed(tmp_path, "b")]:
        sink.commit(end)
    sink.close()
    lines = capfdbinary.readouterr().out.decode().splitlines()
    assert lines[0] == '"source","frame","pts_s","captured","person","things"'
    assert len(lines) == 1 + 12
    assert lines[2].startswith('"a",1,0.04,,')


@pytest.mark.parametrize(
    ("filters", "sources", "names"),
    [
        ({"m": ()}, [("a", "b")], ["a", "b"]),
        ({"m": (), "n": ()}, [("a", "b"), ("c",)], ["m.a", "m.b", "m.c", "n.a", "n.b", "n.c"]),
        ({"m": ("a*",), "n": ("b", "a2")}, [("b", "a1", "a2")], ["a1", "m.a2", "b", "n.a2"]),
        ({"m": (), "n": ()}, [()], ["m", "n"]),
        ({"m": ()}, [("m", "frame"), ()], ["m.m", "m.frame", "m"]),
    ],
)
def test_columns_have_the_name_of_their_region_where_that_is_theirs_alone(filters, sources, names):
    assert list(columns_of(filters, sources).values()) == names


def test_two_columns_of_one_name_are_refused_before_the_run(tmp_path):
    configure = partial(configured, tmp_path, filters=["input: [24, 36]"], sources=1, frames=1)
    configure()
    file = tmp_path / "run.yaml"
    plain = "\n".join(
        line for line in file.read_text().splitlines() if not line.startswith(("regions_px", "  bay", "  door"))
    )
    file.write_text(plain.replace("name: m0", "name: frame") + "\nsinks: [{type: csv, path: '-', wide: true}]\n")
    told = r"run.yaml:\d+: sinks\.0\.wide: must give columns of different names, got 'frame' twice; rename the filter"
    with pytest.raises(ConfigError, match=told):
        load_run_config(file)


def test_a_region_that_the_configuration_does_not_know_is_named(tmp_path):
    a_run_of_two_filters(tmp_path)
    sink = texts(tmp_path, "csv", columns=columns_of({"person": (), "things": ()}, [("bay",)]))
    told = r"filter person: regions must stand in the configuration where a sink is wide, got none from a source"
    with pytest.raises(SinkError, match=told):
        sink.commit(next(text.committed(tmp_path, "a")))
