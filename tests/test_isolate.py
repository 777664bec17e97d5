"""Decoders in processes of their own give what those in threads give, and what they die of costs one segment."""

import errno
import os
import signal
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from pipeline.batch import Counts
from pipeline.config import load_run_config
from pipeline.faults import Fault, FaultyDecoder
from pipeline.ledger import Ledger
from pipeline.regions import Region
from pipeline.runner import run
from pipeline.sources import isolate, pool
from pipeline.sources.file import FileSource
from pipeline.sources.isolate import Isolated
from pipeline.sources.scaler import PictureFormat, View
from pipeline.sources.selection import Selection
from pipeline.threads import Stop
from tests import test_runner
from tests.clips import clip

PICTURE = PictureFormat(24, 36)
FRAMES = 60


def source(name="h264-closed.mp4", n=FRAMES, **options):
    return FileSource(
        clip(name, n), name=name, views=[View(PICTURE)], **{"batch_frames": 7, "segment_frames": 1} | options
    )


def isolated(**options):
    return Isolated(**{"limit_s": 20.0, "tries": 2, "memory_mb": 2000, "stop": Stop()} | options)


def decoded(decoder, file):
    with closing(decoder):
        return [batch for task in decoder.segments(file) for batch in decoder.frames(task)]


def by_frame(batches):
    return {
        (batch.source, int(n)): (float(t), picture.tobytes())
        for batch in batches
        for n, t, picture in zip(batch.index, batch.pts_s, batch.frames, strict=True)
    }


@pytest.mark.parametrize("kind", ["h264-closed.mp4", "mpeg4-bframes.avi"])
@pytest.mark.parametrize("selection", [Selection(), Selection(every=3), Selection(limit=10)], ids=str)
def test_batches_are_those_of_a_thread(kind, selection):
    here = decoded(pool.Here(), source(kind, selection=selection))
    there = decoded(isolated(), source(kind, selection=selection))
    assert len(here) == len(there) > 0
    for a, b in zip(here, there, strict=True):
        assert (a.segment, a.end, a.view, a.regions) == (b.segment, b.end, b.view, b.regions)
        np.testing.assert_array_equal(a.index, b.index)
        np.testing.assert_array_equal(a.pts_s, b.pts_s)
        np.testing.assert_array_equal(a.frames, b.frames)


def test_a_file_that_is_none_is_refused_as_in_a_thread(tmp_path):
    path = tmp_path / "none.mp4"
    path.write_bytes(b"none at all")
    file = FileSource(path, name="none", views=[View(PICTURE)])
    (here,), (there,) = decoded(pool.Here(), file), decoded(isolated(), file)
    assert here.end == there.end


@pytest.mark.parametrize("place", ["segment", "frame"])
def test_a_segment_that_ends_its_process_each_time_is_given_up_with_what_came(place, caplog):
    file = source()
    tasks = pool.Here().segments(file)
    at = 1 if place == "segment" else tasks[1].first_frame + 8  # in its second batch
    batches = decoded(FaultyDecoder(isolated(), [Fault("crash", place, at)]), file)
    first, stop = tasks[1].cut.first_frame, tasks[1].cut.last_frame
    gone = set(range(first if place == "segment" else first + 7, stop))
    assert {n for _, n in by_frame(batches)} == set(range(FRAMES)) - gone
    ends = [batch.end for batch in batches if batch.end is not None]
    assert [end.segment.number for end in ends] == list(range(len(tasks)))
    assert {n for lost in ends[1].lost for n in range(lost.first, lost.last + 1)} == gone
    assert "quarantined: its decoder was tried 2 times and was ended by SIGSEGV" in ends[1].error
    assert not ends[1].retry
    assert all(end.error is None and end.counts.complete for end in ends if end.segment.number != 1)
    scored = [
        replace(end, counts=end.counts + Counts(labelled=end.counts.decoded, written=end.counts.decoded))
        for end in ends
    ]
    assert Ledger(scored).check() == []
    assert [record.getMessage().count("a new one is started") for record in caplog.records] == [1]


def test_what_the_system_ends_is_tried_again_by_a_later_run(caplog):
    file = source()
    batches = decoded(FaultyDecoder(isolated(), [Fault("kill", "segment", 1)]), file)
    end = next(batch.end for batch in batches if batch.end is not None and batch.end.segment.number == 1)
    assert end.retry
    assert "its decoder was tried 2 times and was ended by SIGKILL (for want of memory?)" in end.error
    assert "quarantined" not in end.error


def test_a_segment_is_quarantined_only_if_each_try_crashed():
    (task,) = pool.Here().segments(source(segment_frames=1000))
    decoder = isolated()
    deaths = iter([isolate.Died("was ended by SIGKILL", is_crash=False), isolate.Died("crashed", is_crash=True)])

    def frames(task):
        raise next(deaths)
        yield

    decoder._frames = frames
    (batch,) = decoder.frames(task)
    assert batch.end.retry


SERVING = "import os, signal, sys; from pipeline.sources import child; "


@pytest.mark.parametrize(
    ("program", "told", "is_crash"),
    [
        ("raise ImportError('no module named av')", "ended with code 1 (ImportError: no module named av)", False),
        ("import os, signal; os.kill(os.getpid(), signal.SIGSEGV)", "was ended by SIGSEGV", False),
        (SERVING + "child.Here.frames = lambda *_: os._exit(3); {}", "ended with code 3", True),
        (SERVING + "child.Here.frames = lambda *_: os.abort(); {}", "was ended by SIGABRT", True),
        (SERVING + "child.Here.frames = lambda *_: os.kill(os.getpid(), 8); {}", "was ended by SIGFPE", True),
        (SERVING + "child.Here.frames = lambda *_: os.kill(os.getpid(), 12); {}", "was ended by SIGUSR2", False),
        (SERVING + "child.Here.frames = lambda *_: os.kill(os.getpid(), 40); {}", "was ended by signal 40", False),
        (SERVING + "child._Unpickler.load = lambda _: {}['it']; {}", "failed (KeyError: 'it')", False),
        (SERVING + "child._answer_all = lambda *_: bytes(-1); {}", "ended with code 70 (ValueError", False),
    ],
)
def test_only_what_a_decoder_did_at_a_segment_is_held_against_that(monkeypatch, program, told, is_crash):
    serve = "child.serve(*map(int, sys.argv[1:]))"
    monkeypatch.setattr(isolate, "PROGRAM", program.removesuffix("{}") + serve if "{}" in program else program)
    tasks = pool.Here().segments(source())
    with closing(isolated()) as decoder:
        (batch,) = decoder.frames(tasks[1])
    assert told in batch.end.error
    assert ("quarantined" in batch.end.error, batch.end.retry) == (is_crash, not is_crash)


def test_a_terminal_that_closes_ends_no_decoder():
    with closing(isolated()) as decoder:
        tasks = decoder.segments(source())
        for number in (signal.SIGHUP, signal.SIGINT, signal.SIGTERM):
            os.kill(decoder._process._process.pid, number)
        assert [batch.end.error for task in tasks for batch in decoder.frames(task) if batch.end] == [None] * len(tasks)


def test_what_a_process_of_other_code_answers_is_told(monkeypatch):
    unknown = "; import pipeline.batch as b; b.New = type('New', (), {'__module__': 'pipeline.batch'}); "
    program = SERVING.rstrip("; ") + unknown + "child.Here.segments = lambda *_, **__: [b.New()]; "
    monkeypatch.setattr(isolate, "PROGRAM", program + "child.serve(*map(int, sys.argv[1:]))")
    (batch,) = decoded(isolated(), source())
    assert "answered what cannot be read (AttributeError: " in batch.end.error


@pytest.mark.parametrize(
    "place", ["Pipe", "os.memfd_create", "mmap.mmap", "tempfile.TemporaryFile", "subprocess.Popen"]
)
def test_a_process_that_cannot_be_started_is_tried_again_and_leaves_nothing_open(monkeypatch, place, caplog):
    def full(*_, **__):
        raise OSError(errno.EMFILE, "Too many open files")

    tasks = pool.Here().segments(source())
    before = os.listdir("/proc/self/fd")
    with monkeypatch.context() as patch:
        patch.setattr(f"pipeline.sources.isolate.{place}", full)
        (batch,) = isolated().frames(tasks[1])
    assert os.listdir("/proc/self/fd") == before
    assert batch.end.retry
    assert "its decoder was tried 2 times and could not be started (Too many open files)" in batch.end.error


def test_what_came_before_a_process_ended_comes_once():
    file = source(segment_frames=1000)
    whole = decoded(pool.Here(), file)
    decoder = Dying(isolated())
    batches = decoded(decoder, file)
    assert decoder.killed == 1
    assert [batch.index.tolist() for batch in batches] == [batch.index.tolist() for batch in whole]
    assert batches[-1].end == whole[-1].end


class Dying:
    """Kills its process once, in the middle of a segment."""

    def __init__(self, decoder):
        self.decoder, self.killed = decoder, 0

    def segments(self, file):
        return self.decoder.segments(file)

    def frames(self, task):
        for number, batch in enumerate(self.decoder.frames(task)):
            yield batch
            if number == 2 and not self.killed:
                self.killed += 1
                os.kill(self.decoder._process._process.pid, signal.SIGKILL)

    def close(self):
        self.decoder.close()


def test_a_process_that_gives_no_sign_of_life_is_ended(caplog):
    file = source()
    batches = decoded(FaultyDecoder(isolated(limit_s=5.0, tries=1), [Fault("hang", "segment", 1)]), file)
    ends = [batch.end for batch in batches if batch.end is not None]
    assert "gave no sign of life for 5 s" in ends[1].error
    assert ends[1].retry  # what stood still may go on the next time
    assert [end.error is None for end in ends] == [number != 1 for number in range(len(ends))]


def test_a_file_whose_index_ends_the_process_is_refused(monkeypatch, caplog):
    file = source()
    monkeypatch.setattr(isolate, "PROGRAM", "import sys; print('no\\nmore', file=sys.stderr); sys.exit(7)")
    (batch,) = decoded(isolated(), file)
    assert (
        batch.end.error == f"{file.path}: cannot be indexed: its decoder was tried 2 times and ended with code 7 (more)"
    )
    assert batch.end.retry


def test_a_stop_ends_the_wait_for_a_process():
    stop = Stop()
    decoder = FaultyDecoder(isolated(stop=stop, limit_s=60.0), [Fault("hang", "segment", 1)])
    with closing(decoder):
        tasks = decoder.segments(source())
        stop.set()
        assert list(decoder.frames(tasks[1])) == []


@pytest.mark.parametrize("order", ["consecutive", "streams"])
def test_runs_are_the_same_with_and_without(tmp_path, order):
    files = [{"path": str(clip(name, FRAMES))} for name in ("h264-closed.mp4", "h264-bframes-opengop.mp4")]
    for name in "ab":
        (tmp_path / name).mkdir()
    plain = run(test_runner.configured(tmp_path / "a", files, f=2, order=order))
    other = run(test_runner.configured(tmp_path / "b", files, f=2, order=order, decode={"isolate": True}))
    assert (plain.state, other.state) == ("done", "done")
    assert test_runner.rows(plain.folder)[0] == test_runner.rows(other.folder)[0]


def test_a_poison_segment_costs_itself_alone_and_resuming_does_not_try_it_again(tmp_path):
    config = test_runner.configured(
        tmp_path, [{"path": str(clip("h264-closed.mp4", FRAMES))}], decode={"isolate": True}
    )
    outcome = run(config, faults=[Fault("crash", "segment", 1)])
    assert (outcome.state, outcome.exit_code, outcome.summary["problems"]) == ("partial", 3, [])
    counts = outcome.summary["frames"]
    assert counts["indexed"] == FRAMES
    assert counts["corrupt"] > 0
    assert counts["labelled"] == FRAMES - counts["corrupt"]
    again = run(config, mode="resume")
    assert (again.state, again.summary["frames"]) == ("partial", counts)


def test_an_index_is_sent_once_to_a_process():
    with closing(isolated()) as decoder:
        tasks = decoder.segments(source())
        sent = Sent(decoder._process._line)
        decoder._process._line = sent
        for task in tasks:
            list(decoder.frames(task))
        assert sent.kinds == ["index", *["frames"] * len(tasks)]


class Sent:
    """What goes over a line."""

    def __init__(self, line):
        self.line, self.kinds = line, []

    def send_bytes(self, data):
        if len(data):
            self.kinds.append("frames" if b"frames" in bytes(data)[:40] else "index")
        self.line.send_bytes(data)

    def __getattr__(self, name):
        return getattr(self.line, name)


def dying(decoder, task, tries):
    """What a decoder gives of a task where its process gives the batches of each try and dies."""

    def frames(task):
        yield from next(tries)
        raise isolate.Died("was ended by SIGSEGV", is_crash=True)

    decoder._frames = frames
    return list(decoder.frames(task))


@pytest.mark.parametrize("error", [None, "the disk is gone"])
def test_a_second_try_that_ends_before_the_first_did_gives_the_end(error):
    file = source(segment_frames=1000)
    (task,) = pool.Here().segments(file)
    decoder = isolated()
    whole = list(pool.Here().frames(task))
    tries = iter([whole[:3], [*whole[:1], task.broken([whole[0].index], error or "short", retry=True)]])
    batches = dying(decoder, task, tries)
    assert [len(batch) for batch in batches] == [7, 7, 7, 0]
    assert (batches[-1].end.counts.decoded, batches[-1].end.counts.corrupt, batches[-1].end.retry) == (21, 39, True)


def test_a_second_try_that_gives_other_frames_is_not_trusted():
    file = source(segment_frames=1000)
    (task,) = pool.Here().segments(file)
    decoder = isolated()
    whole = list(pool.Here().frames(task))
    tries = iter([whole[:3], [whole[0], whole[2]]])
    batches = dying(decoder, task, tries)
    assert [len(batch) for batch in batches] == [7, 7, 7, 0]
    assert "it gave other frames the second time" in batches[-1].end.error
    assert batches[-1].end.retry


def test_of_frames_in_several_views_all_batches_come_or_none():
    numbers = [np.arange(k, k + 3) for k in (0, 3, 6)]
    two = [SimpleNamespace(index=n, view=view, end=None) for n in numbers for view in (0, 1)]
    given = list(isolate._in_full(iter(two[:5])))
    assert [(batch.index[0], batch.view) for batch in given] == [(0, 0), (0, 1), (3, 0), (3, 1)]


def test_of_frames_in_views_of_unequally_many_regions_all_batches_come_or_none():
    regions = (Region("a", 0, 0, 0.5, 1), Region("b", 0.5, 0, 0.5, 1))
    views = [View(PICTURE, regions=regions[:1]), View(PictureFormat(12, 18), regions=regions)]
    file = FileSource(clip("h264-closed.mp4", FRAMES), name="c", views=views, batch_frames=7)
    (task,) = pool.Here().segments(file)
    whole = list(pool.Here().frames(task))
    assert [len(batch) for batch in whole[:4]] == [7, 14, 7, 14]
    batches = dying(isolated(), task, iter([whole[:4], whole[:4]]))
    assert [(batch.view, len(batch)) for batch in batches] == [(0, 7), (1, 14), (0, 0)]
    end = batches[-1].end
    assert (end.counts.decoded, end.counts.corrupt) == (7, FRAMES - 7)


def test_a_decoder_without_memory_is_told_and_its_segments_are_tried_again(tmp_path):
    files = [{"path": str(clip("h264-closed.mp4", FRAMES))}]
    decode = {"isolate": True, "limits": {"memory_mb": 1}}
    config = test_runner.configured(tmp_path, files, batch=8192, decode=decode)  # which takes 21 MB
    outcome = run(config)
    assert outcome.state in ("partial", "failed")
    assert "MemoryError" in next(iter(outcome.summary["sources"].values()))["error"]
    assert outcome.summary["problems"] == []
    again = run(load_run_config(config.path, overrides=["decode.limits.memory_mb=2000"]), mode="resume")
    assert (again.state, again.summary["frames"]["labelled"]) == ("done", FRAMES)


def test_no_process_is_left(tmp_path):
    decoder = isolated()
    frames = decoder.frames(decoder.segments(source(segment_frames=1000))[0])
    next(frames)
    pid = decoder._process._process.pid
    frames.close()
    decoder.close()
    assert not Path(f"/proc/{pid}").exists()
