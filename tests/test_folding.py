import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from specialized.folding import Normalize, fold, folded_width, unfold


@given(st.integers(1, 10**9), st.integers(1, 64))
def test_folded_width_is_the_floor_of_width_times_root_f(width: int, f: int) -> None:
    folded = folded_width(width, f)
    assert folded**2 <= width**2 * f < (folded + 1) ** 2


@given(st.integers(1, 10**9), st.integers(1, 64), st.integers(2, 64))
def test_a_rounded_width_is_the_nearest_multiple_and_never_0(width: int, f: int, multiple: int) -> None:
    folded = folded_width(width, f, multiple)
    assert folded >= multiple
    assert folded % multiple == 0
    assert 4 * width**2 * f < (2 * folded + multiple) ** 2
    assert folded == multiple or (2 * folded - multiple) ** 2 <= 4 * width**2 * f


@pytest.mark.parametrize(("f", "width"), [(1, 16), (2, 24), (3, 24), (4, 32), (8, 48)])
def test_coral_widths_that_matrix_units_like(f: int, width: int) -> None:
    assert folded_width(16, f, 8) == width


@pytest.mark.parametrize("arguments", [(0, 1, 1), (1, 0, 1), (1, 1, 0)])
def test_a_width_of_nothing_is_refused(arguments: tuple[int, int, int]) -> None:
    with pytest.raises(ValueError, match="must be at least 1, got width="):
        folded_width(*arguments)


@pytest.mark.parametrize(("f", "width"), [(1, 16), (2, 22), (3, 27), (4, 32), (16, 64)])
def test_coral_widths(f: int, width: int) -> None:
    assert folded_width(16, f) == width == math.floor(16 * math.sqrt(f))


def test_fold_gives_picture_i_the_channels_from_i_times_c() -> None:
    x = torch.arange(2 * 4 * 3 * 5 * 6).view(2, 4, 3, 5, 6)
    folded = fold(x)
    assert folded.shape == (2, 12, 5, 6)
    assert folded.data_ptr() == x.data_ptr()
    assert all(torch.equal(folded[:, 3 * i : 3 * i + 3], x[:, i]) for i in range(4))


def test_unfold_gives_picture_i_the_outputs_from_i_times_k() -> None:
    logits = torch.arange(2 * 8).view(2, 8)
    unfolded = unfold(logits, 4)
    assert unfolded.data_ptr() == logits.data_ptr()
    assert unfolded[1, 2].tolist() == logits[1, 4:6].tolist()


def test_folding_never_copies() -> None:
    with pytest.raises(RuntimeError, match="view"):
        fold(torch.zeros(2, 3, 4, 5, 6).transpose(1, 2))


def test_outputs_that_f_does_not_divide_are_refused() -> None:
    with pytest.raises(ValueError, match="multiple of f, got 7 outputs and f=2"):
        unfold(torch.zeros(3, 7), 2)


@pytest.mark.parametrize("f", [1, 2, 3, 4])
def test_pictures_are_normalized_into_their_slot_and_lie_channels_last(f: int) -> None:
    mean, std = (0.1, 0.2, 0.3), (0.5, 0.25, 0.125)
    pictures = np.random.default_rng(f).integers(0, 256, (2, f, 5, 7, 3), dtype=np.uint8)
    before = pictures.copy()

    made = Normalize(f=f, size=(5, 7), mean=mean, std=std, device=torch.device("cpu"))(
        torch.from_numpy(pictures), torch.float32
    )

    expected = ((pictures / 255 - mean) / std).transpose(0, 1, 4, 2, 3).reshape(2, 3 * f, 5, 7)
    np.testing.assert_allclose(made.numpy(), expected, atol=1e-5)
    assert made.is_contiguous(memory_format=torch.channels_last)
    assert np.array_equal(pictures, before)
