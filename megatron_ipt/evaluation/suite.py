"""Task suites: which tasks, with how many examples before each question, and what guessing scores."""

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
"""Task definitions of ours, in lm-evaluation-harness's form."""
_TAGS = {"ai2_arc": ("arc_easy", "arc_challenge")}


@dataclass(frozen=True)
class SuiteTask:
    """One task, group or tag of lm-evaluation-harness as a suite uses it; None: as the task itself says."""

    name: str
    num_fewshot: int | None = None
    chance: float | None = None
    metric: str | None = None
    local: LocalFilesConfig | None = None

    @property
    def stems(self) -> Sequence[str]:
        """The names a local file of this task may begin with."""
        return (self.local.file_stems if self.local else None) or (self.name,)

    @property
    def own_stem(self) -> str | None:
        """The beginning of the name of the file in `data_dir` that a task of ours reads; None for other tasks."""
        if not (OWN_TASKS / f"{self.name}.yaml").is_file():
            return None
        return "context_qa" if self.name.startswith("context_qa") else self.name


@dataclass(frozen=True)
class Suite:
    """Tasks that are scored together; `file` declares them, `include_path` are folders with definitions of theirs."""

    name: str
    file: Path
    tasks: tuple[SuiteTask, ...]
    include_path: tuple[Path, ...] = ()


def shipped_suites() -> list[str]:
    """The suites that are part of the package, by name."""
    return sorted(file.stem for file in _FOLDER.glob("*.yaml"))


def load_suite(suite: str) -> Suite:
    """The suite of that name, or of that YAML file.

    Raises:
        UserError: there is none, or its file is not understood.
    """
    is_file = suite.endswith((".yaml", ".yml"))
    file = Path(suite) if is_file else _FOLDER / f"{suite}.yaml"
    if not is_file and suite not in shipped_suites():
        nearest = difflib.get_close_matches(suite, shipped_suites(), n=1, cutoff=0.0)[0]
        raise UserError("suite", suite, "no such suite", f"did you mean {nearest}? Or name a YAML file of yours")
    config = load_config(SuiteConfig, file)
    folders = tuple((file.parent / folder).resolve() for folder in config.include_path)
    for folder in folders:
        if not folder.is_dir():
            raise UserError("include_path", folder, "no such folder", f"correct {file}")
    return Suite(file.stem, file, tuple(_task(task) for task in config.tasks), folders)


def choose_tasks(suite: Suite, names: Sequence[str] | None, num_fewshot: int | None = None) -> list[SuiteTask]:
    """The tasks of `suite`, or those that `names` lists: as the suite has them, else as lm-evaluation-harness does.

    `num_fewshot` replaces every number of examples. `ai2_arc` names two tasks of the general suite.

    Raises:
        UserError: no task is named.
    """
    tasks = list(suite.tasks) if names is None else _named(suite, names)
    if not tasks:
        known = ", ".join(task.name for task in suite.tasks)
        raise UserError("tasks", "[]", "no task is named", f"name some of: {known}")
    if num_fewshot is None:
        return tasks
    return [replace(task, num_fewshot=num_fewshot) for task in tasks]


def _named(suite: Suite, names: Sequence[str]) -> list[SuiteTask]:
    known = {task.name: task for task in suite.tasks}
    wanted = [name for given in names for name in _members(given, known)]
    ours = [task for task in suite.tasks if task.name in wanted]
    return ours + [SuiteTask(name) for name in dict.fromkeys(wanted) if name not in known]


def _members(name: str, known: Mapping[str, SuiteTask]) -> Sequence[str]:
    members = _TAGS.get(name, ())
    return members if members and all(member in known for member in members) else (name,)


def _task(config: SuiteTaskConfig) -> SuiteTask:
    return SuiteTask(config.task, config.num_fewshot, config.chance, config.metric, config.local)
