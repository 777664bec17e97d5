"""The rule for files that a command is told to write."""

import os
import subprocess
from pathlib import Path

import pytest
from click.testing import CliRunner

from pipeline.cli import main
from pipeline.errors import ConfigError
from pipeline.outputs import check_output


def problem(path: Path | str, **options: bool) -> str:
    with pytest.raises(ConfigError) as caught:
        check_output(Path(path), given_by="--out", suffix=".png", **{"overwrite": False, **options})
    (told,) = caught.value.problems
    return told


def test_a_new_file_in_a_folder_that_is_there_is_fine_and_nothing_is_left_of_the_trial(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for path in (tmp_path / "a.png", "a.PNG"):
        check_output(Path(path), given_by="--out", suffix=".png", overwrite=False)
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_is_there_is_replaced_only_if_asked(tmp_path):
    path = tmp_path / "a.png"
    path.touch()
    assert problem(path) == f"{path}: must not exist yet; --overwrite replaces it"
    check_output(path, given_by="--out", suffix=".png", overwrite=True)


def test_what_is_no_file_is_never_replaced(tmp_path):
    (tmp_path / "a.png").mkdir()
    os.mkfifo(tmp_path / "b.png")
    got = {"a.png": "a folder", "b.png": "something else"}
    for name, kind in got.items():
        told = f"{tmp_path}/{name}: must be a file to write, got {kind}; choose another --out"
        assert problem(tmp_path / name, overwrite=True) == told


def test_a_name_that_tells_of_another_kind_of_file_is_refused(tmp_path):
    path = tmp_path / "a.jpg"
    assert problem(path) == f"{path}: must end in .png, which is what is written; choose another --out"


def test_a_missing_folder_comes_with_the_command_that_makes_it(tmp_path):
    told = problem(tmp_path / "no such" / "folder" / "a.png")
    assert told.startswith(f"{tmp_path}/no such/folder: must be a folder that is there, got none; mkdir -p ")
    command = told.partition("; ")[2].partition(", or")[0]
    subprocess.run(command, shell=True, check=True)
    check_output(tmp_path / "no such" / "folder" / "a.png", given_by="--out", suffix=".png", overwrite=False)


def test_a_strip_is_drawn_beside_a_run_by_the_same_rule(tmp_path):
    done = CliRunner().invoke(main, ["strip", "runs/x", "--out", str(tmp_path / "a.jpg")])
    assert (done.exit_code, done.stdout) == (2, "")
    assert "must end in .png" in done.stderr
