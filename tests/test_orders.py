import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from specialized.orders import ORDERS, WINDOW_GROUPS, Order, groups

WITHIN_SEGMENT: tuple[Order, ...] = ("consecutive", "strided", "shuffled")
orders = st.sampled_from(WITHIN_SEGMENT)
folds = st.integers(1, 9)
lengths = st.integers(0, 3 * 9 * WINDOW_GROUPS)
seeds = st.integers(0, 2**31)


def test_consecutive_groups_are_neighbours_and_the_tail_is_padded() -> None:
    assert groups(10, 4, "consecutive").tolist() == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9, -1, -1]]


def test_strided_groups_take_every_bth_picture_of_their_window() -> None:
    assert groups(10, 4, "strided").tolist() == [[0, 3, 6, 9], [1, 4, 7, -1], [2, 5, 8, -1]]


def test_strided_pictures_of_a_full_window_lie_64_apart() -> None:
    assert groups(512, 4, "strided")[[0, 63, 64]].tolist() == [
        [0, 64, 128, 192],
        [63, 127, 191, 255],
        [256, 320, 384, 448],
    ]


def test_shuffled_groups_never_change() -> None:
    # A stored model was trained with these permutations: they must outlive every release of numpy.
    assert groups(8, 2, "shuffled", seed=7).tolist() == [[6, 3], [4, 0], [2, 7], [5, 1]]


def test_shuffled_windows_and_seeds_differ() -> None:
    first = groups(256, 4, "shuffled", seed=1)
    assert not np.array_equal(first, groups(256, 4, "shuffled", seed=2))
    assert not np.array_equal(first, groups(256, 4, "shuffled", seed=1, first_window=1))


@given(lengths, folds, orders, seeds)
def test_every_picture_is_in_exactly_one_slot(n: int, f: int, order: Order, seed: int) -> None:
    formed = groups(n, f, order, seed=seed)
    assert formed.dtype == np.int32
    assert formed.shape == (-(-n // f), f)
    assert sorted(formed[formed >= 0].tolist()) == list(range(n))


@given(lengths, folds, orders)
def test_padding_is_at_the_end_of_groups_of_the_last_window_alone(n: int, f: int, order: Order) -> None:
    padding = groups(n, f, order) == -1
    assert padding.sum() == -n % f
    assert not padding[: n // (WINDOW_GROUPS * f) * WINDOW_GROUPS].any()
    assert (np.diff(padding.astype(int), axis=1) >= 0).all()
    if order != "strided":
        assert not padding[:-1].any()


@given(lengths, folds, orders, seeds, st.integers(0, 3))
def test_groups_formed_window_by_window_equal_those_of_the_whole_segment(
    n: int, f: int, order: Order, seed: int, first: int
) -> None:
    size = WINDOW_GROUPS * f
    parts = [np.empty((0, f), np.int32)]
    for start in range(0, n, size):
        window = groups(min(size, n - start), f, order, seed=seed, first_window=first + start // size)
        parts.append(np.where(window < 0, -1, window + start))
    assert np.array_equal(np.concatenate(parts), groups(n, f, order, seed=seed, first_window=first))


@given(st.integers(0, 500), orders)
def test_unfolded_pictures_keep_their_order_whatever_it_is_called(n: int, order: Order) -> None:
    assert groups(n, 1, order).tolist() == [[i] for i in range(n)]


def test_streams_are_refused_and_the_message_says_who_forms_them() -> None:
    assert "streams" in ORDERS
    with pytest.raises(ValueError, match="'streams'; those groups are formed by the pipeline"):
        groups(8, 4, "streams")


@pytest.mark.parametrize(("n", "f", "first"), [(-1, 4, 0), (8, 0, 0), (8, 4, -1)])
def test_numbers_out_of_range_are_refused(n: int, f: int, first: int) -> None:
    with pytest.raises(ValueError, match="must hold"):
        groups(n, f, "consecutive", first_window=first)


def test_an_unknown_order_is_refused_with_the_known_ones() -> None:
    with pytest.raises(ValueError, match="one of consecutive, strided, shuffled, streams, regions, got 'random'"):
        groups(8, 4, "random")  # type: ignore[arg-type]
