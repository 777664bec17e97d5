import json
import os
import resource
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from pipeline.errors import ConfigError
from pipeline.files import WholeFile, write_json
from pipeline.identity import END_BYTES, differences, identity, identity_changes, stamp
from pipeline.machine import machine, versions
from pipeline.runs import RunFolder

ROOT = Path(__file__).parents[1]
SETTINGS = {
    "decode": {"resize": "area", "input": (50, 50)},
    "fold": {"frames": 4, "order": "consecutive"},
    "filters": {"person": {"model": "0123", "engine": "torch", "dtype": "bf16", "device": "cpu"}},
}


@pytest.fixture
def clips(tmp_path):
    found = {"a": tmp_path / "a.mp4", "b": tmp_path / "b.mp4"}
    for name, path in found.items():
        path.write_bytes(name.encode() * 10)
    return found


def stamped(clips):
    return {name: stamp(path) for name, path in clips.items()}


def begun(directory, name):
    run = RunFolder.create(directory, name)
    run.write_run_json({"run": {"name": name}}, {"sources": {}})
    return run


def test_a_new_run_gets_a_folder_with_what_was_asked_and_where_it_runs(tmp_path):
    run = begun(tmp_path / "runs", "lobby")
    written = json.loads((tmp_path / "runs" / "lobby" / "run.json").read_text())
    assert written["config"] == {"run": {"name": "lobby"}}
    assert written["versions"] == versions()
    assert written["machine"] == machine()
    assert run.read_identity() == {"sources": {}}


HOLDER = """
import sys
from pathlib import Path
from pipeline.runs import RunFolder
with RunFolder(Path(sys.argv[1])).held():
    print("held", flush=True)
    sys.stdin.read()
"""


def test_a_folder_is_of_one_process_at_a_time_however_that_ends(tmp_path):
    run = begun(tmp_path, "lobby")
    command = [sys.executable, "-c", HOLDER, str(run.path)]
    with subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout.readline() == "held\n"
        holder = f"process {other.pid} on {socket.gethostname()}"
        with pytest.raises(ConfigError, match=f"must be of one run at a time, got {holder} at work in it"), run.held():
            pass
        other.kill()
    with run.held(), pytest.raises(ConfigError, match=f"process {os.getpid()} on"), run.held():
        pass
    assert [path.name for path in run.path.iterdir()] == ["run.json"]
    with run.held():
        RunFolder.create(tmp_path, "lobby", overwrite=True)


def test_holding_a_folder_in_which_nothing_is_begun_leaves_none(tmp_path):
    with RunFolder.at(tmp_path, "lobby").held():
        assert (tmp_path / "lobby").is_dir()
    assert not (tmp_path / "lobby").exists()


def test_an_earlier_run_is_kept_and_the_three_ways_on_are_named(tmp_path):
    run = begun(tmp_path, "lobby")
    with pytest.raises(ConfigError, match=r"--resume.*--overwrite.*--name"):
        RunFolder.create(tmp_path, "lobby")
    assert run.run_json.exists()


def test_hints_name_what_the_command_takes(tmp_path):
    begun(tmp_path, "lobby")
    training = RunFolder.create(tmp_path, "training", kind="training")
    training.write_run_json({}, {}, kind="training")
    for kind, other, option in (("run", "training", "--name"), ("training", "lobby", "--set run.name=NAME")):
        (tmp_path / "notes").mkdir(exist_ok=True)
        (tmp_path / "notes" / "notes.txt").write_text("mine")
        for name in ("notes", "a/b", other):
            with pytest.raises(ConfigError, match=f"choose another {option}$"):
                RunFolder.create(tmp_path, name, kind=kind)
        with pytest.raises(ConfigError, match=f"must not hold a {kind} yet, .* or {option} for another folder$"):
            RunFolder.create(tmp_path, "lobby" if kind == "run" else "training", kind=kind)


def test_overwrite_removes_what_a_run_left_and_nothing_else(tmp_path):
    run = begun(tmp_path, "lobby")
    (run.frames / "person").mkdir(parents=True)
    (run.spool / "webhook").mkdir(parents=True)
    (run.spool / "webhook" / "spool.sqlite").write_text("old")
    for path in [run.frames / "person" / "x.parquet", run.telemetry, run.ledger, run.summary, run.log]:
        path.write_text("old")
    (run.path / "notes.txt").write_text("mine")
    RunFolder.create(tmp_path, "lobby", overwrite=True)
    assert [path.name for path in run.path.iterdir()] == ["notes.txt"]


def test_a_folder_of_something_else_is_never_touched(tmp_path):
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter.txt").write_text("words")
    for overwrite in (False, True):
        with pytest.raises(ConfigError, match=r"thesis: must be empty or hold a run"):
            RunFolder.create(tmp_path, "thesis", overwrite=overwrite)
    assert (tmp_path / "thesis" / "chapter.txt").read_text() == "words"


def test_an_empty_folder_can_be_used(tmp_path):
    (tmp_path / "lobby").mkdir()
    for name in (".lock", ".run.json.tmp"):  # of a process that was killed as it began
        (tmp_path / "lobby" / name).touch()
    assert RunFolder.create(tmp_path, "lobby").path == tmp_path / "lobby"


def test_a_full_disk_keeps_no_run_from_its_folder_lest_it_be_told_otherwise_than_by_its_files(tmp_path):
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, limits[1]))
    try:
        with RunFolder(tmp_path / "lobby").held():
            assert (tmp_path / "lobby" / ".lock").read_text() == ""
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "a\0b"])
def test_a_name_is_one_folder(tmp_path, name):
    with pytest.raises(ConfigError, match=r"run\.name"):
        RunFolder.create(tmp_path, name)


def test_a_folder_that_cannot_be_made_is_named(tmp_path):
    (tmp_path / "runs").write_text("a file")
    with pytest.raises(ConfigError, match=r"runs/lobby: must be a folder that can be written, got .*run\.dir"):
        RunFolder.create(tmp_path / "runs", "lobby")


def test_only_a_run_can_be_resumed(tmp_path):
    with pytest.raises(ConfigError, match=r"lobby.*--resume"):
        RunFolder.resume(tmp_path, "lobby")
    begun(tmp_path, "lobby")
    assert RunFolder.resume(tmp_path, "lobby").read_identity() == {"sources": {}}


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"identity": 3}'])
def test_a_damaged_run_json_is_named(tmp_path, text):
    run = begun(tmp_path, "lobby")
    run.run_json.write_text(text)
    with pytest.raises(ConfigError, match=r"run\.json: must be what an earlier run wrote"):
        run.read_identity()


def test_identity_survives_being_written_and_read(tmp_path, clips):
    run = RunFolder.create(tmp_path, "lobby")
    now, _ = identity(stamped(clips), **SETTINGS)
    run.write_run_json({}, now)
    assert run.read_identity() == now
    assert identity_changes(run.read_identity(), now) == []


def test_a_changed_setting_is_another_identity_and_is_named(clips):
    before, sha = identity(stamped(clips), **SETTINGS)
    now, other = identity(stamped(clips), **{**SETTINGS, "fold": {"frames": 8, "order": "consecutive"}})
    assert sha != other
    assert identity_changes(before, now) == ["fold.frames: must be 4 as in the run to resume, got 8"]


def test_differences_are_found_within_lists():
    before, now = {"clips": [{"every": 1}, {"every": 2}]}, {"clips": [{"every": 1}, {"every": 3}]}
    told = list(differences(before, now, kind="training"))
    assert told == ["clips.1.every: must be 2 as in the training to resume, got 3"]
    (shorter,) = differences(before, {"clips": []}, kind="training")
    assert shorter.startswith("clips: must be [{'every': 1}, {'every': 2}] as in")


def test_files_may_be_added_but_not_changed_or_removed(clips):
    before, sha = identity(stamped(clips), **SETTINGS)
    added, same = identity(stamped(clips | {"c": clips["a"]}), **SETTINGS)
    assert identity_changes(before, added) == []
    assert same == sha
    (problem,) = identity_changes(added, before)
    assert problem.startswith("c: must still be a source of the run to resume, got none of that name; put it back")
    assert identity_changes(added, before, untouched={"c"}) == []
    facts = clips["b"].stat()
    os.utime(clips["b"], ns=(0, 0))
    (problem,) = identity_changes(before, identity(stamped(clips), **SETTINGS)[0])
    assert problem.startswith(
        "b: must be the file that was labelled, got one of 1970-01-01 00:00:00.000000 in place of"
    )
    command = problem.partition("`")[2].removesuffix("`")
    assert command.startswith("touch -d @")
    subprocess.run(command, shell=True, check=True)
    assert clips["b"].stat().st_mtime_ns == facts.st_mtime_ns
    assert identity_changes(before, identity(stamped(clips), **SETTINGS)[0]) == []
    clips["b"].write_bytes(b"other bytes")
    (problem,) = identity_changes(before, identity(stamped(clips), **SETTINGS)[0])
    assert "got 11 bytes in place of 10, other bytes at its ends, one of " in problem
    clips["b"].unlink()
    (problem,) = identity_changes(before, identity(stamped(clips), **SETTINGS)[0])
    assert "got none that can be read" in problem


def test_a_time_beyond_all_years_is_no_reason_to_fail(clips):
    before, _ = identity(stamped(clips), **SETTINGS)
    before["sources"]["b"]["mtime_ns"] = 260_000_000_000 * 10**9
    assert identity_changes(before, before) == []
    (problem,) = identity_changes(before, identity(stamped(clips), **SETTINGS)[0])
    assert "in place of 260000000000000000000 ns since 1970" in problem


def test_a_file_of_the_same_hash_is_the_same_whatever_its_time(clips):
    before = {"b": stamp(clips["b"], whole=True)}
    os.utime(clips["b"], ns=(0, 0))
    now = {"b": stamp(clips["b"], whole=True)}
    assert now != before
    assert identity_changes(*(identity(found, **SETTINGS)[0] for found in (before, now))) == []


def test_a_file_that_was_changed_under_its_size_and_time_is_another(tmp_path):
    clip = tmp_path / "clip.mp4"
    data = bytearray(3 * END_BYTES)
    clip.write_bytes(data)
    facts = clip.stat()
    before = stamp(clip), stamp(clip, whole=True)
    for at, seen in ((0, True), (-1, True), (len(data) // 2, False)):
        data[at] ^= 1
        clip.write_bytes(data)
        os.utime(clip, ns=(facts.st_atime_ns, facts.st_mtime_ns))
        assert (stamp(clip) != before[0]) == seen
        assert stamp(clip, whole=True) != before[1]
        data[at] ^= 1


def test_a_file_that_is_gone_has_neither_size_nor_time(tmp_path):
    assert stamp(tmp_path / "gone.mp4") == {"path": str(tmp_path / "gone.mp4")}


def test_a_whole_file_appears_at_its_commit(tmp_path):
    (tmp_path / "x").write_text("old")
    file = WholeFile(tmp_path / "x")
    file.file.write(b"new")
    assert (tmp_path / "x").read_text() == "old"
    file.commit()
    assert (tmp_path / "x").read_text() == "new"
    assert [path.name for path in tmp_path.iterdir()] == ["x"]


def test_a_discarded_file_leaves_what_was_there(tmp_path):
    write_json(tmp_path / "x.json", {"a": 1})
    with pytest.raises(ValueError, match="JSON"):
        write_json(tmp_path / "x.json", {"a": float("nan")})
    assert json.loads((tmp_path / "x.json").read_text()) == {"a": 1}
    assert [path.name for path in tmp_path.iterdir()] == ["x.json"]


def test_machine_and_versions_are_known():
    assert machine()["memory_bytes"] > 1 << 28
    assert all(machine().values())
    assert versions()["numpy"].startswith("2.")


def test_importing_runs_and_sinks_loads_neither_arrow_nor_torch():
    code = "import sys, pipeline.runs, pipeline.sinks; print(sorted({'pyarrow', 'torch', 'av'} & sys.modules.keys()))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
