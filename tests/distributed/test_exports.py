"""Checkpoints that are exported beside the training."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import conversion_jobs
import jobs
import pytest
import torch
from pool import WorkerPool
from safetensors.torch import load_file

from megatron_ipt.checkpointing.layout import iteration_folder, saved_iterations
from megatron_ipt.corpus.manifest import read_manifest

pytestmark = pytest.mark.distributed


def test_kept_checkpoints_and_the_last_are_exported(pool: WorkerPool, make_config: Any, tmp_path: Path) -> None:
    rule = {"save_interval": 2, "keep_every": 4, "keep_last": 1, "export_hf": True}
    config = make_config("run", training={"train_iters": 6, "eval_iters": 0}, checkpoint=rule)
    pool.run(2, jobs.pretrain, config)
    run = Path(config["run"])
    assert saved_iterations(run) == [6, 4]
    assert {folder.name for folder in (run / "hf").iterdir()} == {"iter_0000004", "iter_0000006"}
    for iteration in (4, 6):
        exported = run / "hf" / iteration_folder(run, iteration).name
        manifest = read_manifest(exported)
        assert manifest is not None and manifest.status == "complete"
    expected = tmp_path / "hf"
    settings = {"direction": "mcore-to-hf", "input": str(run), "output": str(expected), "parity_check": False}
    pool.run(1, conversion_jobs.convert, settings)
    found, wanted = (load_file(folder / "model.safetensors") for folder in (exported, expected))
    assert found.keys() == wanted.keys()
    assert all(torch.equal(found[name], wanted[name]) for name in wanted)
