"""Scores over the course of a training run: each checkpoint is converted and evaluated.

Both run in separate processes, so that they leave no memory allocated in this one.
"""

from __future__ import annotations

import json
import logging
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import yaml

from megatron_ipt.checkpointing.layout import CONTENTS_NAME, RUN_CONFIG_NAME, iteration_folder, saved_iterations
from megatron_ipt.config.evaluation import TrendConfig
from megatron_ipt.config.loading import load_recorded
from megatron_ipt.config.pretrain import PretrainConfig
from megatron_ipt.corpus.manifest import read_manifest
from megatron_ipt.errors import TemporaryFailure, UserError
from megatron_ipt.evaluation.results import RESULTS_NAME
from megatron_ipt.observability.metrics import read_metrics
from megatron_ipt.observability.wandb_tracker import add_scores
from megatron_ipt.stages import COMMAND_LINE

logger = logging.getLogger(__name__)

SCORE = "eval/"
SCORES_NAME = "scores.jsonl"


def follow(config: TrendConfig) -> list[dict[str, float]]:
    """Score the checkpoints of a run, oldest first, until the run has finished; return the rows of scores.

    A row is written to scores.jsonl and TensorBoard immediately, and to W&B once the run has finished, because a W&B
    run has a single writer at a time. metrics.jsonl is not changed: it is a result of the training run.

    Raises:
        UserError: `run` is not a training run, or a checkpoint cannot be converted or scored.
        TemporaryFailure: a conversion or evaluation was killed, or can be resumed.
    """
    run = Path(config.run)
    if read_manifest(run) is None or not (run / RUN_CONFIG_NAME).is_file():
        raise UserError("run", run, "not a training run", "give the folder that is `run` in the settings of pretrain")
    recorded = load_recorded(PretrainConfig, run / RUN_CONFIG_NAME)
    rows = [row for iteration in _checkpoints(config) if (row := _score(config, iteration, recorded)) is not None]
    if rows and recorded.tracking.wandb_mode != "disabled" and _has_finished(run):
        add_scores(run, mode=recorded.tracking.wandb_mode, project=recorded.tracking.wandb_project, rows=rows)
    return rows


def _checkpoints(config: TrendConfig) -> Iterator[int]:
    """Yield the iterations of checkpoints, each once, as they are saved."""
    run, seen = Path(config.run), set[int]()
    while True:
        has_finished = _has_finished(run)  # asked first: a checkpoint may be saved between the two checks
        saved = [iteration for iteration in sorted(saved_iterations(run)) if iteration % config.every == 0]
        new = [iteration for iteration in saved if iteration not in seen]
        if new:
            seen.add(new[0])
            yield new[0]
        elif has_finished or not config.follow:
            return
        else:
            time.sleep(config.poll_seconds)


def _has_finished(run: Path) -> bool:
    manifest = read_manifest(run)
    return manifest is not None and manifest.status == "complete"


def _score(config: TrendConfig, iteration: int, recorded: PretrainConfig) -> dict[str, float] | None:
    """Convert and evaluate a checkpoint, and return its scores; None if the run has removed it in the meantime."""
    run, output = Path(config.run), Path(config.output)
    checkpoint = iteration_folder(run, iteration)
    model, scored = output / "models" / checkpoint.name, output / checkpoint.name
    manifest = read_manifest(scored)
    if manifest is None or manifest.status != "complete":
        logger.info("iteration %d: converting", iteration)
        settings = ["direction=mcore-to-hf", f"input={checkpoint}", f"output={model}", "parity_check=false"]
        failure = _run("convert", settings)
        if failure and not (checkpoint / CONTENTS_NAME).is_file():
            logger.info("iteration %d: the run has removed this checkpoint", iteration)
            shutil.rmtree(model, ignore_errors=True)
            return None
        logger.info("iteration %d: scoring", iteration)
        failure = failure or _run("evaluate", ["--config", str(_evaluation(config, model, scored))])
        if failure:
            raise failure
    if not config.keep_models:
        shutil.rmtree(model, ignore_errors=True)
    row = read_row(scored, iteration)
    _record(output / SCORES_NAME, row, run, recorded)
    return row


def read_row(scored: Path, iteration: int) -> dict[str, float]:
    """Return the scores of a finished evaluation as a row of scores.jsonl: the headline metrics and their average."""
    results = json.loads((scored / RESULTS_NAME).read_text(encoding="utf-8"))
    shown = {f"{SCORE}{name}": task["metrics"][task["metric"]]["value"] for name, task in results["tasks"].items()}
    average = {} if results["average"] is None else {f"{SCORE}average": results["average"]}
    return {"iteration": iteration, **shown, **average}


def _evaluation(config: TrendConfig, model: Path, scored: Path) -> Path:
    """Write the configuration of one evaluation, and return the file."""
    values = {**config.evaluation.model_dump(), "model": str(model), "output": str(scored)}
    file = Path(config.output) / "evaluate.yaml"
    file.write_text(yaml.safe_dump(values, sort_keys=False), encoding="utf-8")
    return file


def _run(command: str, arguments: list[str]) -> UserError | TemporaryFailure | None:
    """Run a command of this package, and return its failure; None if it succeeds."""
    done = subprocess.run(
        [*COMMAND_LINE, command, *arguments], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    )
    if done.returncode == 0:
        return None
    message = done.stderr.strip()[-2000:]
    if done.returncode in (TemporaryFailure.exit_code, -signal.SIGKILL):
        return TemporaryFailure(f"{command} was stopped: {message}")
    return UserError(command, " ".join(arguments), message, "fix what it reports; scored checkpoints are kept")


def _record(file: Path, row: dict[str, float], run: Path, recorded: PretrainConfig) -> None:
    """Append a row to `file` and to the run's TensorBoard, unless `file` holds it already."""
    if any(known["iteration"] == row["iteration"] and row.keys() <= known.keys() for known in read_metrics(file)):
        return
    if recorded.tracking.tensorboard:
        from torch.utils.tensorboard import SummaryWriter

        with SummaryWriter(str(run / "tensorboard" / "evaluation")) as writer:
            for name, value in row.items():
                if name != "iteration":
                    writer.add_scalar(name, value, int(row["iteration"]))
    with file.open("a", encoding="utf-8") as handle:
        handle.write(json.dumps(row) + "\n")
