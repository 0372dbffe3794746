"""What a run tells of itself: every iteration once, whatever stopped it, in metrics.jsonl, TensorBoard and W&B."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jobs
import pytest
from pool import WorkerPool
from tensorboard.backend.event_processing.plugin_event_accumulator import EventAccumulator

from megatron_ipt.observability.metrics import read_metrics

pytestmark = pytest.mark.distributed

TRAINING = {"train_iters": 10, "log_interval": 4, "eval_interval": 6}
TRACKING = {"tensorboard": True, "wandb_mode": "offline"}
OF_THE_CLOCK = ("seconds", "tokens_per", "tflops", "memory", "data_wait")


def rows_of(run: str, name: str) -> list[dict[str, Any]]:
    """The figures of a run that follow from its seed, of the lines that hold `name`."""
    rows = [row for row in read_metrics(Path(run) / "metrics.jsonl") if name in row]
    return [{key: row[key] for key in row if not any(word in key for word in OF_THE_CLOCK)} for row in rows]


def test_a_run_stopped_within_an_interval_reports_as_the_undisturbed_one(pool: WorkerPool, make_config: Any) -> None:
    undisturbed = make_config("undisturbed", training=TRAINING)
    pool.run(1, jobs.pretrain, undisturbed)
    stopped = [
        make_config("stopped", training={**TRAINING, "exit_interval": interval}, tracking=TRACKING)
        for interval in (3, 7, 10)
    ]
    reached = [pool.run(1, jobs.pretrain, config)[0] for config in stopped]
    run = Path(stopped[0]["run"])

    assert reached == [3, 7, 10]
    assert rows_of(str(run), "lm_loss") == rows_of(undisturbed["run"], "lm_loss")
    assert [row["iteration"] for row in rows_of(undisturbed["run"], "lm_loss")] == [4, 8, 10]

    curves = EventAccumulator(str(run / "tensorboard"))
    curves.Reload()
    assert [event.step for event in curves.Tensors("lm_loss")] == [4, 8, 10]
    assert curves.Tensors("source_loss/documents")[-1].tensor_proto.float_val[0] == pytest.approx(
        rows_of(undisturbed["run"], "lm_loss")[-1]["lm_loss"]
    )

    run_id = (run / "wandb_run_id.txt").read_text(encoding="utf-8").strip()
    parts = sorted((run / "wandb").glob("offline-run-*"))
    assert len(parts) == 3
    assert all(part.name.endswith(f"-{run_id}") for part in parts)
    assert {file.name for file in (parts[-1] / "files").iterdir()} >= {"manifest.json", "run_config.yaml"}
