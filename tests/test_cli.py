"""The command as a user meets it: what it prints, and its exit codes."""

import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import pyarrow.dataset as ds
import pytest
import torch
from click.testing import CliRunner

from pipeline.cli import main
from pipeline.cli.shell import facts
from specialized.modelfile import ModelCard, save_model
from specialized.models import build
from tests.clips import clip

ODD = Path("tests/data/odd").absolute()
VPIPE = [sys.executable, "-c", "from pipeline.cli import main; main()"]

REFUSED = {"empty.mp4": "it is empty", "not-a-video.mp4": "no known video format", "sound-only.mp4": "no video stream"}
REFUSED["broken-no-index.mp4"] = "moov atom not found"
LOSSY = {"broken-hole.mp4": 85, "broken-cut.mp4": 40, "broken-cut.mkv": 38}
FRAMES = {"h264-720p.mp4": 24, "h264-all-intra.mov": 32, "h264-with-sound.mp4": 48, "mjpeg.avi": 16}
FRAMES |= {"animated.gif": 41, "one-frame.mp4": 1, "size-change.ts": 80}
VIDEOS = sorted(path.name for path in ODD.iterdir() if path.suffix != ".md")


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """A model file with the weights that a seed gives: what it says is nonsense, how it is run is not."""
    path = tmp_path_factory.mktemp("model") / "coral.safetensors"
    card = ModelCard(architecture="coral", fold=4, order="consecutive", input=(50, 50), classes=("person", "none"))
    torch.manual_seed(0)
    save_model(path, card, build("coral", args={}, classes=2, fold=4, input=(50, 50)).state_dict())
    return path


def vpipe(*arguments):
    """Runs the command in this process: (exit code, stdout, stderr)."""
    result = CliRunner().invoke(main, [str(argument) for argument in arguments])
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exc_info
    assert "Traceback" not in result.output
    return result.exit_code, result.stdout, result.stderr


@pytest.mark.parametrize("name", VIDEOS)
def test_every_odd_file_is_labelled_in_full_or_its_loss_is_named(name, model, tmp_path):
    code, _, err = vpipe("run", ODD / name, "--model", model, "--set", f"run.dir={tmp_path}", "--name", "odd")
    summary = json.loads((tmp_path / "odd" / "summary.json").read_text())
    frames = summary["frames"]
    assert summary["problems"] == []
    if name in REFUSED:
        assert code == 1
        assert frames["labelled"] == 0
        (line,) = [line for line in err.splitlines() if REFUSED[name] in line and line.startswith("vpipe: ")]
        assert name in line
    elif name in LOSSY:
        assert code == 3
        assert frames["labelled"] >= LOSSY[name]
        assert frames["corrupt"] + frames["unread"] > 0 or "its end is missing" in err
    else:
        assert code == 0
        assert frames["labelled"] == frames["indexed"] == FRAMES.get(name, 96)
    parts = tmp_path / "odd" / "frames"  # a file that cannot be read at all has none
    assert (len(ds.dataset(parts).to_table()) if name not in REFUSED else parts.exists()) == frames["labelled"]


def test_a_folder_of_good_and_broken_files_labels_the_good_ones(model, tmp_path):
    code, _, err = vpipe("run", ODD, "--model", model, "--set", f"run.dir={tmp_path}", "--name", "odd")
    summary = json.loads((tmp_path / "odd" / "summary.json").read_text())
    assert code == 3
    assert summary["state"] == "partial"
    assert summary["problems"] == []
    assert set(summary["sources"]) == {f"odd/{name}" for name in VIDEOS}
    for name in VIDEOS:
        labelled = summary["sources"][f"odd/{name}"]["labelled"]
        if name in REFUSED:
            assert labelled == 0
            assert f"odd/{name}" in err
        elif name not in LOSSY:
            assert labelled == FRAMES.get(name, 96)


def test_csv_goes_to_stdout_and_everything_else_to_stderr(model, tmp_path):
    config = tmp_path / "c.yaml"
    config.write_text(
        f"run: {{dir: {tmp_path}}}\n"
        f"sources: [{{path: {clip('h264-closed.mp4')}}}]\n"
        f"filter: {{model: {model}}}\n"
        "sinks: [{type: csv, path: '-'}]\n"
    )
    done = subprocess.run([*VPIPE, "run", str(config)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert len(lines) == 61
    assert lines[0].startswith('"source","frame","region","pts_s","captured","filter","label","score"')
    assert "done: 60 of 60 frames labelled" in done.stderr


def test_an_interrupt_before_anything_was_begun_exits_with_130_too(tmp_path):
    (tmp_path / "interrupted.py").write_text("raise KeyboardInterrupt")  # as if it came while modules are imported
    config = tmp_path / "c.yaml"
    config.write_text(
        f"sources: [{{path: {ODD / 'h264-720p.mp4'}}}]\n"
        "filter: {model: 'interrupted:Net', fold: 4, input: [50, 50], classes: [a, none]}\n"
    )
    code, out, err = vpipe("check", config)
    assert (code, out, err) == (130, "", "vpipe: interrupted\n")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_commits_what_is_whole_and_exits_within_5_seconds(number, model, tmp_path):
    config = tmp_path / "c.yaml"
    lobby = Path("videos/lobby-person.mp4").absolute()
    config.write_text(
        f"run: {{dir: {tmp_path}, name: r}}\n"
        f"sources: [{', '.join(f'{{name: s{k}, path: {lobby}}}' for k in range(60))}]\n"
        f"filter: {{model: {model}}}\n"
    )
    process = subprocess.Popen([*VPIPE, "run", str(config)], stderr=subprocess.PIPE, text=True)
    limit = time.monotonic() + 60
    while not list(tmp_path.glob("r/frames/*/*/*.parquet")):
        assert time.monotonic() < limit, "no part was committed"
        assert process.poll() is None, process.stderr.read()
        time.sleep(0.05)
    process.send_signal(number)
    asked = time.monotonic()
    _, err = process.communicate(timeout=30)
    assert time.monotonic() - asked < 5
    assert process.returncode == 130
    assert "Traceback" not in err
    summary = json.loads((tmp_path / "r" / "summary.json").read_text())
    assert re.search(r"^interrupted: [\d,]+ frames labelled in ", err, re.MULTILINE)
    finished = sum(source["finished"] for source in summary["sources"].values())
    waiting = sum(not source["indexed"] for source in summary["sources"].values())
    begun = f"{60 - finished - waiting} not finished, " if 60 - finished - waiting else ""
    assert f"\nsources: {begun}{waiting} not begun; --resume goes on, csv files come at the end\n" in err
    assert summary["state"] == "interrupted"
    assert summary["problems"] == []
    assert not list(tmp_path.rglob(".*.tmp"))
    assert len(ds.dataset(tmp_path / "r" / "frames").to_table()) == summary["frames"]["labelled"] > 0


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_after_the_end_changes_nothing(number, model, tmp_path):
    command = [*VPIPE, "run", clip("h264-closed.mp4"), "--model", model, "--set", f"run.dir={tmp_path}"]
    process = subprocess.Popen([*map(str, command)], stderr=subprocess.PIPE, text=True)
    while not (line := process.stderr.readline()).startswith("done: "):
        assert line
    while process.poll() is None:
        process.send_signal(number)
    _, err = process.communicate(timeout=30)
    assert (process.returncode, "stopping" in err) == (0, False)


def test_a_trace_is_written_where_it_is_asked_for_and_replaces_nothing_unasked(model, tmp_path):
    run = ("run", clip("h264-closed.mp4"), "--model", model, "--set", f"run.dir={tmp_path}", "--trace")
    assert vpipe(*run, tmp_path / "t.json")[0] == 0
    names = {event["name"] for event in json.loads((tmp_path / "t.json").read_text())["traceEvents"]}
    assert {"thread_name", "decode", "fold", "submit coral", "result coral", "write parts", "commit parts"} <= names
    code, _, err = vpipe(*run, tmp_path / "t.json", "--name", "another")
    assert (code, err) == (2, f"loading...\nvpipe: {tmp_path}/t.json: must not exist yet; --overwrite replaces it\n")
    assert vpipe(*run, "")[0] == 2
    assert vpipe(*run, tmp_path / "t.json", "--overwrite")[0] == 0


def test_all_problems_of_a_configuration_are_named_at_once_with_file_and_line(model, tmp_path):
    config = tmp_path / "bad.yaml"
    config.write_text(
        f"run: {{dir: {tmp_path}}}\n"
        "sources:\n"
        "  - {path: gone.mp4}\n"
        "fold: {frames: 8}\n"
        "filter:\n"
        f"  model: {model}\n"
        "  batch: many\n"
        "  devise: cpu\n"
    )
    for command in ("run", "check"):
        code, _, err = vpipe(command, config)
        assert code == 2
        lines = [line.removeprefix(f"vpipe: {config}:") for line in err.splitlines() if "bad.yaml:" in line]
        assert [int(line.partition(":")[0]) for line in lines] == [3, 4, 7, 8]
        assert "gone.mp4" in lines[0]
        assert "fold.frames" in lines[1]
        assert "filter.batch" in lines[2]
        assert "device" in lines[3]
    assert not (tmp_path / "bad").exists()


def test_check_builds_networks_of_ones_own_and_loads_their_weights(tmp_path):
    config = tmp_path / "c.yaml"
    config.write_text(
        f"run: {{dir: {tmp_path / 'runs'}}}\n"
        f"sources: [{{path: {ODD / 'h264-720p.mp4'}}}]\n"
        "filter: {model: 'specialized.models.noscope:NoScope', args: {filters: 4, dense: 0, layers: 2},\n"
        "         fold: 4, input: [50, 50], classes: [a, none]}\n"
    )
    code, out, err = vpipe("check", config)
    assert (code, out) == (0, f"{config}: fine\n")
    assert "no `weights` are given" in err
    torch.save({"w": torch.zeros(1)}, tmp_path / "w.pt")
    config.write_text(config.read_text().replace("fold: 4", "weights: w.pt, fold: 4"))
    for command in ("check", "run"):
        code, out, err = vpipe(command, config)
        assert (code, out) == (2, "")
        assert f"{tmp_path}/w.pt: weights must fit the architecture" in err


def test_check_knows_a_training_configuration_by_its_keys(tmp_path):
    code, out, _ = vpipe("check", "configs/train-lobby-f4.yaml")
    assert (code, out) == (0, "configs/train-lobby-f4.yaml: fine\n")
    config = tmp_path / "train.yaml"
    text = Path("configs/train-lobby-f4.yaml").read_text().replace("../", f"{Path.cwd()}/")
    config.write_text(text.replace("{seed: 0}", "{epoch: 4}").replace("split:", "splits:"))
    code, _, err = vpipe("check", config)
    assert code == 2
    lines = [line.removeprefix(f"vpipe: {config}:").partition(": ")[2] for line in err.splitlines()]
    assert lines == [
        "split: must be given",
        "splits: unknown key; did you mean 'split'?",
        "train.epoch: unknown key; did you mean 'epochs'?",
    ]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["run"], "Missing argument"),
        (["run", "a.yaml", "b.yaml"], "videos with --model FILE"),
        (["run", "videos/lobby-person.mp4"], "add --model FILE"),
        (["run", "nothing.yaml"], "nothing.yaml"),
        (["run", "a.yaml", "--resume", "--overwrite"], "exclude each other"),
        (["run", "configs/train-lobby-f4.yaml"], "got one for training; use `vpipe train`"),
        (["train", "configs/lobby.yaml"], "got that of a run; use `vpipe run`"),
        (["run", "configs/lobby.yaml", "--model", "m.safetensors"], "configs/lobby.yaml is a configuration"),
        (
            ["run", "configs/lobby.yaml", "--name", "never", "--set", "filters.0.device=cuda:99"],
            "filters.0.device: must be auto or one that is there",
        ),
        (["check", "tests/data/odd/h264.ts"], "h264.ts"),
        (["run", "videos/lobby-person.mp4", "--model", "gone.safetensors"], "gone.safetensors"),
        (["run", "videos/lobby-person.mp4", "--model", "tests/data/odd/h264.ts"], "safetensors"),
    ],
)
def test_wrong_usage_is_exit_code_2_and_one_clear_line(arguments, message):
    code, _, err = vpipe(*arguments)
    assert code == 2
    assert message in err


def test_an_unwritable_run_folder_is_named_before_anything_starts(model, tmp_path):
    (tmp_path / "file").write_text("in the way")
    code, _, err = vpipe("run", clip("h264-closed.mp4"), "--model", model, "--set", f"run.dir={tmp_path / 'file'}")
    assert code == 2
    assert "file" in err


def test_probe_says_what_a_file_holds_and_what_is_wrong(tmp_path):
    code, out, _ = vpipe("probe", "--json", ODD / "h264-rotated-flag.mp4")
    facts = json.loads(out)
    assert code == 0
    assert (facts["codec"], facts["frames"], facts["width"], facts["height"]) == ("h264", 96, 216, 384)
    code, out, _ = vpipe("probe", ODD / "broken-cut.mp4", ODD / "empty.mp4")
    assert code == 1
    assert "its end is missing" in out
    assert "it is empty" in out


@pytest.mark.parametrize("command", [("probe",), ("label", "--detector", "d.onnx")])
def test_a_path_that_stands_for_no_video_is_refused_by_name(tmp_path, command):
    (tmp_path / "clip.txt").touch()
    code, out, err = vpipe(*command, tmp_path, tmp_path / "*.mp4", ODD / "empty.mp4")
    rule = "must be a video, or a folder or glob of them, got none among"
    assert (code, out) == (2, "")
    assert err.splitlines() == [
        f"vpipe: {tmp_path}: {rule} 1 files; check the path",
        f"vpipe: {tmp_path}/*.mp4: {rule} 0 files; check the path",
    ]


def test_files_that_are_no_videos_are_passed_over_and_named(tmp_path):
    (tmp_path / "clip.txt").touch()
    (tmp_path / "clip.mp4").symlink_to(ODD / "h264-rotated-flag.mp4")
    code, out, err = vpipe("probe", tmp_path)
    assert (code, out.count("codec")) == (0, 1)
    assert err == "vpipe: passed over: 1 files whose names are not those of videos: clip.txt\n"


def test_facts_of_several_levels_are_lines_further_in():
    classes = {"person": {"f1": 0.5, "f1_interval": [0.25, 0.75], "keep": None}}
    told = facts("a model", {"fold": 4, "accuracy": {"n": 3, "classes": classes}, "keep": {}, "slots": [0.5, 1.0]})
    assert told.splitlines() == [
        "a model",
        "  fold      4",
        "  accuracy",
        "    n        3",
        "    classes",
        "      person  f1 0.5, f1_interval [0.25, 0.75]",
        "  slots     0.5, 1",
    ]


def test_info_says_what_a_model_file_holds(model):
    code, out, _ = vpipe("info", model, "--json")
    assert code == 0
    assert json.loads(out)["classes"] == ["person", "none"]
    code, _, err = vpipe("info", ODD / "h264.ts")
    assert code == 1
    assert "h264.ts" in err


def test_a_reader_that_leaves_ends_the_run_without_a_traceback(model, tmp_path):
    config = tmp_path / "c.yaml"
    config.write_text(
        f"run: {{dir: {tmp_path}}}\nsources: [{{path: {clip('h264-closed.mp4')}}}]\n"
        f"filter: {{model: {model}}}\nsinks: [{{type: jsonl, path: '-'}}]\n"
    )
    read, write = os.pipe()
    os.close(read)
    done = subprocess.run([*VPIPE, "run", str(config)], stdout=write, stderr=subprocess.PIPE, text=True, check=False)
    os.close(write)
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert "standard output" in done.stderr


def test_rows_never_go_into_a_file_that_took_the_number_of_a_closed_stdout(model, tmp_path):
    config = tmp_path / "c.yaml"
    config.write_text(
        f"run: {{dir: {tmp_path}, name: r}}\nsources: [{{path: {clip('h264-closed.mp4')}}}]\n"
        f"filter: {{model: {model}}}\nsinks: [{{type: csv, path: '-'}}]\n"
    )
    command = " ".join(map(shlex.quote, [*VPIPE, "run", str(config)]))
    for closed, code in ((">&-", 1), ("2>&-", 0), (">&- 2>&-", 1), ("2>/dev/full", 0)):
        done = subprocess.run(
            f"{command} --overwrite {closed}", shell=True, capture_output=True, text=True, check=False
        )
        assert done.returncode == code, done.stderr  # rows that nobody took are no success, talk that nobody hears is
        log = (tmp_path / "r" / "log.txt").read_text()
        assert "h264-closed" not in log
        assert ("standard output: must be open, got it closed" in log) == bool(code)


def test_names_of_files_do_not_write_on_the_terminal(tmp_path):
    path = tmp_path / "a\x1b[31mred\nvpipe: fine.mp4"
    path.write_bytes(clip("h264-closed.mp4").read_bytes())
    code, out, _ = vpipe("probe", path)
    assert code == 0
    assert "a\\x1b[31mred\\nvpipe: fine.mp4\n" in out
    assert "\x1b" not in out


def test_names_in_a_report_do_not_either(model, tmp_path):
    (tmp_path / "footage").mkdir()
    (tmp_path / "footage" / "a\x1b]0;evil\x07.mp4").write_bytes(b"")
    code, _, err = vpipe("run", tmp_path / "footage", "--model", model, "--set", f"run.dir={tmp_path / 'runs'}")
    assert (code, "\x1b" in err, "\\x1b]0;evil\\x07" in err) == (1, False, True)


@pytest.mark.parametrize(
    ("path", "told"),
    [
        ("/dev/full", "must be a file to write, got something else at /dev/full"),
        ("clip.mp4/rows.csv", "must lie in a folder, got a file"),
    ],
)
def test_a_sink_that_cannot_be_a_file_is_refused_by_check_too(model, tmp_path, path, told):
    (tmp_path / "clip.mp4").write_bytes(clip("h264-closed.mp4").read_bytes())
    config = tmp_path / "c.yaml"
    config.write_text(
        f"sources: [{{path: clip.mp4}}]\nfilter: {{model: {model}}}\nsinks: [{{type: csv, path: {path}}}]\n"
    )
    code, _, err = vpipe("check", config)
    assert (code, told in err) == (2, True), err


def test_a_reader_that_does_not_read_cannot_hold_up_a_stop(model, tmp_path):
    config = tmp_path / "c.yaml"
    lobby = Path("videos/lobby-person.mp4").absolute()
    config.write_text(
        f"run: {{dir: {tmp_path}, name: r}}\nsources: [{{path: {lobby}}}]\n"
        f"filter: {{model: {model}}}\nsinks: [{{type: jsonl, path: '-'}}]\n"
    )
    process = subprocess.Popen([*VPIPE, "run", str(config)], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    limit = time.monotonic() + 60
    while len(list(tmp_path.glob("r/frames/*/*/*.parquet"))) < 2:  # with the second, the pipe is full
        assert time.monotonic() < limit
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    asked = time.monotonic()
    process.wait(timeout=30)
    assert time.monotonic() - asked < 5
    process.stdout.close()
    process.stderr.close()


def test_check_warns_of_a_gpu_that_cannot_decode(model, tmp_path):
    config = tmp_path / "c.yaml"
    config.write_text(f"sources: [{{path: {clip('h264-closed.mp4')}}}]\nfilter: {{model: {model}}}\n")
    code, out, err = vpipe("check", config, "--set", "decode.device=cuda:99")
    assert (code, out) == (0, f"{config}: fine\n")
    assert "decode.device: must be there, got cuda:99: " in err
    assert "all is decoded on the CPU" in err


def test_any_name_can_be_given_and_printed(model, tmp_path):
    odd = tmp_path / "[b]\udcff 😀.mp4"
    odd.write_bytes((ODD / "one-frame.mp4").read_bytes())
    code, _, err = vpipe("run", odd, "--model", model, "--set", f"run.dir={tmp_path}", "--name", "😀")
    assert code == 0, err
    assert (tmp_path / "😀" / "summary.json").is_file()


def test_what_a_folder_holds_besides_videos_and_what_cannot_be_read_is_said(model, tmp_path):
    folder = tmp_path / "footage"
    (folder / "a").mkdir(parents=True)
    shutil.copy(clip("h264-closed.mp4"), folder / "a" / "one.mp4")
    (folder / "notes.txt").write_text("")
    (folder / "gone.mp4").symlink_to(tmp_path / "nowhere.mp4")
    for number, path in enumerate((folder, folder / "*", folder / "**" / "*")):
        code, _, err = vpipe("run", path, "--model", model, "--set", f"run.dir={tmp_path}", "--name", f"r{number}")
        assert "notes.txt" in err
        assert "gone.mp4" in err
        assert code == (1 if number == 1 else 3)  # the second has nothing but the link


def test_the_summary_names_every_file_with_a_loss(model, tmp_path):
    code, _, err = vpipe("run", ODD / "broken-hole.mp4", "--model", model, "--set", f"run.dir={tmp_path}")
    assert code == 3
    assert "broken-hole: 6 corrupt frames, see ledger.json" in err


def test_a_selection_that_leaves_nothing_is_said(model, tmp_path):
    settings = ["--set", f"run.dir={tmp_path}", "--set", "sources.0.from=500"]
    code, _, err = vpipe("run", clip("h264-closed.mp4"), "--model", model, *settings)
    assert code == 1
    assert "leave nothing" in err


def test_an_error_of_the_system_that_nobody_caught_is_one_line(monkeypatch, tmp_path):
    def broken(paths):
        raise OSError(36, "File name too long", "clip.mp4")

    monkeypatch.setattr("pipeline.sources.paths.videos_at", broken)
    assert vpipe("probe", tmp_path) == (1, "", "vpipe: clip.mp4: File name too long\n")


@pytest.mark.parametrize("arguments", [["--version"], ["--help"], ["models"]])
def test_a_standard_output_that_is_closed_or_full_gives_no_traceback(arguments):
    command = " ".join(map(shlex.quote, [*VPIPE, *arguments]))
    done = subprocess.run(f"{command} >&-", shell=True, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    done = subprocess.run(f"{command} >/dev/full", shell=True, capture_output=True, text=True, check=False)
    assert (done.returncode, "Traceback" in done.stderr, "Exception ignored" in done.stderr) == (1, False, False)


def test_a_reader_of_stderr_that_does_not_read_holds_nothing_up(tmp_path):
    read, write = os.pipe()
    os.set_blocking(write, False)
    with suppress(BlockingIOError):
        while os.write(write, bytes(1 << 16)):
            pass
    done = subprocess.run([*VPIPE, "check", "nothing.yaml"], stderr=write, timeout=60, check=False)
    os.close(read)
    os.close(write)
    assert done.returncode == 2
