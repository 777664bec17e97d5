"""Old windows of cameras are removed, and the oldest where the disk is nearly full; never the last of a camera."""

from datetime import UTC, datetime

import pytest

from pipeline.retention import Removed, make_room
from pipeline.threads import Stop

NOW = datetime(2026, 3, 10, 12, tzinfo=UTC)


@pytest.fixture
def run(tmp_path):
    """The folder of a run: two cameras, four days of two windows, and events."""
    first = 0
    for day in ("2026-03-01", "2026-03-05", "2026-03-09", "2026-03-10"):
        for hour in ("08", "20"):
            for camera in ("gate", "yard"):
                path = tmp_path / "frames" / "who" / camera / day / f"{hour}0000-{first:012d}.parquet"
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(b"12345")
            first += 100
        event = tmp_path / "events" / day / "080000-000001.parquet"
        event.parent.mkdir(parents=True, exist_ok=True)
        event.write_bytes(b"1")
        sampled = tmp_path / "telemetry" / day / "080000.parquet"
        sampled.parent.mkdir(parents=True, exist_ok=True)
        sampled.write_bytes(b"1")
    (tmp_path / "run.json").write_text("{}")
    return tmp_path


def days(run, camera="gate"):
    return sorted({path.parent.name for path in (run / "frames" / "who" / camera).rglob("*.parquet")})


def test_what_is_older_than_the_days_to_keep_is_removed(run):
    assert make_room(run, keep_days=3, now=NOW) == Removed(old=4 + 4 + 2 + 2)
    assert days(run) == days(run, "yard") == ["2026-03-09", "2026-03-10"]
    assert sorted(path.name for path in (run / "events").iterdir()) == ["2026-03-09", "2026-03-10"]
    assert not (run / "frames" / "who" / "gate" / "2026-03-01").exists()
    assert (run / "run.json").exists()


def test_nothing_is_removed_where_nothing_is_asked(run):
    before = sorted(run.rglob("*"))
    assert make_room(run, now=NOW) == Removed()
    assert sorted(run.rglob("*")) == before


def test_the_last_window_of_a_camera_stays_whatever_its_age_and_whatever_the_disk(run):
    removed = make_room(run, keep_days=0, min_free_bytes=1, now=datetime(2027, 1, 1, tzinfo=UTC), free=lambda path: 0)
    assert removed == Removed(old=2 * 7 + 4 + 4)
    assert [path.name for path in (run / "frames").rglob("*.parquet")] == ["200000-000000000700.parquet"] * 2


def test_the_oldest_go_first_until_there_is_room(run, caplog):
    def free(folder):
        return 300 - sum(path.stat().st_size for path in folder.rglob("*.parquet"))

    assert free(run) == 212
    assert make_room(run, min_free_bytes=212, now=NOW, free=free) == Removed()
    stop = Stop()
    stop.set()
    assert make_room(run, min_free_bytes=220, now=NOW, free=free, stop=stop) == Removed()
    removed = make_room(run, min_free_bytes=220, now=NOW, free=free)
    assert 242 <= free(run) < 247  # a tenth more, so that the next window finds room
    assert days(run)[0] == "2026-03-05"
    assert removed.old == 0
    assert removed.for_room == 8
    assert "8 of the oldest files were removed" in caplog.text


def test_a_clock_that_was_set_back_does_not_make_the_last_window_an_old_one(run):
    late = run / "frames" / "who" / "gate" / "2020-01-01" / "000000-000000009999.parquet"
    late.parent.mkdir()
    late.write_bytes(b"1")
    make_room(run, keep_days=1, now=NOW)
    assert late.exists()
