import json
import subprocess
import sys
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.batch import Counts, Lost, Segment, SegmentEnd
from pipeline.ledger import EXIT_CODES, Earlier, Ledger, bound_by, run_state, summary


def end(number, first, n, *, source="a", error=None, retry=False, lost=(), **counts):
    """A segment of n frames, all of them labelled unless counts say otherwise."""
    labelled = n - sum(counts.get(name, 0) for name in ("skipped", "corrupt", "unread", "failed"))
    decoded = labelled + counts.get("failed", 0)
    written = labelled - counts.get("filtered", 0)
    all_counts = Counts(**{"indexed": n, "decoded": decoded, "labelled": labelled, "written": written, **counts})
    return SegmentEnd(Segment(source, number, first), all_counts, lost, error, retry)


def test_totals_are_the_sums_over_segments_and_sources():
    ledger = Ledger([end(1, 10, 5, corrupt=2), end(0, 0, 10, skipped=5), end(0, 0, 3, source="b", filtered=1)])
    assert ledger.sources["a"].counts == Counts(indexed=15, skipped=5, corrupt=2, decoded=8, labelled=8, written=8)
    assert ledger.counts == Counts(18, 5, 2, 0, 0, 11, 0, 0, 11, 1, 10)
    assert ledger.check() == []


def test_ledger_json_has_the_segments_in_order_with_what_they_lost():
    ledger = Ledger(
        [end(1, 10, 5, corrupt=2, lost=(Lost(12, 13, "corrupt"),), error="a: two broken packets"), end(0, 0, 10)],
        sources=["b", "a"],
    )
    document = json.loads(json.dumps(ledger.as_dict()))
    assert list(document["sources"]) == ["b", "a"]
    assert document["sources"]["b"] == {"counts": Counts().as_dict(), "error": None, "segments": []}
    assert document["sources"]["a"]["error"] == "a: two broken packets"
    first, second = document["sources"]["a"]["segments"]
    assert (first["number"], first["first_frame"], first["retry"]) == (0, 0, False)
    assert second["lost"] == [{"first": 12, "last": 13, "why": "corrupt"}]
    assert second["counts"]["corrupt"] == 2
    assert document["counts"]["labelled"] == 13


def test_a_source_is_finished_when_its_last_segment_is_safe():
    first, last = SegmentEnd(Segment("a", end_s=1.0), Counts()), SegmentEnd(Segment("a", 1, 5), Counts())
    again = SegmentEnd(Segment("a", 1, 5), Counts(), retry=True)
    ledgers = [Ledger(ends, sources=["a"]) for ends in ([], [first], [first, again], [first, last])]
    assert [ledger.sources["a"].finished for ledger in ledgers] == [False, False, False, True]


@pytest.mark.parametrize(
    ("counts", "equation"),
    [
        (
            Counts(indexed=3, decoded=2, labelled=2, written=2),
            "indexed = skipped + corrupt + unread + dropped + decoded",
        ),
        (Counts(indexed=2, decoded=2, labelled=1, written=1), "decoded = labelled + failed"),
        (Counts(indexed=2, decoded=2, labelled=2, written=1), "labelled = written + filtered"),
    ],
)
def test_an_equation_that_does_not_hold_is_told_with_its_segment(counts, equation):
    (problem,) = Ledger([SegmentEnd(Segment("a"), counts)]).check()
    assert problem.startswith(f"a segment 0 from frame 0: {equation} must hold, got")


def test_counts_below_nothing_are_told():
    counts = Counts(indexed=4, decoded=4, failed=-4, labelled=8, written=8)
    (problem,) = Ledger([SegmentEnd(Segment("a"), counts)]).check()
    assert "counts must not be negative" in problem


def test_a_source_whose_last_segment_did_not_come_is_not_complete():
    first = SegmentEnd(Segment("a", end_s=1.0), Counts(indexed=2, decoded=2, labelled=2, written=2, pictures=2))
    assert not Ledger([first]).complete
    assert Ledger([first, SegmentEnd(Segment("a", 1, 2))]).complete


def test_a_segment_to_be_tried_again_is_listed_and_counts_for_nothing():
    ledger = Ledger([end(0, 0, 10), end(1, 10, 3, retry=True, error="a: disk error"), end(2, 20, 5)])
    assert ledger.counts.labelled == 15
    assert ledger.check() == []
    assert [segment["retry"] for segment in ledger.as_dict()["sources"]["a"]["segments"]] == [False, True, False]


def test_lost_frames_take_part_in_the_tiling():
    assert Ledger([end(0, 0, 10, corrupt=4, unread=6), end(1, 10, 5, unread=5), end(2, 15, 1)]).check() == []


@pytest.mark.parametrize(
    ("ends", "problem"),
    [
        ([end(0, 0, 10), end(1, 9, 5)], "a segment 1 from frame 9: must be segment 1 from frame 10"),
        ([end(0, 0, 10), end(1, 11, 5)], "a segment 1 from frame 11: must be segment 1 from frame 10"),
        ([end(0, 0, 10), end(2, 10, 5)], "a segment 2 from frame 10: must be segment 1 from frame 10"),
        ([end(0, 0, 10), end(0, 0, 10)], "a segment 0 from frame 0: must be segment 1 from frame 10"),
        ([end(1, 10, 10)], "a segment 1 from frame 10: must follow on segment 0"),
        ([end(0, 5, 10)], "a segment 0 from frame 5: must follow on segment 0"),
    ],
)
def test_segments_that_do_not_tile_the_frames_are_told(ends, problem):
    (got,) = Ledger(ends).check()
    assert got.startswith(problem)


@given(st.permutations(range(8)), st.lists(st.integers(0, 9), min_size=8, max_size=8))
def test_the_order_of_commits_does_not_matter(order, lengths):
    ends = [end(i, sum(lengths[:i]), n, skipped=n // 2) for i, n in enumerate(lengths)]
    assert Ledger([ends[i] for i in order]).as_dict() == Ledger(ends).as_dict()
    assert Ledger([ends[i] for i in order]).check() == []


@pytest.mark.parametrize(
    ("ends", "state"),
    [
        ([end(0, 0, 10)], "done"),
        ([end(0, 0, 10, skipped=5)], "done"),
        ([end(0, 0, 10, filtered=10)], "done"),
        ([end(0, 0, 10, damaged=3)], "done"),
        ([end(0, 0, 10, corrupt=1)], "partial"),
        ([end(0, 0, 10, unread=1)], "partial"),
        ([end(0, 0, 10, failed=1)], "partial"),
        ([end(0, 0, 10, error="a: header promises more")], "partial"),
        ([end(0, 0, 10), end(1, 10, 0, retry=True)], "partial"),
        ([end(0, 0, 10), end(0, 0, 0, source="b", error="b: no video")], "partial"),
        ([end(0, 0, 10), end(1, 11, 10)], "partial"),
        ([end(0, 0, 0, error="a: no video")], "failed"),
        ([end(0, 0, 10, corrupt=10)], "failed"),
        ([], "failed"),
    ],
)
def test_the_state_says_whether_every_frame_has_its_label(ends, state):
    assert run_state(Ledger(ends)) == state


def test_a_source_that_had_no_turn_makes_a_run_partial():
    assert run_state(Ledger([end(0, 0, 10)], sources=["a", "b"])) == "partial"


def test_a_receiver_that_did_not_get_all_makes_a_run_partial():
    assert run_state(Ledger([end(0, 0, 10)]), untold=True) == "partial"
    assert run_state(Ledger([end(0, 0, 10)]), untold=True, interrupted=True) == "interrupted"


def test_breaking_and_interrupting_go_before_what_was_labelled():
    ledger = Ledger([end(0, 0, 10)])
    assert run_state(ledger, broken=True) == "failed"
    assert run_state(ledger, interrupted=True) == "interrupted"
    assert run_state(Ledger([]), interrupted=True) == "interrupted"


def test_exit_codes_are_the_documented_ones():
    assert EXIT_CODES == {"done": 0, "failed": 1, "partial": 3, "interrupted": 130}


def stages(*, waiting=0.0, transfer=0.0, compute=0.0, sink=0.0):
    """Times of the main thread; the decoders are busy all along."""
    return {
        "decode": {"busy_s": 100.0, "waiting_in_s": 0.0, "waiting_out_s": 50.0},
        "transfer": {"busy_s": transfer, "waiting_in_s": waiting, "waiting_out_s": 0.0},
        "compute": {"busy_s": compute, "waiting_in_s": 0.0, "waiting_out_s": 0.0},
        "sink": {"busy_s": sink, "waiting_in_s": 0.0, "waiting_out_s": 0.0},
    }


@pytest.mark.parametrize(
    ("times", "verdict"),
    [
        ({"waiting": 8, "compute": 1, "sink": 1}, "decode"),
        ({"waiting": 1, "transfer": 5, "compute": 3, "sink": 1}, "transfer"),
        ({"waiting": 1, "transfer": 2, "compute": 6, "sink": 1}, "compute"),
        ({"waiting": 1, "compute": 2, "sink": 6}, "sink"),
        ({"waiting": 3, "compute": 3}, "decode"),
        ({}, None),
    ],
)
def test_a_run_is_bound_by_what_its_thread_spent_most_time_on(times, verdict):
    assert bound_by(stages(**times)) == verdict


def test_stages_that_are_not_known_bind_nothing():
    assert bound_by({}) is None
    assert bound_by({"fold": {"busy_s": 5.0, "waiting_in_s": 0.0, "waiting_out_s": 0.0}}) is None


def test_the_summary_has_its_stable_keys():
    ledger = Ledger([end(0, 0, 10, corrupt=2)], sources=["a"])
    document = summary(
        ledger,
        state="partial",
        seconds=2.0,
        labelled=6,  # two were labelled before the resume
        stages=stages(compute=1),
        fold={"frames": 4, "order": "consecutive", "padded_slots": 0},
        filters={"person": {"model": "x"}},
        gpu=None,
        gpu_absent="no NVIDIA driver",
        process={"cpu_mean_percent": 190.0, "rss_max_bytes": 5},
    )
    assert json.loads(json.dumps(document)) == document
    assert list(document) == [
        *("state", "seconds", "frames", "frames_per_s", "sources", "stages", "bound_by", "fold", "filters"),
        *("gpu", "gpu_absent", "process", "again", "problems"),
    ]
    assert set(document["frames"]) == {
        *("indexed", "skipped", "corrupt", "unread", "decoded", "failed", "labelled", "filtered", "written"),
        *("damaged", "dropped", "pictures"),
    }
    assert document["frames_per_s"] == 3.0
    assert document["sources"]["a"] == {**document["frames"], "error": None, "finished": True}
    assert document["bound_by"] == "compute"
    assert document["again"] == {"segments": 0, "frames": 0}


def test_importing_the_ledger_loads_neither_arrow_nor_torch():
    code = "import sys, pipeline.ledger; print(sorted({'pyarrow', 'torch', 'av'} & sys.modules.keys()))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_what_a_camera_did_before_the_segments_that_are_listed_counts():
    earlier = Earlier(Counts(indexed=30, dropped=2, decoded=28, labelled=28, written=28), {"live": 2.5, "down": 0.5})
    windows = [
        replace(
            end(number, 30 + 10 * number, 10),
            segment=Segment("a", 3 + number, 30 + 10 * number, window_utc_s=0.0),
            states={"live": 1.2},
        )
        for number in range(2)
    ]
    ledger = Ledger(windows, sources=["a", "b"], earlier={"a": earlier})
    assert ledger.counts == Counts(indexed=50, dropped=2, decoded=48, labelled=48, written=48)
    assert ledger.check() == []
    told = ledger.as_dict()["sources"]
    assert told["a"]["states"] == {"live": 4.9, "down": 0.5}
    assert [segment["states"] for segment in told["a"]["segments"]] == [{"live": 1.2}] * 2


def test_a_time_at_the_end_in_which_nothing_came_of_a_camera_is_told_and_no_error():
    window = replace(end(0, 0, 10), segment=Segment("a", 0, 0, window_utc_s=0.0), states={"live": 1.0})
    silence = SegmentEnd(Segment("a", 1, 10, window_utc_s=0.0), retry=True, states={"live": 0.5, "down": 60.0})
    later = replace(end(1, 10, 5), segment=Segment("a", 1, 10, window_utc_s=600.0), states={"connecting": 0.2})
    for ends in ([window, silence], [window, silence, later]):
        ledger = Ledger(ends)
        assert ledger.complete
        assert ledger.check() == []
        assert ledger.sources["a"].states["down"] == 60.0
    lost = replace(later, segment=replace(later.segment, first_frame=12))
    assert len(Ledger([window, silence, lost]).check()) == 1


def test_a_camera_that_came_after_all_has_no_error_of_the_time_before():
    def window(number, **more):
        return replace(
            end(number, 10 * number, 10, **more), segment=Segment("a", number, 10 * number, window_utc_s=0.0)
        )

    nothing = window(0, error="a: no frame came", retry=True)
    failed = window(1, error="filter x: a blot", failed=2)
    for windows, error, complete in [
        ([nothing, window(1)], None, True),
        ([nothing], "a: no frame came", False),
        ([nothing, failed, window(2)], "filter x: a blot", False),
        ([window(1), window(2, error="a: no frame came", retry=True)], "a: no frame came", False),
    ]:
        ledger = Ledger(windows)
        assert (ledger.sources["a"].error, ledger.complete) == (error, complete)
