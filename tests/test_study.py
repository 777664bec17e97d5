"""What studies share: a finished cell is not done again, one of other settings is."""

import json
from dataclasses import dataclass
from pathlib import Path

from benchmarks.displays import Display
from benchmarks.study import Result, do, is_done, rendered, results, write_summary


@dataclass(frozen=True)
class Doubled:
    """A cell that is the double of its number."""

    number: int
    folder: Path
    version: int = 1

    @property
    def name(self) -> str:
        return f"double/{self.number}"

    @property
    def path(self) -> Path:
        return self.folder / f"{self.name}.json"

    @property
    def settings(self) -> Result:
        return {"number": self.number, "version": self.version}


def double(cell: Doubled) -> Result:
    if cell.number < 0:
        raise ValueError("done again")
    blocks = [{"right": 1, "n": 2}]
    return {"settings": cell.settings, "double": 2 * cell.number, "seconds": 0.1, "blocks": blocks}


def test_cells_are_done_once_and_again_when_their_settings_change(tmp_path, capsys):
    cells = [Doubled(number, tmp_path) for number in (-1, 1, 2)]
    old = {"settings": {"number": 2, "version": 0}}
    for cell, result in ((cells[0], {"settings": cells[0].settings}), (cells[2], old)):
        cell.path.parent.mkdir(exist_ok=True)
        cell.path.write_text(json.dumps(result))
    assert [is_done(cell) for cell in cells] == [True, False, False]
    do(cells, double, workers=1, minutes=0)  # no time: nothing is begun
    assert not is_done(cells[1])
    do(cells, double, workers=1, minutes=9)
    assert [result.get("double") for result in results(cells)] == [None, 2, 4]
    assert {"commit", "cpu", "versions"} < results(cells)[1].keys()
    assert capsys.readouterr().err.splitlines() == [
        "double/1: 0.5000, 0.1 s; 1 to go",
        "double/2: 0.5000, 0.1 s; 0 to go",
    ]
    summary = tmp_path / "double.json"
    write_summary(summary, [*cells, Doubled(3, tmp_path)], {"sum": 5}, of="benchmarks.double")
    assert json.loads(summary.read_bytes())["missing_cells"] == ["double/3"]
    assert capsys.readouterr().err == "1 cells are missing, of 4; call again to go on\n"


def test_parts_of_a_rendered_display_are_other_scenes_and_the_test_is_cut_into_blocks():
    shown = Display(size=(12, 12), values=3, text=lambda v, _: f"{v}")
    parts = rendered(shown, {"training": 30, "validation": 20, "test": 20}, blocks=4)
    assert [len(part) for part in parts.values()] == [30, 20, 20]
    assert parts["test"].runs == ((0, 5), (5, 10), (10, 15), (15, 20))
    assert len({part.pictures[0].tobytes() for part in parts.values()}) == 3
