"""Runs that start from the weights of another: what may be their base, and where it is in their lineage."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import jobs
import pytest
from pool import WorkerPool
from tiny import losses

from megatron_ipt.checkpointing.layout import CONTENTS_NAME, iteration_folder
from megatron_ipt.corpus.lineage import trace_lineage
from megatron_ipt.corpus.manifest import read_manifest, write_manifest

pytestmark = pytest.mark.distributed


def train(pool: WorkerPool, config: dict[str, Any], iterations: int) -> None:
    config["training"]["train_iters"] = iterations
    pool.run(1, jobs.pretrain, config)


def stages_behind(folder: Path) -> list[Path]:
    manifest = read_manifest(folder)
    assert manifest is not None
    return [step.folder for step in trace_lineage(folder, manifest)]


def test_base_is_in_the_lineage_and_may_not_change(pool: WorkerPool, make_config: Any) -> None:
    base = make_config("base", schedule={"lr_warmup_iters": 0})
    train(pool, base, 1)
    seal = iteration_folder(Path(base["run"]), 1) / CONTENTS_NAME
    started_from = {"pretrained_checkpoint": base["run"]}
    continued = make_config("continued", schedule={"lr_warmup_iters": 0}, checkpoint=started_from)
    train(pool, continued, 1)
    for folder in (Path(continued["run"]), iteration_folder(Path(continued["run"]), 1)):
        assert seal.parent in stages_behind(folder)

    train(pool, continued, 2)  # an undisturbed base
    train(pool, base, 2)
    continued["training"]["train_iters"] = 3
    [message] = pool.run(1, jobs.refused, continued)
    assert f"{seal.parent.name}/{CONTENTS_NAME} has changed since" in message
    assert len(losses(continued["run"])) == 2


def test_damaged_or_unfinished_base_is_refused(pool: WorkerPool, make_config: Any) -> None:
    base = make_config("base", schedule={"lr_warmup_iters": 0})
    train(pool, base, 1)
    shard = max(iteration_folder(Path(base["run"]), 1).glob("*.distcp"), key=lambda file: file.stat().st_size)
    content = bytearray(shard.read_bytes())
    content[-1] ^= 1
    shard.write_bytes(content)
    continued = make_config("continued", checkpoint={"pretrained_checkpoint": base["run"]})
    [message] = pool.run(1, jobs.refused, continued)
    assert f"{shard.name} has changed since it was saved" in message
    assert not (Path(continued["run"]) / "metrics.jsonl").exists()

    manifest = read_manifest(Path(base["run"]))
    assert manifest is not None
    write_manifest(Path(base["run"]), replace(manifest, stage="convert", status="running"))
    [message] = pool.run(1, jobs.refused, continued)
    assert "no finished checkpoint" in message
