"""Scores of checkpoints go to the W&B run of their training run."""

from __future__ import annotations

from pathlib import Path

from megatron_ipt.observability.wandb_tracker import RUN_ID_NAME, add_scores


def test_scores_are_added_to_the_runs_own_wandb_run(tmp_path: Path) -> None:
    (tmp_path / RUN_ID_NAME).write_text("0123456789ab\n", encoding="utf-8")
    rows = [{"iteration": 10, "eval/piqa": 0.5}, {"iteration": 20, "eval/piqa": 0.625}]
    add_scores(tmp_path, mode="offline", project="megatron-ipt", rows=rows)
    (part,) = (tmp_path / "wandb").glob("offline-run-*")
    assert part.name.endswith("-0123456789ab")
    told = (part / "run-0123456789ab.wandb").read_bytes()
    assert all(word in told for word in (b"eval/piqa", b"eval/iteration", b"0.625"))
