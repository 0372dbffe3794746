"""A checkpoint of megatron-core's own layers goes on with Transformer Engine's, and back: `make test-te`.

No GPU is needed: layers are built, loaded and saved, and nothing is computed.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from engines import ENGINE, LOCAL, run_job, settings

DELAYED: dict[str, Any] = {"fp8": "hybrid", "fp8_recipe": "delayed"}
TENSORWISE: dict[str, Any] = {"fp8": "hybrid", "fp8_recipe": "tensorwise"}
MATRICES = {
    f"decoder.layers.{layer}.weight"
    for layer in ("self_attention.linear_qkv", "self_attention.linear_proj", "mlp.linear_fc1", "mlp.linear_fc2")
}
FP8_WEIGHTS: dict[str, Any] = {**TENSORWISE, "fp8_param_gather": True}


def run(
    folder: Path,
    engine: str,
    name: str,
    load: str | None = None,
    *,
    load_optimizer: bool = True,
    sharded: bool = False,
    payload: Path | None = None,
    optimizer: dict[str, Any] | None = None,
    **precision: Any,
) -> dict[str, Any]:
    """What was saved as `name`."""
    config = settings(
        engine,
        folder / f"{name}.run",
        parallel={"use_distributed_optimizer": sharded},
        precision=precision,
        optimizer=optimizer or {},
        checkpoint={"pretrained_checkpoint": load and str(folder / load), "load_optimizer": load_optimizer},
    )
    order = {"config": config, "save": str(folder / name), "payload": payload and str(payload)}
    return run_job("engine_job.py", order, folder / f"{name}.json")


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


def test_weights_in_fp8_are_saved_as_plain_tensors(tmp_path: Path) -> None:
    """Local layers read them in a process that has no Transformer Engine; the optimizer keeps its own precision."""
    plain = run(tmp_path, ENGINE, "plain", sharded=True)
    rounded = run(tmp_path, ENGINE, "rounded", load="plain", sharded=True, **FP8_WEIGHTS)
    back = run(tmp_path, LOCAL, "back", load="rounded", sharded=True)
    changed = {name for name in plain["tensors"] if rounded["tensors"][name] != plain["tensors"][name]}
    assert changed == MATRICES
    assert back["tensors"] == rounded["tensors"]


def test_master_weights_of_fp8_weights_are_those_of_the_checkpoint(tmp_path: Path) -> None:
    """A new run from the weights of a checkpoint rounds the model's weights to FP8, and not the optimizer's."""
    run(tmp_path, ENGINE, "plain", sharded=True)
    new: dict[str, Any] = {"load": "plain", "load_optimizer": False, "sharded": True}
    exact, rounded = run(tmp_path, ENGINE, "exact", **new), run(tmp_path, ENGINE, "rounded", **new, **FP8_WEIGHTS)
    masters = {name for name in exact["tensors"] if ".state.param." in name}
    assert masters > {f"optimizer.state.param.{name}" for name in MATRICES}
    assert {name for name in exact["tensors"] if rounded["tensors"][name] != exact["tensors"][name]} == MATRICES


def test_moments_in_bf16_are_saved_in_fp32_and_read_by_any_optimizer(tmp_path: Path) -> None:
    formats: dict[str, Any] = {
        "use_precision_aware_optimizer": True,
        "exp_avg_dtype": "bf16",
        "exp_avg_sq_dtype": "bf16",
    }
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
