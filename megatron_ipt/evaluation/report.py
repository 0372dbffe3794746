"""Collect the content of an evaluation's report, and write the page."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from megatron_ipt.corpus.lineage import trace_lineage
from megatron_ipt.corpus.manifest import Stage, write_atomically
from megatron_ipt.observability.metrics import METRICS_NAME, read_metrics
from megatron_ipt.reporting.evaluation import EvaluationReport, LeftOutRow, MetricRow, TaskRow, render_evaluation
from megatron_ipt.reporting.rows import lineage_rows

REPORT_NAME = "report.html"


def write_report(file: Path, results: Mapping[str, Any], stage: Stage, run: str | None) -> None:
    """Write a page with `results`, the losses of `run`, the parity check of the export and the lineage to `file`."""
    report = EvaluationReport(
        model=results["model"],
        model_sha256=results["model_sha256"],
        suite=results["suite"],
        limit=results["limit"],
        dtype=results["setting"]["dtype"],
        has_bos=results["setting"]["add_bos_token"],
        has_chat_template=results["setting"]["apply_chat_template"],
        average=results["average"],
        command_lines=results["setting"]["command_lines"],
        versions=results["versions"],
        tasks=[_task_row(name, task) for name, task in results["tasks"].items()],
        left_out=[LeftOutRow(**task) for task in results["left_out"]],
        run=run,
        metrics=[] if run is None else read_metrics(Path(run) / METRICS_NAME),
        parity=_parity(Path(results["model"])),
        lineage=lineage_rows(trace_lineage(stage.folder, stage.manifest)),
    )
    write_atomically(file, render_evaluation(report))


def _task_row(name: str, task: Mapping[str, Any]) -> TaskRow:
    metrics = {metric: MetricRow(metric, **share) for metric, share in task["metrics"].items()}
    return TaskRow(
        name=name,
        headline=metrics[task["metric"]],
        metrics=list(metrics.values()),
        **{key: value for key, value in task.items() if key not in ("metric", "metrics", "samples")},
    )


def _parity(model: Path) -> dict[str, str]:
    """Return the scalar values of the export's parity.json as text; empty if there is no such file."""
    file = model / "parity.json"
    if not file.is_file():
        return {}
    values = json.loads(file.read_text(encoding="utf-8"))
    return {key.replace("_", " "): _spell(value) for key, value in values.items() if not isinstance(value, dict | list)}


def _spell(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:.3g}" if isinstance(value, float) else str(value)
