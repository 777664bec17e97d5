"""What the house promises: documents whose examples run, configurations that are valid, and no heavy baggage."""

import importlib
import inspect
import re
import shutil
import subprocess
import sys
from dataclasses import fields
from pathlib import Path

import cv2
import numpy as np
import pytest

import pipeline
from benchmarks.displays import DISPLAYS, TEN, write
from pipeline.batch import Counts
from pipeline.config import load_run_config, load_train_config
from pipeline.ledger import EXIT_CODES, Ledger, summary
from pipeline.picture import strip
from pipeline.rows import Labelling, schema
from pipeline.telemetry import SCHEMA

ROOT = Path(__file__).parents[1]
CONFIGS = sorted((ROOT / "configs").glob("*.yaml"))
MOST_BYTES_OF_A_FILE, MOST_BYTES = 11_000_000, 26_000_000


def blocks(document: str, language: str) -> list[str]:
    """The fenced blocks of a document in one language."""
    text = (ROOT / document).read_text(encoding="utf-8")
    return re.findall(rf"^```{language}\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)


def validate(path: Path) -> None:
    """Raises ConfigError unless the file is a valid configuration of what its first line says it is for."""
    is_training = path.read_text(encoding="utf-8").startswith("# vpipe train ")
    loaded = load_train_config(path) if is_training else load_run_config(path)
    assert loaded.warnings == ()


@pytest.fixture
def elsewhere(tmp_path, monkeypatch):
    """A place to stand in from which the project's clips, weights and configurations are reached as from its root."""
    for name in ("videos", "specialized", "configs"):
        (tmp_path / name).symlink_to(ROOT / name)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture(scope="module")
def set_up(tmp_path_factory):
    """A copy of the configurations where what their second lines tell to render lies, in small."""
    root = tmp_path_factory.mktemp("project")
    for name in ("videos", "specialized"):
        (root / name).symlink_to(ROOT / name)
    shutil.copytree(ROOT / "configs", root / "configs")
    for folder, names in (("displays", DISPLAYS["goldnumber-fraction"].classes), ("digits", TEN)):
        for part in ("training", "validation", "test"):
            write(
                root / "runs" / folder / part, np.zeros((len(names), 4, 4, 3), np.uint8), np.arange(len(names)), names
            )
    (root / "runs" / "display").mkdir()
    (root / "runs" / "display" / "test.mp4").symlink_to(ROOT / "videos" / "intersection.mp4")
    return root


def test_the_folders_of_the_architecture_name_every_module_and_document() -> None:
    text = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    told = text[text.index("## Folders") : text.index("## How a frame walks")]
    listing = re.findall(r"^    .*$", told, re.MULTILINE)
    parts = re.split(r"^    (?=\S)", "\n".join(listing), flags=re.MULTILINE)
    words = {part.split("/")[0]: set(re.findall(r"[\w.]+", part)) for part in parts if part}
    for package in ("pipeline", "specialized"):
        inner = {path.stem for path in (ROOT / package).glob("*.py")} - {"__init__"}
        inner |= {path.parent.name for path in (ROOT / package).glob("*/__init__.py")}
        assert sorted(inner - words[package]) == []
    documents = {path.name for path in (ROOT / "docs").glob("*.md")} - {"architecture.md"}
    assert sorted(documents - words["docs"]) == []


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.name)
def test_a_configuration_is_valid_as_it_stands(path, set_up):
    assert path.read_text(encoding="utf-8").startswith("# vpipe ")
    validate(set_up / "configs" / path.name)


def test_there_are_configurations_of_both_kinds():
    kinds = {path.read_text(encoding="utf-8").split()[2] for path in CONFIGS}
    assert kinds == {"run", "train"}


def test_configurations_in_the_readme_are_valid(tmp_path):
    for name in ("videos", "specialized"):
        (tmp_path / name).symlink_to(ROOT / name)
    (tmp_path / "configs").mkdir()
    found = blocks("README.md", "yaml")
    assert len(found) == 2
    for number, block in enumerate(found):
        path = tmp_path / "configs" / f"{number}.yaml"
        path.write_text(block, encoding="utf-8")
        validate(path)


def test_python_in_the_readme_runs(elsewhere, capsys):
    found = blocks("README.md", "python")
    assert len(found) == 2
    for block in found:
        exec(compile(block, "README.md", "exec"), {})
    assert re.search(r"^done \d+", capsys.readouterr().out, re.MULTILINE)


@pytest.fixture
def own_parts(tmp_path, monkeypatch):
    """A folder with the modules and the configuration of CONTRIBUTING.md, and seven pictures, one of them broken."""
    for block in [*blocks("CONTRIBUTING.md", "python"), *blocks("CONTRIBUTING.md", "yaml")]:
        (tmp_path / block.split()[1]).write_text(block, encoding="utf-8")
    (tmp_path / "pictures").mkdir()
    for number in range(7):
        cv2.imwrite(str(tmp_path / "pictures" / f"{number}.png"), np.full((60, 80, 3), 30 * number, np.uint8))
    (tmp_path / "pictures" / "3.png").write_bytes(b"not a picture")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    yield tmp_path
    for path in tmp_path.glob("*.py"):
        sys.modules.pop(path.stem, None)


def test_parts_in_contributing_keep_their_contracts(own_parts):
    names = sorted(path.stem for path in own_parts.glob("*.py"))
    assert names == ["alarm", "pictures", "tiny"]
    for name in names:
        importlib.import_module(name).test_the_contract_is_kept()


def test_parts_in_contributing_run_together(own_parts, capsys):
    outcome = pipeline.run(load_run_config("own.yaml"))
    assert outcome.summary["frames"]["labelled"] == 6
    assert outcome.summary["frames"]["corrupt"] == 1
    assert outcome.exit_code == EXIT_CODES["partial"]
    assert capsys.readouterr().out == "pictures: look at frame 0\n"
    (note,) = strip(outcome.folder.path, outcome.folder.strip)
    assert note == "pictures: drawn without frames, its frames do not come from a file"


def test_the_output_page_names_everything_that_a_run_leaves():
    page = (ROOT / "docs" / "output.md").read_text(encoding="utf-8")
    arguments = {name: {} for name in list(inspect.signature(summary).parameters)[1:]}
    keys = [*summary(Ledger([]), **arguments | {"seconds": 0.0, "labelled": 0, "state": "failed"})]
    keys += [field.name for field in fields(Counts)]
    keys += schema(Labelling("any", ("a", "b"), "any_of", (0.5, 0.5))).names + SCHEMA.names
    keys += [*EXIT_CODES]
    assert [key for key in keys if f"`{key}`" not in page] == []
    for state, code in EXIT_CODES.items():
        assert f"| {code} | `{state}` |" in page


@pytest.mark.parametrize(
    "document", ["README.md", "CONTRIBUTING.md", *sorted(str(p.relative_to(ROOT)) for p in ROOT.glob("docs/*.md"))]
)
def test_links_between_documents_lead_somewhere(document):
    text = (ROOT / document).read_text(encoding="utf-8")
    targets = [target.partition("#")[0] for target in re.findall(r"\]\(([^)]+)\)", text) if "://" not in target]
    missing = [target for target in targets if target and not (ROOT / document).parent.joinpath(target).exists()]
    assert missing == []


def test_every_folder_with_modules_is_a_package_that_gets_installed():
    folders = {path.parent for top in ("pipeline", "specialized") for path in (ROOT / top).rglob("*.py")}
    assert len(folders) >= 6
    assert [str(folder) for folder in folders if not (folder / "__init__.py").exists()] == []


@pytest.mark.parametrize(
    "arguments",
    [
        ["--help"],
        ["run", "--help"],
        ["label", "--help"],
        ["check", str(ROOT / "configs" / "lobby.yaml")],
        ["train", "--help"],
    ],
)
def test_help_and_the_check_of_a_run_load_nothing_heavy(arguments, tmp_path):
    code = (
        "import sys\n"
        "from pipeline.cli import main\n"
        "main(sys.argv[1:], standalone_mode=False)\n"
        "heavy = {'torch', 'av', 'cv2', 'matplotlib', 'onnxruntime', 'prometheus_client'}\n"
        "print('loaded:', *sorted(heavy & set(sys.modules)))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments],
        cwd=tmp_path,
        env={"PYTHONPATH": str(ROOT), "PATH": ""},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1].split() == ["loaded:"]


def test_tracked_files_stay_small():
    if not (ROOT / ".git").exists():
        pytest.skip("not a git checkout")
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=True).stdout
    paths = [ROOT / name for name in listed.decode().split("\0") if name]
    sizes = {str(path.relative_to(ROOT)): path.stat().st_size for path in paths if path.exists()}
    assert len(sizes) > 50
    assert {name: size for name, size in sizes.items() if size > MOST_BYTES_OF_A_FILE} == {}
    assert sum(sizes.values()) <= MOST_BYTES


def test_every_requirement_is_pinned():
    pinned = {
        line.partition("==")[0].lower()
        for line in (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
        if not line.startswith("#")
    }
    required = re.findall(r'"([\w.-]+)>=\d', (ROOT / "setup.py").read_text(encoding="utf-8"))
    assert len(required) > 15
    assert {name.lower() for name in required} <= pinned
