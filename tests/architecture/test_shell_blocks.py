"""Every command in the documentation's shell blocks names what is there, parses its settings, and finds its program.

A newcomer who pastes the blocks of a page in order has no activated environment until the page activates one.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass, field
from importlib.metadata import entry_points
from pathlib import Path

import pytest

from megatron_ipt.cli.convert_checkpoint import as_settings
from megatron_ipt.cli.preprocess_data import parse_flags
from megatron_ipt.config.loading import load_config
from megatron_ipt.config.pretrain import PretrainConfig
from megatron_ipt.errors import UserError
from megatron_ipt.stages import STAGES

ROOT = Path(__file__).parents[2]
GENERATED = ROOT / "docs" / "reference"
EXAMPLES = sorted((ROOT / "examples").rglob("README.md"))
GUIDES = [page for page in sorted((ROOT / "docs").rglob("*.md")) if GENERATED not in page.parents]
# these are pasted from a bare clone; all others say in docs/index.md that they expect the environment
ENTRANCES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "docs" / "quickstart.md", *EXAMPLES]
PAGES = list(dict.fromkeys([*ENTRANCES, *GUIDES]))
TREE = ("benchmarks/", "docs/", "examples/", "megatron_ipt/", "slurm/", "tests/", "tools/")
TARGETS = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
INSTALLED = {"python", "pip"} | {script.name for script in entry_points(group="console_scripts")}
SYSTEM = {"bash", "cp", "nsys", "python3", "sbatch", "source"}
TOOLS = {f"tools/{spec.module}.py": command for command, spec in STAGES.items()}
OPTIONS_WITH_FILE = ("--config", "--pretrain")


def identify(page: Path) -> str:
    return str(page.relative_to(ROOT))


def commands_of(page: Path) -> Iterator[list[str]]:
    """The words of each command, without the variables set before it."""
    for block in re.findall(r"```bash\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL):
        for line in block.replace("\\\n", " ").splitlines():
            for command in re.split(r" && | \| ", line):
                words = shlex.split(command, comments=True)
                while words and re.fullmatch(r"[A-Z_]+=.*", words[0]):
                    words.pop(0)
                if words:
                    yield words


@dataclass
class Shell:
    """What has been installed and activated so far by the commands of a page."""

    environments: set[str] = field(default_factory=set)
    is_activated: bool = False

    def objection(self, words: list[str]) -> str | None:
        """Why a newcomer's shell would not find the program of this command; None where it would."""
        program = words[0]
        folder, _, name = program.rpartition("/bin/")
        if program == "make":
            targets = [word for word in words[1:] if "=" not in word]
            self.environments.add(".venv")
            return None if set(targets) <= TARGETS else f"no such target: {targets}"
        if program == "source":
            self.is_activated = words[1] == ".venv/bin/activate" and ".venv" in self.environments
            return None if self.is_activated else "nothing has made that environment"
        if words[:3] == ["python3", "-m", "venv"]:
            self.environments.add(words[3])
        if folder:
            return None if folder in self.environments and name in INSTALLED else "nothing has installed that"
        if program in SYSTEM or program.startswith("slurm/"):
            return None
        if program not in INSTALLED:
            return "not a program that the environment has"
        return None if self.is_activated else "the environment is not active"


@pytest.mark.parametrize("page", ENTRANCES, ids=identify)
def test_commands_run_in_a_newcomers_shell(page: Path) -> None:
    shell = Shell()
    objections = {" ".join(words): shell.objection(words) for words in commands_of(page)}
    assert {command: objection for command, objection in objections.items() if objection} == {}


@pytest.mark.parametrize("page", GUIDES, ids=identify)
def test_commands_run_in_the_environment(page: Path) -> None:
    shell = Shell(environments={".venv"}, is_activated=True)
    objections = {" ".join(words): shell.objection(words) for words in commands_of(page)}
    assert {command: objection for command, objection in objections.items() if objection} == {}


@pytest.mark.parametrize("page", PAGES, ids=identify)
def test_files_exist(page: Path) -> None:
    named = {word.partition("::")[0] for words in commands_of(page) for word in words if word.startswith(TREE)}
    assert {name for name in named if not (ROOT / name).exists()} == set()


@pytest.mark.parametrize("page", PAGES, ids=identify)
def test_settings_parse(page: Path) -> None:
    mistakes = {}
    for words in commands_of(page):
        for place, word in enumerate(words):
            if word in TOOLS:
                command, arguments = TOOLS[word], words[place + 1 :]
            elif Path(word).name == "megatron-ipt":
                command, arguments = words[place + 1], words[place + 2 :]
            else:
                continue
            assert command in STAGES, words
            if STAGES[command].settings and (mistake := mistake_in(command, arguments)):
                mistakes[" ".join(words)] = mistake
    assert mistakes == {}


def mistake_in(command: str, arguments: list[str]) -> str | None:
    """What the command would refuse in its settings, files that an earlier stage writes or the user brings apart."""
    arguments = as_settings(arguments) if command == "convert" else arguments
    files: dict[str, list[str]] = {option: [] for option in OPTIONS_WITH_FILE}
    rest: list[str] = []
    words = iter(arguments)
    for word in words:
        if word in OPTIONS_WITH_FILE:
            files[word].append(next(words))
        else:
            rest.append(word)
    known = [file for file in files["--config"] if file.startswith("examples/")]
    try:
        for file in files["--pretrain"]:
            load_config(PretrainConfig, ROOT / file)
        if command == "preprocess":
            parse_flags([*(f"--config={ROOT / file}" for file in known), *rest])
        else:
            overrides = [word for word in rest if not word.startswith("--")]
            load_config(STAGES[command].load_schema(), [ROOT / file for file in known], overrides)
    except UserError as error:
        is_partial = len(known) < len(files["--config"])
        problems = [problem for problem in error.problems if not (is_partial and problem.value == "(not set)")]
        return "; ".join(map(str, problems)) or None
    return None
