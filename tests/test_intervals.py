import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from specialized.intervals import RESAMPLES, block_length, cut, interval, resampled, sums


@pytest.mark.parametrize(
    ("lengths", "block", "expected"),
    [
        ([6], 3, [0, 0, 0, 1, 1, 1]),
        ([4], 3, [0, 0, 0, 0]),  # nearer to one block of 4 than to two of 2
        ([5], 3, [0, 0, 0, 1, 1]),
        ([2, 1, 4], 2, [0, 0, 1, 2, 2, 3, 3]),  # a block never leaves its run
        ([3], 1000, [0, 0, 0]),
    ],
)
def test_runs_are_cut_into_blocks_of_about_the_length(lengths, block, expected) -> None:
    assert cut(lengths, block).tolist() == expected


@given(st.lists(st.integers(1, 50), min_size=1, max_size=5), st.integers(1, 20))
def test_each_block_is_a_stretch_of_one_run_and_none_is_twice_as_long_as_another_of_it(lengths, block) -> None:
    numbers = cut(lengths, block)
    assert len(numbers) == sum(lengths)
    assert set(np.diff(numbers)) <= {0, 1}
    for of_run in np.split(numbers, np.cumsum(lengths)[:-1]):
        sizes = np.unique(of_run, return_counts=True)[1]
        assert sizes.max() - sizes.min() <= 1
        assert sizes.min() * 2 >= min(block, len(of_run))


def test_a_block_lasts_five_seconds() -> None:
    assert [block_length(step_s) for step_s in (1 / 30, 0.1, 2.0, 60.0, None)] == [150, 50, 2, 1, 150]


def test_columns_are_added_up_by_block() -> None:
    columns = np.array([[1, 10], [2, 20], [3, 30]])
    assert sums(columns, np.array([0, 0, 1])).tolist() == [[3, 30], [3, 30]]


@given(st.integers(1, 12), st.integers(0, 5))
def test_resamples_hold_as_many_blocks_and_the_same_ones_for_each_column(blocks, seed) -> None:
    of_block = np.random.default_rng(seed).random((blocks, 1))
    drawn = resampled(np.hstack([np.ones((blocks, 1)), of_block, 2 * of_block]), seed=seed)
    assert drawn.shape == (RESAMPLES, 3)
    np.testing.assert_allclose(drawn[:, 0], blocks)
    np.testing.assert_allclose(drawn[:, 2], 2 * drawn[:, 1])


def test_the_seed_decides_the_resamples() -> None:
    of_block = np.arange(7.0)[:, None]
    assert (resampled(of_block, seed=1) == resampled(of_block, seed=1)).all()
    assert (resampled(of_block, seed=1) != resampled(of_block, seed=2)).any()


def test_an_interval_of_many_independent_blocks_is_that_of_the_normal_law() -> None:
    values = np.random.default_rng(0).standard_normal(400)
    drawn = resampled(np.column_stack([np.ones(400), values]), seed=0)
    low, high = interval(drawn[:, 1] / drawn[:, 0], 400)
    error = values.std() / 20
    assert (low, high) == pytest.approx((values.mean() - 1.96 * error, values.mean() + 1.96 * error), abs=0.2 * error)


def test_frames_that_are_alike_within_a_block_count_as_few() -> None:
    right = np.repeat(np.random.default_rng(0).random(20) < 0.8, 50).astype(float)

    def width(block_frames: int) -> float:
        drawn = resampled(sums(np.column_stack([np.ones(1000), right]), cut([1000], block_frames)), seed=0)
        low, high = interval(drawn[:, 1] / drawn[:, 0], 1000 // block_frames)
        return high - low

    assert width(50) > 5 * width(1)


def test_what_some_resamples_do_not_have_is_taken_from_the_others_and_one_block_gives_no_interval() -> None:
    assert interval(np.array([np.nan, 0.5, 0.5]), 3) == (0.5, 0.5)
    assert interval(np.array([np.nan, np.nan]), 3) is None
    assert interval(np.array([0.5, 0.5]), 1) is None
