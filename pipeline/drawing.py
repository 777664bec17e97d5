"""What all pictures share: their look, and how one becomes a file."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.colours import NONE
from pipeline.errors import VpipeError
from pipeline.files import whole_file

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["FAINT", "INK", "drawn"]

INK, FAINT = "#1F2933", "#7B8794"
STYLE: Any = {  # its exact type is a list of all that matplotlib can be told
    "font.size": 9,
    "text.color": INK,
    "text.parse_math": False,  # a `$` in a file's name is a `$`
    "axes.labelcolor": FAINT,
    "axes.edgecolor": NONE,
    "xtick.color": FAINT,
    "ytick.color": FAINT,
}


@contextmanager
def drawn(
    out: Path, size: tuple[float, float], *, given_by: str, dpi: int = 130, constrained: bool = False
) -> Iterator[Figure]:
    """Gives a figure to draw on, and writes it as a PNG at the end of the block, whole or not at all.

    Args:
        out: The file.
        size: Width and height in inches.
        given_by: What to choose otherwise if the file cannot be written, such as "--out".
        dpi: Pixels per inch.
        constrained: Whether matplotlib finds places for the axes.

    Raises:
        VpipeError: the file cannot be written.
    """
    import matplotlib as mpl
    from matplotlib.figure import Figure  # without pyplot: no window, no global state

    with mpl.rc_context(STYLE):
        figure = Figure(figsize=size, dpi=dpi, facecolor="white", layout="constrained" if constrained else None)
        yield figure
        try:
            with whole_file(out) as file, warnings.catch_warnings():
                warnings.filterwarnings("ignore", "Glyph")  # of a name, which is then drawn as boxes
                figure.savefig(file, format="png")
        except OSError as exc:
            raise VpipeError(f"{out}: must be writable, got {exc.strerror or exc}; choose another {given_by}") from exc
