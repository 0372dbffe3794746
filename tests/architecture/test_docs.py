"""What the documentation names is there: links, paths, settings, commands; and the tree keeps its own rules."""

from __future__ import annotations

import ast
import re
import subprocess
from pathlib import Path

import pytest

from megatron_ipt.config.settings import known_keys, renamed_keys
from megatron_ipt.stages import STAGES

ROOT = Path(__file__).parents[2]
GENERATED = ROOT / "docs" / "reference"
TOP = ("README.md", "CHANGELOG.md", "CONTRIBUTING.md")
PAGES = [
    *(ROOT / name for name in TOP),
    *(page for page in sorted((ROOT / "docs").rglob("*.md")) if GENERATED not in page.parents),
    *sorted((ROOT / "examples").rglob("*.md")),
]
MODULES = sorted((ROOT / "megatron_ipt").rglob("*.py"))
CODE = [file for name in ("megatron_ipt", "tests", "tools", "docs", "examples") for file in (ROOT / name).rglob("*.py")]
FOLDERS = ("megatron_ipt", "tests", "tools", "docs", "examples", "benchmarks", "slurm")
TEXT_ENDINGS = {".py", ".md", ".yaml", ".yml", ".sh", ".sbatch", ".toml", ".html", ".txt", ".cfg", ""}
TOOLS = {f"tools/{spec.module}.py": command for command, spec in STAGES.items()}
SCHEMAS = [spec.load_schema() for spec in STAGES.values() if spec.settings]
SETTINGS = {key for schema in SCHEMAS for key in (*known_keys(schema), *renamed_keys(schema))}
SECTIONS = {key.partition(".")[0] for key in SETTINGS if "." in key}
MOST_LINES = 400
# a folder of one machine, not of the project
FOREIGN_PATH = re.compile(r"(?<![\w.:/])/(?:home|root|Users|work|mnt)/\w")


def identify(file: Path) -> str:
    return str(file.relative_to(ROOT))


def anchors_of(page: Path) -> set[str]:
    """Anchors as the site and GitHub make them of headings."""
    headings = re.findall(r"^#+ +(.+)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.strip().lower()).replace(" ", "-") for heading in headings}


def prose_of(page: Path) -> str:
    return re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)


def code_names_of(page: Path) -> list[str]:
    """What stands in backticks outside code blocks."""
    return re.findall(r"`([^`\n]+)`", prose_of(page))


@pytest.mark.parametrize("page", PAGES, ids=identify)
def test_links_resolve(page: Path) -> None:
    broken = []
    for target in re.findall(r"\]\(([^)\s]+)\)", prose_of(page)):
        if target.startswith(("http://", "https://")):
            continue
        name, _, anchor = target.partition("#")
        file = (page.parent / name).resolve() if name else page
        if GENERATED in file.parents:
            continue  # `make docs` writes and checks those
        if not file.is_file() or (anchor and anchor not in anchors_of(file)):
            broken.append(target)
    assert broken == []


@pytest.mark.parametrize("page", PAGES, ids=identify)
def test_paths_exist(page: Path) -> None:
    named = [name for name in code_names_of(page) if re.fullmatch(rf"(?:{'|'.join(FOLDERS)})/[\w./-]*", name)]
    missing = [name for name in named if not (ROOT / name).exists() and GENERATED not in (ROOT / name).parents]
    assert missing == []


@pytest.mark.parametrize("page", PAGES, ids=identify)
def test_tests_and_classes_exist(page: Path) -> None:
    """`tests/x.py::test_y`, `megatron_ipt.room.module.Name`."""
    missing = []
    for name in code_names_of(page):
        if match := re.fullmatch(r"(tests/[\w/]+\.py)::(\w+)", name):
            file, definition = ROOT / match[1], match[2]
        elif match := re.fullmatch(r"(megatron_ipt(?:\.\w+)+)\.([A-Z]\w+)(?:\(.*\))?", name):
            file, definition = ROOT / f"{match[1].replace('.', '/')}.py", match[2]
        else:
            continue
        if not file.is_file() or not re.search(
            rf"^(?:class|def) {definition}\b", file.read_text(encoding="utf-8"), re.M
        ):
            missing.append(name)
    assert missing == []


@pytest.mark.parametrize("page", PAGES, ids=identify)
def test_settings_exist(page: Path) -> None:
    named = [name.partition("=")[0] for name in code_names_of(page)]
    dotted = {name for name in named if re.fullmatch(rf"(?:{'|'.join(SECTIONS)})\.(?!json)[a-z]\w*", name)}
    sections = {name.rpartition(".")[0] for name in SETTINGS}
    assert dotted - SETTINGS - sections == set()


def test_every_page_is_in_the_navigation() -> None:
    navigation = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
    pages = [page.relative_to(ROOT / "docs").as_posix() for page in PAGES if page.is_relative_to(ROOT / "docs")]
    assert len(pages) > 10
    assert [page for page in pages if f" {page}\n" not in navigation] == []


@pytest.mark.parametrize("command", STAGES)
def test_every_command_is_documented(command: str) -> None:
    guides = "\n".join(page.read_text(encoding="utf-8") for page in PAGES if page.is_relative_to(ROOT / "docs"))
    module = STAGES[command].module
    assert f"tools/{module}.py" in guides or f"megatron-ipt {command}" in guides


def test_make_help_lists_every_target() -> None:
    [targets] = re.findall(r"^\.PHONY: (.*)$", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
    command = ["make", "--no-print-directory", "help"]  # these tests may themselves be run by make
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert [line.split()[0] for line in listed.splitlines()] == targets.split()


def test_every_module_says_what_it_is_for() -> None:
    trees = {module: ast.parse(module.read_text(encoding="utf-8")) for module in MODULES}
    assert [identify(module) for module, tree in trees.items() if tree.body and not ast.get_docstring(tree)] == []


def test_every_file_is_short() -> None:
    lines = {identify(file): len(file.read_text(encoding="utf-8").splitlines()) for file in CODE}
    assert {file: count for file, count in lines.items() if count > MOST_LINES} == {}


def test_no_file_names_a_folder_of_one_machine() -> None:
    files = [path for name in FOLDERS for path in (ROOT / name).rglob("*") if path.is_file()]
    files += [path for path in ROOT.iterdir() if path.is_file() and not path.name.startswith(".")]
    texts = [path for path in files if path.suffix in TEXT_ENDINGS and "__pycache__" not in path.parts]
    assert len(texts) > 100
    found = [identify(path) for path in texts if FOREIGN_PATH.search(path.read_text(encoding="utf-8"))]
    assert found == []
