"""What vpipe is measured against labels every frame, and as vpipe does."""

import importlib

import numpy as np
import pytest

import pipeline
from benchmarks.archive import F1, THEIRS
from benchmarks.competitors import wall
from benchmarks.competitors.labelling import label
from benchmarks.footage import VIDEOS, enlarge

N = 499


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    """A clip of 499 frames, not a whole number of batches, quick to decode."""
    path = tmp_path_factory.mktemp("tiny") / "tiny.mp4"
    enlarge(VIDEOS / "intersection.mp4", path, width=128, height=72)
    return path


@pytest.fixture(scope="module")
def ours(tiny):
    batches = list(pipeline.label(tiny, model=F1))
    return np.concatenate([batch.scores for batch in batches])


@pytest.mark.parametrize("name", THEIRS)
def test_a_competitor_labels_every_frame_nearly_as_vpipe_does(name, tiny, ours) -> None:
    try:
        competitor = importlib.import_module(f"benchmarks.competitors.{name}")
    except (ImportError, RuntimeError) as exc:
        pytest.skip(f"{name}: {str(exc).strip().splitlines()[0]}")
    scores = label([tiny, tiny], F1, competitor.pictures).numpy()
    assert len(scores) == 2 * N
    np.testing.assert_array_equal(scores[:N], scores[N:])
    assert np.abs(scores[:N] - ours).mean() < 0.05  # resizes and conversions to RGB differ


def test_the_wall_decodes_every_frame(tiny) -> None:
    assert wall.decode([tiny, tiny, tiny]) == 3 * N


def test_a_competitor_takes_no_folded_model(tiny) -> None:
    with pytest.raises(SystemExit, match="must be a model of f = 1, got f = 4"):
        label([tiny], F1.with_name("lobby-person-f4.safetensors"), lambda video, size: iter(()))
