"""The training progress of a scored model, read from the manifests in its lineage."""

from __future__ import annotations

from typing import TypedDict

import yaml

from megatron_ipt.checkpointing.layout import RUN_CONFIG_NAME
from megatron_ipt.corpus.lineage import trace_lineage
from megatron_ipt.corpus.manifest import Stage


class TrainingProgress(TypedDict):
    """Optimizer steps, and the training tokens consumed by them."""

    iteration: int
    consumed_train_tokens: int


def find_progress(stage: Stage) -> TrainingProgress | None:
    """Return the progress of the checkpoint that the evaluated model was exported from; None if it is not known."""
    for step in trace_lineage(stage.folder, stage.manifest):
        counts, config = step.manifest.counts, step.folder / RUN_CONFIG_NAME
        if "consumed_train_samples" not in counts or not config.is_file():
            continue
        sequence = yaml.safe_load(config.read_text(encoding="utf-8"))["data"]["seq_length"]
        return {
            "iteration": counts["iteration"],
            "consumed_train_tokens": counts["consumed_train_samples"] * sequence,
        }
    return None
