"""The evaluation stage: model folder and local files in, results.json and report.html out."""

from __future__ import annotations

import json
import re
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from megatron_ipt.config.settings import identity_of
from megatron_ipt.config.stages import EvaluateConfig
from megatron_ipt.corpus.manifest import Stage, write_atomically
from megatron_ipt.errors import UserError
from megatron_ipt.evaluation.harness import (
    caches,
    choose_batch_size,
    definitions_folder,
    load_model,
    resolve_device,
    score_calls,
)
from megatron_ipt.evaluation.local_data import LeftOutTask, LocalTask, check_local_rows, find_local_tasks
from megatron_ipt.evaluation.planning import command_line, plan_calls, plan_from_hub, plan_local
from megatron_ipt.evaluation.report import REPORT_NAME, write_report
from megatron_ipt.evaluation.results import RESULTS_NAME, folder_sha256, results_from
from megatron_ipt.evaluation.suites import SuiteTask, choose_tasks
from megatron_ipt.evaluation.task_files import write_task_files
from megatron_ipt.observability.metrics import METRICS_NAME

_HUB_NAME = re.compile(r"[\w.-]+(/[\w.-]+)?")
_WEIGHTS = ("*.safetensors", "pytorch_model*.bin")


@dataclass(frozen=True)
class Evaluation:
    """An evaluation that can begin: every input is there and fits."""

    config: EvaluateConfig
    tasks: list[SuiteTask]
    local_tasks: list[LocalTask]
    left_out: list[LeftOutTask]
    model_files: list[Path]
    stage: Stage

    @property
    def task_folder(self) -> Path | None:
        """Where the definitions of local tasks are written; None for tasks on the hub."""
        return Path(self.config.output) / "tasks" if self.config.data_dir is not None else None


def open_evaluation(config: EvaluateConfig) -> Evaluation:
    """Check everything that can be checked without loading the model.

    Raises:
        UserError: for any input that is missing, stale or not understood.
    """
    if not (config.batch_size == "auto" or (config.batch_size.isdecimal() and int(config.batch_size) > 0)):
        raise UserError("batch_size", config.batch_size, "not a batch size", "auto, or a number of at least 1")
    tasks = choose_tasks(config.suite, config.tasks)
    model_files = _model_files(config)
    local_tasks: list[LocalTask] = []
    left_out: list[LeftOutTask] = []
    if config.data_dir is not None:
        local_tasks, left_out = find_local_tasks(Path(config.data_dir), tasks)
    data_files = [file for local in local_tasks for file in local.files.values()]
    run_files = [] if config.run is None else [_metrics_file(Path(config.run))]
    settings = identity_of(config)
    inputs = [*model_files, *data_files, *run_files]
    stage = Stage("evaluate", Path(config.output), settings, inputs, seed=config.seed)
    return Evaluation(config, tasks, local_tasks, left_out, model_files, stage)


def evaluate(evaluation: Evaluation) -> dict[str, Any]:
    """Score the model, write results.json and report.html, and return what results.json holds."""
    config, stage, task_folder = evaluation.config, evaluation.stage, evaluation.task_folder
    definitions = definitions_folder()
    for local in evaluation.local_tasks:
        check_local_rows(local)
    with caches(offline=task_folder is not None):
        device, dtype = resolve_device(config)
        batch_size = choose_batch_size(config, device)
        lm = load_model(config.model, device, dtype, batch_size)
        stage.start()
        if task_folder is None:
            planned = [plan_from_hub(task) for task in evaluation.tasks]
        else:
            shutil.rmtree(task_folder, ignore_errors=True)
            for local in evaluation.local_tasks:
                write_task_files(local, task_folder, definitions)
            planned = [plan_local(local) for local in evaluation.local_tasks]
        calls = plan_calls(planned, config.limit)
        scores = score_calls(lm, calls, config.seed, task_folder)
    setting = {
        "add_bos_token": True,
        "dtype": dtype,
        "device": device,
        "batch_size": batch_size,
        "max_length_tokens": lm.max_length,
        "command_lines": [
            command_line(call, config.model, dtype, task_folder, batch_size=batch_size, seed=config.seed)
            for call in calls
        ],
    }
    results = results_from(
        config,
        scores,
        evaluation.left_out,
        model_sha256=_model_sha256(evaluation),
        setting=setting,
        versions=stage.manifest.versions,
    )
    folder = stage.folder
    write_atomically(folder / RESULTS_NAME, json.dumps(results, indent=2, ensure_ascii=False) + "\n")
    write_report(folder / REPORT_NAME, results, stage, run=config.run)
    stage.finish(
        [folder / RESULTS_NAME, folder / REPORT_NAME],
        {"tasks": len(scores), "left_out": len(evaluation.left_out), "questions": sum(s.questions for s in scores)},
    )
    return results


def read_results(stage: Stage) -> dict[str, Any]:
    """What a finished stage wrote."""
    results: dict[str, Any] = json.loads((stage.folder / RESULTS_NAME).read_text(encoding="utf-8"))
    return results


def _model_files(config: EvaluateConfig) -> list[Path]:
    folder = Path(config.model)
    if not folder.exists():
        if config.data_dir is None and _HUB_NAME.fullmatch(config.model):
            return []
        remedy = "run the convert stage, or name a Hugging Face folder"
        if config.data_dir is not None:
            remedy += " (with data_dir nothing is read from the hub)"
        raise UserError("model", config.model, "no such folder", remedy)
    if not (folder / "config.json").is_file():
        raise UserError("model", folder, "it holds no config.json", "name the folder the convert stage wrote")
    if not any(file for pattern in _WEIGHTS for file in folder.glob(pattern)):
        raise UserError("model", folder, "it holds no weights (*.safetensors)", "run the convert stage again")
    hidden = ("manifest.json", ".")
    return sorted(file for file in folder.iterdir() if file.is_file() and not file.name.startswith(hidden))


def _metrics_file(run: Path) -> Path:
    file = run / METRICS_NAME
    if not file.is_file():
        raise UserError(
            "run", run, f"it holds no {METRICS_NAME}", "name the folder of the training run, or leave it out"
        )
    return file


def _model_sha256(evaluation: Evaluation) -> str | None:
    count = len(evaluation.model_files)
    return folder_sha256(evaluation.stage.manifest.inputs[:count]) if count else None
