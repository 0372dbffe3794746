"""report.html: how a run went, what it was told, what it read and what it saved."""

from __future__ import annotations

import statistics
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from megatron_ipt.checkpointing.contents import read_contents
from megatron_ipt.checkpointing.layout import RUN_CONFIG_NAME, iteration_folder, read_latest, saved_iterations
from megatron_ipt.corpus.lineage import LineageStep, trace_lineage
from megatron_ipt.corpus.manifest import read_manifest, write_atomically
from megatron_ipt.errors import UserError
from megatron_ipt.observability.metrics import read_metrics
from megatron_ipt.observability.pages import render_page
from megatron_ipt.training.run_report.figures import (
    SOURCE_LOSS,
    SOURCE_TOKENS,
    Rows,
    draw_losses,
    draw_small,
    draw_sources,
    rank_sources,
)

REPORT_NAME = "report.html"
_METRICS_NAME = "metrics.jsonl"
_MOST_FILES_SHOWN = 6
_SMALL = (
    ("learning_rate", "learning rate", 1.0),
    ("grad_norm", "gradient norm", 1.0),
    ("tokens_per_second", "thousand tokens/s", 1e-3),
    ("mfu", "% of the GPU's peak", 100.0),
    ("tflops_per_rank", "TFLOP/s a rank", 1.0),
    ("step_seconds", "seconds a step", 1.0),
    ("data_wait_share", "% of the time waiting for data", 100.0),
    ("peak_memory_gib", "largest memory of a rank, GiB", 1.0),
)


def write_run_report(run: Path, file: Path) -> None:
    """Render the run in folder `run`, finished or not, into `file`.

    Raises:
        UserError: `run` is not a training run, or has reported nothing.
    """
    manifest, rows = read_manifest(run), read_metrics(run / _METRICS_NAME)
    if manifest is None or not rows:
        reason = "it is no training run" if manifest is None else "the run has reported nothing yet"
        raise UserError("run", run, reason, "name the folder that the configuration of a run calls `run`")
    page = render_page(
        "megatron_ipt.training.run_report",
        "report.html",
        run=run,
        status=manifest.status,
        tiles=_tiles(rows),
        losses_figure=draw_losses(rows),
        sources_figure=draw_sources(rows),
        sources=_sources(rows),
        small_figures=[
            drawn for name, label, scale in _SMALL if (drawn := draw_small(rows, name, label, scale)) is not None
        ],
        config=(run / RUN_CONFIG_NAME).read_text(encoding="utf-8"),
        versions=manifest.versions,
        checkpoints=_checkpoints(run, rows),
        lineage=[_described(step) for step in trace_lineage(run, manifest)],
    )
    write_atomically(file, page)


def _tiles(rows: Rows) -> dict[str, str]:
    """What it came to, in words and numbers."""
    training = [row for row in rows if "lm_loss" in row]
    validation = [row["validation_loss"] for row in rows if "validation_loss" in row]
    saves = [row["checkpoint_seconds"] for row in rows if "checkpoint_seconds" in row]
    tiles: dict[str, str] = {}
    if training:
        last = training[-1]
        tiles["iterations"] = f"{last['iteration']:,}"
        tiles["tokens read"] = f"{last['consumed_train_tokens']:,}"
        tiles["training loss"] = f"{training[0]['lm_loss']:.3f} → {last['lm_loss']:.3f}"
        tiles["tokens/s (median)"] = f"{statistics.median(row['tokens_per_second'] for row in training):,.0f}"
        tiles["TFLOP/s a rank"] = f"{statistics.median(row['tflops_per_rank'] for row in training):.3g}"
        if used := [row["mfu"] for row in training if "mfu" in row]:
            tiles["of the GPU's peak"] = f"{statistics.median(used):.1%}"
        tiles["skipped steps"] = f"{last['skipped_steps']:,}"
    if validation:
        tiles["validation loss"] = f"{validation[0]:.3f} → {validation[-1]:.3f}"
    if saves:
        tiles["a checkpoint (median)"] = f"{statistics.median(saves):.1f} s"
    return tiles


def _sources(rows: Rows) -> list[dict[str, Any]]:
    """Tokens and losses of each source of a blend; nothing of a run that reads one source only."""
    names = rank_sources(rows)
    counted = {name: sum(row.get(f"{SOURCE_TOKENS}{name}", 0) for row in rows) for name in names}
    table = []
    for name in names if len(names) > 1 else []:
        losses = [row[f"{SOURCE_LOSS}{name}"] for row in rows if f"{SOURCE_LOSS}{name}" in row]
        share = counted[name] / sum(counted.values())
        table.append(
            {"name": name, "tokens": counted[name], "share": share, "first_loss": losses[0], "last_loss": losses[-1]}
        )
    return table


def _checkpoints(run: Path, rows: Rows) -> list[dict[str, Any]]:
    """The checkpoints that are kept, newest first."""
    seconds = {row["checkpoint_iteration"]: row["checkpoint_seconds"] for row in rows if "checkpoint_seconds" in row}
    table = []
    for iteration in saved_iterations(run):
        folder = iteration_folder(run, iteration)
        files = read_contents(folder).files
        table.append(
            {
                "folder": folder.relative_to(run),
                "iteration": iteration,
                "files": len(files),
                "gib": sum(record.size_bytes for record in files) / 2**30,
                "seconds": seconds.get(iteration),
                "is_latest": iteration == read_latest(run),
            }
        )
    return table


def _described(step: LineageStep) -> Mapping[str, Any]:
    return {
        "stage": step.manifest.stage,
        "folder": step.folder,
        "seed": step.manifest.seed,
        "counts": {key: value for key, value in step.manifest.counts.items() if isinstance(value, int | float | str)},
        "sources": [(Path(record.path).name, record.sha256[:12]) for record in step.sources[:_MOST_FILES_SHOWN]],
        "more_sources": max(0, len(step.sources) - _MOST_FILES_SHOWN),
    }
