"""Scores over the course of a training run: each checkpoint that is kept is converted and evaluated.

Both happen in processes of their own: they leave no memory behind, and one that fails does not end the watch.
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
    """Score the checkpoints of a run, oldest first, until it has finished; the rows of scores.

    A row goes to scores.jsonl and TensorBoard as soon as it is there, and to W&B once the run has finished, since its
    W&B run has one writer at a time. The run's own metrics.jsonl is one of its results, which nothing else may change.

    Raises:
        UserError: `run` is no training run, or a checkpoint cannot be converted or scored.
    """
    run = Path(config.run)
    if read_manifest(run) is None or not (run / RUN_CONFIG_NAME).is_file():
        raise UserError("run", run, "it is no training run", "name the folder that pretrain calls `run`")
    recorded = load_recorded(PretrainConfig, run / RUN_CONFIG_NAME)
    rows = [row for iteration in _checkpoints(config) if (row := _score(config, iteration, recorded)) is not None]
    if rows and recorded.tracking.wandb_mode != "disabled" and _has_finished(run):
        add_scores(run, mode=recorded.tracking.wandb_mode, project=recorded.tracking.wandb_project, rows=rows)
    return rows


def _checkpoints(config: TrendConfig) -> Iterator[int]:
    """Iterations with a checkpoint, each once, as they come."""
    run, seen = Path(config.run), set[int]()
    while True:
        has_finished = _has_finished(run)  # before the look, after which no checkpoint can come
        there = [iteration for iteration in sorted(saved_iterations(run)) if iteration % config.every == 0]
        new = [iteration for iteration in there if iteration not in seen]
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
    """The row of scores of a checkpoint; None if the run has removed it meanwhile."""
    run, output = Path(config.run), Path(config.output)
    checkpoint = iteration_folder(run, iteration)
    model, scored = output / "models" / checkpoint.name, output / checkpoint.name
    manifest = read_manifest(scored)
    if manifest is None or manifest.status != "complete":
        logger.info("iteration %d: converting", iteration)
        wanted = ["direction=mcore-to-hf", f"input={checkpoint}", f"output={model}", "parity_check=false"]
        failure = _run("convert", wanted)
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
    _note(output / SCORES_NAME, row, run, recorded)
    return row


def read_row(scored: Path, iteration: int) -> dict[str, float]:
    """The scores of a finished evaluation as a line of scores.jsonl."""
    results = json.loads((scored / RESULTS_NAME).read_text(encoding="utf-8"))
    shown = {f"{SCORE}{name}": task["metrics"][task["metric"]]["value"] for name, task in results["tasks"].items()}
    average = {} if results["average"] is None else {f"{SCORE}average": results["average"]}
    return {"iteration": iteration, **shown, **average}


def _evaluation(config: TrendConfig, model: Path, scored: Path) -> Path:
    """The configuration of one evaluation, as a file."""
    values = {**config.evaluation.model_dump(), "model": str(model), "output": str(scored)}
    file = Path(config.output) / "evaluate.yaml"
    file.write_text(yaml.safe_dump(values, sort_keys=False), encoding="utf-8")
    return file


def _run(command: str, arguments: list[str]) -> UserError | TemporaryFailure | None:
    """Run a command of ours; its failure, if it fails."""
    done = subprocess.run(
        [*COMMAND_LINE, command, *arguments], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    )
    if done.returncode == 0:
        return None
    said = done.stderr.strip()[-2000:]
    if done.returncode in (TemporaryFailure.exit_code, -signal.SIGKILL):
        return TemporaryFailure(f"{command} was stopped: {said}")
    return UserError(command, " ".join(arguments), said, "correct what it says; scored checkpoints are kept")


def _note(file: Path, row: dict[str, float], run: Path, recorded: PretrainConfig) -> None:
    """Add a row to the scores in `file`, unless it is there."""
    known = any(one["iteration"] == row["iteration"] and row.keys() <= one.keys() for one in read_metrics(file))
    if known:
        return
    if recorded.tracking.tensorboard:
        from torch.utils.tensorboard import SummaryWriter

        with SummaryWriter(str(run / "tensorboard" / "evaluation")) as writer:
            for name, value in row.items():
                if name != "iteration":
                    writer.add_scalar(name, value, int(row["iteration"]))
    with file.open("a", encoding="utf-8") as handle:
        handle.write(json.dumps(row) + "\n")
