"""Open metrics.jsonl and the trackers of a run, with the configuration and lineage that they record."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from megatron_ipt.checkpointing.layout import RUN_CONFIG_NAME
from megatron_ipt.config.pretrain import PretrainConfig
from megatron_ipt.corpus.lineage import trace_lineage
from megatron_ipt.corpus.manifest import MANIFEST_NAME, Manifest
from megatron_ipt.observability.metrics import METRICS_NAME, MetricsLog, Tracker
from megatron_ipt.observability.wandb_tracker import WandbTracker
from megatron_ipt.training.tensorboard_tracker import TensorBoardTracker


def open_metrics(config: PretrainConfig, manifest: Manifest, resumed_iteration: int) -> MetricsLog:
    """Open metrics.jsonl and the trackers; for rank 0 only."""
    run, tracking = Path(config.run), config.tracking
    trackers: list[Tracker] = []
    if tracking.tensorboard:
        settings = (run / RUN_CONFIG_NAME).read_text(encoding="utf-8")
        trackers.append(TensorBoardTracker(run / "tensorboard", resumed_iteration, settings))
    if tracking.wandb_mode != "disabled":
        trackers.append(
            WandbTracker(
                run,
                mode=tracking.wandb_mode,
                project=tracking.wandb_project,
                name=tracking.wandb_name or run.absolute().name,
                config={**config.model_dump(), "lineage": describe_lineage(run, manifest)},
                files=[run / RUN_CONFIG_NAME, run / MANIFEST_NAME],
            )
        )
    return MetricsLog(run / METRICS_NAME, resumed_iteration, trackers)


def describe_lineage(run: Path, manifest: Manifest) -> list[dict[str, Any]]:
    """Describe the manifests behind the run, its own first: hashes of inputs, counts, settings and versions."""
    return [
        {
            "stage": step.manifest.stage,
            "folder": os.path.relpath(step.folder, run.absolute()),
            "config": step.manifest.config,
            "counts": step.manifest.counts,
            "versions": step.manifest.versions,
            "inputs": {record.path: record.sha256 for record in step.manifest.inputs},
        }
        for step in trace_lineage(run, manifest)
    ]
