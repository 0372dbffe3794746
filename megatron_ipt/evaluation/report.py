"""report.html: one page that needs nothing beside it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from megatron_ipt.corpus.lineage import LineageStep, trace_lineage
from megatron_ipt.corpus.manifest import Stage, write_atomically
from megatron_ipt.evaluation.figures import draw_losses, draw_scores
from megatron_ipt.observability.metrics import read_metrics
from megatron_ipt.observability.pages import render_page
from megatron_ipt.stages import title_of

REPORT_NAME = "report.html"
_MOST_FILES_SHOWN = 6


def write_report(file: Path, results: Mapping[str, Any], stage: Stage, run: str | None) -> None:
    """Render `results`, the loss curve of `run`, the export's parity check and the chain of manifests into `file`."""
    metrics = [] if run is None else read_metrics(Path(run) / "metrics.jsonl")
    page = render_page(
        "megatron_ipt.evaluation",
        "report.html",
        results=results,
        scores_figure=draw_scores(results["tasks"]),
        losses_figure=draw_losses(metrics),
        training=_training_figures(metrics),
        run=run,
        parity=_parity(Path(results["model"])),
        lineage=[_described(step) for step in trace_lineage(stage.folder, stage.manifest)],
    )
    write_atomically(file, page)


def _training_figures(metrics: list[dict[str, Any]]) -> dict[str, str]:
    """What the run came to, in words and numbers."""
    training = [row for row in metrics if "lm_loss" in row]
    validation = [row["validation_loss"] for row in metrics if "validation_loss" in row]
    figures: dict[str, str] = {}
    if training:
        figures["iterations"] = f"{training[-1]['iteration']:,}"
        figures["tokens read"] = f"{training[-1].get('consumed_train_tokens', 0):,}"
        figures["training loss"] = f"{training[0]['lm_loss']:.2f} → {training[-1]['lm_loss']:.2f}"
    if validation:
        figures["validation loss"] = f"{validation[0]:.2f} → {validation[-1]:.2f}"
    return figures


def _parity(model: Path) -> dict[str, str] | None:
    """The plain values of the export's parity.json, in words."""
    file = model / "parity.json"
    if not file.is_file():
        return None
    values = json.loads(file.read_text(encoding="utf-8"))
    return {
        key.replace("_", " "): _in_words(value) for key, value in values.items() if not isinstance(value, dict | list)
    }


def _in_words(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def _described(step: LineageStep) -> dict[str, Any]:
    manifest = step.manifest
    return {
        "title": title_of(manifest.stage),
        "stage": manifest.stage,
        "folder": str(step.folder),
        "seed": manifest.seed,
        "counts": {key.replace("_", " "): value for key, value in manifest.counts.items()},
        "sources": [(Path(record.path).name, record.sha256[:12]) for record in step.sources[:_MOST_FILES_SHOWN]],
        "more_sources": max(0, len(step.sources) - _MOST_FILES_SHOWN),
    }
