"""The harness of tests/fuzz, on a few dozen damaged files of each kind. `make fuzz` tries many."""

import json
import random
from collections.abc import Iterable
from dataclasses import replace

import pytest
from click.testing import CliRunner

from pipeline.batch import Counts, Segment, SegmentEnd
from pipeline.config import load_run_config
from pipeline.errors import ConfigError, SourceError
from pipeline.sources.container import Limits
from tests.clips import clip
from tests.fuzz import configs, harness, labels, models, plain, videos
from tests.fuzz.__main__ import main
from tests.fuzz.harness import Case, Found, Tried, fuzz, wrong_report
from tests.fuzz.mutate import BYTES, damaged

# Packets of unknown streams; no frame at all; frames missing of which nothing tells; packets that cannot be read.
FOUND = (114, 338, 974, 111, 877, 4597, 5005, 1241, 1641, 1807, 5003, 5225, 5348, 3413)


@pytest.fixture
def places(tmp_path):
    """Where a stock and what a process writes go."""
    for name in ("stock", "own"):
        (tmp_path / name).mkdir()
    return tmp_path / "stock", tmp_path / "own"


def findings(kind: str, case: Case, numbers: Iterable[int]) -> list[Tried]:
    """What must not be, of cases that are tried in this process."""
    found = []
    for number in numbers:
        chance = random.Random(f"{kind} 0 {number}")
        mutation = case.prepared(number, chance)
        if (tried := case.tried(number, chance)).finding is not None:
            found.append(Tried(f"{number}: {tried.outcome}", mutation, tried.finding))
    return found


def test_damaged_clips_are_labelled_as_far_as_they_go(places):
    for kind in ("h264-closed.mp4", "h264-bframes-opengop.mkv", "vp9.webm"):
        (places[0] / kind).write_bytes(clip(kind, videos.FRAMES).read_bytes())
    assert findings("videos", videos.Videos(*places), range(1, 40)) == []


def test_what_clips_were_found_to_do_once_stays_mended(places):
    videos.stock(places[0])
    case = videos.Videos(*places)
    assert [one for number in FOUND for one in findings("videos", case, range(number, number + 1))] == []


def test_damaged_configurations_are_taken_or_refused(places):
    configs.stock(places[0])
    for path in (places[0] / "configs").glob("*.yaml"):
        if path.name not in ("lobby.yaml", "run.yaml", "train-cifar.yaml"):
            path.unlink()
    assert findings("configs", configs.Configs(*places), range(1, 50)) == []


def test_a_problem_is_one_line_whatever_a_path_holds(tmp_path):
    (tmp_path / "run.yaml").write_text('sources: [{path: "a\\u2028b.mp4"}]\nfilter: {model: "m\\u2028.safetensors"}\n')
    with pytest.raises(ConfigError) as caught:
        load_run_config(tmp_path / "run.yaml")
    assert wrong_report(caught.value.problems, tmp_path / "run.yaml") is None
    assert "m\\u2028.safetensors: must be a file" in str(caught.value)


def test_damaged_labels_are_taken_or_refused(places):
    assert findings("labels", labels.Labels(*places), range(100)) == []


def test_damaged_models_are_taken_or_refused(places):
    models.stock(places[0])
    assert findings("models", models.Models(*places), [*range(60), 2249]) == []


@pytest.mark.parametrize("way", BYTES)
def test_the_same_chance_does_the_same_damage(way):
    data = bytes(range(256)) * 8
    once, again = (way(data, random.Random(3)) for _ in range(2))
    assert once == again
    assert any(way(data, random.Random(seed))[0] != data for seed in range(5))
    assert damaged(b"", random.Random(1))[1]


def test_what_crashes_hangs_grows_or_is_wrong_is_told_by_its_number_and_the_rest_goes_on():
    found = fuzz("faulty", range(6))
    assert found.outcomes.items() >= {"crashed with -6": 1, "took over 0.5 s": 1}.items()
    assert found.outcomes["done"] == 3
    assert [one["number"] for one in found.findings] == [1, 2, 3, 4]
    assert [one["mutation"] for one in found.findings] == [f"case {number}" for number in range(1, 5)]


def test_what_crashes_hangs_or_is_wrong_in_isolation_too_is_found(monkeypatch):
    monkeypatch.setattr(harness, "ISOLATED_S", 1.0)
    found = fuzz("protected", range(6))
    assert found.outcomes == {"crashed with -6": 4, "crashed with 1": 1, "done": 1}
    assert [crash["isolated"] for crash in found.crashes[:4]] == [
        "isolated: complete",
        "isolated: crashes",
        "isolated: hangs",
        "isolated: wrong, so it is",
    ]
    assert [(one["number"], one["finding"]) for one in found.findings] == [
        (2, "isolated: crashes"),
        (3, "isolated: hangs"),
        (4, "isolated: wrong, so it is"),
        (5, "crashed with 1; isolated: complete"),  # an exception, of the case itself
    ]


def test_the_command_writes_its_result_and_fails_at_findings(tmp_path, monkeypatch):
    told = CliRunner().invoke(main, ["labels", "--count", "3", "--out", str(tmp_path)])
    assert told.exit_code == 0, told.output
    document = json.loads((tmp_path / "fuzz-labels.json").read_text())
    assert document["command"] == "python -m tests.fuzz labels --count 3 --seed 0"
    assert document["result"]["cases"] == 3
    assert document["machine"]
    found = Found(findings=[{"number": 7, "finding": "that", "mutation": "this"}])
    monkeypatch.setattr("tests.fuzz.__main__.fuzz", lambda *_, **__: found)
    told = CliRunner().invoke(main, ["labels", "--only", "7"])
    assert (told.exit_code, told.stdout) == (1, "--only 7: that (this)\n")


def test_a_refusal_must_name_the_file_in_one_line(tmp_path):
    assert wrong_report([f"{tmp_path}:1: no"], tmp_path) is None
    assert "does not name" in (wrong_report(["no"], tmp_path) or "")
    assert "not one" in (wrong_report([f"{tmp_path}: a\nb"], tmp_path) or "")
    assert wrong_report([], tmp_path)


def test_what_does_not_add_up_or_is_wrongly_complete_is_found(tmp_path):
    path = clip("h264-closed.mp4", videos.FRAMES)
    whole = [SegmentEnd(Segment("c"), Counts(indexed=48, decoded=48))]
    numbers = list(range(48))
    assert videos.judged(path, numbers, whole, by_model=False) == ("complete", None)
    assert videos.judged(path, numbers[1:], whole, by_model=False)[0] == "wrong ledger"
    short = [SegmentEnd(Segment("c"), Counts(indexed=47, decoded=47))]
    assert "47 frames of 48 packets" in (videos.judged(path, numbers[:47], short, by_model=False)[1] or "")
    wrong = [SegmentEnd(Segment("c"), Counts(indexed=48, decoded=47))]
    assert "must hold" in (videos.judged(path, numbers[:47], wrong, by_model=False)[1] or "")


def test_what_isolation_gives_otherwise_is_found(monkeypatch):
    path = clip("h264-closed.mp4", videos.FRAMES)
    here = videos.Taken.of(videos.source(path))
    assert (len(here.numbers), videos.differing(here, path)) == (48, None)
    end = here.ends[0]
    for other in (
        replace(here, numbers=[*range(47), 48]),
        replace(here, times_s=[0.5, *here.times_s[1:]]),
        replace(here, pictures=here.pictures[::-1]),
        replace(here, ends=[replace(end, counts=replace(end.counts, damaged=1)), *here.ends[1:]]),
        replace(here, ends=here.ends[:1]),
    ):
        monkeypatch.setattr(videos, "taken_apart", lambda _, other=other: other)
        assert (videos.differing(here, path) or "").startswith("isolated: ")


@pytest.mark.parametrize("kind", ["h264-bframes-opengop.mp4", "h264-closed.mp4", "mpeg4-bframes.avi"])
def test_frames_that_are_given_up_or_are_others_than_a_plain_decoding_shows_are_found(kind, monkeypatch):
    path = clip(kind, videos.FRAMES)
    tasks = list(videos.source(path).segments())
    index = tasks[0].index
    taken = videos.Taken.of(videos.decoded(tasks))

    def found(segments=1, **fields):
        return plain.misplaced(path, replace(taken, **fields), index, segments=segments) or ""

    def without(*places):
        lists = {name: getattr(taken, name) for name in ("numbers", "times_s", "pictures")}
        return {name: [one for k, one in enumerate(all_) if k not in places] for name, all_ in lists.items()}

    swapped = [*taken.pictures[:7], taken.pictures[8], taken.pictures[7], *taken.pictures[9:]]
    assert found() == ""
    concealed = [replace(taken.ends[0], counts=replace(taken.ends[0].counts, damaged=9)), *taken.ends[1:]]
    if index.numbering == "counted":
        for fields in ({"pictures": swapped}, without(20), {"pictures": swapped, "ends": concealed}):
            assert "counted: " in found(**fields)
        return
    assert "needlessly: 2 frames" in found(**without(20, 30))
    assert found(**without(20), ends=[replace(taken.ends[0], retry=True)]) == ""
    assert f"at [{taken.times_s[7]}, {taken.times_s[8]}] s" in found(segments=2, pictures=swapped)
    noise = [b"by other pictures", *taken.pictures[1:]]
    for segments in (1, 2):
        assert f"at [{taken.times_s[0]}] s" in found(segments=segments, pictures=noise)
    moved = [*taken.times_s[:47], 99.0]  # one that the plain decoding lacks
    retried = [replace(taken.ends[0], retry=True)]
    other_index = replace(index, shown=index.shown[:47])
    told = plain.misplaced(path, replace(taken, times_s=moved, pictures=noise, ends=retried), other_index, segments=2)
    assert f"at [{taken.times_s[0]}] s" in (told or "")
    with monkeypatch.context() as patched:
        patched.setattr(plain.Plain, "is_sound", False)
        assert found(segments=2, pictures=noise) == ""
        assert "at [" in found(segments=2, pictures=swapped)
        assert found(segments=2, pictures=swapped, ends=concealed) == ""
    assert "at [" in found(segments=2, pictures=swapped, ends=concealed)
    early = without(20)
    early["numbers"] = [*taken.numbers[:20], *taken.numbers[20:47]]
    assert f"frame 20 at {taken.times_s[21]:.6f} s, by its packets" in found(**early)
    assert "comes behind" in found(times_s=taken.times_s[::-1])


def test_a_refusal_that_does_not_name_its_clip_is_found(places, monkeypatch):
    (places[0] / "vp9.webm").write_bytes(clip("vp9.webm", videos.FRAMES).read_bytes())
    case = videos.Videos(*places)
    case.prepared(1, random.Random(1))

    monkeypatch.setattr(videos, "source", raises(SourceError("c", "no")))
    assert case.tried(2, random.Random(1)).finding == "a line that does not name the file: 'no'"
    end = SegmentEnd(Segment("c"), Counts(indexed=1, corrupt=1), error=f"{places[0]}: one\nother")
    assert "not one" in (videos.judged(places[0], [], [end], by_model=False)[1] or "")


def test_a_readable_file_that_is_refused_or_is_to_be_tried_again_is_found(places, monkeypatch):
    path = places[0] / "vp9.webm"
    path.write_bytes(clip("vp9.webm", videos.FRAMES).read_bytes())

    def found(why, counts=Counts(), **how):  # noqa: B008
        end = SegmentEnd(Segment("c"), counts, error=f"{path}: {why}", retry=True)
        return videos.judged(path, [], [end], by_model=False, **how)[1]

    assert f"plain decoding gives {videos.FRAMES} frames: {path}: no" in (found("no") or "")
    assert found("no", plain=False) is None
    assert found(Limits().refusal("pixels", "much")) is None
    lost = Counts(indexed=1, corrupt=1)
    assert "to be tried again: " in (found("the disk failed", lost) or "")
    assert [found("Cannot allocate memory", counts) for counts in (Counts(), lost)] == [None, None]
    case = videos.Videos(*places)
    case.prepared(1, random.Random(1))
    case._path.write_bytes(path.read_bytes())
    monkeypatch.setattr(videos, "source", raises(SourceError("c", f"{case._path}: no")))
    assert "refused, and a plain decoding" in (case.tried(2, random.Random(1)).finding or "")
    path.write_bytes(b"no video")
    assert found("no") is None


def raises(error):
    def fails(*_):
        raise error

    return fails


# Told how far frames are reordered, a field that was lost, and a packet that vanished without a word.
@pytest.mark.parametrize(("seed", "number"), [(3, 381), (1, 727), (1, 821), (1, 1515), (1, 3970), (2, 1784)])
def test_what_hides_damage_is_not_held_against_a_clip(seed, number, places):
    videos.stock(places[0])
    case = videos.Videos(*places)
    chance = random.Random(f"videos {seed} {number}")
    case.prepared(number, chance)
    assert case.tried(number, chance).finding is None


def test_a_hole_between_frames_tells_of_damage():
    whole = plain.Plain("mov", "h264", times_s={0.0, 0.04, 0.08, 0.12})
    assert whole.is_sound
    assert plain.Plain("mov", "h264").is_sound
    assert not replace(whole, times_s={0.0, 0.04, 0.08, 0.16}).is_sound
    for name in ("errors", "refused", "damaged"):
        assert not replace(whole, **{name: 1}).is_sound
