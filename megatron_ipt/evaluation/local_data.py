"""Local evaluation sets: TASK.SPLIT.jsonl or TASK.SPLIT.jsonl.gz, with the fields of the task's dataset on the hub."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from megatron_ipt.config.evaluation import LocalFilesConfig
from megatron_ipt.corpus.rows import read_objects
from megatron_ipt.errors import UserError
from megatron_ipt.evaluation.suite import SuiteTask

_ENDINGS = (".jsonl", ".jsonl.gz")


@dataclass(frozen=True)
class LocalTask:
    """A task whose rows are in local files.

    Attributes:
        task: the task of the suite.
        form: how its files are read.
        files: the files by split.
        evaluated_split: the split with the questions.
        fewshot_split: the split with the few-shot examples; None if there are no examples.
    """

    task: SuiteTask
    form: LocalFilesConfig
    files: dict[str, Path]
    evaluated_split: str
    fewshot_split: str | None


@dataclass(frozen=True)
class LeftOutTask:
    """A task that is not evaluated, and the reason."""

    name: str
    reason: str


def find_local_tasks(data_dir: Path, tasks: Sequence[SuiteTask]) -> tuple[list[LocalTask], list[LeftOutTask]]:
    """Find the files of `tasks` in `data_dir`.

    Returns:
        The tasks whose evaluated split was found; and the tasks that have no file there, with the reason. Tasks without
        a `local` form read their files themselves, and are never among the former.

    Raises:
        UserError: the folder does not exist, or holds no file of any of `tasks`.
    """
    if not data_dir.is_dir():
        raise UserError("data_dir", data_dir, "no such folder", "give the folder with TASK.SPLIT.jsonl[.gz] files")
    found: list[LocalTask] = []
    left_out: list[LeftOutTask] = []
    for task in tasks:
        form = task.local
        if form is None:
            if task.own_stem is not None and not own_files(data_dir, [task]):
                left_out.append(LeftOutTask(task.name, f"no {task.own_stem}.test.jsonl[.gz] in {data_dir}"))
            continue
        files = _files_of(data_dir, task, form)
        evaluated = next((split for split in form.evaluated_splits if split in files), None)
        if evaluated is None:
            wanted = " or ".join(f"{task.name}.{split}.jsonl[.gz]" for split in form.evaluated_splits)
            left_out.append(LeftOutTask(task.name, f"no {wanted} in {data_dir}"))
            continue
        fewshot = next(split for split in (*form.fewshot_splits, evaluated) if split in files)
        used = {split: files[split] for split in (evaluated, fewshot if task.num_fewshot else evaluated)}
        found.append(LocalTask(task, form, used, evaluated, fewshot if task.num_fewshot else None))
    if len(left_out) == len(tasks):
        wanted_files = ", ".join(one.reason.removeprefix("no ").partition(" in ")[0] for one in left_out)
        reason = "it holds no file of any selected task"
        raise UserError("data_dir", data_dir, reason, f"add at least one of: {wanted_files}")
    return found, left_out


def own_files(data_dir: Path, tasks: Sequence[SuiteTask]) -> list[Path]:
    """Return the files in `data_dir` that this package's own tasks read themselves."""
    stems = dict.fromkeys(task.own_stem for task in tasks if task.own_stem is not None)
    return [file for stem in stems if (file := find_own_file(data_dir, stem)) is not None]


def find_own_file(data_dir: Path, stem: str) -> Path | None:
    """Return the file in `data_dir` with the rows of one of this package's own tasks; None if there is none."""
    candidates = (data_dir / f"{stem}.test{ending}" for ending in _ENDINGS)
    return next((file for file in candidates if file.is_file()), None)


def read_local_rows(name: str, fields: Sequence[str], file: Path) -> Iterator[dict[str, Any]]:
    """Yield the rows of `file`, each with the `fields` that the task `name` reads.

    Raises:
        UserError: at FILE:LINE, for a row that is not a JSON object or lacks a field; for a damaged file.
    """
    for row in read_objects([file]):
        if missing := [field for field in fields if field not in row.values]:
            reason, remedy = f"no field {missing[0]!r}", f"{name} reads {', '.join(fields)}"
            raise UserError(f"{file}:{row.line}", "(bad row)", reason, remedy)
        yield row.values


def check_local_rows(local: LocalTask) -> dict[str, int]:
    """Read all rows of `local`, and return their number by split.

    Raises:
        UserError: the task cannot read a row, or a file is empty.
    """
    counts = {
        split: sum(1 for _ in read_local_rows(local.task.name, local.form.fields, file))
        for split, file in local.files.items()
    }
    for split, count in counts.items():
        if count == 0:
            raise UserError("data_dir", local.files[split], "the file holds no questions", "remove or replace it")
    return counts


def _files_of(data_dir: Path, task: SuiteTask, form: LocalFilesConfig) -> dict[str, Path]:
    splits = dict.fromkeys((*form.evaluated_splits, *form.fewshot_splits))
    candidates = {
        split: [data_dir / f"{stem}.{split}{ending}" for stem in task.stems for ending in _ENDINGS] for split in splits
    }
    return {split: file for split, files in candidates.items() for file in files if file.is_file()}
