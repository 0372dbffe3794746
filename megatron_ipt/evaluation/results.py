"""results.json: the scores, and everything that they depend on."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from megatron_ipt.config.evaluation import EvaluateConfig
from megatron_ipt.corpus.manifest import FileRecord
from megatron_ipt.evaluation.local_data import LeftOutTask
from megatron_ipt.evaluation.scores import Score, average_of
from megatron_ipt.evaluation.training_progress import TrainingProgress

RESULTS_NAME = "results.json"


def results_from(
    config: EvaluateConfig,
    scores: Sequence[Score],
    left_out: Sequence[LeftOutTask],
    *,
    model_sha256: str | None,
    progress: TrainingProgress | None,
    setting: dict[str, Any],
    versions: dict[str, str],
) -> dict[str, Any]:
    """Return the content of results.json; `setting` holds the arguments and choices of the harness."""
    return {
        "model": config.model,
        "model_sha256": model_sha256,
        "progress": progress,
        "suite": config.suite,
        "limit": config.limit,
        "seed": config.seed,
        "setting": setting,
        "average": average_of(scores),
        "tasks": {
            score.task: {key: value for key, value in asdict(score).items() if key != "task"} for score in scores
        },
        "left_out": [asdict(task) for task in left_out],
        "versions": versions,
    }


def folder_sha256(records: Sequence[FileRecord]) -> str:
    """Return one hash of several files, from their names and hashes, independent of their order."""
    lines = sorted(f"{record.sha256}  {Path(record.path).name}\n" for record in records)
    return hashlib.sha256("".join(lines).encode()).hexdigest()
