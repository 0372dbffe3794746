"""Collect the data of the report of a training run, and write the page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from megatron_ipt.checkpointing.contents import read_contents
from megatron_ipt.checkpointing.layout import RUN_CONFIG_NAME, iteration_folder, read_latest, saved_iterations
from megatron_ipt.config.loading import load_recorded
from megatron_ipt.config.pretrain import PretrainConfig
from megatron_ipt.corpus.lineage import trace_lineage
from megatron_ipt.corpus.manifest import read_manifest, write_atomically
from megatron_ipt.errors import UserError
from megatron_ipt.models.accounting import parameter_count
from megatron_ipt.observability.metrics import METRICS_NAME, read_metrics
from megatron_ipt.observability.sessions import SESSIONS_NAME, read_sessions
from megatron_ipt.reporting.rows import lineage_rows
from megatron_ipt.reporting.training_run import CheckpointRow, TrainingRunReport, render_training_run

REPORT_NAME = "report.html"


def write_run_report(run: Path, file: Path) -> None:
    """Write the report of the run in folder `run`, finished or not, to `file`.

    Raises:
        UserError: `run` is not a training run, or has no metrics yet.
    """
    manifest, metrics = read_manifest(run), read_metrics(run / METRICS_NAME)
    if manifest is None or not metrics:
        reason = "it is not a training run" if manifest is None else "the run has not reported any metrics yet"
        raise UserError("run", run, reason, "give the folder that the setting `run` of a training run names")
    report = TrainingRunReport(
        run=str(run),
        is_finished=manifest.status == "complete",
        parameters=parameter_count(load_recorded(PretrainConfig, run / RUN_CONFIG_NAME).model),
        times=read_sessions(run / SESSIONS_NAME),
        versions=manifest.versions,
        config=(run / RUN_CONFIG_NAME).read_text(encoding="utf-8"),
        metrics=metrics,
        checkpoints=_checkpoints(run, metrics),
        lineage=lineage_rows(trace_lineage(run, manifest)),
    )
    write_atomically(file, render_training_run(report))


def _checkpoints(run: Path, metrics: Sequence[Mapping[str, Any]]) -> list[CheckpointRow]:
    """Return the checkpoints on disk, newest first."""
    seconds = {row["checkpoint_iteration"]: row["checkpoint_seconds"] for row in metrics if "checkpoint_seconds" in row}
    rows = []
    for iteration in saved_iterations(run):
        folder = iteration_folder(run, iteration)
        files = read_contents(folder).files
        rows.append(
            CheckpointRow(
                folder=str(folder.relative_to(run)),
                iteration=iteration,
                files=len(files),
                gib=sum(record.size_bytes for record in files) / 2**30,
                seconds=seconds.get(iteration),
                is_latest=iteration == read_latest(run),
            )
        )
    return rows
