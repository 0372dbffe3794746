"""Local evaluation sets: TASK.SPLIT.jsonl or TASK.SPLIT.jsonl.gz in each task's own fields."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from megatron_ipt.corpus.rows import read_objects
from megatron_ipt.errors import UserError
from megatron_ipt.evaluation.suites import SuiteTask

_ENDINGS = (".jsonl", ".jsonl.gz")


@dataclass(frozen=True)
class LocalTask:
    """A task whose questions are at hand: its files by split, and which split is evaluated, which gives examples."""

    task: SuiteTask
    files: dict[str, Path]
    evaluated_split: str
    fewshot_split: str | None


@dataclass(frozen=True)
class LeftOutTask:
    """A task that is not evaluated, and why."""

    name: str
    reason: str


def find_local_tasks(data_dir: Path, tasks: Sequence[SuiteTask]) -> tuple[list[LocalTask], list[LeftOutTask]]:
    """Those of `tasks` whose evaluated split lies in `data_dir`, and the others with the reason.

    Raises:
        UserError: no such folder, or no file of any of `tasks` in it.
    """
    if not data_dir.is_dir():
        raise UserError("data_dir", data_dir, "no such folder", "name the folder of TASK.SPLIT.jsonl[.gz] files")
    found: list[LocalTask] = []
    left_out: list[LeftOutTask] = []
    for task in tasks:
        files = _files_of(data_dir, task)
        evaluated = next((split for split in task.evaluated_splits if split in files), None)
        if evaluated is None:
            wanted = " or ".join(f"{task.name}.{split}.jsonl[.gz]" for split in task.evaluated_splits)
            left_out.append(LeftOutTask(task.name, f"no {wanted} in {data_dir}"))
            continue
        fewshot = next(split for split in (*task.fewshot_splits, evaluated) if split in files)
        used = {split: files[split] for split in (evaluated, fewshot if task.num_fewshot else evaluated)}
        found.append(LocalTask(task, used, evaluated, fewshot if task.num_fewshot else None))
    if not found:
        names = ", ".join(f"{task.name}.{task.evaluated_splits[0]}.jsonl[.gz]" for task in tasks)
        raise UserError("data_dir", data_dir, "it holds no file of any chosen task", f"put there any of: {names}")
    return found, left_out


def read_local_rows(task: SuiteTask, file: Path) -> Iterator[dict[str, Any]]:
    """Yield the rows of `file`, each with the fields that `task` reads.

    Raises:
        UserError: at FILE:LINE, for a row that is not a JSON object or lacks a field; for a damaged file.
    """
    for row in read_objects([file]):
        if missing := [field for field in task.fields if field not in row.values]:
            reason, remedy = f"no field {missing[0]!r}", f"{task.name} reads {', '.join(task.fields)}"
            raise UserError(f"{file}:{row.line}", "(bad row)", reason, remedy)
        yield row.values


def check_local_rows(local: LocalTask) -> dict[str, int]:
    """Read all rows of `local`; how many each split has.

    Raises:
        UserError: a row that the task cannot read, or an empty file.
    """
    counts = {split: sum(1 for _ in read_local_rows(local.task, file)) for split, file in local.files.items()}
    for split, count in counts.items():
        if count == 0:
            raise UserError("data_dir", local.files[split], "the file holds no questions", "remove or replace it")
    return counts


def _files_of(data_dir: Path, task: SuiteTask) -> dict[str, Path]:
    splits = dict.fromkeys((*task.evaluated_splits, *task.fewshot_splits))
    candidates = {
        split: [data_dir / f"{stem}.{split}{ending}" for stem in task.stems for ending in _ENDINGS] for split in splits
    }
    return {split: file for split, files in candidates.items() for file in files if file.is_file()}
