"""The mean of a run's last checkpoints is a checkpoint like others: exported, traced, trained further."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import conversion_jobs
import jobs
import pytest
import torch
from pool import WorkerPool
from safetensors.torch import load_file

from megatron_ipt.checkpointing.layout import iteration_folder
from megatron_ipt.corpus.lineage import trace_lineage
from megatron_ipt.corpus.manifest import read_manifest

pytestmark = pytest.mark.distributed


def test_mean_of_the_last_checkpoints(pool: WorkerPool, make_config: Any, tmp_path: Path) -> None:
    steps = {"train_iters": 8, "eval_iters": 0}
    parallel = {"tensor_model_parallel_size": 2, "use_distributed_optimizer": True}
    config = make_config("run", training=steps, checkpoint={"save_interval": 2}, parallel=parallel)
    pool.run(2, jobs.pretrain, config)
    run, mean = Path(config["run"]), tmp_path / "mean"
    settings = {"input": str(run), "output": str(mean), "last": 3}
    [lines] = pool.run(1, conversion_jobs.average, settings)
    assert lines[-1].endswith("the mean of iter_0000008, iter_0000006, iter_0000004")
    assert "skipped" in pool.run(1, conversion_jobs.average, settings)[0][0]

    def exported(source: Path) -> dict[str, torch.Tensor]:
        output = tmp_path / f"hf_{source.parent.parent.name}_{source.name}"
        given = {"direction": "mcore-to-hf", "input": str(source), "output": str(output), "parity_check": False}
        pool.run(1, conversion_jobs.convert, given)
        tensors: dict[str, torch.Tensor] = load_file(output / "model.safetensors")
        return tensors

    averaged = exported(iteration_folder(mean, 8))
    parts = [exported(iteration_folder(run, iteration)) for iteration in (4, 6, 8)]
    for name, tensor in averaged.items():
        torch.testing.assert_close(tensor, torch.stack([part[name] for part in parts]).mean(dim=0))
        assert not torch.equal(tensor, parts[1][name])

    manifest = read_manifest(mean)
    assert manifest is not None
    stages = {step.folder for step in trace_lineage(mean, manifest)}
    assert {iteration_folder(run, iteration) for iteration in (4, 6, 8)} <= stages
    base = {"pretrained_checkpoint": str(mean)}
    further = make_config("further", training={**steps, "train_iters": 3}, checkpoint=base)
    assert pool.run(1, jobs.pretrain, further) == [3]


def test_what_cannot_be_averaged_is_refused(pool: WorkerPool, make_config: Any, tmp_path: Path) -> None:
    steps = {"train_iters": 4, "eval_iters": 0}
    config = make_config("run", training=steps, checkpoint={"save_interval": 2})
    pool.run(1, jobs.pretrain, config)
    settings = {"input": config["run"], "output": str(tmp_path / "mean"), "last": 3}
    assert "it has 2 finished checkpoints" in pool.run(1, conversion_jobs.average, settings)[0][0]
    shard = max(iteration_folder(Path(config["run"]), 2).glob("*.distcp"), key=lambda file: file.stat().st_size)
    content = bytearray(shard.read_bytes())
    content[-1] ^= 1
    shard.write_bytes(content)
    [message] = pool.run(1, conversion_jobs.average, {**settings, "last": 2})
    assert f"{shard.name} has changed since it was saved" in message[0]
    assert not (tmp_path / "mean").exists()
