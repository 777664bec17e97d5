"""The benchmark suite: its arithmetic, what it measures again, and what a check says."""

import importlib
import json
import random
import sqlite3
import subprocess
import sys
from contextlib import closing
from dataclasses import asdict

import click
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner

from benchmarks import kill, soak, suite
from benchmarks.archive import CASES, EVERY, program, reason_to_leave_out
from benchmarks.check import compared, told
from benchmarks.footage import clip, enlarge, frames, joined, rung
from benchmarks.live import Sampled
from benchmarks.measuring import Failed, Program, Ran, Rate, alternate, files_of, ran, rates, ratio, result
from benchmarks.models import case, keys
from benchmarks.part import are_alike, read, run_part, table
from benchmarks.startup import first_line
from pipeline.batch import Counts, Segment, SegmentEnd
from pipeline.sinks.parts import END_KEY
from tests.clips import write_clip

ORIGIN = {"commit": "c", "machine": {"cpu": "x", "cores": 2}, "versions": {"torch": "2"}}
FACTS = {**ORIGIN, "settings": {"rounds": 5}}


def document(ratios, case="lobby", **others):
    return {**FACTS, "cases": {case: {"ratios": {name: {"value": value} for name, value in ratios.items()}}}, **others}


def python(code):
    return [sys.executable, "-c", code]


@pytest.fixture
def numbers(tmp_path):
    """A clip of 12 frames."""
    return write_clip(tmp_path / "numbers.mp4", range(12), bframes=2, keyframe_every=6)


# ------------------------------------------------------------------------------------------ rates and ratios


def test_start_up_drops_out_of_a_rate() -> None:
    found = rates(Ran(3.0, 4.0, 100, ""), Ran(5.0, 8.0, 150, ""), (1000, 3000))
    assert found["frames_per_s"] == 1000
    assert found["frames_per_cpu_s"] == 500
    assert found["start_up_s"] == 2.0
    assert (found["peak_bytes_short"], found["peak_bytes_long"]) == (100, 150)


def test_a_longer_run_that_takes_no_longer_has_no_rate() -> None:
    with pytest.raises(Failed, match=r"must take longer, got -1\.00 s"):
        rates(Ran(3.0, 1.0, 1, ""), Ran(2.0, 2.0, 1, ""), (10, 20))


def test_a_ratio_is_that_of_medians_with_the_extremes_within_rounds() -> None:
    over, under = ([{"rate": rate} for rate in of] for of in ((10.0, 40.0, 20.0), (10.0, 10.0, 5.0)))
    assert ratio(over, under, "rate") == {"value": 2.0, "lowest": 1.0, "highest": 4.0}


def test_ratios_with_an_arm_that_was_left_out_are_left_out() -> None:
    rounds = {"ours": [{"rate": 2.0}], "theirs": [{"rate": 1.0}]}
    wanted = [("a", "ours", "theirs", "rate"), ("b", "ours", "others", "rate")]
    found = result(rounds, figure="rate", ratios=wanted, left_out={"others": "not installed"})
    assert list(found["ratios"]) == ["a"]
    assert found["left_out"] == {"others": "not installed"}


def test_all_arms_run_in_each_round_and_the_first_round_does_not_count() -> None:
    calls = []

    def measure(name):
        calls.append(name)
        return {"rate": float(len(calls))}

    found, _ = alternate({name: lambda name=name: measure(name) for name in "abc"}, 2, figure="rate")
    assert [sorted(calls[at : at + 3]) for at in (0, 3, 6)] == [["a", "b", "c"]] * 3
    assert list(found) == ["a", "b", "c"]
    assert sorted(one["rate"] for rounds in found.values() for one in rounds) == [4, 5, 6, 7, 8, 9]


def test_what_may_fail_is_left_out_if_it_fails_at_first_and_never_later() -> None:
    def fails():
        raise Failed("broken")

    works = {"ours": lambda: {"rate": 1.0}}
    found, left_out = alternate({**works, "theirs": fails}, 1, figure="rate", optional=["theirs"])
    assert (list(found), left_out) == (["ours"], {"theirs": "broken"})
    with pytest.raises(Failed, match="ours: broken"):
        alternate({"ours": fails}, 1, figure="rate", optional=["theirs"])
    later = iter([{"rate": 1.0}])
    with pytest.raises(Failed, match="theirs: broken"):
        alternate({"theirs": lambda: next(later, None) or fails()}, 1, figure="rate", optional=["theirs"])


# ------------------------------------------------------------------------------------------ processes


def test_a_process_tells_its_time_its_memory_and_what_it_says() -> None:
    found = ran(python("x = bytearray(200_000_000); print(7)"))
    assert found.said == "7\n"
    assert found.peak_bytes > 200_000_000
    assert found.cpu_seconds > 0
    assert found.seconds > 0


def test_a_process_that_fails_is_named() -> None:
    with pytest.raises(Failed, match=r"raise SystemExit\(3\): exit code 3"):
        ran(python("raise SystemExit(3)"))


def test_the_first_label_is_the_line_after_the_heading() -> None:
    assert first_line(python("print('heading'); print('label')"))["first_label_s"] > 0
    with pytest.raises(Failed, match="must print a heading and a line"):
        first_line(python("print('heading')"))


def test_a_program_that_loses_a_frame_has_no_rate(numbers, tmp_path) -> None:
    loses = Program(lambda videos: python("print(35)"), lambda ran: int(ran.said))
    with pytest.raises(Failed, match="must take 36 frames, got 35"):
        Rate(loses, files_of(numbers, number=1, cache=tmp_path), lengths=(3, 4))()


def test_a_run_is_made_longer_until_its_length_counts(numbers, tmp_path) -> None:
    # It works rather than sleeps, for its CPU time must be longer too.
    code = "import sys, time\nwhile time.process_time() < 0.02 * len(sys.argv[1:]): pass\nprint(12 * len(sys.argv[1:]))"
    program = Program(lambda videos: [*python(code), *map(str, videos)], lambda ran: int(ran.said), least=12)
    found = Rate(program, lambda times: times * [numbers], seconds=1.0)()
    assert found["long_s"] - found["short_s"] >= 0.5  # the first two lengths differ by 0.02
    assert found["frames_long"] > 24
    never = Program(lambda videos: python(f"print(12 * {len(videos)})"), lambda ran: int(ran.said), least=12)
    with pytest.raises(Failed, match=r"frames more must take 300\.0 s, got"):
        Rate(never, lambda times: times * [numbers], seconds=600.0)()


# ------------------------------------------------------------------------------------------ footage


def test_a_clip_joined_to_itself_has_its_frames_so_many_times(numbers, tmp_path) -> None:
    assert frames(joined(numbers, 3, cache=tmp_path / "cache")) == 36
    assert (
        program("wall", tmp_path).count(ran(program("wall", tmp_path).command([tmp_path / "cache/numbers-x3.mp4"])))
        == 36
    )


def test_an_enlarged_clip_has_the_frames_and_the_other_size(numbers, tmp_path) -> None:
    import av

    for most, n in ((None, 12), (5, 5)):
        enlarge(numbers, tmp_path / "larger.mp4", width=320, height=180, most=most)
        with av.open(str(tmp_path / "larger.mp4")) as container:
            assert [(frame.width, frame.height) for frame in container.decode(video=0)] == [(320, 180)] * n


def test_several_files_are_one_by_several_names(numbers, tmp_path) -> None:
    files = files_of(numbers, number=3, cache=tmp_path)(2)
    assert len({path.name for path in files}) == 3
    assert [frames(path) for path in files] == [24] * 3
    assert files == files_of(numbers, number=3, cache=tmp_path)(2)


def test_lengths_are_those_of_a_short_ladder() -> None:
    assert [rung(times) for times in (0.2, 1, 1.5, 3, 5, 7, 9, 13)] == [1, 1, 2, 3, 6, 8, 12, 16]


def test_the_clips_of_the_cases_are_there_or_can_be_made() -> None:
    from benchmarks.footage import LARGER

    assert all(name in LARGER or clip(name).is_file() for name, _, _ in CASES)
    assert all(set(arms) <= set(EVERY) for _, _, arms in CASES)


# ------------------------------------------------------------------------------------------ parts


def one_case(figure=1.0):
    return result({"a": [{"frames_per_s": figure}]}, figure="frames_per_s", ratios=[])


def test_a_case_is_measured_once_for_a_commit_a_machine_and_settings(tmp_path) -> None:
    done = []

    def measure():
        done.append(1)
        return one_case()

    def part(*, rounds=1, again=False):
        run_part("speed", {"one": measure}, origin=ORIGIN, settings={"rounds": rounds}, out=tmp_path, again=again)
        return len(done)

    assert [part(), part(), part(again=True), part(rounds=2)] == [1, 1, 2, 3]
    written = read(tmp_path / "speed.json")
    assert (written["commit"], written["settings"]) == ("c", {"rounds": 2})
    assert (tmp_path / "speed.png").read_bytes().startswith(b"\x89PNG")


def test_cases_of_another_state_are_not_lost_unasked(tmp_path) -> None:
    def part(commit, *cases, again=False):
        origin = {**ORIGIN, "commit": commit}
        run_part("speed", dict.fromkeys(cases, one_case), origin=origin, settings={}, out=tmp_path, again=again)
        return sorted(read(tmp_path / "speed.json")["cases"])

    assert part("c", "one", "two") == ["one", "two"]
    with pytest.raises(
        click.ClickException, match=r"speed\.json: holds cases of another state .*, two, which would be"
    ):
        part("d", "one")
    assert part("d", "one", again=True) == ["one"]
    assert part("e", "one", "two") == ["one", "two"]


@pytest.mark.parametrize("part", ["archive", "growth", "startup", "models", "accuracy", "fold_any", "overhead"])
def test_a_case_that_does_not_exist_is_refused_with_those_that_do(part, tmp_path) -> None:
    command = importlib.import_module(f"benchmarks.{part}").main
    done = CliRunner().invoke(command, ["--only", "no such case"])
    assert (done.exit_code, done.stdout) == (2, "")
    assert "--only: must be in the name of a case, of " in done.stderr
    assert "got 'no such case'" in done.stderr


def test_a_part_that_breaks_keeps_the_cases_before(tmp_path) -> None:

    def breaks():
        raise Failed("broken")

    with pytest.raises(Failed):
        run_part("speed", {"one": one_case, "two": breaks}, origin=ORIGIN, settings={}, out=tmp_path, again=False)
    assert list(read(tmp_path / "speed.json")["cases"]) == ["one"]


@pytest.mark.parametrize(
    "other", [{"commit": "d"}, {"machine": {"cpu": "y", "cores": 2}}, {"settings": {"rounds": 3}}, {"versions": {}}]
)
def test_results_of_another_state_are_measured_again(other) -> None:
    assert are_alike(document({}), document({}))
    assert not are_alike(document({}), document({}, **other))


@pytest.mark.parametrize("commit", ["c-dirty", "unknown"])
def test_code_that_is_not_committed_is_always_measured_again(commit) -> None:
    assert not are_alike(document({}, commit=commit), document({}, commit=commit))


def test_a_table_shows_medians_ratios_and_what_was_left_out() -> None:
    rounds = {"ours": [{"frames_per_s": 2000.0}], "theirs": [{"frames_per_s": 500.0}]}
    of = result(
        rounds, figure="frames_per_s", ratios=[("o / t", "ours", "theirs", "frames_per_s")], left_out={"x": "y"}
    )
    assert table("lobby", of) == [
        "lobby   frames/s",
        "ours       2,000",
        "theirs       500",
        "o / t: 4.00 (4.00 to 4.00)",
        "x: left out: y",
    ]


def test_a_model_is_told_against_the_fastest_at_f_1_and_each_engine_against_itself() -> None:
    rates = {("torch", "bfloat16"): (5.0, 8.0), ("openvino", "bfloat16"): (10.0, 15.0)}
    rounds = {
        (*engine, f): [{"images_per_s": rate}]
        for engine, of in rates.items()
        for f, rate in zip((1, 4), of, strict=True)
    }
    found = case(rounds, {"onnx float32, f = 4": "not installed"})
    assert {name: ratio["value"] for name, ratio in found["ratios"].items()} == {
        "f = 4 / f = 1, fastest of each": 1.5,
        "f = 4 / f = 1, torch bfloat16": 1.6,
        "f = 4 / f = 1, openvino bfloat16": 1.5,
    }
    assert found["left_out"] == {"onnx float32, f = 4": "not installed"}
    assert found["drawn"] == ["openvino bfloat16, f = 1", "openvino bfloat16, f = 4"]


def test_what_an_engine_does_not_compute_in_is_not_measured() -> None:
    assert {key[:2] for key in keys(["torch", "onnx"], "cuda")} == {
        ("torch", "float16"),
        ("torch", "bfloat16"),
        ("torch", "float32"),
        ("onnx", "float32"),
    }


# ------------------------------------------------------------------------------------------ the check


def test_a_ratio_fell_if_it_lost_more_than_a_tenth() -> None:
    before = document({"a": 1.0, "b": 1.0, "c": 1.0, "gone": 1.0})
    after = document({"a": 0.89, "b": 0.91, "c": 1.5, "new": 1.0})
    assert {change.name: change.fell for change in compared(before, after)} == {"a": True, "b": False, "c": False}
    assert compared(before, document({"a": 0.1}, case="other")) == []


def test_a_check_says_that_it_compares_two_machines() -> None:
    before, after = document({"a": 1.0}), document({"a": 1.0}, machine={"cpu": "x", "cores": 4})
    lines = told("archive", before, after, compared(before, after))
    assert lines[-1] == ("archive: measured on another machine: cores was 2, is 4; ratios may differ for that")


@pytest.mark.parametrize(("now", "code"), [(0.95, 0), (0.8, 1)])
def test_a_check_ends_with_1_if_a_ratio_fell(now, code, tmp_path, capsys) -> None:
    for folder, value in (("committed", 1.0), ("fresh", now)):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "archive.json").write_text(json.dumps(document({"vpipe / wall": value})))
    assert suite.checked(("archive",), tmp_path / "fresh", tmp_path / "committed") == code
    said = capsys.readouterr().out
    assert ("archive: fell by more than 10%: lobby: vpipe / wall" in said) == bool(code)


@pytest.mark.parametrize("committed", [None, {"another": 1.0}])
def test_a_check_that_compares_nothing_does_not_pass(committed, tmp_path, capsys) -> None:
    (tmp_path / "growth.json").write_text(json.dumps(document({"a": 1.0})))
    if committed:
        (tmp_path / "committed").mkdir()
        (tmp_path / "committed" / "growth.json").write_text(json.dumps(document(committed)))
    assert suite.checked(("growth",), tmp_path, tmp_path / "committed") == 1
    said = capsys.readouterr().out
    assert ("no ratio is in both documents" if committed else "growth: nothing to compare with") in said


def test_the_suite_knows_its_parts() -> None:
    asked = CliRunner().invoke(suite.main, ["nothing"])
    assert asked.exit_code == 2
    assert "'archive', 'growth', 'startup', 'models'" in asked.output


def test_a_competitor_without_its_library_is_left_out_with_the_reason() -> None:
    reason = reason_to_leave_out("nothing")
    assert reason is not None
    assert reason.endswith("No module named benchmarks.competitors.nothing")


# ------------------------------------------------------------------------------------------ reliability


def test_the_first_file_that_the_run_needs_is_where_a_run_broke(tmp_path) -> None:
    telemetry = f"{tmp_path}/killed/telemetry.parquet: must be writable"
    said = f"{telemetry}\n{tmp_path}/killed/frames/person/s0/0.parquet: must be writable, got No space left"
    assert kill.broke_at(said, tmp_path) == "a part"
    assert kill.broke_at(f"{said}\nError: {tmp_path}/killed/summary.json: must be", tmp_path) == "a part"
    assert kill.broke_at(f"{telemetry}\n{tmp_path}/killed/summary.json: must be", tmp_path) == "summary.json"
    assert kill.broke_at(f"{tmp_path}/killed: must be writable", tmp_path) == "the run's folder"
    assert kill.broke_at("No space left on device", tmp_path) == ""


def test_a_part_that_is_another_file_or_gone_was_changed(tmp_path) -> None:
    before = {tmp_path / "a": (1, 1), tmp_path / "b": (2, 2), tmp_path / "c": (3, 3)}
    assert kill.changed(before, before | {tmp_path / "d": (4, 4)}) == 0
    assert kill.changed(before, {tmp_path / "a": (1, 1), tmp_path / "b": (2, 5)}) == 2


def test_rows_count_that_came_whole_from_the_run_that_is_asked_for(tmp_path) -> None:
    request = {name: json.dumps({"answer": "204", "body": {"run": name, "rows": [{"frame": 1}]}}) for name in "ab"}
    (tmp_path / "received").write_text(f"{request['a']}\n{request['a'][:30]}{request['a']}\n{request['b']}\n")
    assert list(kill.arrived(tmp_path / "received", "a")) == [{"frame": 1}] * 2


def write_run(folder, *, label="person", score=0.3, corrupt=0, state="done"):
    """A run of two frames with both filters, and what it tells of them."""
    end = SegmentEnd(Segment("s0"), Counts(indexed=2, decoded=2 - corrupt, corrupt=corrupt))
    for name in kill.FILTERS:
        path = folder / "frames" / name / "s0" / "0.parquet"
        path.parent.mkdir(parents=True)
        rows = pa.table(
            {
                "source": pa.array(["s0", "s0"]).dictionary_encode(),
                "frame": [0, 1],
                "label": ["none", label],
                "score": pa.array([0.1, score], pa.float32()),
            }
        )
        pq.write_table(rows.replace_schema_metadata({END_KEY: json.dumps(asdict(end))}), path)
    (folder / "ledger.json").write_text(json.dumps({"counts": {"corrupt": corrupt}}))
    (folder / "summary.json").write_text(json.dumps({"state": state, "seconds": random.random()}))


def test_rows_that_arrive_with_another_label_or_score_are_found(tmp_path) -> None:
    write_run(tmp_path / "undisturbed")
    right = [
        {"filter": name, "source": "s0", "frame": frame, "label": label, "score": score}
        for name in kill.FILTERS
        for frame, (label, score) in enumerate([("none", 0.1), ("person", 0.3)])
    ]

    def found(*rows):
        body = {"answer": "204", "body": {"run": "killed", "rows": rows}}
        (tmp_path / "received").write_text(json.dumps(body))
        return {name: n for name, n in kill.arrivals(tmp_path, tmp_path / "received").items() if n}

    assert found(*right) == {"rows_arrived": 4}
    assert found(*right, right[0]) == {"rows_arrived": 4, "rows_repeated": 1}
    assert found(*right[1:]) == {"rows_arrived": 3, "rows_lost": 1}
    assert found(*right, right[0] | {"frame": 7}) == {"rows_arrived": 4, "rows_unknown": 1}
    for other in ({"label": "person"}, {"label": None}, {"score": 0.10001}, {"score": None}):
        assert found(right[0] | other, *right[1:]) == {"rows_arrived": 4, "rows_otherwise": 1}


def test_footers_and_ledgers_that_tell_otherwise_are_found(tmp_path) -> None:
    for name, how in {"one": {}, "same": {}, "lost": {"corrupt": 1}, "partial": {"state": "partial"}}.items():
        write_run(tmp_path / name, **how)
    for what in (kill.footers, kill.ledger):
        assert what(tmp_path, "one") == what(tmp_path, "same") != what(tmp_path, "lost")
    assert kill.ledger(tmp_path, "one") != kill.ledger(tmp_path, "partial")


@pytest.mark.parametrize(
    "wrong",
    [
        *("last_exit_code", "parts_done_again", "temporary_files", "rows_lost", "rows_unknown", "ended_otherwise"),
        *("tracebacks", "too_few_between", "rows_otherwise"),
    ],
)
def test_a_run_is_sound_only_if_all_holds(wrong) -> None:
    assert kill.is_sound({"same_rows": True, "rows_repeated": 100})
    for name in ("same_rows", "same_parts", "same_footers", "same_ledger", "same_csv", "same_database"):
        assert not kill.is_sound({"same_rows": True, name: False})
    assert not kill.is_sound({"same_rows": True, wrong: 1})


def test_a_segment_of_which_one_filter_has_no_part_yet_is_not_committed(tmp_path) -> None:
    for place in ("four/s0/0", "four/s0/1", "one/s0/0", "one/s1/1"):
        path = tmp_path / "killed" / "frames" / f"{place}.parquet"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    assert sorted(map(str, kill.parts(tmp_path, "killed"))) == [
        f"killed/frames/{filter}/s0/0.parquet" for filter in ("four", "one")
    ]


def test_files_and_threads_are_level_if_no_tenth_has_more_than_the_second() -> None:
    for files, is_level in ([9] * 20, True), ([12, 12, *[9] * 18], True), ([9] * 10 + [10] * 10, False):
        sampled = Sampled(0, rss_bytes=[100_000_000] * 20, threads=[5] * 20, files=files)
        assert soak.judged(sampled, [*range(0, 1000, 50), 1000], 1000)["is_level"] == is_level


@pytest.mark.parametrize(("last", "is_flat"), [(104, True), (106, False)])
def test_memory_is_flat_if_no_tenth_holds_much_more_than_the_first(last, is_flat) -> None:
    sampled = Sampled(0, rss_bytes=[100_000_000] * 10 + [last * 1_000_000] * 10, threads=[5] * 20, files=[9] * 20)
    found = soak.judged(sampled, [*range(0, 1000, 50), 1000], 1000)
    assert (found["rss_mb"]["10 %"], found["rss_mb"]["100 %"], found["is_flat"]) == (100, last, is_flat)
    with pytest.raises(Failed, match="each tenth of the frames must have a sample"):
        soak.judged(sampled, [0] * 21, 1000)


def test_a_row_too_many_does_not_hide_one_that_is_missing(tmp_path) -> None:
    def found(*frames):
        for number in range(soak.FILES):
            path = tmp_path / "filter" / f"s{number}" / "0.parquet"
            path.parent.mkdir(parents=True, exist_ok=True)
            pq.write_table(pa.table({"frame": list(frames) if number == 3 else [0, 1, 2]}), path)
        return soak.with_one_row(tmp_path, 3)

    of_all = 3 * soak.FILES
    assert found(0, 1, 2) == of_all
    assert found(0, 1, 1) == of_all - 2
    assert found(0, 1) == of_all - 1
    assert found(0, 1, 2, 3) == found(-1, 0, 1, 2) == of_all - 1


def test_rows_of_the_csv_file_and_of_the_database_are_counted(tmp_path) -> None:
    (tmp_path / "rows.csv").write_text("source,frame\ns0,0\ns0,1\n")
    with closing(sqlite3.connect(tmp_path / "rows.sqlite")) as db:
        db.execute("create table labels (frame)")
        db.executemany("insert into labels values (?)", [(0,), (1,), (2,)])
        db.commit()
    assert (soak.csv_lines(tmp_path / "rows.csv"), soak.database_rows(tmp_path / "rows.sqlite")) == (2, 3)
    sound = dict.fromkeys(("frames", "rows", *soak.WRITTEN), 5) | {"is_flat": True, "is_level": True, "exit_code": 0}
    assert soak.is_sound(sound)
    for other in (*({name: 4} for name in ("rows", *soak.WRITTEN)), {"exit_code": 3}, {"is_flat": False}):
        assert not soak.is_sound(sound | other)


def test_a_run_that_hangs_is_not_watched_for_ever(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(soak, "LIMIT_S", 0.5)
    process = subprocess.Popen(python("import time; time.sleep(60)"))
    try:
        with pytest.raises(Failed, match="must end within 1 s, got 0 of 7 frames"):
            soak.watched(process, tmp_path, 7)
    finally:
        process.kill()
        process.wait()
