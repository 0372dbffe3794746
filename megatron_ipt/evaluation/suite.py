"""Task suites: tasks with their number of few-shot examples, metric and score of random guessing."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from megatron_ipt.config.evaluation import LocalFilesConfig, SuiteConfig, SuiteTaskConfig
from megatron_ipt.config.loading import load_config
from megatron_ipt.errors import UserError

_FOLDER = Path(__file__).parent / "suites"
OWN_TASKS = Path(__file__).parent / "tasks"
"""The task definitions of this package, in the format of lm-evaluation-harness."""
_TAGS = {"ai2_arc": ("arc_easy", "arc_challenge")}  # tags of the harness whose members the general suite lists


@dataclass(frozen=True)
class SuiteTask:
    """One task, group or tag of lm-evaluation-harness with its settings in a suite; None leaves it to the task."""

    name: str
    num_fewshot: int | None = None
    chance: float | None = None
    metric: str | None = None
    local: LocalFilesConfig | None = None

    @property
    def stems(self) -> Sequence[str]:
        """The accepted beginnings of the names of this task's local files."""
        return (self.local.file_stems if self.local else None) or (self.name,)

    @property
    def own_stem(self) -> str | None:
        """The beginning of the name of the file in `data_dir`, for one of this package's own tasks; None for others."""
        if not (OWN_TASKS / f"{self.name}.yaml").is_file():
            return None
        return "context_qa" if self.name.startswith("context_qa") else self.name


@dataclass(frozen=True)
class Suite:
    """Tasks that are scored together; `file` declares them, `include_path` lists folders with task definitions."""

    name: str
    file: Path
    tasks: tuple[SuiteTask, ...]
    include_path: tuple[Path, ...] = ()


def shipped_suites() -> list[str]:
    """Return the names of the suites that are part of the package."""
    return sorted(file.stem for file in _FOLDER.glob("*.yaml"))


def load_suite(suite: str) -> Suite:
    """Load a suite by its name, or from a YAML file.

    Raises:
        UserError: there is no such suite, or its file is invalid.
    """
    is_file = suite.endswith((".yaml", ".yml"))
    file = Path(suite) if is_file else _FOLDER / f"{suite}.yaml"
    if not is_file and suite not in shipped_suites():
        nearest = difflib.get_close_matches(suite, shipped_suites(), n=1, cutoff=0.0)[0]
        remedy = f"did you mean {nearest}? For your own suite, give a YAML file"
        raise UserError("suite", suite, "no such suite", remedy)
    config = load_config(SuiteConfig, file)
    folders = tuple((file.parent / folder).resolve() for folder in config.include_path)
    for folder in folders:
        if not folder.is_dir():
            raise UserError("include_path", folder, "no such folder", f"correct {file}")
    return Suite(file.stem, file, tuple(_task(task) for task in config.tasks), folders)


def choose_tasks(suite: Suite, names: Sequence[str] | None, num_fewshot: int | None = None) -> list[SuiteTask]:
    """Select the tasks to score.

    Args:
        suite: the suite.
        names: tasks, groups or tags to select; with the settings of the suite if it has them, otherwise with those of
            lm-evaluation-harness. `ai2_arc` selects two tasks of the general suite. None selects the whole suite.
        num_fewshot: replaces the number of few-shot examples of every task, if given.

    Raises:
        UserError: no task is selected.
    """
    tasks = list(suite.tasks) if names is None else _named(suite, names)
    if not tasks:
        known = ", ".join(task.name for task in suite.tasks)
        raise UserError("tasks", "[]", "no task is selected", f"list some of: {known}")
    if num_fewshot is None:
        return tasks
    return [replace(task, num_fewshot=num_fewshot) for task in tasks]


def _named(suite: Suite, names: Sequence[str]) -> list[SuiteTask]:
    known = {task.name: task for task in suite.tasks}
    wanted = [name for given in names for name in _members(given, known)]
    from_suite = [task for task in suite.tasks if task.name in wanted]
    return from_suite + [SuiteTask(name) for name in dict.fromkeys(wanted) if name not in known]


def _members(name: str, known: Mapping[str, SuiteTask]) -> Sequence[str]:
    members = _TAGS.get(name, ())
    return members if members and all(member in known for member in members) else (name,)


def _task(config: SuiteTaskConfig) -> SuiteTask:
    return SuiteTask(config.task, config.num_fewshot, config.chance, config.metric, config.local)
