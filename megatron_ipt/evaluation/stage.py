"""The evaluation stage: from a model folder and local files to results.json, samples and report.html."""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from megatron_ipt.config.evaluation import EvaluateConfig
from megatron_ipt.config.settings import identity_of
from megatron_ipt.corpus.manifest import Stage, write_atomically
from megatron_ipt.errors import UserError
from megatron_ipt.evaluation.harness import (
    caches,
    choose_batch_size,
    defined_in,
    definitions_folder,
    describe_sample,
    keep_responses,
    load_model,
    open_tasks,
    resolve_device,
    score_call,
)
from megatron_ipt.evaluation.kept_scores import (
    discard_attempt,
    discard_work,
    has_kept_scores,
    keep,
    read_kept,
    samples_file,
    work_folder,
)
from megatron_ipt.evaluation.local_data import LeftOutTask, LocalTask, check_local_rows, find_local_tasks, own_files
from megatron_ipt.evaluation.planning import (
    Call,
    check_model_args,
    command_line,
    metadata_of,
    model_args,
    plan_call,
)
from megatron_ipt.evaluation.report import REPORT_NAME, write_report
from megatron_ipt.evaluation.results import RESULTS_NAME, folder_sha256, results_from
from megatron_ipt.evaluation.scores import Score, scores_from
from megatron_ipt.evaluation.suite import OWN_TASKS, Suite, SuiteTask, choose_tasks, load_suite
from megatron_ipt.evaluation.task_files import local_name, write_task_files
from megatron_ipt.evaluation.training_progress import find_progress
from megatron_ipt.lm.loading import is_hub_name
from megatron_ipt.observability.metrics import METRICS_NAME

logger = logging.getLogger(__name__)

_WEIGHTS = ("*.safetensors", "pytorch_model*.bin")
_DEFINITIONS = ("*.yaml", "*.yml", "*.py")


@dataclass(frozen=True)
class Evaluation:
    """An evaluation whose settings and inputs have been checked."""

    config: EvaluateConfig
    suite: Suite
    tasks: list[SuiteTask]
    local_tasks: list[LocalTask]
    left_out: list[LeftOutTask]
    model_files: list[Path]
    stage: Stage

    @property
    def is_finished(self) -> bool:
        """Whether this evaluation has already finished; results of earlier versions, without samples, do not count."""
        return self.stage.is_complete and "progress" in read_results(self.stage)

    @property
    def task_folder(self) -> Path:
        """The folder to which the definitions of tasks on local files are written."""
        return (Path(self.config.output) / "tasks").absolute()

    @property
    def definitions(self) -> list[Path]:
        """The folders with task definitions, which take precedence over those of lm-evaluation-harness."""
        given = [Path(folder).resolve() for folder in self.config.include_path]
        own = [self.task_folder] if self.local_tasks else []
        return [OWN_TASKS, *own, *self.suite.include_path, *given]

    @property
    def calls(self) -> list[Call]:
        """The calls of the harness, one per task."""
        local = {found.task.name for found in self.local_tasks}
        left_out = {task.name for task in self.left_out}
        return [
            plan_call(task, local_name(task.name) if task.name in local else task.name, self.config.limit)
            for task in self.tasks
            if task.name not in left_out
        ]


def open_evaluation(config: EvaluateConfig) -> Evaluation:
    """Check the settings and inputs, as far as possible without loading the model.

    Raises:
        UserError: an input is missing, has changed since it was produced, or is invalid.
    """
    if not (config.batch_size == "auto" or (config.batch_size.isdecimal() and int(config.batch_size) > 0)):
        raise UserError("batch_size", config.batch_size, "not a batch size", "use auto, or an integer >= 1")
    check_model_args(config.model_args)
    suite = load_suite(config.suite)
    tasks = choose_tasks(suite, config.tasks, config.num_fewshot)
    model_files = _model_files(config)
    local_tasks: list[LocalTask] = []
    left_out: list[LeftOutTask] = []
    if config.data_dir is not None:
        local_tasks, left_out = find_local_tasks(Path(config.data_dir), tasks)
    data_files = [file for local in local_tasks for file in local.files.values()]
    if config.data_dir is not None:
        data_files += own_files(Path(config.data_dir), tasks)
    run_files = [] if config.run is None else [_metrics_file(Path(config.run))]
    inputs = [*model_files, *data_files, *run_files, *_definition_files(config, suite)]
    output = Path(config.output)
    stage = Stage(
        "evaluate",
        output,
        identity_of(config),
        inputs,
        seed=config.seed,
        has_results=lambda: has_kept_scores(output),
    )
    return Evaluation(config, suite, tasks, local_tasks, left_out, model_files, stage)


def evaluate(evaluation: Evaluation) -> dict[str, Any]:
    """Score the model, write results.json and report.html, and return the content of results.json.

    An interrupted evaluation resumes: finished tasks, and the responses of the model to other tasks, are reused.

    Raises:
        UserError: a local row, a task or the model is invalid, or a package is not installed.
    """
    for local in evaluation.local_tasks:
        check_local_rows(local)
    _start(evaluation.stage)  # before slow imports: the folder may not be writable
    try:
        return _evaluate(evaluation)
    except BaseException:
        if not has_kept_scores(evaluation.stage.folder):
            discard_work(evaluation.stage.folder)
            shutil.rmtree(evaluation.task_folder, ignore_errors=True)
            evaluation.stage.abandon()
        raise


def read_results(stage: Stage) -> dict[str, Any]:
    """Read the results of a finished stage."""
    results: dict[str, Any] = json.loads((stage.folder / RESULTS_NAME).read_text(encoding="utf-8"))
    return results


def _evaluate(evaluation: Evaluation) -> dict[str, Any]:
    config, stage = evaluation.config, evaluation.stage
    harness_tasks = definitions_folder()
    with caches(offline=config.data_dir is not None):
        device, dtype = resolve_device(config)
        arguments, batch_size = model_args(config, dtype), choose_batch_size(config, device)
        calls, metadata = evaluation.calls, metadata_of(config, arguments)
        written = {local_name(local.task.name) for local in evaluation.local_tasks}
        given = [folder for folder in evaluation.definitions if folder != evaluation.task_folder]
        open_tasks([call.name for call in calls if call.name not in written], given, metadata)  # before the model
        lm = load_model(config, arguments, device, batch_size)
        shutil.rmtree(evaluation.task_folder, ignore_errors=True)
        for local in evaluation.local_tasks:
            write_task_files(local, evaluation.task_folder, harness_tasks)
        manager = open_tasks([call.name for call in calls], evaluation.definitions, metadata)
        scores = _score(lm, calls, config, manager)
    folders = evaluation.definitions
    setting = {
        "backend": config.backend,
        "model_args": arguments,
        "device": device,
        "dtype": dtype,
        "add_bos_token": arguments["add_bos_token"],
        "batch_size": batch_size,
        "max_length_tokens": lm.max_length,
        "apply_chat_template": config.apply_chat_template,
        "command_lines": [
            command_line(call, config, arguments, defined_in(manager, call.name, folders), batch_size) for call in calls
        ],
    }
    results = results_from(
        config,
        scores,
        evaluation.left_out,
        model_sha256=_model_sha256(evaluation),
        progress=find_progress(stage),
        setting=setting,
        versions=stage.manifest.versions,
    )
    _finish(evaluation, scores, results)
    return results


def _start(stage: Stage) -> None:
    stage.start()
    if stage.replaces_attempt:
        discard_attempt(stage.folder)
    work_folder(stage.folder).mkdir(exist_ok=True)


def _score(lm: Any, calls: Sequence[Call], config: EvaluateConfig, manager: Any) -> list[Score]:
    output = Path(config.output)
    remembering = keep_responses(lm, work_folder(output) / "responses.db")
    scores: list[Score] = []
    for number, call in enumerate(calls, start=1):
        kept = read_kept(output, call.name)
        if kept is None:
            logger.info("%d/%d: %s", number, len(calls), call.task.name)
            results = score_call(remembering, call, config, manager)
            kept = scores_from(results, call.task)
            samples = {task: [describe_sample(row) for row in rows] for task, rows in results["samples"].items()}
            keep(output, call.name, kept, samples)
        scores += kept
    return scores


def _finish(evaluation: Evaluation, scores: Sequence[Score], results: dict[str, Any]) -> None:
    stage, folder = evaluation.stage, evaluation.stage.folder
    write_atomically(folder / RESULTS_NAME, json.dumps(results, indent=2, ensure_ascii=False) + "\n")
    write_report(folder / REPORT_NAME, results, stage, run=evaluation.config.run)
    samples = dict.fromkeys(samples_file(folder, task) for score in scores for task in score.samples)
    counts = {
        "tasks": len(scores),
        "left_out": len(evaluation.left_out),
        "questions": sum(score.questions for score in scores),
    }
    stage.finish([folder / RESULTS_NAME, folder / REPORT_NAME, *samples], counts)
    discard_work(folder)


def _model_files(config: EvaluateConfig) -> list[Path]:
    folder = Path(config.model)
    if not folder.exists():
        if config.data_dir is None and is_hub_name(config.model):
            return []
        remedy = "run the convert stage, or give a Hugging Face folder"
        if config.data_dir is not None:
            remedy += " (with data_dir, nothing is read from the hub)"
        raise UserError("model", config.model, "no such folder", remedy)
    if not (folder / "config.json").is_file():
        raise UserError("model", folder, "it holds no config.json", "give the folder that the convert stage wrote")
    if not any(file for pattern in _WEIGHTS for file in folder.glob(pattern)):
        raise UserError("model", folder, "it holds no weights (*.safetensors)", "run the convert stage again")
    hidden = ("manifest.json", ".")
    return sorted(file for file in folder.iterdir() if file.is_file() and not file.name.startswith(hidden))


def _definition_files(config: EvaluateConfig, suite: Suite) -> list[Path]:
    """Return the files in which the user defines suites and tasks."""
    own_suite = [suite.file] if suite.file.name == Path(config.suite).name else []
    folders = [*suite.include_path, *map(Path, config.include_path)]
    for folder in folders:
        if not folder.is_dir():
            raise UserError("include_path", folder, "no such folder", "give folders with task YAMLs")
    found = [file for folder in folders for pattern in _DEFINITIONS for file in folder.rglob(pattern)]
    return own_suite + sorted(set(found))


def _metrics_file(run: Path) -> Path:
    file = run / METRICS_NAME
    if not file.is_file():
        raise UserError(
            "run", run, f"it holds no {METRICS_NAME}", "give the folder of the training run, or leave run unset"
        )
    return file


def _model_sha256(evaluation: Evaluation) -> str | None:
    count = len(evaluation.model_files)
    return folder_sha256(evaluation.stage.manifest.inputs[:count]) if count else None
