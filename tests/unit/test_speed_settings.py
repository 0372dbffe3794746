"""Settings that save time or memory reach megatron-core, and are refused where they cannot work."""

from __future__ import annotations

import gc
import math
from collections.abc import Iterator
from typing import Any

import pytest
import torch

from megatron_ipt.config.checks import find_problems
from megatron_ipt.config.loading import config_from
from megatron_ipt.config.pretrain import PretrainConfig
from megatron_ipt.errors import UserError
from megatron_ipt.models.kernels import check_gpu_settings
from megatron_ipt.models.memory import MemoryEstimate, memory_of_run
from megatron_ipt.models.transformer_config import transformer_config
from megatron_ipt.optim.optimizer import optimizer_config
from megatron_ipt.parallel.groups import Groups, initialize, shutdown
from megatron_ipt.training.environment import recommended_environment, set_environment
from megatron_ipt.training.garbage import GarbageCollection
from megatron_ipt.training.loss import LossMeter
from megatron_ipt.training.model_bundle import build_model_bundle, data_parallel_config
from megatron_ipt.training.state import TrainState
from megatron_ipt.training.step import ForwardBackward

MODEL = {
    "num_layers": 4,
    "hidden_size": 64,
    "ffn_hidden_size": 128,
    "num_attention_heads": 4,
    "num_query_groups": 2,
    "vocab_size": 64,
}
GIVEN: dict[str, Any] = {
    "run": "run",
    "model": MODEL,
    "data": {"tokenizer": "none", "blend": [{"prefix": "p"}], "seq_length": 16},
    "training": {"global_batch_size": 8},
}
TP2 = "parallel.tensor_model_parallel_size=2"
FULL, SELECTIVE = "parallel.recompute_granularity=full", "parallel.recompute_granularity=selective"
AWARE = "optimizer.use_precision_aware_optimizer=true"
OFFLOAD = "optimizer.optimizer_cpu_offload=true"
FP8, ENDS = "precision.fp8=hybrid", "precision.first_last_layers_bf16=true"


def run(*overrides: str) -> PretrainConfig:
    return config_from(PretrainConfig, GIVEN, overrides)


def core_config(*overrides: str) -> Any:
    config = run("precision.transformer_impl=local", *overrides)
    return transformer_config(config.model, config.parallel, config.precision, calculate_per_token_loss=False)


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        ([], (None, None, None, ["core_attn"])),
        ([FULL], ("full", "uniform", 1, ["core_attn"])),
        ([FULL, "parallel.recompute_num_layers=2"], ("full", "uniform", 2, ["core_attn"])),
        (
            [FULL, "parallel.recompute_method=block", "parallel.recompute_num_layers=3"],
            ("full", "block", 3, ["core_attn"]),
        ),
        ([SELECTIVE], ("selective", None, None, ["core_attn"])),
        ([SELECTIVE, "parallel.recompute_modules=[mlp,layernorm]"], ("selective", None, None, ["mlp", "layernorm"])),
    ],
)
def test_recomputation_is_passed_on(overrides: list[str], expected: tuple[Any, ...]) -> None:
    core = core_config(*overrides)
    given = (core.recompute_granularity, core.recompute_method, core.recompute_num_layers, core.recompute_modules)
    assert given == expected


def test_exchange_of_gradients_is_passed_on() -> None:
    plain = data_parallel_config(run())
    assert (plain.grad_reduce_in_fp32, plain.bucket_size, plain.average_in_collective) == (True, None, False)
    names = ("parallel.bucket_size=1000", "parallel.average_in_collective=true", "precision.grad_reduce_in_fp32=false")
    given = data_parallel_config(run(*names))
    assert (given.grad_reduce_in_fp32, given.bucket_size, given.average_in_collective) == (False, 1000, True)
    assert data_parallel_config(run("precision.bf16=false")).grad_reduce_in_fp32 is False


@pytest.mark.parametrize(
    "setting",
    [
        "parallel.overlap_grad_reduce",
        "parallel.overlap_param_gather",
        "parallel.use_distributed_optimizer",
        "precision.fp8_param_gather",
    ],
)
def test_setting_of_the_exchange_is_passed_on(setting: str) -> None:
    name = setting.partition(".")[2]
    assert getattr(data_parallel_config(run()), name) is False
    assert getattr(data_parallel_config(run(f"{setting}=true")), name) is True


def test_kernels_of_a_gpu_are_passed_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    overlapped = core_config(TP2, "parallel.tp_comm_overlap=true", "parallel.sequence_parallel=true")
    assert (overlapped.tp_comm_overlap, overlapped.sequence_parallel) == (True, True)
    assert core_config("precision.cuda_graph_impl=local").cuda_graph_impl == "local"
    assert (core_config().tp_comm_overlap, core_config().cuda_graph_impl) == (False, "none")


def test_formats_of_the_optimizer_are_passed_on(monkeypatch: pytest.MonkeyPatch) -> None:
    # megatron-core asks for the version of Transformer Engine; with the offload it then goes on without the engine
    monkeypatch.setattr("megatron.core.optimizer.optimizer_config.is_te_min_version", lambda _: True)

    def translated(*overrides: str) -> Any:
        config = run("parallel.use_distributed_optimizer=true", *overrides)
        return optimizer_config(config.optimizer, config.parallel, config.precision)

    plain = translated()
    assert (plain.use_precision_aware_optimizer, plain.optimizer_cpu_offload) == (False, False)
    aware = translated(AWARE, OFFLOAD, "optimizer.exp_avg_dtype=bf16", "optimizer.main_params_dtype=fp16")
    assert (aware.use_precision_aware_optimizer, aware.store_param_remainders) == (True, False)
    assert (aware.main_params_dtype, aware.exp_avg_dtype, aware.exp_avg_sq_dtype) == (
        torch.float16,
        torch.bfloat16,
        torch.float32,
    )
    assert (aware.optimizer_cpu_offload, aware.optimizer_offload_fraction) == (True, 1.0)


@pytest.mark.parametrize(
    ("overrides", "field", "remedy"),
    [
        (["parallel.recompute_method=block"], "parallel.recompute_method", "recompute_granularity=full"),
        ([SELECTIVE, "parallel.recompute_num_layers=1"], "parallel.recompute_num_layers", "recompute_granularity=full"),
        ([FULL, "parallel.recompute_modules=[mlp]"], "parallel.recompute_modules", "recompute_granularity=selective"),
        ([FULL, "parallel.recompute_num_layers=5"], "parallel.recompute_num_layers", "use 4 at most"),
        (
            [FP8, "precision.fp8_recipe=delayed", SELECTIVE, "parallel.recompute_modules=[layernorm]"],
            "parallel.recompute_modules",
            "a different fp8_recipe",
        ),
        (
            ["parallel.average_in_collective=true", "training.calculate_per_token_loss=true"],
            "parallel.average_in_collective",
            "switch one of them off",
        ),
        (["parallel.tp_comm_overlap=true"], "parallel.tp_comm_overlap", "sequence_parallel=true"),
        (
            [AWARE, OFFLOAD, FP8, "precision.fp8_param_gather=true"],
            "optimizer.optimizer_cpu_offload",
            "switch one of them off",
        ),
        ([ENDS], "precision.first_last_layers_bf16", "precision.fp8"),
        (
            [FP8, "precision.fp8_recipe=delayed", ENDS],
            "precision.first_last_layers_bf16",
            "an fp8_recipe other than delayed",
        ),
        (
            [FP8, ENDS, "precision.num_layers_at_end_in_bf16=5"],
            "precision.num_layers_at_end_in_bf16",
            "use 4 at most",
        ),
        (["precision.cuda_graph_impl=local", FULL], "parallel.recompute_granularity", "cuda_graph_impl=none"),
        (["precision.cuda_graph_impl=local", "data.reset_attention_mask=true"], "data.reset_attention_mask", "none"),
        (["precision.cuda_graph_impl=local", "model.hidden_dropout=0.1"], "model.hidden_dropout", "none"),
        (["optimizer.exp_avg_dtype=bf16"], "optimizer.exp_avg_dtype", "use_precision_aware_optimizer=true"),
        ([OFFLOAD], "optimizer.optimizer_cpu_offload", "use_precision_aware_optimizer=true"),
        ([AWARE, "precision.bf16=false"], "optimizer.use_precision_aware_optimizer", "precision.bf16=true"),
        (
            [AWARE, "parallel.use_distributed_optimizer=false"],
            "optimizer.use_precision_aware_optimizer",
            "parallel.use_distributed_optimizer=true",
        ),
    ],
)
def test_contradictions_are_named(overrides: list[str], field: str, remedy: str) -> None:
    found = {problem.field: problem for problem in find_problems(run(*overrides), 1)}
    assert list(found) == [field]
    assert remedy in found[field].remedy


@pytest.mark.parametrize(
    "overrides",
    [
        [FULL, "parallel.recompute_method=block", "parallel.recompute_num_layers=4"],
        [SELECTIVE, "parallel.recompute_modules=[core_attn,layernorm,mlp]"],
        [FP8, ENDS, "precision.num_layers_at_end_in_bf16=2"],
        [AWARE, OFFLOAD, "optimizer.optimizer_offload_fraction=0.5", "optimizer.exp_avg_dtype=bf16"],
        ["precision.cuda_graph_impl=local", SELECTIVE],
    ],
)
def test_what_goes_together_is_taken(overrides: list[str]) -> None:
    assert find_problems(run(*overrides), 1) == []


@pytest.mark.parametrize(
    "override",
    [
        "parallel.recompute_modules=[layernorm]",
        "parallel.average_in_collective=true",
        "parallel.tp_comm_overlap=true",
        "precision.cuda_graph_impl=local",
        AWARE,
    ],
)
@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")
def test_what_needs_a_gpu_is_refused_on_a_cpu(override: str) -> None:
    with pytest.raises(UserError, match="it needs a CUDA device") as refused:
        check_gpu_settings(run(override))
    assert [problem.field for problem in refused.value.problems] == [override.partition("=")[0]]


def test_memory_estimate_follows_the_settings() -> None:
    def estimate(*overrides: str) -> MemoryEstimate:
        return memory_of_run(run(*overrides), 1, 0)

    plain = estimate()
    assert estimate("precision.grad_reduce_in_fp32=false").gradients_bytes * 2 == plain.gradients_bytes
    moments = ["optimizer.exp_avg_dtype=bf16", "optimizer.exp_avg_sq_dtype=bf16"]
    assert estimate(AWARE).optimizer_bytes == plain.optimizer_bytes
    assert estimate(AWARE, *moments).optimizer_bytes * 12 == plain.optimizer_bytes * 8
    half = "optimizer.optimizer_offload_fraction=0.5"
    assert estimate(AWARE, OFFLOAD, half).optimizer_bytes * 2 == plain.optimizer_bytes
    assert estimate(AWARE, OFFLOAD).optimizer_bytes == 0
    block = [FULL, "parallel.recompute_method=block"]
    by_layers = [estimate(*block, f"parallel.recompute_num_layers={n}").activations_bytes for n in range(1, 5)]
    assert plain.activations_bytes > by_layers[0] > by_layers[1] > by_layers[2]
    assert by_layers[3] == estimate(FULL).activations_bytes


@pytest.fixture(scope="module")
def groups() -> Iterator[Groups]:
    yield initialize(run().parallel, seed=1)
    shutdown()


def _batch(tokens: torch.Tensor) -> dict[str, Any]:
    return {
        "tokens": tokens[None],
        "labels": tokens[None].roll(1),
        "position_ids": torch.arange(16)[None],
        "loss_mask": torch.ones(1, 16),
        "attention_mask": None,
        "dataset_id": torch.zeros(1, dtype=torch.int64),
    }


def trained(groups: Groups, *overrides: str) -> list[float]:
    """The gradient norms of three steps on the same two samples."""
    from megatron_ipt.parallel.groups import seed_generators

    seed_generators(1)
    config = run("training.global_batch_size=2", *overrides)
    bundle = build_model_bundle(config, groups, "local")
    step = ForwardBackward(
        bundle, LossMeter(groups, ["all"]), data_parallel_size=1, micro_batch_size=1, seq_length=16, per_token=False
    )
    batches = [_batch(torch.arange(16) * factor % 7) for factor in (1, 3)]
    norms = []
    for _ in range(3):
        bundle.clock.start()
        for chunk in bundle.chunks:
            chunk.zero_grad_buffer()
        bundle.optimizer.zero_grad()
        step([iter(batches)], 2, forward_only=False)
        bundle.schedule.step(increment=2)
        norms.append(float(bundle.optimizer.step()[1]))
    return norms


@pytest.mark.parametrize("bf16", ["precision.bf16=false", "precision.bf16=true"])
@pytest.mark.parametrize(
    "overrides",
    [
        [FULL, "parallel.recompute_num_layers=2"],
        [FULL, "parallel.recompute_method=block", "parallel.recompute_num_layers=3"],
        [SELECTIVE, "parallel.recompute_modules=[core_attn,mlp]"],
        ["parallel.bucket_size=1000", "parallel.overlap_grad_reduce=true"],
    ],
)
def test_what_saves_memory_changes_no_bit(overrides: list[str], bf16: str, groups: Groups) -> None:
    plain = trained(groups, bf16)
    assert len(set(plain)) == 3 and all(map(math.isfinite, plain))
    assert trained(groups, bf16, *overrides) == plain


def test_gradients_in_bf16_are_those_in_fp32_rounded(groups: Groups) -> None:
    rounded = trained(groups, "precision.grad_reduce_in_fp32=false")
    exact = trained(groups)
    assert rounded != exact
    assert rounded == pytest.approx(exact, rel=0.02)


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ([], [0, 3, 4, 6, 8]),
        (["training.manual_gc_eval=false"], [0, 3, 6]),
        (["training.eval_iters=0"], [0, 3, 6]),
        (["training.manual_gc_interval=0"], [0, 4, 8]),
    ],
)
def test_garbage_is_collected_between_steps_alone(settings: list[str], expected: list[int]) -> None:
    class Context:
        config = run(
            "training.manual_gc=true",
            "training.manual_gc_interval=3",
            "training.eval_interval=4",
            "training.eval_iters=1",
            *settings,
        )

    collected: list[int] = []
    state = TrainState()

    def note(phase: str, info: dict[str, int]) -> None:
        if phase == "start":
            assert info["generation"] == 2
            collected.append(state.iteration)

    callback = GarbageCollection(Context())
    gc.callbacks.append(note)
    try:
        callback.start(state)
        assert not gc.isenabled()
        for _ in range(8):
            state.iteration += 1
            kept = [[] for _ in range(10_000)]  # enough for Python to collect by itself
            callback.between_steps(state)
        assert kept
    finally:
        gc.callbacks.remove(note)
        callback.close()
    assert gc.isenabled()
    assert collected == expected


def test_environment_of_recipes_follows_from_the_layout() -> None:
    always = {
        "PYTORCH_CUDA_ALLOC_CONF",
        "NCCL_NVLS_ENABLE",
        "TORCH_NCCL_HIGH_PRIORITY",
        "NVTE_FWD_LAYERNORM_SM_MARGIN",
        "NVTE_BWD_LAYERNORM_SM_MARGIN",
    }
    assert set(recommended_environment(run())) == always
    assert recommended_environment(run(TP2))["CUDA_DEVICE_MAX_CONNECTIONS"] == "1"
    added = set(
        recommended_environment(run("parallel.pipeline_model_parallel_size=2", "precision.cuda_graph_impl=local"))
    )
    assert added - always == {"NCCL_P2P_NET_CHUNKSIZE", "NCCL_GRAPH_REGISTER"}


def test_environment_that_is_set_is_kept(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    from megatron_ipt.config import gpus

    monkeypatch.setenv("NCCL_NVLS_ENABLE", "1")
    monkeypatch.delenv("CUDA_DEVICE_MAX_CONNECTIONS", raising=False)
    monkeypatch.setattr(gpus, "_DRIVER", tmp_path / "nvidiactl")
    import os

    monkeypatch.setattr(os, "environ", dict(os.environ))
    set_environment(run(TP2))
    assert "CUDA_DEVICE_MAX_CONNECTIONS" not in os.environ
    (tmp_path / "nvidiactl").touch()
    set_environment(run(TP2))
    assert (os.environ["CUDA_DEVICE_MAX_CONNECTIONS"], os.environ["NCCL_NVLS_ENABLE"]) == ("1", "1")
