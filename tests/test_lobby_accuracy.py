"""The cross-validation of the benchmark: nothing is tested twice, nothing that was trained on is tested."""

from pathlib import Path

import numpy as np
import pytest

from benchmarks.lobby_accuracy import BLOCKS, ROTATIONS, blocks_of
from pipeline.footage import Footage
from specialized.examples import Examples, Runs

N, RATE, GAP_S = 905, 10.0, 2.0


@pytest.fixture
def footage():
    """A clip that its blocks cut unevenly; block 3 shows one class alone."""
    labels = np.arange(N) // 11 % 2
    labels[np.arange(N) * BLOCKS // N == 3] = 0
    examples = Examples(np.zeros((N, 2, 2, 3), np.uint8), labels, ((0, N),))
    return Footage(examples, np.arange(N) / RATE, (Path("clip.mp4"),))


def frames(runs: Runs) -> np.ndarray:
    return np.concatenate([np.arange(start, stop) for start, stop in runs])


def test_over_the_rotations_each_frame_is_tested_once_and_never_near_training(footage):
    tested = np.zeros(N, int)
    for rotation in range(ROTATIONS):
        parts = footage.split(blocks=BLOCKS, **blocks_of(rotation, footage, 2), gap_s=GAP_S)
        training, validation, test = (frames(parts[name].runs) for name in ("training", "validation", "test"))
        tested[test] += 1
        for one, other in ((training, test), (validation, test), (training, validation)):
            times, others = footage.pts_s[one], footage.pts_s[other]
            assert np.abs(times[:, None] - others).min() >= GAP_S
        assert len(training) > N / 2
        assert set(footage.examples.labels[validation]) == {0, 1}
    assert (tested == 1).all()


def test_without_a_block_that_shows_every_class_nothing_is_measured(footage):
    footage.examples.labels[:] = 0
    with pytest.raises(SystemExit, match="no block outside of the test shows every class"):
        blocks_of(0, footage, 2)
