import numpy as np
import torch

from specialized.augment import lit, moved
from specialized.recipe import Recipe

STILL = Recipe(brightness=0, contrast=0, colour=0, shift=0, zoom=0, flip=False, vary="group")
GROUPS = np.arange(12, dtype=np.int32).reshape(4, 3)


def pictures(n: int = 12, h: int = 6, w: int = 8) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (n, h, w, 3), dtype=np.uint8)


def changed(**keys: object) -> Recipe:
    return Recipe.model_validate(STILL.model_dump() | keys)


def test_without_variation_pictures_are_only_gathered():
    found = moved(pictures(), GROUPS, STILL, np.random.default_rng(0))
    assert np.array_equal(found, pictures()[GROUPS])
    x = torch.randn(4, 9, 6, 8)
    assert torch.equal(lit(x, 3, 0.25, STILL, np.random.default_rng(0)), x)


def test_a_shift_moves_all_pictures_of_a_group_alike_and_repeats_the_edge():
    same = np.repeat(pictures(1), 12, axis=0)
    found = moved(same, GROUPS, changed(shift=3), np.random.default_rng(0))
    assert (found == found[:, :1]).all()
    padded = np.pad(same[0], [(3, 3), (3, 3), (0, 0)], mode="edge")
    windows = [padded[y : y + 6, x : x + 8] for y in range(7) for x in range(7)]
    places = [[n for n, window in enumerate(windows) if (window == group[0]).all()] for group in found]
    assert all(len(place) == 1 for place in places)
    assert len({place[0] for place in places}) > 1


def test_pictures_of_a_group_are_varied_apart_where_asked():
    same = np.repeat(pictures(1), 12, axis=0)
    recipe = changed(shift=3, contrast=0.3, vary="picture")
    found = moved(same, GROUPS, recipe, np.random.default_rng(0))
    assert not (found == found[:, :1]).all()
    x = lit(torch.ones(4, 9, 6, 8), 3, 0.25, recipe, np.random.default_rng(0)).unflatten(1, (3, 3))
    assert not torch.equal(x[:, 0], x[:, 1])


def test_a_mirrored_picture_is_the_picture_from_right_to_left():
    found = moved(pictures(), GROUPS, changed(flip=True), np.random.default_rng(0))
    there = pictures()[GROUPS]
    kinds = {
        "as is" if np.array_equal(a, b) else "mirrored" if np.array_equal(a, b[:, :, ::-1]) else "else"
        for a, b in zip(found, there, strict=True)
    }
    assert kinds == {"as is", "mirrored"}


def test_zoom_changes_the_size_of_what_is_seen_around_the_middle():
    square = np.zeros((1, 21, 21, 3), np.uint8)
    square[0, 6:15, 6:15] = 255
    found = moved(square, np.zeros((200, 1), np.int32), changed(zoom=0.4), np.random.default_rng(0))
    areas = (found[:, 0, :, :, 0] > 0).sum(axis=(1, 2))
    assert areas.min() < 60 < 81 < 120 < areas.max()
    assert (found[:, 0, 10, 10] == 255).all()


def test_light_adds_within_its_bounds_and_colour_tells_the_channels_apart():
    x = torch.zeros(64, 6, 2, 2)
    added = lit(x, 2, 0.25, changed(brightness=0.1), np.random.default_rng(0))
    assert 0.3 < added.abs().max() <= 0.4
    assert torch.equal(added[:, :1].expand(-1, 6, -1, -1), added)
    factor = lit(x + 1, 2, 0.25, changed(colour=0.2), np.random.default_rng(0))
    assert 0.8 <= factor.min() < factor.max() <= 1.2
    assert not torch.equal(factor[:, 0], factor[:, 1])


def test_a_picture_alone_is_varied_the_same_whatever_is_varied_as_one():
    alone = GROUPS.reshape(-1, 1)
    found = [
        moved(pictures(), alone, changed(shift=3, flip=True, vary=vary), np.random.default_rng(0))
        for vary in ("group", "picture")
    ]
    assert np.array_equal(*found)
