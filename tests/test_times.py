"""Where the time of a run goes: runs that are made slow in one place, and the verdict on them."""

import dataclasses
import time
from itertools import pairwise
from pathlib import Path

import pytest
from ruamel.yaml import YAML

from pipeline import runner as runs
from pipeline.assembly import open_models
from pipeline.config import load_run_config
from pipeline.contracts import Sink
from pipeline.plan import make_plan
from pipeline.running import Running
from pipeline.runs import RunFolder
from pipeline.testing import ListSource, check_sink, numbered_batches
from pipeline.threads import Stop
from pipeline.times import MAIN, TimedSink, Times
from tests.models import BITS, NumberReader

SLOW_S = 0.1  # per batch of the slow part: 0.6 s in all, beside less than 0.1 s of everything else
SINK = "tests.test_times:SlowSink"


class Pictures(ListSource):
    """96 pictures of one segment, ready in memory; each batch of 16 may take its time."""

    def __init__(self, *, slow_s: float = 0.0) -> None:
        super().__init__("pictures", numbered_batches("pictures", [16] * 6, size=(24, 36)))
        self._slow_s = slow_s

    def __iter__(self):
        for batch in super().__iter__():
            time.sleep(self._slow_s)
            yield batch


class SlowReader(NumberReader):
    def forward(self, x):
        time.sleep(SLOW_S)
        return super().forward(x)


class SlowSink(Sink):
    """Takes its time, with each batch or once at the end."""

    def __init__(self, *, write_s: float = 0.0, finish_s: float = 0.0) -> None:
        self._write_s, self._finish_s = write_s, finish_s

    def write(self, batch):
        time.sleep(self._write_s)

    def finish(self):
        time.sleep(self._finish_s)


class SlowUpload:
    """An engine that takes its time to move pictures to its device, as a slow bus would."""

    def __init__(self, engine) -> None:
        self._engine = engine
        self.transfer_s = 0.0

    def __getattr__(self, name):
        return getattr(self._engine, name)

    def submit(self, frames):
        began = time.perf_counter()
        time.sleep(SLOW_S)
        self.transfer_s += time.perf_counter() - began
        return self._engine.submit(frames)


def configured(folder: Path, *, slow_s=0.0, model="tests.models:NumberReader", **sections):
    """Loads the configuration of a run, over `Pictures` unless `sources` are given."""
    content = {
        "run": {"name": "r", "dir": str(folder), "torch_threads": 1},
        "decode": {"segment_frames": 1, "workers": 2},
        "sources": [{"type": "tests.test_times:Pictures", "slow_s": slow_s}],
        "filter": {
            "name": "reader",
            "model": model,
            "input": [24, 36],
            "classes": BITS,
            "task": "any_of",
            "mean": [0, 0, 0],
            "std": [1, 1, 1],
            "fold": 2,
            "order": "consecutive",
            "batch": 16,
            "dtype": "float32",
            "device": "cpu",
        },
    } | sections
    path = folder / "run.yaml"
    with path.open("w") as file:
        YAML(typ="safe").dump(content, file)
    return load_run_config(path)


@pytest.fixture(scope="module", autouse=True)
def warm(tmp_path_factory):
    """A run before the others, because the first one of a process loads what it needs."""
    runs.run(configured(tmp_path_factory.mktemp("warm")))


@pytest.mark.parametrize(
    ("bound", "slow"),
    [
        ("decode", {"slow_s": SLOW_S}),
        ("compute", {"model": "tests.test_times:SlowReader"}),
        ("sink", {"sinks": [{"type": SINK, "write_s": SLOW_S}]}),
        ("sink", {"sinks": [{"type": SINK, "finish_s": 6 * SLOW_S}]}),
    ],
)
def test_a_run_is_bound_by_its_slow_part(tmp_path, bound, slow):
    found = []
    while bound not in found and len(found) < 3:  # the machine may stop for as long as the slow part takes, if rarely
        folder = tmp_path / str(len(found))
        folder.mkdir()
        outcome = runs.run(configured(folder, **slow))
        assert outcome.exit_code == 0
        found.append(outcome.summary["bound_by"])
    assert found[-1] == bound, found


def test_a_run_whose_pictures_reach_the_device_slowly_is_bound_by_transfer(tmp_path):
    config = configured(tmp_path)
    models = []
    for model in open_models(config):
        engine = SlowUpload(model.engine)
        models.append(
            dataclasses.replace(model, engine=engine, filter=dataclasses.replace(model.filter, engine=engine))
        )
    folder = RunFolder.create(tmp_path, "r")
    outcome = Running(config, models, make_plan(config, models), folder, "sha", Stop(), (), Times()).work()
    stages = outcome.summary["stages"]
    assert outcome.summary["bound_by"] == "transfer"
    assert stages["transfer"]["busy_s"] >= 6 * SLOW_S
    assert stages["compute"]["busy_s"] < 3 * SLOW_S  # the upload happens within a submit and counts once


def test_what_the_calling_thread_does_never_overlaps_and_adds_up_to_no_more_than_the_run(tmp_path):
    config = configured(tmp_path, sinks=[{"type": SINK, "write_s": 0.001}])
    models = open_models(config)
    spans = []
    times = Times(spans.append)
    folder = RunFolder.create(tmp_path, "r")
    plan = make_plan(config, models)
    outcome = Running(config, models, plan, folder, "sha", Stop(), (), times).work()
    main = sorted((span for span in spans if span.row == MAIN), key=lambda span: span.began_s)
    assert all(one.ended_s <= next.began_s for one, next in pairwise(main))
    stages = outcome.summary["stages"]
    busy = stages["transfer"]["waiting_in_s"] + sum(stages[name]["busy_s"] for name in ("transfer", "compute", "sink"))
    assert busy == pytest.approx(sum(span.ended_s - span.began_s for span in main))
    assert 0 < busy <= outcome.summary["seconds"]


def test_every_step_of_a_batch_is_a_span_with_its_segment_and_frames(tmp_path):
    config = configured(tmp_path, sinks=[{"type": SINK}])
    models = open_models(config)
    spans = []
    folder = RunFolder.create(tmp_path, "r")
    Running(config, models, make_plan(config, models), folder, "sha", Stop(), (), Times(spans.append)).work()
    frames = {}
    for span in spans:
        frames.setdefault(span.name, []).append(span.frames)
    del frames["wait for a batch"]
    assert frames == {
        **{
            name: [16] * 6
            for name in ("decode", "fold", "submit reader", "result reader", "write parts", f"write {SINK}")
        },
        **{f"{what} {name}": [0] for what in ("commit", "finish", "close") for name in ("parts", SINK)},
    }
    assert {span.segment.source for span in spans if span.frames} == {"pictures"}


def test_a_span_is_told_even_if_its_work_fails():
    spans = []
    with pytest.raises(KeyError), Times(spans.append).span("compute", "fold"):
        raise KeyError
    assert [span.name for span in spans] == ["fold"]


def test_a_timed_sink_keeps_the_contract():
    check_sink(lambda: TimedSink("slow", SlowSink(), Times()))
