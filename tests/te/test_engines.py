"""A checkpoint of megatron-core's own layers goes on with Transformer Engine's, and back: `make test-te`.

No GPU is needed: layers are built, loaded and saved, and nothing is computed.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

JOB = Path(__file__).with_name("engine_job.py")
LOCAL, ENGINE = "local", "transformer_engine"
MODEL = {
    "num_layers": 2,
    "hidden_size": 64,
    "ffn_hidden_size": 128,
    "num_attention_heads": 4,
    "num_query_groups": 2,
    "vocab_size": 256,
}
DELAYED = {"fp8": "hybrid", "fp8_recipe": "delayed"}
TENSORWISE = {"fp8": "hybrid", "fp8_recipe": "tensorwise"}


def run(
    folder: Path,
    engine: str,
    name: str,
    load: str | None = None,
    *,
    sharded: bool = False,
    payload: Path | None = None,
    optimizer: dict[str, Any] | None = None,
    **precision: Any,
) -> dict[str, Any]:
    """What was saved as `name`."""
    config = {
        "run": "none",
        "model": MODEL,
        "data": {"tokenizer": "none", "seq_length": 16},
        "parallel": {"use_distributed_optimizer": sharded},
        "precision": {"transformer_impl": engine, **precision},
        "optimizer": optimizer or {},
        "training": {"global_batch_size": 1},
    }
    order = {
        "engine": engine,
        "config": config,
        "load": load and str(folder / load),
        "save": str(folder / name),
        "payload": payload and str(payload),
    }
    file = folder / f"{name}.json"
    file.write_text(json.dumps(order), encoding="utf-8")
    done = subprocess.run([sys.executable, JOB, file], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-4000:]
    described: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return described


@pytest.mark.parametrize("sharded", [False, True], ids=["whole optimizer", "distributed optimizer"])
def test_checkpoint_goes_on_with_the_other_engine_and_back(sharded: bool, tmp_path: Path) -> None:
    local = run(tmp_path, LOCAL, "local", sharded=sharded)
    engine = run(tmp_path, ENGINE, "engine", load="local", sharded=sharded)
    back = run(tmp_path, LOCAL, "back", load="engine", sharded=sharded)
    assert (local["adam"].startswith("torch."), engine["adam"].startswith("transformer_engine.")) == (True, True)
    assert len(local["tensors"]) > 30
    assert engine["tensors"] == local["tensors"]
    assert back["tensors"] == local["tensors"]
    assert local["step"] == engine["step"] == back["step"] == [7.0]
    assert (engine["settings"], back["settings"]) == (["bias_correction"], local["settings"])


def test_scales_of_delayed_scaling_are_kept(tmp_path: Path) -> None:
    saved = run(tmp_path, ENGINE, "saved", sharded=True, **DELAYED)
    assert len(set(saved["scales"].values())) == len(saved["scales"]) == 32
    assert run(tmp_path, ENGINE, "resumed", load="saved", sharded=True, **DELAYED) == saved


def test_run_goes_on_with_another_recipe(tmp_path: Path) -> None:
    """Scales that a checkpoint lacks start anew, and those that a run has no use for are left."""
    plain = run(tmp_path, ENGINE, "plain", sharded=True)
    delayed = run(tmp_path, ENGINE, "delayed", load="plain", sharded=True, **DELAYED)
    tensorwise = run(tmp_path, ENGINE, "tensorwise", load="delayed", sharded=True, **TENSORWISE)
    assert plain["tensors"] == delayed["tensors"] == tensorwise["tensors"]


def test_moments_in_bf16_are_saved_in_fp32_and_read_by_any_optimizer(tmp_path: Path) -> None:
    formats = {"use_precision_aware_optimizer": True, "exp_avg_dtype": "bf16", "exp_avg_sq_dtype": "bf16"}
    plain = run(tmp_path, ENGINE, "plain", sharded=True)
    rounded = run(tmp_path, ENGINE, "rounded", load="plain", sharded=True, optimizer=formats)
    resumed = run(tmp_path, ENGINE, "resumed", load="rounded", sharded=True, optimizer=formats)
    back = run(tmp_path, ENGINE, "back", load="rounded", sharded=True)
    changed = {name for name in plain["tensors"] if rounded["tensors"][name] != plain["tensors"][name]}
    assert changed == {name for name in plain["tensors"] if ".exp_avg" in name}
    assert resumed["tensors"] == back["tensors"] == rounded["tensors"]
    assert resumed["step"] == back["step"] == [7.0]


def test_pickles_in_the_extra_state_of_an_earlier_version_are_not_read(tmp_path: Path) -> None:
    proof = tmp_path / "proof"
    hostile = run(tmp_path, ENGINE, "hostile", sharded=True, payload=proof)
    for engine in (ENGINE, LOCAL):
        loaded = run(tmp_path, engine, f"loaded_{engine}", load="hostile", sharded=True)
        assert loaded["tensors"] == hostile["tensors"]
    assert not proof.exists()
