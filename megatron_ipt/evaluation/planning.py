"""Which calls of the harness a suite takes, and the same calls as its own command lines."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from megatron_ipt.evaluation.local_data import LocalTask
from megatron_ipt.evaluation.suites import SuiteTask
from megatron_ipt.evaluation.task_files import local_name

_MMLU_SUBJECTS = 57


@dataclass(frozen=True)
class PlannedTask:
    """A task to score under the `name` the harness knows it by."""

    task: SuiteTask
    name: str
    evaluated_split: str
    fewshot_split: str | None


@dataclass(frozen=True)
class Call:
    """Tasks with the same number of examples and the same limit: the harness takes one of each a call."""

    num_fewshot: int
    limit: int | None
    tasks: tuple[PlannedTask, ...]


def plan_local(local: LocalTask) -> PlannedTask:
    """A task on local files."""
    return PlannedTask(local.task, local_name(local.task.name), local.evaluated_split, local.fewshot_split)


def plan_from_hub(task: SuiteTask) -> PlannedTask:
    """A task on the hub, where every split is at hand."""
    fewshot_split = task.fewshot_splits[0] if task.num_fewshot else None
    return PlannedTask(task, task.name, task.evaluated_splits[0], fewshot_split)


def plan_calls(tasks: Sequence[PlannedTask], limit: int | None) -> list[Call]:
    """The calls that score `tasks`. The harness's limit holds for each subject of MMLU: ours is shared out."""
    members: dict[tuple[int, int | None], list[PlannedTask]] = defaultdict(list)
    for planned in tasks:
        by_subject = limit is not None and planned.task.is_by_subject
        share = math.ceil(limit / _MMLU_SUBJECTS) if by_subject and limit is not None else limit
        members[planned.task.num_fewshot, share].append(planned)
    return [Call(num_fewshot, share, tuple(same)) for (num_fewshot, share), same in members.items()]


def command_line(
    call: Call, model: str, dtype: str, task_folder: Path | None, *, batch_size: str | int, seed: int
) -> str:
    """What gives the scores of `call` on the harness's own command line."""
    words = ["lm_eval --model hf", f"--model_args pretrained={model},add_bos_token=True,dtype={dtype}"]
    if task_folder is not None:
        words.append(f"--include_path {task_folder}")
    words.append(f"--tasks {','.join(planned.name for planned in call.tasks)}")
    words.append(f"--num_fewshot {call.num_fewshot} --gen_kwargs do_sample=False")
    words.append(f"--batch_size {batch_size} --seed {seed}")
    if call.limit is not None:
        words.append(f"--limit {call.limit}")
    return " ".join(words)
