"""The calls of the harness that evaluate a suite, and the equivalent command lines of the harness."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from megatron_ipt.config.evaluation import EvaluateConfig
from megatron_ipt.errors import Problem, UserError
from megatron_ipt.evaluation.suite import SuiteTask

_MMLU_SUBJECTS = 57
_SETTINGS = {name: name for name in ("add_bos_token", "batch_size", "device", "dtype")} | {"pretrained": "model"}
"""Arguments of the harness's model that are settings of their own, by name."""


@dataclass(frozen=True)
class Call:
    """A call of the harness for one task, group or tag, which the harness knows as `name`.

    Each task has its own call, so that its scores do not depend on the other tasks, and are stored as soon as it has
    finished. `limit` is the maximum number of questions per task or subject.
    """

    task: SuiteTask
    name: str
    limit: int | None


def plan_call(task: SuiteTask, name: str, limit: int | None) -> Call:
    """Return the call that scores `task`.

    The limit of the harness applies to each subject of MMLU, ours to all of them together, so it is divided.
    """
    if limit is not None and task.local is not None and task.local.is_by_subject:
        limit = math.ceil(limit / _MMLU_SUBJECTS)
    return Call(task, name, limit)


def check_model_args(given: Mapping[str, Any]) -> None:
    """Check the setting `model_args`.

    Raises:
        UserError: it contains arguments that are settings of their own.
    """
    reason = "this argument is a setting of its own"
    problems = [
        Problem(f"model_args.{name}", value, reason, f"set {_SETTINGS[name]} instead")
        for name, value in given.items()
        if name in _SETTINGS
    ]
    if problems:
        raise UserError.of(problems)


def model_args(config: EvaluateConfig, dtype: str) -> dict[str, Any]:
    """Return the arguments of the harness's model, which tasks also get as metadata, as from its command line."""
    return {
        "pretrained": config.model,
        # a chat template writes BOS itself: transformers' apply_chat_template adds none to its text
        "add_bos_token": config.add_bos_token and not config.apply_chat_template,
        "dtype": dtype,
        **config.model_args,
    }


def metadata_of(config: EvaluateConfig, arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Return the metadata for tasks: the arguments of the model, and the folder of local files."""
    data_dir = {} if config.data_dir is None else {"data_dir": str(Path(config.data_dir).absolute())}
    return {**arguments, **data_dir}


def command_line(
    call: Call, config: EvaluateConfig, arguments: Mapping[str, Any], folder: Path | None, batch_size: str
) -> str:
    """Return a command line of the harness that gives the scores of `call`.

    Args:
        call: the call.
        config: the settings.
        arguments: the arguments of the model.
        folder: the folder with the definition of the task; None for the harness's own tasks.
        batch_size: a number, or auto.
    """
    words = [f"lm_eval --model {config.backend}"]
    words.append("--model_args " + ",".join(f"{key}={value}" for key, value in arguments.items()))
    if folder is not None:
        words.append(f"--include_path {folder}")
    words.append(f"--tasks {call.name}")
    if call.task.num_fewshot is not None:
        words.append(f"--num_fewshot {call.task.num_fewshot}")
    if config.gen_kwargs:
        words.append("--gen_kwargs " + ",".join(f"{key}={value}" for key, value in config.gen_kwargs.items()))
    words.append(f"--batch_size {batch_size} --seed {config.seed}")
    if call.limit is not None:
        words.append(f"--limit {call.limit}")
    if config.apply_chat_template:
        words.append(f"--apply_chat_template --fewshot_as_multiturn {str(config.fewshot_as_multiturn).lower()}")
    if config.system_instruction is not None:
        words.append(f"--system_instruction {json.dumps(config.system_instruction)}")
    if config.data_dir is not None and call.task.local is None:
        words.append(f"--metadata '{json.dumps({'data_dir': str(Path(config.data_dir).absolute())})}'")
    return " ".join(words)
