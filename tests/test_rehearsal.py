"""Faults made on purpose, `vpipe run --fault`: what each place and kind of them does to a run."""

import errno
import itertools
import json
import os
import subprocess
import sys
import threading
import time
from contextlib import closing
from pathlib import Path

import av.error
import pytest

from pipeline import faults, running
from pipeline.contracts import Sink
from pipeline.errors import ConfigError, SinkError
from pipeline.faults import Fault, parse_fault
from pipeline.report import report
from pipeline.runner import run
from pipeline.sources import cuts, file, index, pool
from pipeline.sources.container import packets as container_packets
from pipeline.sources.file import FileSource
from pipeline.sources.isolate import Isolated
from pipeline.sources.pool import Here
from pipeline.sources.scaler import PictureFormat, View
from pipeline.telemetry import Telemetry
from pipeline.testing import FaultySink, FaultySource, ListSink, ListSource, check_sink, numbered_batches
from pipeline.threads import Stop, stuck_threads
from tests import test_runner
from tests.clips import clip
from tests.spooled import until

FRAMES = 60


def configured(tmp_path, **sections):
    return test_runner.configured(
        tmp_path, [{"path": str(clip("h264-closed.mp4", FRAMES)), "name": "gate"}], **sections
    )


@pytest.fixture
def hung(monkeypatch):
    """What hangs, until the test is over."""
    gate = threading.Event()
    monkeypatch.setattr(faults, "hang", gate.wait)
    yield gate.wait
    gate.set()
    until(lambda: not stuck_threads())


def labelled(outcome):
    return {frame for _, frame in test_runner.rows(outcome.folder)[0]}


@pytest.mark.parametrize("isolate", [False, True])
def test_a_fault_that_has_not_happened_is_told(tmp_path, caplog, isolate):
    config = configured(tmp_path, decode={"workers": 1, "isolate": isolate})
    happen = [Fault("corrupt", "frame", 3), Fault("slow", "segment", 2), Fault("raise", "frame", 20)]
    miss = [Fault("hang", "frame", 1200), Fault("raise", "segment", 77), Fault("slow", "write", 1000)]
    assert run(config, faults=[*happen, *miss]).exit_code == 3
    told = [record.getMessage() for record in caplog.records if "has not happened" in record.getMessage()]
    assert sorted(told) == sorted(f"--fault {fault}: has not happened, as nothing came to that place" for fault in miss)


@pytest.mark.parametrize(
    "text", ["", "raise", "raise@frame", "raise@frame:x", "melt@frame:1", "raise@moon:1", "raise@frame:-1"]
)
def test_a_fault_that_cannot_be_read_is_refused_with_an_example(text):
    with pytest.raises(ConfigError, match=r"--fault: must be KIND@PLACE:NUMBER\[:SOURCE\].*hang@frame:1200, say"):
        parse_fault(text)


def test_a_fault_is_read():
    assert parse_fault("kill@write:17") == Fault("kill", "write", 17)
    assert parse_fault("slow@segment:0:yard/a b.mp4") == Fault("slow", "segment", 0, "yard/a b.mp4")
    assert str(parse_fault("slow@segment:0:yard/a b.mp4")) == "slow@segment:0:yard/a b.mp4"


def test_without_faults_nothing_changes(tmp_path):
    outcome = run(configured(tmp_path), faults=[Fault("raise", "frame", 3 * FRAMES)])
    assert (outcome.state, labelled(outcome)) == ("done", set(range(FRAMES)))
    with pytest.raises(ConfigError, match=r"raise@frame:3:yard: must be of a source of the run \(gate\), got 'yard'"):
        run(configured(tmp_path), mode="overwrite", faults=[Fault("raise", "frame", 3, "yard")])


@pytest.mark.parametrize("place", [Fault("raise", "segment", 1), Fault("raise", "frame", 13)], ids=str)
def test_an_error_of_the_disk_costs_its_segment_until_the_run_is_resumed(tmp_path, place):
    config = configured(tmp_path)
    outcome = run(config, faults=[place])
    assert (outcome.state, outcome.exit_code) == ("partial", 3)
    assert labelled(outcome) == set(range(FRAMES)) - set(range(12, 24))
    assert "an error made on purpose" in outcome.summary["sources"]["gate"]["error"]
    again = run(config, mode="resume")
    assert (again.state, labelled(again)) == ("done", set(range(FRAMES)))


@pytest.mark.parametrize(
    ("place", "gone"), [(Fault("corrupt", "segment", 1), range(12, 24)), (Fault("corrupt", "frame", 13), [13])], ids=str
)
def test_damaged_frames_are_named_and_others_labelled(tmp_path, place, gone):
    outcome = run(configured(tmp_path), faults=[place])
    assert (outcome.state, labelled(outcome)) == ("partial", set(range(FRAMES)) - set(gone))
    (source,) = json.loads(outcome.folder.ledger.read_text())["sources"].values()
    assert source["segments"][1]["lost"] == [{"first": min(gone), "last": max(gone), "why": "corrupt"}]
    assert outcome.summary["problems"] == []


def test_a_decoder_that_hangs_costs_its_segment_and_others_go_on(tmp_path, hung):
    config = configured(tmp_path, decode={"limit_s": 0.5, "workers": 1})
    outcome = run(config, faults=[Fault("hang", "segment", 1)])
    assert (outcome.state, outcome.exit_code) == ("partial", 3)
    assert labelled(outcome) == set(range(FRAMES)) - set(range(12, 24))
    assert "its decoder gave nothing for 0.5 s and is left alone" in outcome.summary["sources"]["gate"]["error"]
    assert outcome.summary["problems"] == []
    assert outcome.summary["again"] == {"segments": 1, "frames": 12}
    assert "to be tried again by --resume: 1 segments of 12 frames" in report(outcome.summary, tmp_path)
    assert [name for name in stuck_threads() if name.startswith("decode")]
    again = run(config, mode="resume")
    assert (again.state, labelled(again)) == ("done", set(range(FRAMES)))


def test_a_file_whose_index_hangs_is_left_out_until_the_run_is_resumed(tmp_path, monkeypatch, hung):
    files = [{"path": str(clip(kind, FRAMES)), "name": kind} for kind in ("h264-closed.mp4", "vp9.webm")]
    config = test_runner.configured(tmp_path, files, decode={"limit_s": 0.5, "workers": 2})
    real = FileSource.segments

    def segments(self, *, whole=False):
        if self.name == "h264-closed.mp4":
            hung()
        return real(self, whole=whole)

    monkeypatch.setattr(FileSource, "segments", segments)
    outcome = run(config)
    assert (outcome.state, outcome.exit_code) == ("partial", 3)
    assert "h264-closed.mp4: its decoder gave nothing" in outcome.summary["sources"]["h264-closed.mp4"]["error"]
    assert outcome.summary["sources"]["vp9.webm"]["labelled"] == FRAMES
    monkeypatch.setattr(FileSource, "segments", real)
    again = run(config, mode="resume")
    assert (again.state, again.summary["frames"]["labelled"]) == ("done", 2 * FRAMES)


@pytest.mark.parametrize("streams", [False, True])
def test_a_file_that_cannot_be_read_any_more_is_told_when_the_run_goes_on(tmp_path, monkeypatch, streams):
    files = [{"path": str(clip(kind, FRAMES)), "name": kind} for kind in ("h264-closed.mp4", "vp9.webm")]
    order = {"f": 2, "order": "streams"} if streams else {}
    config = test_runner.configured(tmp_path, files, decode={"workers": 1}, **order)
    first = run(config, faults=[Fault("raise", "frame", 40, "h264-closed.mp4")])
    assert first.state == "partial"
    real = FileSource.segments

    def segments(self, *, whole=False):
        if self.name == "h264-closed.mp4":
            return [self.refusal("the disk is gone")]
        return real(self, whole=whole)

    with monkeypatch.context() as patched:
        patched.setattr(FileSource, "segments", segments)
        outcome = run(config, mode="resume")
    assert (outcome.state, outcome.exit_code, outcome.summary["problems"]) == ("partial", 3, [])
    assert "the disk is gone" in outcome.summary["sources"]["h264-closed.mp4"]["error"]
    again = run(config, mode="resume")
    assert (again.state, again.summary["frames"]["labelled"]) == ("done", 2 * FRAMES)


def test_a_file_that_could_not_be_read_at_first_is_labelled_when_the_run_goes_on(tmp_path):
    there, absent = clip("h264-closed.mp4", FRAMES), tmp_path / "absent.mp4"
    absent.symlink_to(tmp_path / "nothing.mp4")
    files = [{"path": str(there), "name": "there"}, {"path": str(absent), "name": "absent"}]
    config = test_runner.configured(tmp_path, files)
    assert run(config).exit_code == 3
    (tmp_path / "nothing.mp4").write_bytes(clip("h264-bframes-opengop.mp4", FRAMES).read_bytes())
    again = run(config, mode="resume")
    assert (again.state, again.summary["frames"]["labelled"]) == ("done", 2 * FRAMES)
    os.utime(tmp_path / "nothing.mp4", ns=(1, 1))
    with pytest.raises(ConfigError, match=r"absent: must be the file that was labelled, got one of 1970"):
        run(config, mode="resume")


@pytest.mark.parametrize("isolate", [False, True])
def test_a_file_that_changed_before_its_turn_is_not_labelled_as_what_it_was(tmp_path, monkeypatch, isolate):
    path = tmp_path / "gate.mp4"
    path.write_bytes(clip("h264-closed.mp4", FRAMES).read_bytes())
    config = test_runner.configured(tmp_path, [{"path": str(path), "name": "gate"}], decode={"isolate": isolate})
    real = running.Running.work

    def work(self):
        path.write_bytes(clip("h264-bframes-opengop.mp4", FRAMES).read_bytes())
        return real(self)

    monkeypatch.setattr(running.Running, "work", work)
    outcome = run(config)
    assert outcome.state != "done"
    assert "changed since the run began; --resume labels it as it is" in outcome.summary["sources"]["gate"]["error"]
    assert not list(outcome.folder.frames.rglob("*.parquet"))
    monkeypatch.undo()
    again = run(config, mode="resume")
    assert (again.state, again.summary["frames"]["labelled"]) == ("done", FRAMES)


def test_what_is_no_regular_file_is_refused_and_others_go_on(tmp_path):
    os.mkfifo(tmp_path / "fifo.mp4")
    (tmp_path / "zero.mp4").symlink_to("/dev/zero")
    names = {"fifo": tmp_path / "fifo.mp4", "zero": tmp_path / "zero.mp4", "gate": clip("h264-closed.mp4", FRAMES)}
    files = [{"path": str(path), "name": name} for name, path in names.items()]
    section = {"name": "r", "dir": str(tmp_path / "runs"), "torch_threads": 1, "hash_files": True}
    config = test_runner.configured(tmp_path, files, run=section)
    outcome = run(config)
    told = outcome.summary["sources"]
    assert (outcome.exit_code, told["gate"]["labelled"]) == (3, FRAMES)
    assert "must be a video file, got a FIFO" in told["fifo"]["error"]
    assert "must be a video file, got a device" in told["zero"]["error"]


def test_too_many_decoders_that_hang_end_the_run(tmp_path, monkeypatch, hung):
    monkeypatch.setattr(pool, "MOST_STUCK", 2)
    config = configured(tmp_path, decode={"limit_s": 0.3, "workers": 1})
    outcome = run(config, faults=[Fault("hang", "segment", number) for number in range(5)])
    assert (outcome.state, outcome.exit_code) == ("failed", 1)
    assert "3 decoders gave nothing for 0.3 s each and are still at it" in outcome.error
    again = run(config, mode="resume")
    assert (again.state, labelled(again)) == ("done", set(range(FRAMES)))


def test_a_bundle_that_hangs_ends_all_of_its_files(tmp_path, hung):
    files = [{"path": str(clip(kind, FRAMES)), "name": kind} for kind in ("h264-closed.mp4", "vp9.webm", "mjpeg.avi")]
    config = test_runner.configured(tmp_path, files, f=2, order="streams", decode={"limit_s": 0.5, "workers": 1})
    outcome = run(config, faults=[Fault("hang", "frame", 40, "vp9.webm")])
    assert (outcome.state, outcome.summary["problems"]) == ("partial", [])
    assert {name: source["labelled"] for name, source in outcome.summary["sources"].items()}["mjpeg.avi"] == FRAMES
    again = run(config, mode="resume")
    assert (again.state, again.summary["frames"]["labelled"]) == ("done", 3 * FRAMES)


def test_a_disk_that_does_not_take_a_write_ends_the_run_and_what_is_committed_stays(tmp_path):
    config = configured(tmp_path, decode={"workers": 1})
    outcome = run(config, faults=[Fault("raise", "write", 3)])
    assert (outcome.state, outcome.exit_code) == ("failed", 1)
    assert "an error made on purpose" in outcome.error
    assert labelled(outcome) == set(range(24))
    again = run(config, mode="resume")
    assert (again.state, labelled(again)) == ("done", set(range(FRAMES)))


def test_what_broke_a_run_is_told_though_its_ledger_cannot_be_written_either(tmp_path, monkeypatch, caplog):
    def full(path, document):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))

    config = configured(tmp_path, decode={"workers": 1})
    with monkeypatch.context() as patched:
        patched.setattr(running, "write_json", full)
        with pytest.raises(SinkError, match=r"ledger\.json: must be writable, got No space left on device; make room"):
            run(config)
        outcome = run(config, mode="overwrite", faults=[Fault("raise", "write", 3)])
    assert (outcome.state, outcome.exit_code) == ("failed", 1)
    assert "an error made on purpose" in outcome.error
    assert "ledger.json: must be writable" in caplog.text
    assert run(config, mode="resume").state == "done"


class Blocking:
    """A source whose decoder never comes back from the system."""

    name = "blocking"

    def __iter__(self):
        os.read(os.pipe()[0], 1)
        yield


class BadlyClosed(Sink):
    """A sink that cannot be closed."""

    def write(self, batch):
        pass

    def close(self):
        raise RuntimeError("no way out")


def test_what_hangs_does_not_keep_a_command_that_fails_from_ending(tmp_path):
    config = test_runner.configured(
        tmp_path, [{"type": f"{__name__}:Blocking"}], sinks=[{"type": f"{__name__}:BadlyClosed"}]
    )
    command = [sys.executable, "-c", "from pipeline.cli import main; main()", "run", str(config.path)]
    with subprocess.Popen(command, cwd=Path(__file__).parents[1], stderr=subprocess.PIPE, text=True) as process:
        until(lambda: (tmp_path / "runs" / "r" / "log.txt").exists())
        process.terminate()
        told = process.communicate(timeout=60)[1]
    assert process.returncode == 130
    assert "no way out; mend it" in told
    assert "not waited for any longer, as it hangs: decode-" in told
    assert json.loads((tmp_path / "runs" / "r" / "summary.json").read_text())["state"] == "interrupted"


def test_a_second_signal_leaves_a_write_that_hangs_at_once(tmp_path):
    config = configured(tmp_path)
    command = [sys.executable, "-c", "from pipeline.cli import main; main()", "run", str(config.path)]
    with subprocess.Popen(
        [*command, "--fault", "hang@write:2"], cwd=Path(__file__).parents[1], stderr=subprocess.PIPE, text=True
    ) as process:
        until(lambda: (tmp_path / "runs" / "r" / "log.txt").exists())
        time.sleep(2)  # for the write to be reached
        process.terminate()
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(1)
        process.terminate()
        process.communicate(timeout=10)
    assert process.returncode == 130
    assert run(config, mode="resume").state == "done"


def test_what_is_done_beside_a_run_and_fails_costs_nothing_of_it(tmp_path, monkeypatch, caplog):
    def fails(self):
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    monkeypatch.setattr(Telemetry, "sample", fails)
    outcome = run(configured(tmp_path))
    assert (outcome.state, labelled(outcome)) == ("done", set(range(FRAMES)))
    assert "telemetry: OSError: [Errno 24] Too many open files; it is tried again" in caplog.text


def test_a_log_that_the_disk_does_not_take_breaks_no_run(tmp_path):
    config = configured(tmp_path)
    outcome = run(config)
    outcome.folder.log.unlink()
    outcome.folder.log.symlink_to("/dev/full")
    again = run(config, mode="resume")
    assert (again.state, again.exit_code) == ("done", 0)


def test_a_part_that_is_damaged_behind_its_commit_is_told_and_made_anew(tmp_path):
    config = configured(tmp_path, decode={"workers": 1})
    outcome = run(config, faults=[Fault("corrupt", "write", 2)])
    assert outcome.exit_code == 1
    assert "000000000012.parquet: must be a readable part of the run" in outcome.error
    assert labelled(outcome) == set(range(FRAMES)) - set(range(12, 24))
    assert outcome.summary["problems"] == []  # that it is missing is known
    again = run(config, mode="resume")
    assert (again.state, labelled(again)) == ("done", set(range(FRAMES)))


@pytest.mark.parametrize("keep", [0, 0.3, 0.6])
@pytest.mark.parametrize("isolated", [False, True])
def test_a_file_that_is_cut_short_while_it_is_read_is_to_be_tried_again(tmp_path, isolated, keep):
    path = tmp_path / "clip.ts"
    whole = clip("h264-bframes-opengop.ts", FRAMES).read_bytes()
    path.write_bytes(whole)
    file = FileSource(path, name="gate", views=[View(PictureFormat(24, 36))], segment_frames=1)
    decoder = Isolated(limit_s=20, tries=2, memory_mb=2000, stop=Stop()) if isolated else Here()
    with closing(decoder):
        tasks = decoder.segments(file)
        path.write_bytes(whole[: int(keep * len(whole))])
        batches = [batch for task in tasks for batch in decoder.frames(task)]
    ends = [batch.end for batch in batches if batch.end is not None]
    came = {int(n) for batch in batches for n in batch.index}
    lost = {n for end in ends for part in end.lost for n in range(part.first, part.last + 1)}
    assert (len(ends), len(tasks) > 2) == (len(tasks), True)
    assert came | lost == set(range(FRAMES))
    assert not came & lost
    assert ends[-1].retry
    assert all(end.retry and str(path) in end.error for end in ends if end.counts.corrupt)


@pytest.fixture
def failing_disk(monkeypatch):
    """Breaks off the nth pass over a file's packets while it is indexed, at a packet."""

    def fail(passes, at):
        begun = itertools.count(1)

        def packets(container, stream):
            n = next(begun)
            for place, packet in enumerate(container_packets(container, stream)):
                if n == passes and place == at:
                    yield av.error.OSError(errno.EIO, os.strerror(errno.EIO))
                    return
                yield packet

        monkeypatch.setattr(index, "packets", packets)

    return fail


def test_a_disk_that_fails_while_a_file_is_indexed_leaves_no_other_cuts_behind(tmp_path, monkeypatch, failing_disk):
    """Of the first half the file is cut into smaller segments than as a whole."""
    monkeypatch.setattr(cuts, "LEAST_FRAMES", 1)
    monkeypatch.setattr(cuts, "MOST_SHORT_SEGMENTS", 2)
    sources = [{"path": str(clip("h264-closed.mp4", 240)), "name": "gate"}]
    config = test_runner.configured(tmp_path, sources, decode={"segment_frames": 1000})
    failing_disk(1, 150)
    outcome = run(config)
    assert (outcome.state, labelled(outcome)) == ("partial", set(range(84)))
    assert "Input/output error" in outcome.summary["sources"]["gate"]["error"]
    monkeypatch.setattr(index, "packets", container_packets)
    before = {path: path.stat().st_mtime_ns for path in outcome.folder.frames.rglob("*.parquet")}
    again = run(config, mode="resume")
    assert (again.state, again.summary["problems"], labelled(again)) == ("done", [], set(range(240)))
    assert before.items() <= {path: path.stat().st_mtime_ns for path in before}.items()
    assert len(test_runner.rows(again.folder)[1]) == again.summary["frames"]["labelled"] == 240


@pytest.mark.parametrize("passes", [1, 2])
def test_a_disk_that_fails_at_a_files_head_does_not_make_another_file_of_it(
    tmp_path, monkeypatch, failing_disk, passes
):
    config = configured(tmp_path, decode={"workers": 1})
    outcome = run(config, faults=[Fault("raise", "write", 3)])
    assert labelled(outcome) == set(range(24))
    failing_disk(passes, 20)
    outcome = run(config, mode="resume")
    assert (outcome.state, outcome.exit_code) == ("partial", 3)
    assert "Input/output error" in outcome.summary["sources"]["gate"]["error"]
    assert labelled(outcome) == set(range(24))
    monkeypatch.setattr(index, "packets", container_packets)
    again = run(config, mode="resume")
    assert (again.state, again.summary["problems"], labelled(again)) == ("done", [], set(range(FRAMES)))


def test_a_file_that_would_be_cut_otherwise_than_its_committed_segments_is_left_as_it_is(tmp_path, monkeypatch):
    config = configured(tmp_path, decode={"workers": 1})
    run(config, faults=[Fault("raise", "write", 3)])
    monkeypatch.setattr(index, "_why_whole", lambda *_: "somebody says so")
    outcome = run(config, mode="resume")
    assert (outcome.state, labelled(outcome)) == ("partial", set(range(24)))
    told = outcome.summary["sources"]["gate"]["error"]
    assert "must be cut as when its segment from frame 0 was committed, got other cuts (somebody says so)" in told
    monkeypatch.undo()
    assert run(config, mode="resume").state == "done"


def test_a_file_that_is_labelled_to_its_end_is_not_opened_again(tmp_path, monkeypatch):
    config = configured(tmp_path)
    assert run(config).state == "done"
    monkeypatch.setattr(file, "index_file", None)
    assert run(config, mode="resume").state == "done"


def test_slow_decoders_and_sinks_lose_nothing(tmp_path):
    config = configured(tmp_path, decode={"workers": 1})
    outcome = run(config, faults=[Fault("slow", "frame", 50), Fault("slow", "write", 5)])
    assert (outcome.state, labelled(outcome)) == ("done", set(range(FRAMES)))
    assert outcome.summary["seconds"] > 1.0


def test_a_command_that_is_killed_goes_on(tmp_path):
    config = configured(tmp_path, decode={"workers": 1})

    def command(*more):
        return subprocess.run(
            [sys.executable, "-c", "from pipeline.cli import main; main()", "run", "-q", str(config.path), *more],
            cwd=Path(__file__).parents[1],
            capture_output=True,
            text=True,
        )

    assert command("--fault", "kill@write:4").returncode == -9
    assert command("--fault", "melt@write:4", "--resume").returncode == 2
    done = command("--resume")
    assert done.returncode == 0
    assert "Traceback" not in done.stderr
    summary = json.loads((tmp_path / "runs" / "r" / "summary.json").read_text())
    assert (summary["state"], summary["frames"]["labelled"]) == ("done", FRAMES)


def test_sources_and_sinks_of_ones_own_can_be_made_faulty():
    source = ListSource("a", numbered_batches("a", [4, 4, 4]))
    assert [len(batch) for batch in FaultySource(source, Fault("corrupt", "frame", 5))] == [4, 3, 4]
    got = []

    def take():
        for batch in FaultySource(source, Fault("raise", "frame", 9)):
            got.extend(batch.index.tolist())

    with pytest.raises(OSError, match="raise@frame:9: an error made on purpose"):
        take()
    assert got == list(range(8))
    check_sink(lambda: FaultySink(ListSink(), Fault("slow", "write", 100)))
