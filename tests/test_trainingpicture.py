from pathlib import Path

import cv2
import numpy as np

from pipeline.trainingpicture import draw_confusion


def test_a_cell_of_the_confusion_without_pictures_says_0(tmp_path: Path) -> None:
    draw_confusion("test", ["person", "none"], [[5, 0], [0, 5]], tmp_path / "confusion.png")
    picture = cv2.imread(str(tmp_path / "confusion.png")).astype(int)
    right = picture[..., 0] - picture[..., 2] > 50  # the dark blue cells of the diagonal
    rows, columns = (np.flatnonzero(right.any(axis=axis)) for axis in (1, 0))
    middle = (rows[0] + rows[-1]) // 2, (columns[0] + columns[-1]) // 2
    for cell in (
        picture[rows[0] + 3 : middle[0] - 3, middle[1] + 3 : columns[-1] - 3],
        picture[middle[0] + 3 : rows[-1] - 3, columns[0] + 3 : middle[1] - 3],
    ):
        assert 0 < (cell.max(axis=2) < 200).sum() < 0.02 * cell[..., 0].size  # a small gray figure
