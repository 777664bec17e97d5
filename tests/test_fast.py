"""Decoding without the loop filter: the same frames, with other pixels where the codec has such a filter."""

import numpy as np
import pytest

from pipeline.sources.file import FileSource
from pipeline.sources.scaler import PictureFormat, View
from tests.clips import KINDS, clip, read

FRAMES = 60
SMOOTHED = [kind for kind in sorted(KINDS) if kind.startswith(("h264", "hevc"))]


def decoded(kind, **options):
    """Numbers, times and pictures of a clip, in order of frame."""
    batches = list(FileSource(clip(kind, FRAMES), name="clip", views=[View(PictureFormat(40, 32))], **options))
    order = np.argsort(np.concatenate([batch.index for batch in batches]))
    return [np.concatenate([getattr(batch, name) for batch in batches])[order] for name in ("index", "pts_s", "frames")]


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_fast_decoding_gives_every_frame_its_number_and_time(kind):
    numbers, times, pictures = decoded(kind, fast=True, segment_frames=1)
    np.testing.assert_array_equal(numbers, np.arange(FRAMES))
    np.testing.assert_array_equal(read(pictures)[0], numbers)
    np.testing.assert_array_equal(times, decoded(kind)[1])


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_only_codecs_with_a_loop_filter_to_leave_out_give_other_pixels(kind):
    smooth, raw = decoded(kind)[2], decoded(kind, fast=True)[2]
    assert (smooth != raw).any() == (kind in SMOOTHED)
    assert np.abs(smooth.astype(int) - raw).mean() < 5


@pytest.mark.parametrize("kind", SMOOTHED)
def test_cuts_change_no_pixel_of_fast_decoding(kind):
    whole, cut = decoded(kind, fast=True), decoded(kind, fast=True, segment_frames=1)
    np.testing.assert_array_equal(cut[2], whole[2])
