"""A new stage of training: a new run that takes over the optimizer of another with its weights."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import conversion_jobs
import jobs
import numpy as np
import pytest
from pool import WorkerPool
from tiny import VOCAB_SIZE, losses

from megatron_ipt.checkpointing.layout import iteration_folder
from megatron_ipt.cli import trace
from megatron_ipt.corpus.indexed_writer import IndexedWriter

pytestmark = pytest.mark.distributed

SHARDED = {"use_distributed_optimizer": True, "overlap_grad_reduce": True, "overlap_param_gather": True}
CASES: dict[str, tuple[int, dict[str, Any]]] = {
    "one rank": (1, {}),
    "dp2 distributed optimizer bf16": (2, {"parallel": SHARDED, "precision": {"bf16": True}}),
}
CONSTANT = {
    "optimizer": {"lr": 1e-2, "min_lr": 1e-2},
    "schedule": {"lr_decay_style": "constant", "lr_warmup_iters": 0},
}


@pytest.fixture(scope="module")
def alike(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Data whose samples of 32 tokens are all the same, so that losses do not depend on which of them are read."""
    prefix = tmp_path_factory.mktemp("alike") / "documents"
    ids = np.random.default_rng(3).integers(0, VOCAB_SIZE, 32).astype(np.uint16)
    with IndexedWriter(prefix, VOCAB_SIZE) as writer:
        for _ in range(40):
            writer.add(np.tile(ids, 20), np.array([640]))
    return {"blend": [{"prefix": str(prefix)}]}


@pytest.mark.parametrize("case", CASES)
def test_new_stage_goes_on_as_the_run_would(
    case: str, pool: WorkerPool, make_config: Any, alike: dict[str, Any]
) -> None:
    world_size, sections = CASES[case]

    def train(run: str, iterations: int, checkpoint: dict[str, Any], **training: Any) -> list[float]:
        steps = {"train_iters": iterations, "eval_iters": 0, **training}
        config = make_config(run, training=steps, data=alike, checkpoint=checkpoint, **CONSTANT, **sections)
        pool.run(world_size, jobs.pretrain, config)
        return losses(config["run"])

    whole = train("first", 8, {"save_interval": 4})
    base = {"pretrained_checkpoint": str(iteration_folder(Path(make_config("first")["run"]), 4))}
    # half the batch, and so another number of samples: the state of the schedule must not come along
    stage = train("stage", 4, {**base, "load_optimizer": True}, global_batch_size=4, exit_interval=2)
    stage = train("stage", 4, {**base, "load_optimizer": True}, global_batch_size=4)
    weights_alone = train("weights", 4, base, global_batch_size=4)
    if sections:
        assert stage == pytest.approx(whole[4:], rel=1e-3)  # sums of gradients of other lengths are rounded elsewhere
    else:
        assert stage == pytest.approx(whole[4:], rel=1e-5)
    assert weights_alone[0] == pytest.approx(whole[4], rel=1e-3)
    assert abs(weights_alone[2] - whole[6]) > 10 * abs(stage[2] - whole[6])


def test_new_stage_is_named_in_the_lineage(
    pool: WorkerPool, make_config: Any, alike: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    steps = {"train_iters": 1, "eval_iters": 0}
    first = make_config("first", training=steps, **CONSTANT)
    pool.run(1, jobs.pretrain, first)
    base = {"pretrained_checkpoint": first["run"], "load_optimizer": True}
    stage = make_config("stage", training=steps, data=alike, checkpoint=base, **CONSTANT)
    pool.run(1, jobs.pretrain, stage)
    assert trace.main([stage["run"], "--json"]) == 0
    traced = json.loads(capsys.readouterr().out)
    assert [step.get("started_from") for step in traced] == ["weights and optimizer state", None]
    assert traced[0]["made_from"] == [str(iteration_folder(Path(first["run"]), 1))]
    assert trace.main([stage["run"]]) == 0
    assert "new stage of training from weights and optimizer state" in capsys.readouterr().out

    other = make_config("stage", training={**steps, "train_iters": 2}, data=alike, **CONSTANT)
    other["checkpoint"] = {"pretrained_checkpoint": first["run"]}
    assert "started_from" in pool.run(1, jobs.refused, other)[0]


def test_checkpoint_without_the_optimizer_is_refused(pool: WorkerPool, make_config: Any, tmp_path: Path) -> None:
    steps = {"train_iters": 1, "eval_iters": 0}
    first = make_config("first", training=steps, **CONSTANT)
    pool.run(1, jobs.pretrain, first)
    exported = {"direction": "mcore-to-hf", "input": first["run"], "output": str(tmp_path / "hf")}
    imported = {"direction": "hf-to-mcore", "input": exported["output"], "output": str(tmp_path / "core")}
    for settings in (exported, imported):
        pool.run(1, conversion_jobs.convert, {**settings, "parity_check": False})
    base = {"pretrained_checkpoint": imported["output"], "load_optimizer": True}
    [message] = pool.run(1, jobs.refused, make_config("stage", training=steps, checkpoint=base, **CONSTANT))
    assert "it holds only weights" in message
    assert "checkpoint.load_optimizer=false" in message

    base = {"pretrained_checkpoint": first["run"], "load_optimizer": True}
    sharded = {"use_distributed_optimizer": True}
    config = make_config("sharded", training=steps, checkpoint=base, parallel=sharded, **CONSTANT)
    assert "was saved with False, and has a different format" in pool.run(1, jobs.refused, config)[0]
    config = make_config("none", training=steps, checkpoint={"load_optimizer": True}, **CONSTANT)
    assert "there is no checkpoint to take it from" in pool.run(1, jobs.refused, config)[0]
