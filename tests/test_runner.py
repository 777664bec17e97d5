"""Whole runs: from files to committed parts."""

import json
import logging
import re
import shutil
import threading
from pathlib import Path

import numpy as np
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from ruamel.yaml import YAML

from pipeline import runner as runs
from pipeline.cli import main
from pipeline.config import load_run_config
from pipeline.contracts import Watcher
from pipeline.errors import ConfigError, Interrupted, ModelError
from pipeline.sinks.parts import committed
from pipeline.threads import Stop, stuck_threads
from specialized.orders import ORDERS
from tests.clips import KINDS, clip, write_clip
from tests.models import BITS, numbers

FRAMES = 60
READER = {
    "model": "tests.models:NumberReader",
    "input": [24, 36],
    "classes": BITS,
    "task": "any_of",
    "mean": [0, 0, 0],
    "std": [1, 1, 1],
    "dtype": "float32",
    "device": "cpu",
}


def configured(folder, sources, *, f=1, order="consecutive", batch=16, filters=("reader",), **sections):
    """Writes and loads the configuration of a run in `folder`."""
    content = {
        "run": {"name": "r", "dir": str(folder / "runs"), "torch_threads": 1},
        "sources": sources,
        "decode": {"segment_frames": 1, "workers": 2} | sections.pop("decode", {}),
        "filters": [READER | {"name": name, "fold": f, "order": order, "batch": batch} for name in filters],
    } | sections
    path = folder / "run.yaml"
    with path.open("w") as file:
        YAML(typ="safe").dump(content, file)
    return load_run_config(path)


def of_model(config, model, **keys):
    """The same configuration with another model in its filter."""
    data = YAML(typ="safe").load(config.path)
    data["filters"][0] |= {"model": model, **keys}
    with config.path.open("w") as file:
        YAML(typ="safe").dump(data, file)
    return load_run_config(config.path)


def rows(folder, filter="reader"):
    """(source, frame) -> (number, source number) read off the picture that the row's scores came from."""
    table = ds.dataset(folder.frames / filter).to_table()
    scores = np.array(table["scores"].combine_chunks().flatten()).reshape(len(table), len(BITS))
    shown, source = numbers(scores)
    keys = zip(table["source"].to_pylist(), table["frame"].to_pylist(), strict=True)
    return dict(zip(keys, zip(shown.tolist(), source.tolist(), strict=True), strict=True)), table


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    f=st.integers(1, 8),
    order=st.sampled_from(ORDERS),
    batch=st.integers(1, 40),
    workers=st.integers(1, 4),
    kinds=st.lists(st.sampled_from(sorted(KINDS)), min_size=1, max_size=4),
    lengths=st.lists(st.integers(1, FRAMES), min_size=4, max_size=4),
    filters=st.integers(1, 2),
    segment_frames=st.sampled_from([1, 20, 4096]),
)
def test_no_label_ever_moves(tmp_path_factory, f, order, batch, workers, kinds, lengths, filters, segment_frames):
    tmp_path = tmp_path_factory.mktemp("run")
    sources = [{"name": f"s{k}", "path": str(clip(kind, FRAMES, source=k))} for k, kind in enumerate(kinds)]
    names = [f"reader{k}" for k in range(filters)]
    config = configured(
        tmp_path,
        [source | ({"to": lengths[k] / 25} if k % 2 else {}) for k, source in enumerate(sources)],
        f=f,
        order=order,
        batch=batch,
        filters=names,
        decode={"workers": workers, "segment_frames": segment_frames},
    )
    outcome = runs.run(config)
    assert outcome.exit_code == 0
    assert outcome.summary["problems"] == []
    counts = outcome.summary["frames"]
    assert counts["indexed"] == FRAMES * len(kinds)
    assert counts["labelled"] == counts["decoded"] == counts["written"] == counts["indexed"] - counts["skipped"]
    for name in names:
        labels, table = rows(outcome.folder, name)
        assert len(labels) == len(table) == counts["written"]
        for (source, frame), shown in labels.items():
            assert shown == (frame, int(source[1:]))
    shutil.rmtree(tmp_path)


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("f", range(1, 9))
def test_no_label_moves_at_any_fold_and_order(tmp_path, f, order):
    kinds = ["h264-bframes-opengop.mp4", "hevc-bframes.mp4", "vp9.webm", "mjpeg.avi", "h264-variable-rate.mkv"]
    sources = [{"name": f"s{k}", "path": str(clip(kind, FRAMES, source=k))} for k, kind in enumerate(kinds)]
    outcome = runs.run(configured(tmp_path, sources, f=f, order=order))
    labels, _ = rows(outcome.folder)
    assert labels == {(f"s{k}", n): (n, k) for k in range(len(kinds)) for n in range(FRAMES)}
    assert outcome.exit_code == 0


def test_the_parts_are_the_same_from_any_number_of_workers(tmp_path):
    sources = [{"name": kind, "path": str(clip(kind, FRAMES))} for kind in ("h264-closed.mp4", "vp9.webm")]
    tables = []
    for workers in (1, 2, 5):
        folder = tmp_path / str(workers)
        folder.mkdir()
        outcome = runs.run(configured(folder, sources, f=3, decode={"workers": workers}))
        parts = sorted(path.relative_to(outcome.folder.path) for path in outcome.folder.frames.rglob("*.parquet"))
        assert len(parts) > 6
        tables.append([(part, ds.dataset(outcome.folder.path / part).to_table()) for part in parts])
    assert tables[0] == tables[1] == tables[2]


def test_skipped_frames_are_counted_and_the_ledger_adds_up(tmp_path):
    path = str(clip("h264-closed.mp4", FRAMES))
    config = configured(tmp_path, [{"path": path, "every": 3, "from": 0.5, "to": "0:02"}], f=4)
    outcome = runs.run(config)
    labels, _ = rows(outcome.folder)
    expected = [n for n in range(0, FRAMES, 3) if 12.5 <= n < 50]
    assert sorted(frame for _, frame in labels) == expected
    assert outcome.summary["frames"]["skipped"] == FRAMES - len(expected)
    ledger = json.loads(outcome.folder.ledger.read_text())
    assert ledger["problems"] == []
    assert ledger["counts"] == outcome.summary["frames"]


def test_keep_passes_only_what_reaches_its_threshold(tmp_path):
    config = configured(tmp_path, [{"path": str(clip("h264-closed.mp4", FRAMES))}])
    data = YAML(typ="safe").load(config.path)
    data["filters"][0]["keep"] = {BITS[15]: 0.5}  # the lowest bit of the number: odd frames
    with config.path.open("w") as file:
        YAML(typ="safe").dump(data, file)
    outcome = runs.run(load_run_config(config.path))
    labels, _ = rows(outcome.folder)
    assert sorted(frame for _, frame in labels) == list(range(1, FRAMES, 2))
    assert (outcome.summary["frames"]["written"], outcome.summary["frames"]["filtered"]) == (30, 30)


def test_nothing_to_label_is_a_failure(tmp_path):
    outcome = runs.run(configured(tmp_path, [{"path": str(Path("tests/data/odd/empty.mp4").absolute())}]))
    assert outcome.exit_code == 1


def test_a_run_folder_that_is_there_is_refused_with_the_three_ways_on(tmp_path):
    config = configured(tmp_path, [{"path": str(clip("h264-closed.mp4", FRAMES))}])
    assert runs.run(config).exit_code == 0
    with pytest.raises(ConfigError, match=r"--resume.*--overwrite.*--name"):
        runs.run(config)
    assert runs.run(config, mode="overwrite").exit_code == 0


class StopsAfter(Watcher):
    """A watcher that stops the run after a number of commits."""

    def __init__(self, stop, commits):
        self.stop, self.left = stop, commits

    def committed(self, end):
        self.left -= 1
        if self.left == 0:
            self.stop.set()


@pytest.mark.parametrize("order", ["consecutive", "streams"])
def test_an_interrupted_run_goes_on_where_it_stopped(tmp_path, order):
    sources = [{"name": f"s{k}", "path": str(clip("h264-closed.mp4", FRAMES, source=k))} for k in range(4)]
    config = configured(tmp_path, sources, f=2, order=order)
    stop = Stop()
    first = runs.run(config, stop=stop, watcher=StopsAfter(stop, 2))
    assert (first.state, first.exit_code) == ("interrupted", 130)
    kept = {path: path.stat().st_ino for path in first.folder.frames.rglob("*.parquet")}
    assert kept
    second = runs.run(config, mode="resume")
    assert second.exit_code == 0
    labels, _ = rows(second.folder)
    assert labels == {(f"s{k}", n): (n, k) for k in range(4) for n in range(FRAMES)}
    if order == "consecutive":
        assert all(path.stat().st_ino == inode for path, inode in kept.items())


def test_a_part_that_the_disk_did_not_keep_is_labelled_anew_and_leftovers_go(tmp_path, caplog):
    sources = [{"name": "s", "path": str(clip("h264-closed.mp4", FRAMES))}]
    config = configured(tmp_path, sources, f=2, filters=("one", "two"))
    first = runs.run(config)
    one, two, three = sorted((first.folder.frames / "one" / "s").iterdir())[:3]
    kept = {
        path: path.stat().st_ino for path in first.folder.frames.rglob("*.parquet") if path not in (one, two, three)
    }
    one.write_bytes(b"")
    two.write_bytes(two.read_bytes()[:-20])
    fewer = pq.read_table(three).slice(1)
    pq.write_table(fewer, three)
    end = pq.read_metadata(first.folder.frames / "two" / "s" / three.name).metadata
    with pq.ParquetWriter(three, fewer.schema) as writer:
        writer.write_table(fewer)
        writer.add_key_value_metadata({"vpipe.end": end[b"vpipe.end"].decode()})
    leftover = one.with_name(f".{one.name}.tmp")
    leftover.write_bytes(b"torn")
    second = runs.run(config, mode="resume")
    assert second.exit_code == 0
    assert second.summary["problems"] == []
    assert caplog.text.count("it is removed, and its segment is labelled anew") == 3
    assert not leftover.exists()
    for name in ("one", "two"):
        labels, _ = rows(second.folder, name)
        assert labels == {("s", n): (n, 0) for n in range(FRAMES)}
    redone = {path.name for path in (one, two, three)}
    assert all(path.stat().st_ino == inode for path, inode in kept.items() if path.name not in redone)


def test_a_run_that_is_to_resume_begins_or_goes_on(tmp_path):
    path = str(clip("h264-closed.mp4", FRAMES))
    config = configured(tmp_path, [{"path": path}], run={"name": "r", "dir": str(tmp_path / "runs"), "resume": True})
    stop = Stop()
    assert runs.run(config, stop=stop, watcher=StopsAfter(stop, 2)).exit_code == 130
    outcome = runs.run(config)
    assert (outcome.exit_code, outcome.summary["frames"]["labelled"]) == (0, FRAMES)


def test_a_second_run_in_the_same_folder_is_refused_and_changes_nothing(tmp_path):
    config = configured(tmp_path, [{"path": str(clip("h264-closed.mp4", FRAMES))}])

    refused = []

    class Second(Watcher):
        def committed(self, end):
            for mode in ("resume", "overwrite"):
                with pytest.raises(ConfigError, match="must be of one run at a time"):
                    runs.run(config, mode=mode)
                refused.append(mode)

    outcome = runs.run(config, watcher=Second())
    assert outcome.exit_code == 0
    assert refused
    assert len(rows(outcome.folder)[0]) == FRAMES


def test_resuming_another_run_is_refused_with_what_changed(tmp_path):
    path = str(clip("h264-closed.mp4", FRAMES))
    runs.run(configured(tmp_path, [{"path": path}], f=2))
    with pytest.raises(ConfigError, match="fold"):
        runs.run(configured(tmp_path, [{"path": path}], f=4), mode="resume")


@pytest.mark.parametrize("order", ORDERS)
def test_labels_of_keyframes_sit_on_their_frames_and_the_rest_is_skipped(tmp_path, order):
    kinds = ["h264-bframes-opengop.mp4", "hevc.mkv", "h264-bframes.avi"]  # a keyframe in twelve
    sources = [{"name": f"s{k}", "path": str(clip(kind, FRAMES, source=k))} for k, kind in enumerate(kinds)]
    outcome = runs.run(configured(tmp_path, sources, f=2, order=order, decode={"frames": "key"}))
    assert outcome.exit_code == 0
    labels, _ = rows(outcome.folder)
    assert labels == {(f"s{k}", n): (n, k) for k in range(3) for n in range(0, FRAMES, 12)}
    ledger = json.loads((outcome.folder.path / "ledger.json").read_text())
    assert ledger["problems"] == []
    for source in ledger["sources"].values():
        counts = source["counts"]
        assert (counts["indexed"], counts["skipped"], counts["labelled"]) == (
            FRAMES,
            FRAMES - FRAMES // 12,
            FRAMES // 12,
        )


def test_a_run_of_other_frames_is_another_run(tmp_path):
    sources = [{"name": "s0", "path": str(clip("h264-closed.mp4", FRAMES))}]
    runs.run(configured(tmp_path, sources, decode={"frames": "key"}))
    with pytest.raises(ConfigError, match=r"s0\.selection\.frames: must be 'key' as in the run to resume, got 'all'"):
        runs.run(configured(tmp_path, sources), mode="resume")


def test_a_run_without_the_loop_filter_is_another_run(tmp_path):
    sources = [{"path": str(clip("h264-closed.mp4", FRAMES))}]
    runs.run(configured(tmp_path, sources))
    with pytest.raises(ConfigError, match=r"decode\.fast: must be False as in the run to resume, got True"):
        runs.run(configured(tmp_path, sources, decode={"fast": True}), mode="resume")


def test_a_model_that_fails_breaks_the_run_and_keeps_what_is_committed(tmp_path):
    config = configured(tmp_path, [{"path": str(clip("h264-closed.mp4", FRAMES))}])
    outcome = runs.run(of_model(config, "tests.models:Broken"))
    assert outcome.exit_code == 1
    assert "out of paper" in outcome.error
    assert stuck_threads() == []
    assert not [thread for thread in threading.enumerate() if thread.name.startswith(("decode", "telemetry"))]


def test_a_model_that_ends_the_program_when_it_is_tried_is_refused(tmp_path):
    config = configured(tmp_path, [{"path": str(clip("h264-closed.mp4", FRAMES))}])
    with pytest.raises(ModelError, match="SystemExit: 0"):
        runs.run(of_model(config, "tests.models:Leaving"))


def test_a_source_that_ends_the_program_costs_itself_alone(tmp_path):
    files = [{"path": str(clip("h264-closed.mp4", FRAMES)), "name": "file"}, {"type": "tests.models:LeavingSource"}]
    outcome = runs.run(configured(tmp_path, files))
    assert (outcome.exit_code, outcome.summary["sources"]["mine"]["error"]) == (3, "SystemExit: 0")
    assert outcome.summary["sources"]["file"]["labelled"] == FRAMES


@pytest.mark.parametrize("how", ["raise", "nan", "shape", "exit", "none", "complex"])
def test_a_model_that_fails_now_and_then_costs_those_frames_alone_which_are_named(tmp_path, how):
    config = configured(tmp_path, [{"path": str(clip("h264-closed.mp4", FRAMES))}], f=2, batch=4)
    outcome = runs.run(of_model(config, "tests.models:Moody", args={"how": how, "every": 7}))
    assert (outcome.state, outcome.exit_code) == ("partial", 3)
    lost = [
        lost
        for source in json.loads(outcome.folder.ledger.read_text())["sources"].values()
        for part in source["segments"]
        for lost in part["lost"]
    ]
    failed = {n for one in lost for n in range(one["first"], one["last"] + 1)}
    assert {one["why"] for one in lost} == {"failed"}
    assert 0 < len(failed) <= 4 * (FRAMES // 4 // 7 + 1)
    shown, _ = rows(outcome.folder)
    assert {frame: number for (_, frame), (number, _) in shown.items()} == {n: n for n in set(range(FRAMES)) - failed}
    (source,) = outcome.summary["sources"].values()
    assert source["failed"] == len(failed)
    assert source["error"].startswith("filter reader: ")
    assert outcome.summary["problems"] == []


def test_a_step_far_from_the_trained_one_is_a_loud_warning(tmp_path, caplog):
    import torch

    from specialized.modelfile import ModelCard, save_model
    from specialized.models import build

    card = ModelCard(
        architecture="coral", fold=2, order="consecutive", input=(50, 50), classes=("a", "none"), step_s=0.1
    )
    torch.manual_seed(0)
    module = build("coral", args={}, classes=2, fold=2, input=(50, 50))
    save_model(tmp_path / "m.safetensors", card, module.state_dict())
    path = write_clip(tmp_path / "slow.mp4", range(20), rate=2)
    content = {
        "run": {"dir": str(tmp_path / "runs")},
        "sources": [{"path": str(path)}],
        "filter": {"model": str(tmp_path / "m.safetensors"), "device": "cpu"},
        "fold": {"order": "strided"},
    }
    with (tmp_path / "slow.yaml").open("w") as file:
        YAML(typ="safe").dump(content, file)
    config = load_run_config(tmp_path / "slow.yaml")
    assert "order" in config.warnings[0]
    outcome = runs.run(config)
    assert f"WARNING {config.warnings[0]}" in outcome.folder.log.read_text()
    (name,) = outcome.summary["filters"]
    told = f"frames should be about 0.1 s apart, as filter {name} was trained, got 0.5 s; take more frames ("
    assert told in caplog.text
    caplog.clear()
    content["sources"] = [{"path": str(clip("h264-closed.mp4", FRAMES))}]
    with (tmp_path / "slow.yaml").open("w") as file:
        YAML(typ="safe").dump(content, file)
    runs.run(load_run_config(tmp_path / "slow.yaml"), mode="overwrite")
    assert f"as filter {name} was trained, got 0.04 s; set `every:` or `fps:`, or train for this footage" in caplog.text


def test_what_is_logged_before_there_is_a_folder_is_in_its_log_and_a_run_that_fails_says_nothing(
    tmp_path, capfd, caplog
):
    caplog.set_level(logging.INFO, "pipeline")  # as commands do
    logger = logging.getLogger("pipeline")
    before = [*logger.handlers]
    sources = [{"path": str(clip("h264-closed.mp4", FRAMES))}]
    config = configured(tmp_path, sources, decode={"device": "cuda:99"})
    outcome = runs.run(config)
    told = outcome.folder.log.read_text()
    assert told.count("decode.device: must be there, got cuda:99") == 1
    *warnings, last = told.splitlines()
    assert all("WARNING" in line for line in warnings)
    assert f"INFO done: {FRAMES} frames labelled in " in last
    with pytest.raises(ConfigError, match="must not hold a run yet"):
        runs.run(config)
    stopped = Stop()
    stopped.set()
    with pytest.raises(Interrupted):
        runs.run(config, mode="overwrite", stop=stopped)
    assert logger.handlers == before
    assert "decode.device" not in capfd.readouterr().err


def test_label_yields_the_frames_of_a_video_in_order(tmp_path):
    import torch

    from pipeline import label
    from specialized.modelfile import ModelCard, save_model
    from specialized.models import build

    torch.manual_seed(0)
    card = ModelCard(architecture="coral", fold=4, order="consecutive", input=(50, 50), classes=("a", "none"))
    save_model(
        tmp_path / "m.safetensors", card, build("coral", args={}, classes=2, fold=4, input=(50, 50)).state_dict()
    )
    batches = list(label(clip("h264-closed.mp4", FRAMES), model=tmp_path / "m.safetensors"))
    assert [int(n) for batch in batches for n in batch.index] == list(range(FRAMES))
    assert all(batch.scores.shape == (len(batch), 2) for batch in batches)


def test_csv_lines_are_in_order_and_complete(tmp_path):
    sources = [{"name": f"s{k}", "path": str(clip("h264-closed.mp4", FRAMES, source=k))} for k in range(2)]
    config = configured(tmp_path, sources, f=2, sinks=[{"type": "csv", "path": str(tmp_path / "out.csv")}])
    runs.run(config)
    lines = (tmp_path / "out.csv").read_text().splitlines()
    assert len(lines) == 1 + 2 * FRAMES
    got = [tuple(line.replace('"', "").split(",")[:2]) for line in lines[1:]]
    assert got == [(f"s{k}", str(n)) for k in range(2) for n in range(FRAMES)]


def test_a_new_run_replaces_no_file_of_a_sink_and_leaves_no_folder(tmp_path):
    out = tmp_path / "out.csv"
    out.write_text("mine")
    config = configured(
        tmp_path, [{"path": str(clip("h264-closed.mp4", FRAMES))}], sinks=[{"type": "csv", "path": str(out)}]
    )
    told = rf"run\.yaml:\d+: sinks\.0\.path: must not exist yet, got {out}; --overwrite replaces it, --set sinks\.0"
    with pytest.raises(ConfigError, match=told):
        runs.run(config)
    assert (out.read_text(), (tmp_path / "runs").exists()) == ("mine", False)
    checked = CliRunner().invoke(main, ["check", str(config.path)])
    assert checked.exit_code == 0
    assert re.search(rf"^warning: {tmp_path}/{told}", checked.stderr, re.MULTILINE)
    for mode in ("overwrite", "resume", "overwrite"):
        runs.run(config, mode=mode)
        assert len(out.read_text().splitlines()) == 1 + FRAMES
    with pytest.raises(ConfigError, match=r"runs/r: must not hold a run yet"):  # it names --resume, too
        runs.run(config)


def test_no_temporary_file_is_left(tmp_path):
    outcome = runs.run(configured(tmp_path, [{"path": str(clip("h264-closed.mp4", FRAMES))}]))
    assert not [path for path in outcome.folder.path.rglob("*") if path.name.startswith(".")]
    assert len(list(committed(outcome.folder.path))) > 3


def test_a_source_that_raises_does_not_stop_the_others(tmp_path):
    path = str(clip("h264-closed.mp4", FRAMES))
    config = configured(tmp_path, [{"path": path, "name": "file"}, {"type": "tests.models:RaisingSource"}])
    outcome = runs.run(config)
    assert outcome.exit_code == 3
    sources = outcome.summary["sources"]
    assert sources["file"]["labelled"] == FRAMES
    assert sources["mine"]["labelled"] == 3
    assert "lost the camera" in sources["mine"]["error"]


def test_a_sink_that_raises_is_named(tmp_path):
    config = configured(
        tmp_path, [{"path": str(clip("h264-closed.mp4", FRAMES))}], sinks=[{"type": "tests.models:RaisingSink"}]
    )
    outcome = runs.run(config)
    assert outcome.exit_code == 1
    assert "tests.models:RaisingSink" in outcome.error
    assert "no room" in outcome.error


def test_a_secret_from_the_environment_is_written_nowhere(tmp_path, monkeypatch, capfd):
    monkeypatch.setenv("CANARY", "hunter2hunter2")
    path = str(clip("h264-closed.mp4", FRAMES))
    own = {"type": "tests.models:RaisingSource", "url": "rtsp://me:${CANARY}@camera"}
    config = configured(tmp_path, [{"path": path, "name": "file"}, own])
    runs.run(config)
    runs.run(config, mode="resume")
    written = b"".join(file.read_bytes() for file in (tmp_path / "runs").rglob("*") if file.is_file())
    assert b"${CANARY}" in written
    assert b"hunter2hunter2" not in written
    assert "hunter2hunter2" not in "".join(capfd.readouterr())


def test_sources_may_be_added_when_a_run_is_resumed(tmp_path):
    one = {"name": "s0", "path": str(clip("h264-closed.mp4", FRAMES))}
    two = {"name": "s1", "path": str(clip("vp9.webm", FRAMES, source=1))}
    assert runs.run(configured(tmp_path, [one])).exit_code == 0
    outcome = runs.run(configured(tmp_path, [one, two]), mode="resume")
    assert outcome.exit_code == 0
    assert outcome.summary["frames"]["labelled"] == 2 * FRAMES
    with pytest.raises(ConfigError, match="every"):
        runs.run(configured(tmp_path, [one | {"every": 2}, two]), mode="resume")


def test_another_preparation_of_the_pictures_is_another_run(tmp_path):
    config = configured(tmp_path, [{"path": str(clip("h264-closed.mp4", FRAMES))}])
    runs.run(config)
    data = YAML(typ="safe").load(config.path)
    data["filters"][0]["resize"] = "point"
    with config.path.open("w") as file:
        YAML(typ="safe").dump(data, file)
    with pytest.raises(ConfigError, match="resize"):
        runs.run(load_run_config(config.path), mode="resume")


def test_the_code_of_a_network_of_ones_own_may_not_change_under_a_run(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    code = tmp_path / "own_reader.py"
    code.write_text(
        f"from {READER['model'].partition(':')[0]} import *\nclass Own({READER['model'].partition(':')[2]}): ...\n"
    )
    config = configured(tmp_path, [{"path": str(clip("h264-closed.mp4", FRAMES))}])
    data = YAML(typ="safe").load(config.path)
    data["filters"][0]["model"] = "own_reader:Own"
    with config.path.open("w") as file:
        YAML(typ="safe").dump(data, file)
    runs.run(load_run_config(config.path))
    assert runs.run(load_run_config(config.path), mode="resume").exit_code == 0
    with code.open("a") as file:
        file.write("# another network\n")
    with pytest.raises(
        ConfigError, match=r"filters\.reader\.code_sha256: must be '[0-9a-f]{64}' as in the run to resume"
    ):
        runs.run(load_run_config(config.path), mode="resume")


def test_a_stop_before_the_start_leaves_the_earlier_run_alone(tmp_path):
    config = configured(tmp_path, [{"path": str(clip("h264-closed.mp4", FRAMES))}])
    before = runs.run(config)
    stop = Stop()
    stop.set()
    with pytest.raises(Interrupted):
        runs.run(config, mode="overwrite", stop=stop)
    assert len(rows(before.folder)[0]) == FRAMES


@pytest.mark.gpu
def test_cuda_gives_the_labels_of_the_cpu_and_telemetry_shows_the_gpu(tmp_path):
    labels = {}
    for device in ("cpu", "cuda"):
        content = {
            "run": {"name": device, "dir": str(tmp_path / "runs")},
            "sources": [{"path": str(Path("videos/lobby-person.mp4").absolute())}],
            "filter": {
                "model": str(Path("specialized/weights/lobby-person-f4.safetensors").absolute()),
                "device": device,
                "dtype": "float32",
                "name": "person",
            },
            "telemetry": {"interval_s": 0.05},
        }
        with (tmp_path / "c.yaml").open("w") as file:
            YAML(typ="safe").dump(content, file)
        outcome = runs.run(load_run_config(tmp_path / "c.yaml"))
        table = ds.dataset(outcome.folder.frames / "person").to_table().sort_by("frame")
        labels[device] = table["label"].to_pylist()
    differing = sum(a != b for a, b in zip(labels["cpu"], labels["cuda"], strict=True))
    assert differing <= 1  # a score that lies at the border, in another order of additions
    assert outcome.summary["gpu"]["memory_max_bytes"] > 0
