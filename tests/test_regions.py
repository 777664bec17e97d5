"""Regions: every label belongs to its source, its frame and its region, and crops are right to the pixel."""

from dataclasses import replace

import av
import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.assembly import engine_threads
from pipeline.batch import Counts, FrameBatch, Segment, SegmentEnd
from pipeline.config import load_run_config
from pipeline.errors import ConfigError
from pipeline.filter import Filter, folded_filter
from pipeline.fold import Grouping, fold
from pipeline.ledger import SourceLedger
from pipeline.machine import cores
from pipeline.regions import Region, chosen
from pipeline.runner import run
from pipeline.sources import decode
from pipeline.sources.file import FileSource
from pipeline.sources.orientation import Orientation
from pipeline.sources.own import OwnSource
from pipeline.sources.planes import Crop, planes_of
from pipeline.sources.scaler import INTERPOLATIONS, PictureFormat, Scaler, View
from pipeline.testing import MeanEngine, check_fold, numbers_in
from specialized.orders import WINDOW_GROUPS
from tests.clips import in_region, write_clip
from tests.models import BITS, numbers

ALONG = ("consecutive", "strided", "shuffled", "regions")


def region_batches(source, lengths, counts, *, number=0):
    """Batches of a segment as a decoder gives them: of each view some frames, whose regions show 64 * frame + region.

    Args:
        lengths: Frames of each batch.
        counts: Regions in each view; 0: the view is of whole frames, which show 64 * frame.
    """
    segment = Segment(source, number=number)
    first = 0
    for k, n in enumerate(lengths):
        for view, count in enumerate(counts):
            each = max(1, count)
            index = np.repeat(np.arange(first, first + n, dtype=np.int64), each)
            region = np.tile(np.arange(each, dtype=np.int16), n)
            shown = 64 * index + region
            frames = np.zeros((n * each, 2, 3, 3), np.uint8)
            frames[..., 0], frames[..., 1] = (shown % 256)[:, None, None], (shown // 256)[:, None, None]
            total = sum(lengths)
            is_last = k == len(lengths) - 1 and view == len(counts) - 1
            yield FrameBatch(
                segment,
                frames,
                index,
                index / 25,
                end=SegmentEnd(segment, Counts(indexed=total, decoded=total)) if is_last else None,
                view=view,
                regions=tuple(f"r{place}" for place in range(count)),
                region=region if count else None,
            )
        first += n


@st.composite
def runs(draw):
    """Segments of some sources with their batches interleaved, and groupings for some filters."""
    views = draw(st.integers(1, 3))
    segments = []
    for k in range(draw(st.integers(1, 3))):
        counts = [draw(st.sampled_from([0, 1, 2, 3, 5, 64])) for _ in range(views)]
        lengths = draw(st.lists(st.integers(0, 5), min_size=1, max_size=4))
        segments.append((f"s{k}", lengths, counts, list(region_batches(f"s{k}", lengths, counts, number=k))))
    groupings = [
        Grouping(
            draw(st.integers(1, 5)),
            draw(st.sampled_from(ALONG)),
            draw(st.integers(0, views - 1)),
            draw(st.sampled_from([(), ("r1*",), ("r0", "r3"), ("r[!0]",)])),
        )
        for _ in range(draw(st.integers(1, 4)))
    ]
    queues = [list(batches) for *_, batches in segments]
    mixed = []
    while queues:
        queue = queues[draw(st.integers(0, len(queues) - 1))]
        mixed.append(queue.pop(0))
        queues = [queue for queue in queues if queue]
    return segments, groupings, mixed


@settings(max_examples=150, deadline=None)
@given(case=runs(), groups=st.integers(1, 9), late=st.booleans())
def test_every_label_is_that_of_its_region_in_its_frame(case, groups, late):
    segments, groupings, batches = case
    filters = [Filter(f"m{k}", MeanEngine(groups + k), grouping=k) for k in range(len(groupings))]
    clock = iter(range(10_000)).__next__ if late else lambda: 0
    regions = {name: [tuple(f"r{k}" for k in range(count)) for count in counts] for name, _, counts, _ in segments}
    owed = {
        name: [grouping.per_frame(views[grouping.view]) for grouping in groupings] for name, views in regions.items()
    }
    told = dict.fromkeys(owed, (0, 0))

    def tell(batch, labelled, written):
        told[batch.source] = (told[batch.source][0] + labelled, told[batch.source][1] + written)

    stage = folded_filter(filters, owed=lambda segment: owed[segment.source], told=tell, clock=clock)
    labelled = list(stage(fold(*groupings)(iter(batches))))
    ends = [batch.end for batch in labelled if batch.end]
    assert sorted(end.segment.source for end in ends) == [name for name, *_ in segments]
    for name, lengths, counts, _ in segments:
        (end,) = (end for end in ends if end.segment.source == name)
        places = []
        for filter, grouping in zip(filters, groupings, strict=True):
            own = [batch for batch in labelled if (batch.source, batch.filter) == (name, filter.name)]
            count = counts[grouping.view]
            names = tuple(f"r{k}" for k in range(count))
            seen = chosen(grouping.regions, names) if count else () if grouping.regions else (0,)
            rows = [(frame, place) for frame in range(sum(lengths)) for place in seen]
            got = [
                (int(n), 0 if batch.region is None else int(batch.region[at]))
                for batch in own
                for at, n in enumerate(batch.index)
            ]
            assert got == rows
            assert [int(n) for batch in own for n in numbers_in(batch.scores)] == [64 * n + k for n, k in rows]
            assert end.filters[filter.name] == len(rows)
            places.append(len(seen))
        assert end.counts.imbalance() is None or not any(places)
        assert end.counts.labelled == (sum(lengths) if any(places) else 0)
        assert (end.counts.labelled, end.counts.written) == told[name]
        assert (end.per_frame, end.counts.pictures) == (sum(places), sum(places) * sum(lengths))


@pytest.mark.parametrize("lost", ["a view", "a region"])
def test_what_a_filter_never_saw_is_told_as_failed(lost):
    batches = list(region_batches("a", [4], [2, 2]))
    if lost == "a view":
        batches = [batch if batch.view == 0 else batch.rows(np.zeros(len(batch), np.bool_)) for batch in batches]
    else:
        batches = [batch.rows(batch.region == 0) if batch.view == 1 else batch for batch in batches]
        batches = [replace(batch, regions=("r0",)) if batch.view == 1 else batch for batch in batches]
    filters = [Filter(f"m{k}", MeanEngine(4), grouping=k) for k in range(2)]
    stage = folded_filter(filters, owed=lambda segment: [2, 2])
    labelled = stage(fold(Grouping(1, "regions", 0), Grouping(1, "regions", 1))(iter(batches)))
    (end,) = (batch.end for batch in labelled if batch.end)
    assert end.counts.failed == (4 if lost == "a view" else 2)
    assert not end.counts.complete
    *_, problem = SourceLedger("a", (end,)).check()
    assert problem.endswith(f"pictures must be classified, got {end.counts.pictures}")


@settings(max_examples=80, deadline=None)
@given(
    lengths=st.lists(st.lists(st.integers(0, 4), min_size=1, max_size=4), min_size=2, max_size=4),
    counts=st.lists(st.sampled_from([0, 1, 3]), min_size=1, max_size=3),
    choices=st.lists(st.integers(0, 3), max_size=40),
    ticks=st.lists(st.integers(0, 3), max_size=40),
)
def test_across_streams_nothing_is_lost_whatever_comes_first(lengths, counts, choices, ticks):
    members = tuple(f"s{k}" for k in range(len(lengths)))
    queues = []
    for slot, own in enumerate(lengths):
        segment = Segment(members[slot], bundle=members, slot=slot)
        given = list(region_batches(members[slot], own, counts))
        ends = [None if one.end is None else replace(one.end, segment=segment) for one in given]
        queues.append([replace(one, segment=segment, end=end) for one, end in zip(given, ends, strict=True)])
    mixed = []
    while any(queues):
        there = [queue for queue in queues if queue]
        queue = there[(choices.pop() if choices else 0) % len(there)]
        if ticks and ticks.pop() == 0:
            mixed.append(FrameBatch.tick(queue[0].segment))
        mixed.append(queue.pop(0))
    groupings = [Grouping(len(lengths) + view % 2, "streams", view) for view in range(len(counts))]
    filters = [Filter(f"m{k}", MeanEngine(3), grouping=k) for k in range(len(counts))]
    owed = [max(1, count) for count in counts]
    labelled = list(folded_filter(filters, owed=lambda segment: owed)(fold(*groupings)(iter(mixed))))
    for slot, own in enumerate(lengths):
        (end,) = (batch.end for batch in labelled if batch.end and batch.source == members[slot])
        assert (end.counts.labelled, end.counts.failed) == (sum(own), 0)
        for filter, each in zip(filters, owed, strict=True):
            mine = [one for one in labelled if (one.source, one.filter) == (members[slot], filter.name)]
            shown = [int(n) for one in mine for n in numbers_in(one.scores)]
            assert shown == [64 * n + k for n in range(sum(own)) for k in range(each)]


def group_of(order, f, count, frames, regions=()):
    """The groups of one segment as rows of (frame, region)."""
    batches = list(region_batches("a", [frames], [count]))
    check = fold(Grouping(f, order, regions=regions))
    if not regions:
        check_fold(check, batches)
    groups = []
    for folded in check(iter(batches)):
        shown = folded.frames[..., 0, 0, 0].astype(int) + 256 * folded.frames[..., 0, 0, 1].astype(int)
        groups += [[divmod(int(n), 64) for n in row] for row in shown]
    return groups


def test_groups_along_time_are_of_one_region():
    assert group_of("consecutive", 2, 3, 4)[:3] == [[(0, 0), (1, 0)], [(0, 1), (1, 1)], [(0, 2), (1, 2)]]
    (first, *_) = group_of("strided", 2, 3, 2 * WINDOW_GROUPS)
    assert first == [(0, 0), (WINDOW_GROUPS, 0)]
    assert group_of("consecutive", 2, 3, 3)[3:] == [[(2, k), (2, k)] for k in range(3)]  # padded by the same region


def test_groups_of_regions_go_on_into_the_next_frame():
    assert group_of("regions", 2, 3, 2) == [[(0, 0), (0, 1)], [(0, 2), (1, 0)], [(1, 1), (1, 2)]]
    assert group_of("regions", 2, 3, 2, ("r0", "r2")) == [[(0, 0), (0, 2)], [(1, 0), (1, 2)]]


def test_frames_of_which_one_region_is_kept_are_written():
    batches = list(region_batches("a", [4], [3]))
    told = []
    stage = folded_filter(
        [Filter("m", MeanEngine(4), keep=((0, 130.0),))],
        owed=lambda segment: [3],
        told=lambda batch, labelled, written: told.append((len(batch), labelled, written)),
    )
    labelled = list(stage(fold(Grouping(1, "regions"))(iter(batches))))
    (end,) = (batch.end for batch in labelled if batch.end)
    assert [(n, k) for batch in labelled for n, k in zip(batch.index, batch.region, strict=True)] == [
        (2, 2), (3, 0), (3, 1), (3, 2)
    ]  # fmt: skip
    assert (end.counts.written, end.counts.filtered, end.filters) == (2, 2, {"m": 4})
    assert np.sum(told, axis=0).tolist() == [12, 4, 2]


# ------------------------------------------------------------------------------------------------ whole runs

SIZE = (240, 160)
BOXES = [(3, 5, 61, 43), (67, 1, 72, 52), (141, 0, 99, 81), (0, 83, 64, 77), (71, 90, 57, 41), (160, 96, 80, 64)]
NAMES = ["bay-0", "bay-1", "door-2", "bay-3", "bay-4", "door-5"]


def configured(folder, *, filters, more="", sources=2, frames=90):
    lines = ["sources:"]
    for k in range(sources):
        write_clip(folder / f"{k}.mp4", range(frames - 7 * k), source=k, size=SIZE, keyframe_every=12, regions=BOXES)
        lines.append(f"  - {{path: {k}.mp4, name: s{k}}}")
    lines.append("regions_px:")
    lines += [f"  {name}: {list(box)}" for name, box in zip(NAMES, BOXES, strict=True)]
    lines.append("filters:")
    reads = f"model: 'tests.models:NumberReader', classes: [{', '.join(BITS)}], task: any_of"
    lines += [f"  - {{name: m{number}, {reads}, {keys}}}" for number, keys in enumerate(filters)]
    (folder / "run.yaml").write_text("\n".join(lines) + f"\nrun: {{dir: {folder}}}\n{more}\n")
    return load_run_config(folder / "run.yaml")


@pytest.mark.parametrize("workers", [1, 3])
def test_a_run_labels_each_region_of_each_frame_with_what_it_shows(tmp_path, workers):
    outcome = run(
        configured(
            tmp_path,
            filters=[
                "input: [24, 36], fold: 4",
                "input: [24, 36], fold: 4, order: regions, regions: ['bay-*'], batch: 12",
                "input: [40, 32], fold: 3, order: strided, regions: [door-2, bay-1]",
                "input: [24, 36], fold: 1, regions: [door-5]",
            ],
            more=f"decode: {{workers: {workers}, segment_frames: 30}}\ntelemetry: {{interval_s: 60}}",
        )
    )
    assert outcome.exit_code == 0, outcome.error
    seen = {"m0": NAMES, "m1": [n for n in NAMES if n.startswith("bay")], "m2": ["bay-1", "door-2"], "m3": ["door-5"]}
    for name, names in seen.items():
        for source, frames in {"s0": 90, "s1": 83}.items():
            paths = sorted((outcome.folder.path / "frames" / name / source).glob("*.parquet"))
            assert len(paths) > 1
            rows = [row for path in paths for row in pq.read_table(path).to_pylist()]
            assert [(row["frame"], row["region"]) for row in rows] == [(n, k) for n in range(frames) for k in names]
            shown, by = numbers(np.array([row["scores"] for row in rows]))
            assert shown.tolist() == [in_region(row["frame"], NAMES.index(row["region"])) for row in rows]
            assert set(by.tolist()) == {int(source[1])}
    counts = outcome.summary["frames"]
    assert (counts["labelled"], counts["written"], counts["pictures"]) == (173, 173, 173 * (6 + 4 + 2 + 1))
    assert outcome.summary["problems"] == []


def test_across_streams_a_source_that_is_silent_for_long_loses_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(decode, "SILENT_FRAMES", 20)
    filters = [f"input: {size}, fold: 2, order: streams, batch: 32" for size in ("[24, 36]", "[40, 32]")]
    configured(tmp_path, filters=filters)
    file = tmp_path / "run.yaml"
    file.write_text(file.read_text().replace("name: s0}", "name: s0, every: 3}"))
    outcome = run(load_run_config(file))
    assert outcome.exit_code == 0, outcome.summary["frames"]
    assert outcome.summary["sources"]["s0"]["labelled"] == 30


@pytest.mark.parametrize("seed", range(5))
def test_any_number_of_regions_is_labelled_in_place(tmp_path, seed):
    rng = np.random.default_rng(seed)
    count = int(rng.choice([1, 2, 7, 33, 64]) if seed else 64)
    columns, rows = (1, 1) if count == 1 else (8, -(-count // 8))
    boxes = [(80 * (k % columns) + 1, 60 * (k // columns) + 3, 77, 55) for k in range(count)]
    lines = ["sources:"]
    lengths = [int(n) for n in rng.integers(1, 45, 1 + seed % 3)]
    for k, frames in enumerate(lengths):
        path = tmp_path / f"{k}.mp4"
        write_clip(path, range(frames), source=k, size=(80 * columns, 60 * rows), keyframe_every=12, regions=boxes)
        lines.append(f"  - {{path: {k}.mp4, name: s{k}}}")
    lines.append("regions_px: {" + ", ".join(f"r{k:02}: {list(box)}" for k, box in enumerate(boxes)) + "}")
    lines.append("filters:")
    reads = f"model: 'tests.models:NumberReader', classes: [{', '.join(BITS)}], task: any_of"
    filters = int(rng.integers(1, 4))
    for number in range(filters):
        fold, order = int(rng.integers(1, 9)), ALONG[int(rng.integers(4))]
        keys = f"input: [{24 + 8 * number}, 36], fold: {fold}, order: {order}, batch: {int(rng.integers(fold, 97))}"
        lines.append(f"  - {{name: m{number}, {reads}, {keys}}}")
    lines.append(f"decode: {{workers: {1 + seed % 3}, segment_frames: 13}}")
    (tmp_path / "run.yaml").write_text("\n".join(lines) + f"\nrun: {{dir: {tmp_path}}}\n")
    outcome = run(load_run_config(tmp_path / "run.yaml"))
    assert outcome.exit_code == 0, outcome.summary
    for number in range(filters):
        for k, frames in enumerate(lengths):
            paths = sorted((outcome.folder.path / "frames" / f"m{number}" / f"s{k}").glob("*.parquet"))
            found = [row for path in paths for row in pq.read_table(path).to_pylist()]
            expected = [(n, place) for n in range(frames) for place in range(count)]
            assert [(row["frame"], row["region"]) for row in found] == [(n, f"r{place:02}") for n, place in expected]
            shown, by = numbers(np.array([row["scores"] for row in found]))
            assert shown.tolist() == [in_region(n, place) for n, place in expected]
            assert set(by.tolist()) == {k}
    assert outcome.summary["frames"]["pictures"] == filters * count * sum(lengths)


def test_whole_frames_are_for_filters_that_name_no_regions(tmp_path):
    configured(tmp_path, filters=["input: [24, 36]", "input: [40, 32], regions: [bay-0]"], frames=30)
    file = tmp_path / "run.yaml"
    _, regions, rest = file.read_text().partition("regions_px:\n")
    own = ", ".join(f"{name}: {list(box)}" for name, box in zip(NAMES, BOXES, strict=True))
    head = f"sources:\n  - {{path: 0.mp4, name: s0, regions_px: {{{own}}}}}\n  - {{path: 1.mp4, name: s1}}\n"
    file.write_text(head + rest[rest.index("filters:") :])
    assert regions
    outcome = run(load_run_config(file))
    assert outcome.exit_code == 0
    frames = outcome.folder.path / "frames"
    assert {row["region"] for row in pq.read_table(frames / "m0" / "s1").to_pylist()} == {None}
    assert len(pq.read_table(frames / "m1" / "s1")) == 0
    assert {row["region"] for row in pq.read_table(frames / "m1" / "s0").to_pylist()} == {"bay-0"}
    assert outcome.summary["sources"]["s1"]["pictures"] == outcome.summary["sources"]["s1"]["labelled"] == 23
    assert outcome.summary["sources"]["s0"]["pictures"] == 7 * 30


def test_regions_are_folded_across_streams_each_with_its_own(tmp_path):
    filters = [f"input: {size}, fold: 2, order: streams" for size in ("[24, 36]", "[40, 32]")]
    outcome = run(configured(tmp_path, filters=filters))
    assert outcome.exit_code == 0, outcome.error
    for name in ("m0", "m1"):
        for source, frames in {"s0": 90, "s1": 83}.items():
            rows = pq.read_table(outcome.folder.path / "frames" / name / source).to_pylist()
            shown, by = numbers(np.array([row["scores"] for row in rows]))
            assert shown.tolist() == [in_region(n, k) for n in range(frames) for k in range(6)]
            assert set(by.tolist()) == {int(source[1])}
            assert {row["fold_slot"] for row in rows} == {int(source[1])}


def test_a_region_beyond_the_picture_refuses_its_file_before_it_is_decoded_and_others_go_on(tmp_path):
    configured(tmp_path, filters=["input: [24, 36]"], frames=8)
    write_clip(tmp_path / "1.mp4", range(8), size=(224, 160))
    outcome = run(load_run_config(tmp_path / "run.yaml"))
    assert outcome.exit_code == 3
    sources = outcome.summary["sources"]
    rule = "must lie in the picture of 224x160"
    assert f"1.mp4: region 'door-2': {rule}, got [141, 0, 99, 81]; change it under regions_px" in sources["s1"]["error"]
    assert (sources["s1"]["decoded"], sources["s1"]["corrupt"], sources["s0"]["labelled"]) == (0, 0, 8)


def test_a_region_beyond_the_picture_of_the_first_file_is_refused_before_the_run(tmp_path):
    configured(tmp_path, filters=["input: [24, 36]"], frames=8)
    write_clip(tmp_path / "0.mp4", range(8), size=(160, 240))  # as if it were turned
    run(load_run_config(tmp_path / "run.yaml"), mode="overwrite")
    write_clip(tmp_path / "0.mp4", range(8), size=(224, 160))
    with pytest.raises(ConfigError) as caught:
        run(load_run_config(tmp_path / "run.yaml"), mode="overwrite")
    assert [problem.partition("0.mp4: ")[2].partition(":")[0] for problem in caught.value.problems] == [
        "region 'door-2'",
        "region 'door-5'",
    ]


def test_a_run_is_not_resumed_with_its_regions_in_another_order(tmp_path):
    configured(tmp_path, filters=["input: [24, 36], order: regions, fold: 2"], sources=1, frames=8)
    file = tmp_path / "run.yaml"
    assert run(load_run_config(file)).exit_code == 0
    text = file.read_text()
    first, second = (f"  {name}: {list(box)}\n" for name, box in list(zip(NAMES, BOXES, strict=True))[:2])
    file.write_text(text.replace(first + second, second + first))
    with pytest.raises(ConfigError, match=r"another run: s0\.regions"):
        run(load_run_config(file), mode="resume")


class Framing:
    """A source of one's own that gives regions."""

    def __init__(self, *, name: str) -> None:
        self.name = name

    def __iter__(self):
        yield from region_batches(self.name, [3], [2])


def test_a_source_of_ones_own_gives_whole_frames():
    (batch,) = OwnSource(Framing(name="mine"), (24, 36))
    assert batch.end.retry
    assert "batches must be of whole frames, got regions" in batch.end.error


# ------------------------------------------------------------------------------------------------ pixels


def noisy(width=96, height=80, pix_fmt="yuv420p", seed=0):
    """A frame of smooth colour and fine noise."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, (height // 8, width // 8, 3), np.uint8).repeat(8, 0).repeat(8, 1)
    picture = np.clip(coarse.astype(int) + rng.integers(-20, 20, coarse.shape), 0, 255).astype(np.uint8)
    return av.VideoFrame.from_ndarray(picture, "rgb24").reformat(format=pix_fmt)


@pytest.fixture(scope="module")
def street():
    """A frame of a real clip, 640x360."""
    with av.open("videos/intersection.mp4") as file:
        return next(file.decode(video=0))


def places(width, height, n=24):
    """Rectangles of which half begin at odd pixels, and those that touch the borders."""
    rng = np.random.default_rng(5)
    for _ in range(n):
        w, h = rng.integers(12, 160, 2)
        yield int(rng.integers(0, width - w)), int(rng.integers(0, height - h)), int(w), int(h)
    yield from [(0, 0, 41, 33), (width - 41, height - 33, 41, 33), (width - 9, 0, 9, height), (0, height - 7, width, 7)]


def reference(frame, place, size, resize):
    """The whole picture as RGB, sliced, resized by the same method."""
    x, y, w, h = place
    crop = np.ascontiguousarray(frame.to_ndarray(format="rgb24")[y : y + h, x : x + w])
    rgb = av.VideoFrame.from_ndarray(crop, "rgb24")
    return rgb.reformat(size[1], size[0], "rgb24", interpolation=INTERPOLATIONS[resize]).to_ndarray()


def crops(frame, where, size, resize="area"):
    regions = tuple(Region(f"r{k}", *place, in_pixels=True) for k, place in enumerate(where))
    out = np.empty((len(regions), *size, 3), np.uint8)
    Scaler(View(PictureFormat(*size, resize), regions)).draw(frame, out)
    return out


FORMATS = ["yuv420p", "yuvj420p", "yuv422p", "yuv444p", "nv12", "gray", "yuv420p10le", "p010le", "rgb24", "gbrp"]


@pytest.mark.parametrize("pix_fmt", FORMATS)
@pytest.mark.parametrize("resize", ["area", "bilinear", "bicubic", "point"])
def test_crops_are_those_of_the_whole_picture_cut_and_resized(street, pix_fmt, resize):
    frame, size = street.reformat(format=pix_fmt), (50, 50)
    where = list(places(frame.width, frame.height))
    for place, picture in zip(where, crops(frame, where, size, resize), strict=True):
        off = np.abs(picture.astype(int) - reference(frame, place, size, resize)).mean()
        assert off <= 2.0, place  # of 255: swscale rounds otherwise on the way by RGB, and halves its chroma


@pytest.mark.parametrize("pix_fmt", ["yuv420p", "yuv444p", "nv12"])
def test_crops_are_right_to_the_pixel(street, pix_fmt):
    frame, size = street.reformat(format=pix_fmt), (24, 32)
    where = [(x + 1, y + 1, w, h) for x, y, w, h in places(frame.width - 2, frame.height - 2)]
    got = crops(frame, where, size).astype(int)
    shifts = [(right, down) for right in (-1, 0, 1) for down in (-1, 0, 1)]
    off = {}
    for right, down in shifts:
        shifted = [reference(frame, (x + right, y + down, w, h), size, "area") for x, y, w, h in where]
        off[right, down] = np.abs(got - shifted).mean()
    there = off.pop((0, 0))
    assert there < min(off.values()) / 1.5, (there, off)


def test_a_crop_as_large_as_its_picture_is_exact_where_chroma_is_whole(street):
    where = [(0, 0, 64, 48), (102, 34, 64, 48), (576, 312, 64, 48)]
    for place, picture in zip(where, crops(street, where, (48, 64), "point"), strict=True):
        np.testing.assert_array_equal(picture, reference(street, place, (48, 64), "point"))


def test_one_scaler_takes_frames_of_changing_sizes_and_formats():
    regions = (Region("half", 0.5, 0.0, 0.5, 1.0), Region("corner", 0.0, 0.75, 0.25, 0.25))
    scaler = Scaler(View(PictureFormat(12, 12), regions))
    for frame in (noisy(), noisy(64, 48), noisy(pix_fmt="yuv444p"), noisy(), noisy(80, 96)):
        out, alone = np.empty((2, 12, 12, 3), np.uint8), np.empty((2, 12, 12, 3), np.uint8)
        scaler.draw(frame, out)
        Scaler(View(PictureFormat(12, 12), regions)).draw(frame, alone)
        np.testing.assert_array_equal(out, alone)


@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize("rows", [False, True])
@pytest.mark.parametrize("columns", [False, True])
def test_regions_lie_in_the_picture_as_players_show_it(transposed, rows, columns):
    turn = Orientation(transposed, rows, columns)
    frame = noisy(pix_fmt="rgb24")
    shown = turn.apply(frame.to_ndarray())
    height, width = shown.shape[:2]
    region = Region("r", 10, 20, 30, 40, in_pixels=True)
    out = np.empty((1, 40, 30, 3), np.uint8)
    Scaler(View(PictureFormat(40, 30, "point"), (region,)), turn).draw(frame, out)
    np.testing.assert_array_equal(out[0], shown[20:60, 10:40])
    assert turn.stored((0, 0, width, height), width, height) == (0, 0, 96, 80)


def test_chroma_at_the_border_is_that_of_the_last_sample():
    frame = av.VideoFrame(10, 4, "yuv420p")
    for plane in planes_of(frame):
        plane[:] = 128
    planes_of(frame)[1][:] = [0, 40, 80, 120, 160]
    taken = planes_of(Crop(frame, (7, 0, 10, 4)).taken(planes_of(frame)))
    assert taken[1].tolist() == [[140, 160]] * 2
    assert planes_of(Crop(frame, (5, 0, 9, 4)).taken(planes_of(frame)))[1].tolist() == [[100, 140]] * 2
    assert planes_of(Crop(frame, (4, 0, 8, 4)).taken(planes_of(frame)))[1].tolist() == [[80, 120]] * 2


def test_a_polygon_is_cut_out_between_the_bars_of_a_letterboxed_picture():
    frame = av.VideoFrame.from_ndarray(np.full((80, 160, 3), 200, np.uint8), "rgb24")
    region = Region("gate", 0.0, 0.0, 1.0, 0.5, polygon=((0.0, 0.0), (1.0, 0.0), (0.0, 0.5)))
    out = np.empty((1, 40, 40, 3), np.uint8)
    Scaler(View(PictureFormat(40, 40, fit="letterbox"), (region,))).draw(frame, out)
    widths = (out[0].max(axis=2) > 0).sum(axis=1).tolist()
    assert widths[:15] == widths[25:] == [0] * 15
    assert widths[15:25] == [38, 34, 30, 26, 22, 18, 14, 10, 6, 2]


def test_what_lies_outside_of_a_polygon_is_black():
    frame = av.VideoFrame.from_ndarray(np.full((80, 96, 3), 200, np.uint8), "rgb24")
    region = Region("gate", 0.0, 0.0, 0.5, 0.5, polygon=((0.0, 0.0), (0.48, 0.0), (0.0, 0.48)))
    out = np.empty((1, 20, 20, 3), np.uint8)
    Scaler(View(PictureFormat(20, 20), (region,))).draw(frame, out)
    inside = np.add.outer(np.arange(20), np.arange(20)) <= 18
    np.testing.assert_array_equal(out[0].max(axis=2) > 0, inside)
    assert (out[0][inside] > 190).all()


@settings(max_examples=200, deadline=None)
@given(
    size=st.tuples(st.integers(2, 200), st.integers(2, 200)),
    x=st.floats(0, 0.99), y=st.floats(0, 0.99), w=st.floats(1e-6, 1), h=st.floats(1e-6, 1),
)  # fmt: skip
def test_a_region_in_fractions_has_a_pixel_in_every_picture(size, x, y, w, h):
    left, top, right, bottom = Region("r", x, y, min(w, 1 - x), min(h, 1 - y)).box(*size)
    assert 0 <= left < right <= size[0]
    assert 0 <= top < bottom <= size[1]


def test_a_source_may_be_decoded_for_no_region(tmp_path):
    write_clip(tmp_path / "a.mp4", range(3), size=SIZE)
    views = [View(PictureFormat(8, 8), ()), View(PictureFormat(8, 8), (Region("r", 0, 0, 1, 1),))]
    batches = list(FileSource(tmp_path / "a.mp4", name="a", views=views))
    assert [(batch.view, len(batch), batch.end is not None) for batch in batches] == [(1, 3, True)]


def test_a_thousand_regions_from_a_file_are_each_labelled_by_what_it_shows(tmp_path):
    names = [f"bay-{k}" for k in range(1000)]
    cells = [(8 * (k % 40), 8 * (k // 40)) for k in range(1000)]
    rows = ["name,x,y,w,h", *(f"{name},{x},{y},8,8" for name, (x, y) in zip(names, cells, strict=True))]
    (tmp_path / "bays.csv").write_text("\n".join(rows))
    bright = np.random.default_rng(0).random((8, 25, 40)) < 0.5
    with av.open(str(tmp_path / "a.mp4"), "w") as container:
        stream = container.add_stream("libx264", rate=25)
        stream.width, stream.height, stream.pix_fmt = 320, 200, "yuv420p"
        for shown in bright:
            picture = np.kron(shown, np.ones((8, 8)))[..., None].repeat(3, axis=2) * 200
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture.astype(np.uint8), "rgb24")))
        container.mux(stream.encode(None))
    (tmp_path / "run.yaml").write_text(
        f"run: {{dir: {tmp_path}}}\nsources: [{{path: a.mp4}}]\nregions_px: bays.csv\n"
        "filter: {model: 'tests.models:Bright', input: [4, 4], fold: 4, order: regions, classes: [person, none]}\n"
    )
    outcome = run(load_run_config(tmp_path / "run.yaml"))
    assert outcome.exit_code == 0, outcome.summary["problems"]
    (path,) = (outcome.folder.path / "frames").rglob("*.parquet")
    found = pq.read_table(path).to_pydict()
    assert found["region"] == names * 8
    assert [label == "person" for label in found["label"]] == bright.flatten().tolist()


def test_engines_have_all_cores_where_the_networks_have_more_to_do_than_the_decoders(tmp_path):
    config = configured(tmp_path, filters=["input: [24, 36]", "input: [40, 32], regions: [bay-0]"])
    half = max(1, cores() // 2)
    assert engine_threads(config, [1e8, 1e8]) == half  # seven pictures a frame
    assert engine_threads(config, [1e8, 5e8]) == engine_threads(config, [2e8, 1e8]) == cores()
    told = config.model_copy(update={"run": config.run.model_copy(update={"torch_threads": 3})})
    assert engine_threads(told, [2e9, 0.0]) == 3
