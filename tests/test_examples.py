import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from specialized.examples import Examples, grouped, padded, split_runs, tracks
from specialized.orders import ORDERS, Order, groups

runs_of_any_length = st.lists(st.integers(1, 300), min_size=1, max_size=5).map(
    lambda lengths: tuple((int(sum(lengths[:i])), int(sum(lengths[: i + 1]))) for i in range(len(lengths)))
)
splits = st.integers(2, 12).flatmap(
    lambda blocks: st.tuples(
        st.just(blocks),
        st.lists(st.sampled_from(["training", "validation", "test"]), min_size=blocks, max_size=blocks),
    )
)


def positions(runs: tuple[tuple[int, int], ...]) -> list[int]:
    return [i for start, stop in runs for i in range(start, stop)]


@given(runs_of_any_length, st.integers(1, 6), st.sampled_from(ORDERS))
def test_every_picture_is_in_exactly_one_slot(runs: tuple[tuple[int, int], ...], f: int, order: Order) -> None:
    formed = grouped(tracks(runs, None), f, order, seed=3)
    assert sorted(formed[formed >= 0].tolist()) == positions(runs)


@given(runs_of_any_length, st.integers(1, 6), st.sampled_from(["consecutive", "strided", "shuffled"]))
def test_groups_do_not_leave_their_run(runs: tuple[tuple[int, int], ...], f: int, order: Order) -> None:
    run_of = np.concatenate([np.full(b - a, i) for i, (a, b) in enumerate(runs)])
    filled = run_of[padded(grouped(tracks(runs, None), f, order))]
    assert (filled == filled[:, :1]).all()


def test_a_run_is_grouped_as_running_groups_a_segment() -> None:
    assert np.array_equal(grouped(tracks(((0, 600),), None), 4, "strided"), groups(600, 4, "strided"))
    assert np.array_equal(grouped(tracks(((0, 600),), None), 4, "shuffled", seed=5), groups(600, 4, "shuffled", seed=5))
    assert grouped(tracks(((10, 16), (20, 22)), None), 4, "consecutive").tolist() == [
        [10, 11, 12, 13],
        [14, 15, -1, -1],
        [20, 21, -1, -1],
    ]


def test_offsets_leave_out_the_start_of_a_run() -> None:
    assert grouped(tracks(((10, 16), (20, 22)), None), 4, "consecutive", offsets=[3, 1]).tolist() == [
        [13, 14, 15, -1],
        [21, -1, -1, -1],
    ]


def test_groups_of_streams_mix_all_runs() -> None:
    formed = grouped(tracks(((0, 100), (100, 200)), None), 4, "streams", seed=1)
    assert (formed < 100).any(axis=1).sum() > 40
    assert (formed >= 100).any(axis=1).sum() > 40


def test_padding_is_filled_with_the_last_picture_of_its_group() -> None:
    assert padded(np.array([[1, 5, -1, -1], [2, 3, 4, 6]], np.int32)).tolist() == [[1, 5, 5, 5], [2, 3, 4, 6]]


@given(splits, st.integers(12, 200), st.integers(0, 20))
def test_parts_of_a_split_are_disjoint_and_the_gap_apart(split: tuple[int, list[str]], n_frames: int, gap: int) -> None:
    blocks, named = split
    numbers = {part: {i for i, name in enumerate(named) if name == part} for part in ("validation", "test")}
    runs = split_runs(n_frames, blocks=blocks, gap=gap, **numbers)
    parts = {part: positions(found) for part, found in runs.items()}
    for one in parts:
        for other in parts:
            if one != other and parts[one] and parts[other]:
                distance = np.abs(np.subtract.outer(parts[one], parts[other])).min()
                assert distance > gap
    assert parts["test"] == [i for i in range(n_frames) if named[i * blocks // n_frames] == "test"]


def test_the_gap_is_taken_from_training_before_validation_and_never_from_test() -> None:
    runs = split_runs(100, blocks=5, validation={2}, test={1}, gap=3)
    assert runs == {"training": ((0, 17), (63, 100)), "validation": ((43, 60),), "test": ((20, 40),)}


def test_every_frame_is_tested_once_over_the_folds() -> None:
    tested = [
        i
        for k in range(5)
        for i in positions(split_runs(903, blocks=20, validation={(k + 2) % 5}, test=range(k, 20, 5), gap=10)["test"])
    ]
    assert sorted(tested) == list(range(903))


@pytest.mark.parametrize(
    "changes",
    [{"blocks": 0}, {"blocks": 101}, {"gap": -1}, {"test": {5}}, {"test": {2}}, {"validation": {-1}}],
)
def test_a_split_that_cannot_be_made_is_refused(changes: dict[str, object]) -> None:
    asked = {"blocks": 5, "validation": {2}, "test": {1}, "gap": 3, **changes}
    with pytest.raises(ValueError, match=r"split_runs: .*must.*got"):
        split_runs(100, **asked)  # type: ignore[arg-type]


PICTURES, LABELS = np.zeros((6, 4, 5, 3), np.uint8), np.zeros(6, np.int64)


@pytest.mark.parametrize(
    ("pictures", "labels", "runs"),
    [
        (PICTURES.astype(np.float32), LABELS, ((0, 6),)),
        (PICTURES[..., 0], LABELS, ((0, 6),)),
        (PICTURES, LABELS[:5], ((0, 6),)),
        (PICTURES, LABELS.astype(np.int32), ((0, 6),)),
        (PICTURES, LABELS[:, None], ((0, 6),)),
        (PICTURES, LABELS, ((0, 7),)),
        (PICTURES, LABELS, ((0, 4), (3, 6))),
        (PICTURES, LABELS, ((2, 2),)),
    ],
)
def test_arrays_that_do_not_belong_together_are_refused(
    pictures: np.ndarray, labels: np.ndarray, runs: tuple[tuple[int, int], ...]
) -> None:
    with pytest.raises(ValueError, match=r"Examples: .*must be.*got"):
        Examples(pictures, labels, runs)


def test_examples_count_and_label_what_is_in_their_runs() -> None:
    part = Examples(PICTURES, np.arange(6), ((0, 6),), in_time=False).only(((0, 2), (5, 6)))
    assert not part.in_time
    assert len(part) == 3
    assert part.labels_in_runs().tolist() == [0, 1, 5]
    assert repr(part) == "Examples(pictures=(6, 4, 5, 3), labels=(6,), runs=2)"


def test_groups_are_of_one_region_but_in_the_order_regions() -> None:
    region = np.tile(np.array([0, 1, 2], np.int16), 8)
    examples = Examples(np.zeros((24, 2, 2, 3), np.uint8), np.zeros(24, np.int64), ((0, 12), (12, 24)), region=region)
    assert grouped(examples.tracks("consecutive"), 2, "consecutive")[:4].tolist() == [[0, 3], [6, 9], [1, 4], [7, 10]]
    assert grouped(examples.tracks("regions"), 2, "regions")[:3].tolist() == [[0, 1], [2, 3], [4, 5]]
    assert len(examples.tracks("shuffled")) == 6
    assert [len(track) for track in examples.only(((0, 6),)).tracks("strided")] == [2, 2, 2]
