"""A vocabulary that the tensor ranks cannot share evenly: padded in the model, but not in what leaves it."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import conversion_jobs
import jobs
import numpy as np
import padded_jobs
import pytest
from pool import WorkerPool
from safetensors.torch import load_file
from tiny import VOCAB_SIZE, losses

from megatron_ipt.checkpointing.layout import iteration_folder

pytestmark = pytest.mark.distributed

ODD = VOCAB_SIZE + 1
PADDED = {"tensor_model_parallel_size": 2, "make_vocab_size_divisible_by": 64}
STEPS = {"train_iters": 6, "eval_iters": 0}


@pytest.mark.parametrize("is_sharded", [True, False], ids=["distributed optimizer", "plain optimizer"])
def test_checkpoints_hold_no_padding_and_load_at_any_layout(
    is_sharded: bool, pool: WorkerPool, make_config: Any
) -> None:
    sharded = {"use_distributed_optimizer": is_sharded}
    world_size = 4 if is_sharded else 2

    def config(run: str, parallel: dict[str, Any], **training: Any) -> dict[str, Any]:
        return make_config(run, model={"vocab_size": ODD}, parallel=parallel, training={**STEPS, **training})

    stopped = config("padded", {**PADDED, **sharded}, exit_interval=3)
    pool.run(world_size, jobs.pretrain, stopped)
    run = Path(stopped["run"])
    shutil.copytree(run, run.with_name("other"))
    pool.run(world_size, jobs.pretrain, config("padded", {**PADDED, **sharded}))
    pool.run(1, jobs.pretrain, config("other", sharded))

    assert len(losses(run)) == 6
    assert losses(run.with_name("other")) == pytest.approx(losses(run), rel=1e-5)
    [shapes] = pool.run(1, padded_jobs.shapes_of, str(iteration_folder(run, 6)))
    rows = {name: shape[0] for name, shape in shapes.items() if name.endswith(("embeddings.weight", "_layer.weight"))}
    assert rows == dict.fromkeys(rows, ODD)
    assert len(rows) == 2 * (4 if is_sharded else 3)  # embedding and LM head, two moments each, master weights


def test_padding_is_never_sampled_or_exported(pool: WorkerPool, make_config: Any, tmp_path: Path) -> None:
    config = make_config("run", model={"vocab_size": ODD}, parallel=PADDED, training=STEPS)
    pool.run(2, jobs.pretrain, config)
    tokens = [[1, 2, 3, 4, 250, 251, 252, 253]]
    [unpadded] = pool.run(1, padded_jobs.logits_of, config["run"], {}, tokens)
    padded = pool.run(2, padded_jobs.logits_of, config["run"], PADDED, tokens)[0]
    assert unpadded.shape[-1] == ODD
    assert padded.shape[-1] == 384
    np.testing.assert_allclose(padded[..., :ODD], unpadded, rtol=1e-4, atol=1e-5)
    likelihoods = np.exp(padded - padded.max(axis=-1, keepdims=True))
    assert likelihoods[..., ODD:].max() == 0

    settings = {"direction": "mcore-to-hf", "input": config["run"], "output": str(tmp_path / "hf")}
    pool.run(1, conversion_jobs.convert, {**settings, "parity_check": False})
    exported = load_file(tmp_path / "hf" / "model.safetensors")
    assert {len(exported[name]) for name in ("model.embed_tokens.weight", "lm_head.weight")} == {ODD}
