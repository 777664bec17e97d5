import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import BaseModel

from pipeline.config import load_run_config, load_train_config, run_config_from
from pipeline.configdocs import markdown
from pipeline.errors import ConfigError
from pipeline.regionfile import regions_of
from pipeline.schema import RunConfig
from pipeline.section import sections_in
from pipeline.trainschema import TrainConfig
from specialized.modelfile import ModelCard, save_model
from specialized.recipe import Recipe

ROOT = Path(__file__).parent.parent

VALID = """\
run: {dir: out}
sources:
  - path: clip.mp4
fold: {frames: 4}
filter:
  model: m4.safetensors
"""
EVENTS = "  events: {person: {on: 0.6}}\n"  # of that filter


def make_model(path: Path, **card):
    torch = pytest.importorskip("torch")
    wanted = {"fold": 4, "order": "consecutive", "input": (50, 50), "classes": ("person", "none"), **card}
    save_model(path, ModelCard(architecture="coral", **wanted), {"weight": torch.zeros(1)})


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    make_model(folder / "m4.safetensors")
    make_model(folder / "m1.safetensors", fold=1)
    make_model(folder / "wide.safetensors", input=(50, 80), order="strided")
    return folder


@pytest.fixture
def folder(tmp_path, models, monkeypatch):
    """A folder with a clip and models, where the test stands."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "clip.mp4").write_bytes(b"")
    for model in models.iterdir():
        (tmp_path / model.name).symlink_to(model)
    return tmp_path


def load(text: str, load_config=load_run_config, **arguments):
    Path("cam.yaml").write_text(text)
    return load_config("cam.yaml", **arguments)


def problems(text: str, load_config=load_run_config, **arguments) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        load(text, load_config, **arguments)
    assert str(caught.value).splitlines() == list(caught.value.problems)
    return list(caught.value.problems)


def test_a_short_configuration_is_filled_up_with_defaults(folder):
    config = load(VALID)
    assert config.path == Path("cam.yaml")
    assert (config.run.name, config.run.dir) == ("cam", str(folder / "out"))
    assert [(source.name, source.path, source.every) for source in config.sources] == [
        ("clip", str(folder / "clip.mp4"), 1)
    ]
    assert [(f.name, f.model, f.batch, f.keep) for f in config.filters] == [
        ("m4", str(folder / "m4.safetensors"), 256, {})
    ]
    assert (config.fold.frames, config.fold.order, config.decode.segment_frames) == (4, None, 4096)
    assert config.warnings == ()


def test_paths_start_at_the_file_and_the_run_folder_where_one_stands(folder):
    (folder / "configs").mkdir()
    (folder / "configs/far.yaml").write_text(VALID.replace("clip", "../clip").replace("m4.", "../m4."))
    config = load_run_config("configs/far.yaml")
    assert config.sources[0].path == str(folder / "clip.mp4")
    assert config.run.dir == str(folder / "out")


def test_every_problem_is_reported_at_once_in_the_order_of_the_lines(folder):
    (folder / "file").write_text("")
    assert problems("""\
run: {dir: file/below}
sources:
  - {pth: clip.mp4}
  - {path: clip.mp4, every: "2"}
  - {path: gone.mp4, name: gone}
fold: {frames: 3}
filters:
  - {model: m4.safetensors, keep: {dog: 0.5}}
  - {model: nothing.safetensors}
  - {model: no_such_package.module:Class, input: [8, 8], classes: [a, b]}
telemetri: {}
""") == [
        f"cam.yaml:1: run.dir: must lie in a folder that can be written to, got {folder}/file: Not a directory",
        "cam.yaml:3: sources.0.path: must be given",
        "cam.yaml:3: sources.0.pth: unknown key; did you mean 'path'?",
        "cam.yaml:4: sources.1.every: must be a whole number, got '2'",
        f"cam.yaml:5: sources.2.path: must be a file, folder or glob of files, got nothing at {folder}/gone.mp4",
        "cam.yaml:6: fold.frames: must be 4, what the model of filter 'm4' was trained for, got 3; "
        "leave it out or take another model",
        "cam.yaml:6: fold.frames: must be 1, what the model of filter 'Class' was trained for, got 3; "
        "leave it out or take another model",
        "cam.yaml:8: filters.0.keep.dog: must be a class of the model; known here: person, none",
        f"cam.yaml:9: filters.1.model: {folder}/nothing.safetensors: must be a file, got nothing; check the path",
        "cam.yaml:10: filters.2.model: module 'no_such_package.module' must be importable, got ModuleNotFoundError: "
        "No module named 'no_such_package'; install it, or put it beside the configuration",
        "cam.yaml:11: telemetri: unknown key; did you mean 'telemetry'?",
    ]


@pytest.mark.parametrize(
    ("path", "problem"),
    [
        (r'"a\0b"', r"must be a path without control characters, got 'a\x00b'"),
        ("x" * 300, "must be a path that the system takes, and this one is too long, got"),
        ("/".join(["x" * 200] * 30), "must be a path that the system takes, and this one is too long, got"),
    ],
)
@pytest.mark.parametrize(
    ("key", "text"),
    [
        ("run.dir", "run: {{dir: {}}}\nsources: [{{path: clip.mp4}}]\nfilter: {{model: m4.safetensors}}\n"),
        ("sources.0.path", "sources: [{{path: {}}}]\nfilter: {{model: m4.safetensors}}\n"),
        ("filter.model", "sources: [{{path: clip.mp4}}]\nfilter: {{model: {}}}\n"),
        (
            "sinks.0.path",
            "sources: [{{path: clip.mp4}}]\nfilter: {{model: m4.safetensors}}\nsinks: [{{type: csv, path: {}}}]\n",
        ),
    ],
)
def test_a_path_that_no_file_can_have_is_refused_where_it_stands(folder, key, text, path, problem):
    (told,) = problems(text.format(path))
    assert f" {key}: {problem}" in told


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ("decode: {workers: 0}", "decode.workers: must be at least 1, got 0"),
        ("decode: {workers: true}", "decode.workers: must be a whole number, got true"),
        ("decode: {workers: 1.5}", "decode.workers: must be a whole number, got 1.5"),
        ("decode: {workers: no}", "decode.workers: must be a whole number, got 'no'"),
        (
            "decode: {colour: 1}",
            "decode.colour: unknown key; known here: workers, segment_frames, frames, fast, device",
        ),
        ("decode: {device: auto}", "decode.device: must be cpu, cuda or cuda:N, got 'auto'"),
        ("decode: 5", "decode: must be a mapping, got 5"),
        ("telemetry: {interval_s: 0}", "telemetry.interval_s: must be over 0, got 0"),
        ("telemetry: {interval_s: .inf}", "telemetry.interval_s: must be a number, got '.inf'"),
        ("telemetry: {interval_s: [1]}", "telemetry.interval_s: must be a number, got a list of 1"),
        ("sinks: {type: csv}", "sinks: must be a list, got a mapping"),
        ("sinks: [{path: x}]", "sinks.0.type: must be given"),
        ("sinks: [{type: csv}]", "sinks.0.path: must be given"),
        (
            "sinks: [{type: cvs, path: x}]",
            "sinks.0.type: must be csv, jsonl, callback, webhook, mqtt, sqlite, postgres or package.module:Name, "
            "got 'cvs'; did you mean 'csv'?",
        ),
        (
            "sinks: [{type: 'string:Formater'}]",
            "sinks.0.type: string must define 'Formater', got none of that name; did you mean 'Formatter'?",
        ),
        (
            "sinks: [{type: 'textwrap:TextWrapper', widht: 3}]",
            "sinks.0.widht: unknown argument of textwrap:TextWrapper; did you mean 'width'?",
        ),
        (
            "sinks: [{type: 'fractions:gcd_of'}]",
            "sinks.0.type: fractions must define 'gcd_of', got none of that name",
        ),
        (
            "sinks: [{type: 'textwrap:indent', text: x}]",
            "sinks.0.prefix: must be given: textwrap:indent has no default for it",
        ),
        ('x: "\\ud800"', "x: must be Unicode text, got half of a surrogate pair in '\\ud800'"),
        ('"\\ud800": 1', "a key must be Unicode text, got '\\ud800'"),
        ("x: !!python/name:os.system y", "x: must have no tag, got tag:yaml.org,2002:python/name:os.system; remove it"),
        ('"a\\nb": 1', "'a\\nb': unknown key; known here: run, sources, regions, regions_px, decode, fold"),
    ],
)  # fmt: skip
def test_a_wrong_value_is_named_with_its_line(folder, line, problem):
    (got,) = problems(f"{VALID}{line}\n")
    assert got.startswith(f"cam.yaml:7: {problem}")


@pytest.mark.parametrize(
    ("keys", "problem"),
    [
        ("every: 2, fps: 5.0", "fps: must not stand beside 'every', got both; remove one"),
        ("from: '1:00', to: 59.5", "to: must be after 'from' (60 s), got 59.5 s"),
        ("from: 1h", "from: must be seconds or [HH:]MM:SS[.mmm], got '1h'"),
        ("to: -1", "to: must be at least 0, got -1"),
        ("name: ''", "name: must be a name of printable characters, got ''"),
        ("start: {pattern: '%Q', tz: UTC}", "start.pattern: must be a pattern of strptime"),
        ("start: {pattern: '%Y', tz: Mars/Base}", "start.tz: must be the name of a time zone, got 'Mars/Base'"),
        ("start: {pattern: '%Y'}", "start.tz: must be given"),
        ("start: 2026-01-31T08:00:00", "start: must be creation_time, mtime, {pattern, tz} or a time as"),
        ("start: 5", "start: must be a mapping, got 5"),
    ],
)
def test_a_wrong_selection_is_named(folder, keys, problem):
    (got,) = problems(VALID.replace("path: clip.mp4", f"{{path: clip.mp4, {keys}}}"))
    assert got.startswith(f"cam.yaml:3: sources.0.{problem}")


def test_selections_and_starts_are_read(folder):
    text = VALID.replace("path: clip.mp4", "{path: clip.mp4, from: 01:02:03.5, to: '62:04', start: %s}")
    source = load(text % "2026-01-31T08:00:00+01:00").sources[0]
    assert (source.from_, source.to, source.start) == (3723.5, 3724.0, "2026-01-31T08:00:00+01:00")
    start = load(text % "{pattern: '%Y%m%d', tz: Europe/Berlin}").sources[0].start
    assert (start.pattern, start.tz) == ("%Y%m%d", "Europe/Berlin")


def test_no_stays_a_string_and_numbers_are_those_of_yaml_1_2(folder):
    text = VALID + "sinks: [{type: 'collections:ChainMap', a: no, b: 012, c: 1:30, d: 0o17, e: ~, f: 1e3, g: '5'}]\n"
    got = problems(text)  # ChainMap takes no keywords: each is named, so use a callable that does
    assert len(got) == 7
    config = load(text.replace("collections:ChainMap", "builtins:dict"))
    assert config.sinks[0].arguments == {"a": "no", "b": 12, "c": "1:30", "d": 15, "e": None, "f": 1000.0, "g": "5"}


def test_brackets_that_do_not_end_are_refused_soon(folder):
    began_s = time.process_time()
    assert problems("a: " + "[" * 10_000)[0].endswith("must be nested at most 50 deep, got more")
    assert time.process_time() - began_s < 1


def test_a_yaml_1_1_directive_changes_nothing(folder):
    config = load("%YAML 1.1\n---\n" + VALID + "sinks: [{type: 'builtins:dict', a: no}]\n")
    assert config.sinks[0].arguments == {"a": "no"}


def test_a_key_given_twice_is_named_with_both_lines(folder):
    assert problems(VALID + "fold: {frames: 1}\n") == [
        "cam.yaml:7: fold: must be given once, got it on line 4 too; remove one"
    ]


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"", "cam.yaml:1: the configuration must be a mapping (key: value), got an empty file"),
        (b"# nothing\n", "cam.yaml:1: the configuration must be a mapping (key: value), got an empty file"),
        (b"\n- a\n", "cam.yaml:2: the configuration must be a mapping (key: value), got a list of 1"),
        (b"run", "cam.yaml:1: the configuration must be a mapping (key: value), got 'run'"),
        (b"a: 1\nb: [1\nc: 2\n", "cam.yaml:3:2: must be valid YAML, got: while parsing a flow sequence"),
        (b"a: 1\n\tb: 2\n", "cam.yaml:2:1: must be valid YAML, got: while scanning"),
        (b"a: 1\n---\nb: 2\n", "cam.yaml:2:1: must be valid YAML, got: expected a single document"),
        (b"a: 1\n%YAML 9.9\n---\n", "cam.yaml: must be YAML 1.1 or 1.2, got a directive for another"),
        (b"%YAML 1.9\n---\na: 1\n", "cam.yaml: must be YAML 1.1 or 1.2, got a directive for another"),
        (b"a: \x01\n", "cam.yaml: must be valid YAML, got unacceptable character #x0001"),
        (b"a: 1\nb: \xff\xfe\n", "cam.yaml:2: the configuration must be UTF-8 text, got byte 0xff"),
        (b"a: " + b"[" * 5000, "cam.yaml: must be nested at most 50 deep, got more"),
        (b"x" * (1 << 21), "cam.yaml: the configuration must be at most 1048576 bytes, got more"),
    ],
    ids=lambda value: repr(value)[:20],
)
def test_a_file_that_is_no_configuration_is_one_clear_line(folder, content, problem):
    Path("cam.yaml").write_bytes(content)
    with pytest.raises(ConfigError) as caught:
        load_run_config("cam.yaml")
    (got,) = caught.value.problems
    assert got.startswith(problem)


@pytest.mark.parametrize(
    ("path", "reason"), [("gone.yaml", "No such file or directory"), (".", "Is a directory"), ("a\0b", "embedded null")]
)
def test_a_file_that_cannot_be_read_is_one_clear_line(folder, path, reason):
    with pytest.raises(ConfigError, match=f"the configuration must be a readable file, got: {reason}") as caught:
        load_run_config(path)
    assert len(caught.value.problems) == 1


def test_aliases_that_multiply_are_refused_and_others_work(folder):
    bomb = "a0: &a0 [x, x]\n" + "".join(f"a{k}: &a{k} [{', '.join([f'*a{k - 1}'] * 9)}]\n" for k in range(1, 20))
    assert any("must hold at most 20000 values" in line for line in problems(bomb))
    assert any("must hold at most" in line for line in problems("a: &a [*a, *a]\n"))
    config = load(VALID.replace("clip.mp4", "&clip clip.mp4") + "sinks: [{type: 'builtins:dict', name: *clip}]\n")
    assert config.sinks[0].arguments == {"name": "clip.mp4"}


def test_variables_come_from_the_environment_and_never_reach_the_record(folder):
    text = VALID.replace("path: clip.mp4", "path: ${CLIP}") + (
        "sinks: [{type: 'builtins:dict', url: 'mqtt://me:${PASSWORD}@host', raw: '$${PASSWORD}', l: ['${PASSWORD}']}]\n"
    )
    env = {"CLIP": "clip.mp4", "PASSWORD": "hunter2"}
    config = load(text, env=env, overrides=["sinks.0.more=${PASSWORD}"])
    assert config.sources[0].path == str(folder / "clip.mp4")
    assert config.sinks[0].arguments["url"] == "mqtt://me:hunter2@host"
    assert config.sinks[0].arguments["raw"] == "${PASSWORD}"
    assert config.sinks[0].arguments["more"] == "hunter2"
    record = json.dumps(config.resolved())
    assert "hunter2" not in record
    assert "mqtt://...:${PASSWORD}@host" in record
    assert config.resolved()["sources"][0]["path"] == "${CLIP}"
    assert config.resolved()["filters"][0]["batch"] == 256


def test_variables_that_are_not_set_are_named_and_secrets_are_not_shown(folder):
    text = VALID.replace("clip.mp4", "${GONE}/x.mp4") + "decode: {workers: '${PASSWORD}'}\n"
    assert problems(text, env={"PASSWORD": "hunter2"}) == [
        "cam.yaml:3: sources.0.path: ${GONE} must be set in the environment, got no such variable; export it",
        "cam.yaml:7: decode.workers: must be a whole number, got '${PASSWORD}'",
    ]
    text = VALID.replace("clip.mp4", "${PASSWORD}.mp4").replace("m4.s", "${PASSWORD}.s")
    assert "hunter2" not in "\n".join(problems(text, env={"PASSWORD": "hunter2"}))


def test_overrides_win_over_the_file_and_make_what_is_missing(folder):
    (folder / "other.mp4").write_bytes(b"")
    config = load(
        VALID,
        overrides=[
            "sources.0.path=other.mp4",
            "sources.1.path=clip.mp4",
            "decode.workers=3",
            "fold.frames=null",
            "sinks.0={type: csv, path: '-'}",
            "filters.0.batch=8",
        ],
    )
    assert [source.name for source in config.sources] == ["other", "clip"]
    assert (config.decode.workers, config.fold.frames) == (3, None)
    assert (config.sinks[0].path, config.filters[0].batch) == ("-", 8)


def test_mistakes_in_overrides_name_the_option(folder):
    assert problems(
        VALID,
        overrides=[
            "fold.frames=x",
            "fold.frame=4",
            "nothing",
            "a=[1",
            "sources.x.path=1",
            "sources.7=1",
            "run.dir.x=1",
        ],
    ) == [
        "--set: nothing: must have the form key.path=value, got no '='; example: --set fold.frames=8",
        "--set: a: must be given a YAML value, got text that is none; put it in quotes",
        "--set: sources.x.path: sources must be followed by a number up to 1, got 'x'",
        "--set: sources.7: sources must be followed by a number up to 1, got '7'",
        "--set: run.dir.x: run.dir must be a mapping or a list to have 'x', got 'out'",
        "--set: fold.frames: must be a whole number, got 'x'",
        "--set: fold.frame: unknown key; did you mean 'frames'?",
    ]


def test_filter_is_the_short_form_of_one_of_filters(folder):
    long = VALID.replace("filter:\n  model", "filters:\n  - model")
    assert load(long).filters == load(VALID).filters
    assert load(VALID, overrides=["filter.batch=8"]).filters[0].batch == 8
    assert problems(VALID + "filters: [{model: m4.safetensors}]\n") == [
        "cam.yaml:5: filter: must not stand beside 'filters', got both; remove one"
    ]
    assert problems(VALID + "  bacth: 5\n") == ["cam.yaml:7: filter.bacth: unknown key; did you mean 'batch'?"]


def test_sources_and_filters_must_be_there(folder):
    assert problems("run: {name: x}\nsources: []\n") == [
        "cam.yaml:1: filters: must hold one or more, got none",
        "cam.yaml:2: sources: must hold one or more, got none",
    ]


def test_pictures_are_divided_by_numbers_over_0(folder):
    for text, loader, section in ((VALID, load_run_config, "filters.0"), (TRAIN, load_train_config, "model")):
        with pytest.raises(ConfigError) as caught:
            load(text, loader, overrides=[f"{section}.std=[0.25, 0, -1]"])
        told = [problem for problem in caught.value.problems if ".std." in problem]
        assert told == [f"--set: {section}.std.{k}: must be over 0, got {n}" for k, n in ((1, 0), (2, -1))]


def test_empty_sections_are_sections_of_defaults(folder):
    config = load(VALID + "decode:\nsinks:\n").model_copy()
    assert (config.decode.workers, config.sinks) == (None, ())


def test_names_must_be_unique_and_sinks_must_not_share_a_file(folder):
    assert problems("""\
sources: [{path: clip.mp4}, {path: clip.mp4}]
filters:
  - {model: m4.safetensors, name: a}
  - {model: m4.safetensors, name: a}
sinks:
  - {type: csv, path: x.csv}
  - {type: jsonl, path: x.csv}
  - {type: csv, path: .}
  - {type: csv, path: typo/x.csv}
  - {type: csv, path: mine/new/x.csv}
run: {dir: mine}
""") == [
        "cam.yaml:1: sources.1.name: must be unique, got 'clip' again; give another name",
        "cam.yaml:4: filters.1.name: must be unique, got 'a' again; give another name",
        f"cam.yaml:7: sinks.1.path: must be another sink's path, got {folder}/x.csv again",
        f"cam.yaml:8: sinks.2.path: must be a file to write, got a folder at {folder}",
        f"cam.yaml:9: sinks.3.path: must lie in a folder that is there, got none at {folder}/typo; make it (mkdir -p)",
    ]


def test_filters_of_one_run_may_see_other_pictures_in_other_groups(folder):
    models = "filters: [{model: m4.safetensors}, {model: wide.safetensors}]"
    load(VALID.replace("filter:\n  model: m4.safetensors", models))


def test_across_streams_and_of_a_source_of_ones_own_all_filters_see_the_same(folder):
    models = "filters: [{model: m4.safetensors}, {model: wide.safetensors}]"
    text = VALID.replace("filter:\n  model: m4.safetensors", models)
    why = "as the run has a source of one's own, which gives pictures of one kind; run them apart"
    assert problems(text.replace("sources:\n", "sources:\n  - {type: 'tests.models:RaisingSource'}\n")) == [
        f"cam.yaml:6: filters.1.model: must have input (50, 50) as filter 'm4' has, got (50, 80), {why}",
    ]
    (got,) = problems(text.replace("wide", "m1").replace("frames: 4", "order: streams"))
    assert "must have fold 4 as filter 'm4' has, got 1, as the run folds across streams; run them apart" in got


REGIONS = VALID + "regions:\n  bay-1: [0, 0, 0.5, 0.5]\n  gate: [0.5, 0.25, 0.5, 0.5]\n"


@pytest.mark.parametrize(
    ("old", "new", "problem"),
    [
        ("[0, 0, 0.5, 0.5]", "[0, 0, 0.5]", "cam.yaml:8: regions.bay-1: must be [x, y, w, h], got a list of 3"),
        ("[0, 0, 0.5, 0.5]", "[0, 0, 0, 0.5]", "cam.yaml:8: regions.bay-1: must have a width and a height over 0"),
        ("[0, 0, 0.5, 0.5]", "[0, 0.6, 0.5, 0.5]", "cam.yaml:8: regions.bay-1: must lie in the picture, between 0 and"),
        ("[0, 0, 0.5, 0.5]", "[0, 0, 99, 99]", "got [0, 0, 99, 99]; pixels go under `regions_px`"),
        ("[0, 0, 0.5, 0.5]", "[0, 0, x, 0.5]", "cam.yaml:8: regions.bay-1: must be [x, y, w, h], all numbers, got"),
        ("[0, 0, 0.5, 0.5]", "{polygon: [[0, 0], [1, 1]]}", "bay-1: polygon must be three corners [x, y] or more"),
        ("[0, 0, 0.5, 0.5]", "{gird: [1, 1, 0, 0, 1, 1]}", "unknown key 'gird'; did you mean 'grid'?"),
        ("[0, 0, 0.5, 0.5]", "{grid: [0, 1, 0, 0, 1, 1]}", "a grid must have at least one row and one column, got 0"),
        ("[0, 0, 0.5, 0.5]", "7", "bay-1: must be [x, y, w, h], {polygon: ...} or {grid: ...}, got 7"),
        ("bay-1: [0, 0, 0.5, 0.5]", "bay: {grid: [1, 1, 0, 0, 1, 1]}\n  bay-1-1: [0, 0, 1, 1]", "'bay-1-1' again"),
        ("regions:\n", "regions_px: {a: [0, 0, 1, 1]}\nregions:\n", "must not stand beside 'regions', got both"),
        ("regions:\n  bay-1: [0, 0, 0.5, 0.5]", "regions_px:\n  bay-1: [0, 0, 0.5, 0.5]", "must be whole pixels, got"),
        ("regions:\n  bay-1: [0, 0, 0.5, 0.5]", "regions_px:\n  bay-1: [0, -1, 2, 2]", "must lie in the picture, got"),
        (REGIONS[len(VALID) :], "regions: {}\n", "cam.yaml:7: regions: must hold one or more, got none"),
        (REGIONS[len(VALID) :], "regions: gone.csv\n", "gone.csv: must be a table of regions, got: No such file"),
        (
            "[0, 0, 0.5, 0.5]",
            "{grid: [200, 100, 0, 0, 1, 1]}",
            "a grid must have at most 10000 cells, got 200 rows of 100",
        ),
        (
            "[0, 0, 0.5, 0.5]",
            "{polygon: [[0, 0], [0.5, 0.5], [1, 1]]}",
            "a polygon must enclose something, got corners",
        ),
        ("regions:", "  regions: []\nregions:", "cam.yaml:7: filter.regions: "),
        ("regions:", "  regions: [bay-1]\nregions:", "regions: must each have a filter, got none for gate; remove"),
        ("regions:", "  regions: ['*', bey-1]\nregions:", "got 'bey-1'; did you mean 'bay-1'?"),
    ],
)
def test_regions_that_are_none_are_refused_by_name(folder, old, new, problem):
    assert old in REGIONS
    got = problems(REGIONS.replace(old, new))
    assert any(problem in line for line in got), got


def test_regions_come_from_files_too(folder):
    (folder / "bays.csv").write_text("name,x,y,w,h\nbay-1,0,0,10,12\nbay-2,11,0,10,12\n")
    (folder / "bays.json").write_text('{"bay-1": [0, 0, 10, 12], "bay-2": [11, 0, 10, 12]}')
    written = load(VALID + "regions_px: {bay-1: [0, 0, 10, 12], bay-2: [11, 0, 10, 12]}\n")
    for name in ("bays.csv", "bays.json"):
        assert regions_of(load(VALID + f"regions_px: {name}\n")) == regions_of(written)
    (folder / "bays.csv").write_text("name,x,y,w,h\nbay-1,0,0,10\nbay-1,0,0,a\0,1\n")
    got = problems(VALID + "regions_px: bays.csv\n")
    assert [line.partition("bays.csv")[2] for line in got] == [
        ":2: must have 5 values, got 4",
        ":3: x, y, w and h must be numbers, got '0', '0', 'a\\x00', '1'",
    ]


def test_what_is_wrong_in_a_file_of_regions_is_named_with_its_line(folder):
    (folder / "bays.csv").write_text("name,x,y,w,h\nbay-1,0,0,10,12\nbay-2,0,0,0,12\n,1,1,1,1\n")
    got = problems(VALID + "regions_px: bays.csv\n")
    assert [line.partition("bays.csv")[2] for line in got] == [
        ":3: 'bay-2': must have a width and a height over 0, got [0, 0, 0, 12]",
        ":4: '': must be a name of up to 200 printable characters",
    ]


def test_a_file_of_regions_takes_columns_in_any_order_and_tells_all_that_is_wrong(folder):
    (folder / "bays.csv").write_text("x,y,w,h,name\n0,0,10,12,bay-1\n11,0,10,12,bay-2\n")
    written = load(VALID + "regions_px: {bay-1: [0, 0, 10, 12], bay-2: [11, 0, 10, 12]}\n")
    assert regions_of(load(VALID + "regions_px: bays.csv\n")) == regions_of(written)
    (folder / "bays.csv").write_text("name,x,y,w,h\na,1_0,0,9,9\nb,0,0,0,9\nc,0,0,9,\u0664\n")
    got = problems(VALID + "regions_px: bays.csv\n")
    assert [line.partition("bays.csv")[2].partition(", got")[0] for line in got] == [
        ":2: x, y, w and h must be numbers",
        ":4: x, y, w and h must be numbers",
        ":3: 'b': must have a width and a height over 0",
    ]


def test_a_file_may_hold_ten_thousand_regions(folder):
    (folder / "bays.json").write_text(json.dumps({f"bay-{k}": [0, 0, 1, 1] for k in range(10_000)}))
    assert len(regions_of(load(VALID + "regions: bays.json\n"))) == 10_000


def test_the_key_around_the_regions_of_a_file_is_named(folder):
    (folder / "bays.yaml").write_text("regions: {a: [0, 0, 1, 1]}\n")
    (told,) = problems(VALID + "regions: bays.yaml\n")
    assert told.endswith("bays.yaml: must hold regions by name, got the key 'regions' around them; leave it out")


def test_a_file_of_regions_that_is_no_text_is_called_what_it_is(folder):
    (folder / "bays.yaml").write_bytes(b"\xff\xfe")
    (told,) = problems(VALID + "regions: bays.yaml\n")
    assert "bays.yaml:1: a file of regions must be UTF-8 text" in told


def test_a_region_may_be_called_like_a_pattern(folder):
    text = VALID + "  regions: ['bay[1]', 'gate*']\nregions: {'bay[1]': [0, 0, 1, 1], gate*: [0, 0, 1, 1]}\n"
    load(text)


def test_a_model_of_regions_should_see_regions(folder):
    make_model(folder / "r.safetensors", order="regions")
    (told,) = load(VALID.replace("m4", "r")).warnings
    assert told.startswith("cam.yaml:6: filter.model: should be of regions: the model was trained to see several at")
    assert load(VALID.replace("m4", "r") + "regions: {a: [0, 0, 1, 1]}\n").warnings == ()


def test_orders_that_hold_back_much_of_many_regions_are_a_warning(folder):
    grid = "regions: {a: {grid: [8, 8, 0, 0, 1, 1]}}\n"
    make_model(folder / "s.safetensors", order="shuffled")
    (told,) = load(VALID.replace("m4", "s") + grid).warnings
    assert "64 regions in groups of 4 in the order shuffled wait for each other, 123 MB of them in each" in told


def test_a_source_has_regions_of_its_own_or_those_of_the_run(folder):
    own = REGIONS.replace("- path: clip.mp4", "- path: clip.mp4\n    regions: {door: [0, 0, 1, 1]}")
    config = load(own)
    assert [region.name for region in regions_of(config.sources[0])] == ["door"]
    assert [region.name for region in regions_of(config)] == ["bay-1", "gate"]


def test_another_order_than_the_model_was_trained_for_is_a_warning(folder):
    config = load(VALID.replace("frames: 4", "frames: 4, order: strided"))
    assert config.warnings == (
        "cam.yaml:4: fold.order: should be consecutive, what the model of filter 'm4' was trained for, got strided; "
        "expect less accuracy",
    )
    single = VALID.replace("frames: 4", "order: strided").replace("m4", "m1")
    assert load(single).warnings == ()


def test_what_the_model_file_says_is_not_said_again(folder):
    assert problems(VALID + "  classes: [a]\n") == [
        "cam.yaml:7: filter.classes: must be left out: the model file says it, got it here too"
    ]


def test_thresholds_of_the_model_file_are_asked_for_by_name(folder):
    make_model(folder / "kept.safetensors", keep={"person": 0.25})
    config = load(VALID.replace("m4.safetensors", "kept.safetensors\n  keep: auto"))
    assert (config.filters[0].keep, config.warnings) == ("auto", ())


def test_thresholds_that_no_model_file_stores_are_refused(folder):
    make_model(folder / "half.safetensors", classes=("person", "dog", "none"), keep={"person": 0.25})
    assert problems(f"""\
sources: [{{path: clip.mp4}}]
filters:
  - {{model: m4.safetensors, keep: auto}}
  - {{model: m4.safetensors, name: b, keep: automatic}}
  - {{model: m4.safetensors, name: c, keep: 0.5}}
  - {{model: m4.safetensors, name: d, keep: {{person: 2}}}}
  - {{model: "tests.models:NumberReader", input: [50, 50], classes: {list("ab")}, fold: 4, keep: auto}}
""") == [
        "cam.yaml:3: filters.0.keep: must give thresholds as {person: 0.5}, got auto and a model file that stores "
        "none; or train the model anew",
        "cam.yaml:4: filters.1.keep: must be auto, got 'automatic'; did you mean 'auto'?",
        "cam.yaml:5: filters.2.keep: must be a mapping, got 0.5",
        "cam.yaml:6: filters.3.keep.person: must be at most 1, got 2",
        "cam.yaml:7: filters.4.keep: must give thresholds as {a: 0.5} for a model of one's own, got auto",
    ]
    config = load(VALID.replace("m4.safetensors", "half.safetensors\n  keep: auto"))
    assert config.warnings == (
        "cam.yaml:7: filter.keep: should give thresholds by class: the model file stores none for dog, got auto; "
        "frames of this alone are left out",
    )


def test_a_file_that_is_no_model_is_named(folder):
    (folder / "m4.safetensors").unlink()
    (folder / "m4.safetensors").write_bytes(b"not a model")
    (got,) = problems(VALID)
    assert got.startswith(f"cam.yaml:6: filter.model: {folder}/m4.safetensors: must be a safetensors file, got ")


@pytest.mark.parametrize(
    ("lines", "told"),
    [
        ("engine: openvino", "engine: needs openvino, which is not installed; pip install 'vpipe[openvino]'"),
        ("engine: onnx", "engine: needs onnxruntime, which is not installed; pip install 'vpipe[onnx]'"),
        ("device: cuda:99", "device: must be auto or one that is there, got 'cuda:99' where there is "),
    ],
)
def test_an_engine_that_cannot_be_opened_here_is_named_as_a_run_would(folder, monkeypatch, lines, told):
    for package in ("openvino", "onnxruntime"):
        monkeypatch.setitem(sys.modules, package, None)  # as if it were not installed
    (got,) = problems(f"{VALID}  {lines}\n")
    assert got.startswith(f"cam.yaml:7: filter.{told}")


def test_engines_that_have_one_device_and_dtype_refuse_others(folder):
    assert problems(f"{VALID}  engine: onnx\n  dtype: bfloat16\n  device: cuda\n") == [
        "cam.yaml:8: filter.dtype: must be float32, the only one that onnx has for convolutions on a CPU, "
        "got bfloat16; use dtype: auto, or another engine",
        "cam.yaml:9: filter.device: must be cpu or auto, got 'cuda'; use engine: torch there",
    ]


def test_a_class_beside_the_configuration_is_found_and_its_arguments_are_bound(folder, monkeypatch):
    monkeypatch.setattr(sys, "path", list(sys.path))
    (folder / "mine_beside.py").write_text("class Net:\n    def __init__(self, fold, width, depth=1): ...\n")
    text = VALID.replace("m4.safetensors", "mine_beside:Net").replace("{frames: 4}", "{frames: 2}")
    keys = "  input: [8, 8]\n  classes: [a, b]\n  fold: 2\n"
    assert load(text + keys + "  args: {width: 3}\n").filters[0].name == "Net"
    assert problems(text + keys + "  args: {widht: 3}\n") == [
        "cam.yaml:10: filter.args.widht: unknown argument of mine_beside:Net; did you mean 'width'?",
        "cam.yaml:10: filter.args.width: must be given: mine_beside:Net has no default for it",
    ]
    assert problems(text + "  args: {width: 3}\n  weights: w.pt\n") == [
        "cam.yaml:6: filter.model: mine_beside:Net: input and classes must be given, got no such keys; "
        "no model file says them",
        f"cam.yaml:8: filter.weights: must be a file, got none at {folder}/w.pt",
    ]


def test_globs_and_folders_are_sources_named_after_their_folder(folder):
    (folder / "odd[1]").mkdir()
    (folder / "odd[1]" / "a.mp4").write_bytes(b"")
    (folder / "odd[1]" / "cam.yaml").write_text(
        VALID.replace("path: clip.mp4", "path: '*.mp4'\n  - path: ../odd[1]\n    name: all").replace("m4.", "../m4.")
    )
    config = load_run_config("odd[1]/cam.yaml")
    assert [source.name for source in config.sources] == ["odd[1]", "all"]
    assert problems(VALID.replace("clip.mp4", "'*.mov'")) == [
        f"cam.yaml:3: sources.0.path: must be a file, folder or glob of files, got nothing at {folder}/*.mov"
    ]


@pytest.mark.timeout(20)
def test_a_glob_that_matches_nothing_is_told_though_links_lead_in_circles(folder):
    for name in ("here", "there"):
        (folder / name).mkdir()
        for link in ("up", "over"):
            (folder / name / link).symlink_to(folder)
    assert problems(VALID.replace("clip.mp4", "'**/*.mov'")) == [
        f"cam.yaml:3: sources.0.path: must be a file, folder or glob of files, got nothing at {folder}/**/*.mov"
    ]


def test_a_run_without_a_configuration_file(folder):
    (folder / "a").mkdir()
    (folder / "a/clip.mp4").write_bytes(b"")
    config = run_config_from(["clip.mp4", Path("a/clip.mp4")], "m4.safetensors", overrides=["fold.order=consecutive"])
    assert config.path is None
    assert config.run.name == "clip"
    assert [source.name for source in config.sources] == ["clip.mp4", "a/clip.mp4"]
    with pytest.raises(ConfigError) as caught:
        run_config_from(["gone.mp4"], "m5.safetensors", overrides=["fold.frames=0"])
    assert caught.value.problems == (
        "--set: fold.frames: must be at least 1, got 0",
        f"command line: sources.0.path: must be a file, folder or glob of files, got nothing at {folder}/gone.mp4",
        f"command line: filters.0.model: {folder}/m5.safetensors: must be a file, got nothing; check the path",
    )


TRAIN = """\
model: {architecture: coral, fold: 4}
classes: [{name: person, object: person}]
clips:
  - {video: clip.mp4, labels: clip.csv, every: 2}
split: {blocks: 6, validation: [1, 4], test: [2]}
train: {epochs: 3, lr: 0.001, flip: true}
output: new.safetensors
"""


def test_a_training_configuration_is_read(folder):
    (folder / "clip.csv").write_text("")
    config = load(TRAIN, load_train_config)
    assert (config.model.order, config.task, config.classes[0].at_least) == ("consecutive", "one_of", 1)
    assert (config.split.validation, config.split.test, config.split.gap_s) == ((1, 4), (2,), 2.0)
    assert config.train == Recipe(epochs=3, lr=0.001, flip=True)
    assert load(TRAIN, load_train_config, overrides=["train={lr: 1}"]).train == Recipe(lr=1.0)
    assert config.problem("must be over 0", "train", "lr") == "cam.yaml:6: train.lr: must be over 0"
    assert config.output == str(folder / "new.safetensors")
    assert config.clips[0].labels == str(folder / "clip.csv")


@pytest.mark.parametrize(
    ("section", "target"),
    [
        ("", ("false_negative_rate", 0.01)),
        ("operating: {false_negative_rate: 0.05}", ("false_negative_rate", 0.05)),
        ("operating: {false_positive_rate: 0}", ("false_positive_rate", 0.0)),
    ],
)
def test_thresholds_are_for_one_error_rate(folder, section, target):
    (folder / "clip.csv").write_text("")
    assert load(TRAIN + section, load_train_config).operating.target == target
    both = "operating: {false_negative_rate: 0.05, false_positive_rate: 0.05}"
    assert problems(TRAIN + both, load_train_config) == [
        "cam.yaml:8: operating.false_positive_rate: must not stand beside 'false_negative_rate', got both; remove one"
    ]


def test_mistakes_in_a_training_configuration_are_reported_at_once(folder):
    text = """\
model: {architecture: corral, input: [50], fold: 0}
classes: [{name: none, object: person}, {name: a, object: b}, {name: a, object: c, at_least: true}]
clips: [{video: clip.mp4, labels: gone.csv, every: 2, fps: 1}]
split:
  blocks: 4
  validation: [0, 1]
  test: [1, 2, 3, 7]
output: new.pt
"""
    assert problems(text, load_train_config) == [
        "cam.yaml:1: model.fold: must be at least 1, got 0",
        "cam.yaml:1: model.input.1: must be given",
        "cam.yaml:1: model.architecture: must be a name that `vpipe models` lists, or package.module:Class, "
        "got 'corral'; did you mean 'coral'?",
        "cam.yaml:2: classes.2.at_least: must be a whole number, got true",
        "cam.yaml:2: classes.2.name: must be unique, got 'a' again; give another name",
        "cam.yaml:2: classes.0.name: must not be 'none': one_of adds that class, always last",
        "cam.yaml:3: clips.0.fps: must not stand beside 'every', got both; remove one",
        f"cam.yaml:3: clips.0.labels: must be a file, got none at {folder}/gone.csv",
        "cam.yaml:4: split: must leave a block to train on, got all 4 named",
        "cam.yaml:7: split.test.0: must be a block that is named once, got 1 again",
        "cam.yaml:7: split.test.3: must be below 4, the number of blocks, got 7",
        f"cam.yaml:8: output: must end in .safetensors, got {folder}/new.pt",
    ]


def test_every_mistake_in_a_recipe_is_named_with_its_line(folder):
    (folder / "clip.csv").write_text("")
    recipe = """\
train:
  epoch: 4
  lr: fast
  batch: 0
  epochs: 2.5
  flip: 1
  optimizer: adamm
  contrast: 1
  shift: -1
"""
    assert problems(TRAIN.replace("train: {epochs: 3, lr: 0.001, flip: true}\n", recipe), load_train_config) == [
        "cam.yaml:7: train.epoch: unknown key; did you mean 'epochs'?",
        "cam.yaml:8: train.lr: must be a number, got 'fast'",
        "cam.yaml:9: train.batch: must be at least 1, got 0",
        "cam.yaml:10: train.epochs: must be a whole number, got 2.5",
        "cam.yaml:11: train.flip: must be true or false, got 1",
        "cam.yaml:12: train.optimizer: must be adamw or adam or rmsprop, got 'adamm'; did you mean 'adam'?",
        "cam.yaml:13: train.contrast: must be under 1, got 1",
        "cam.yaml:14: train.shift: must be at least 0, got -1",
    ]


WHOLE = """\
run: {name: lobby, dir: runs, limit: 5}
sources:
  - {type: file, name: lobby, path: clip.mp4, every: 2, from: 0:01, start: {pattern: "%Y", tz: UTC}}
  - {path: "*.mp4", name: all, fps: 2.5, start: mtime}
decode: {workers: 2, segment_frames: 100}
fold: {frames: 4, order: consecutive, seed: 1}
filters:
  - name: person
    model: m4.safetensors
    keep: {person: 0.5}
sinks:
  - {type: csv, path: "-"}
  - {type: "builtins:dict", a: [1, {b: "${HOME}"}], c: &x [1.5, null], d: *x}
telemetry: {interval_s: 0.5}
"""

TOKENS = ["[", "]", "{", "}", ":", ": ", "- ", "\n", "  ", "#", "&x ", "*x", "!t ", "'", '"', "|", ">", "~", "%", "?"]
TOKENS += ["no", "-1", "1e999", "0x", "true", "null", "9" * 5000, "type", "path", "filter", "${", "${X}", "<<: "]
TOKENS += ["\\ud800", "\t", "\x00", "\u2028", "é"]

edits = st.lists(
    st.tuples(st.integers(0, len(WHOLE)), st.integers(0, 12), st.sampled_from(["", *TOKENS])), min_size=1, max_size=4
)


@settings(deadline=None, max_examples=150)
@given(edits=edits)
def test_a_mutilated_file_is_read_or_refused_and_nothing_else(edits, tmp_path_factory, models):
    folder = tmp_path_factory.getbasetemp() / "mutilated"
    if not folder.exists():
        folder.mkdir()
        (folder / "clip.mp4").write_bytes(b"")
        (folder / "m4.safetensors").symlink_to(models / "m4.safetensors")
    text = WHOLE
    for at, cut, token in edits:
        text = text[:at] + token + text[at + cut :]
    (folder / "cam.yaml").write_text(text, encoding="utf-8")
    overrides = [f"run.dir={folder / 'runs'}"]
    try:
        config = load_run_config(folder / "cam.yaml", overrides=overrides, env={"HOME": "h"})
    except ConfigError as exc:
        report = exc.problems
    else:
        report = ("accepted",)
        json.dumps(config.resolved())
    assert report
    assert all(line and "\n" not in line for line in report)


def test_the_whole_configuration_that_is_mutilated_is_valid(folder):
    config = load(WHOLE, env={"HOME": "h"})
    assert config.resolved()["sinks"][1]["a"] == [1, {"b": "${HOME}"}]


def test_docs_config_md_is_what_the_types_say():
    assert (ROOT / "docs/config.md").read_text() == markdown()


def test_every_key_is_described():
    def undescribed(kind: type[BaseModel]) -> list[str]:
        names = [f"{kind.__name__}.{name}" for name, field in kind.model_fields.items() if not field.description]
        below = [section for field in kind.model_fields.values() for section in sections_in(field.annotation)]
        return names + [name for section in below for name in undescribed(section)]

    assert undescribed(RunConfig) + undescribed(TrainConfig) == []


def test_loading_a_configuration_loads_neither_torch_nor_decoders(folder):
    Path("cam.yaml").write_text(VALID)
    code = (
        "import sys; from pipeline.config import load_run_config; load_run_config('cam.yaml');"
        "print(sorted({'torch', 'av', 'cv2', 'pyarrow'} & set(sys.modules)))"
    )
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    ran = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=True)
    assert ran.stdout.strip() == "[]"


def test_sinks_that_send_are_checked(folder):
    sinks = """sinks:
  - {type: webhook, url: "mailto:me:hunter2@host"}
  - {type: webhook, name: a, url: "http://host/x", secret: 1234, headers: {X-Key: 1234}}
  - {type: webhook, name: b, url: "http://host/x", spool_mb: 0}
  - {type: postgres, url: "rtsp://me:hunter2@host/x"}
  - {type: postgres, name: p, url: "postgresql://me:100%hunter2@host/x"}
"""
    got = problems(VALID + EVENTS + sinks)
    assert not any("hunter2" in line or "1234" in line for line in got)
    assert sorted(line.partition(": ")[2].partition(",")[0] for line in got) == [
        "sinks.0.url: must be an address as http://host/path or https://host/path",
        "sinks.1.headers: must be texts in ASCII on one line",
        "sinks.1.secret: must be a text",
        "sinks.2.spool_mb: must be over 0",
        "sinks.3.url: must be an address as postgresql://host/path or postgres://host/path",
        "sinks.4.url: must be an address as postgresql://host/path or postgres://host/path",
    ]


def test_receivers_are_checked_against_the_world(folder):
    sinks = """sinks:
  - {type: webhook, url: "http://me:hunter2@host/größe"}
  - {type: mqtt, host: broker, topic: "vpipe/{sauce}", password: x}
  - {type: sqlite, path: nowhere/x.sqlite}
  - {type: sqlite, path: x.sqlite}
"""
    got = problems(VALID + EVENTS + sinks)
    assert not any("hunter2" in line for line in got)
    assert sorted(line.partition(": ")[2].partition(",")[0] for line in got) == [
        "sinks.0.url: must be in ASCII",
        "sinks.1.topic: must be a topic without + and #",
        "sinks.1.user: must be given where a password is",
        "sinks.2.path: must lie in a folder that is there",
        "sinks.3.name: must be unique",
    ]


def test_who_sends_must_have_something_to_send(folder):
    sinks = """sinks:
  - {type: mqtt, host: broker}
  - {type: sqlite, path: x.sqlite}
  - {type: sqlite, path: y.sqlite, rows: true, name: y}
"""
    assert [line.partition(": ")[2] for line in problems(VALID + sinks)] == [
        "sinks.0: must have events to send, got no filter with `events`; give it one",
        "sinks.1: must have events to send, got no filter with `events`; give it one, or `rows: true` here",
    ]
    assert len(load(VALID + EVENTS + sinks).sinks) == 3


def test_what_a_run_records_of_a_receiver_holds_no_secrets(folder):
    text = (
        VALID
        + """sinks:
  - type: webhook
    url: "https://me:hunter2@host/hunter9?token=hunter3"
    headers: {Authorization: "Bearer hunter4", X-Key: "${KEY}"}
    secret: hunter5
    rows: true
  - {type: postgres, url: "postgresql://me:hunter7@host/x?password=hunter8", rows: true}
"""
    )
    config = load(text, env={"KEY": "hunter6"})
    assert config.sinks[0].headers == {"Authorization": "Bearer hunter4", "X-Key": "hunter6"}
    record = str(config.resolved())
    assert "hunter" not in record
    assert "${KEY}" in record


def test_an_unknown_key_of_the_events_of_a_class_is_told(folder):
    got = problems(VALID + EVENTS.replace("on: 0.6", "on: 0.6, gap: 1"))
    assert any("events.person.gap: unknown key" in line for line in got), got
