"""The planner: what fits is what the estimate says, what does not is refused with sizes that do."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from megatron_ipt.cli.plan import main
from megatron_ipt.config.checks import find_problems
from megatron_ipt.config.gpus import GPUS
from megatron_ipt.config.layout import data_parallel_size
from megatron_ipt.config.loading import config_from, load_config
from megatron_ipt.config.model import ModelConfig
from megatron_ipt.config.plan import PlanConfig
from megatron_ipt.config.pretrain import PretrainConfig
from megatron_ipt.errors import UserError
from megatron_ipt.models.accounting import flops_per_token
from megatron_ipt.models.memory import memory_of_run
from megatron_ipt.planning.plan import Plan, make_plan
from megatron_ipt.planning.table import overrides_of

EXAMPLES = Path(__file__).parents[2] / "examples"


def plan(preset: str = "instructlm-1.3b", **values: Any) -> Plan:
    return make_plan(config_from(PlanConfig, {"model": {"preset": preset}, "gpus": 8, **values}))


def refusal(**values: Any) -> UserError:
    with pytest.raises(UserError) as caught:
        make_plan(config_from(PlanConfig, {"gpus": 8, **values}))
    return caught.value


@pytest.mark.parametrize("context", [None, 2])
def test_every_layout_is_one_that_the_trainer_takes(context: int | None) -> None:
    estimates = plan("instructlm-500m", gpus=16, global_batch_size=256, context_parallel_size=context).estimates
    assert len(estimates) > 10
    contexts = {estimate.layout.context_parallel_size for estimate in estimates}
    assert contexts == ({1, 2, 4, 8} if context is None else {context})
    assert {estimate.layout.virtual_pipeline_model_parallel_size for estimate in estimates} >= {None, 2, 4}
    for estimate in estimates:
        run = config_from(
            PretrainConfig,
            {
                "run": "run",
                "model": {"preset": "instructlm-500m"},
                "data": {"tokenizer": "t", "blend": [{"prefix": "p"}]},
                "training": {"global_batch_size": 256},
            },
            overrides_of(estimate),
        )
        assert find_problems(run, 16) == []
        assert run.parallel == estimate.layout.parallel
        sharers = estimate.layout.data_parallel_size * estimate.layout.context_parallel_size
        assert run.parallel.overlap_grad_reduce == (sharers > 1)
        assert estimate.memory.total_bytes <= 79.1 * 2**30 * 0.9


def test_fastest_layout_comes_first_and_the_budget_follows_from_its_speed() -> None:
    found = plan(train_tokens=1e11, cost_per_gpu_hour=2.5, mfu=0.5)
    best = found.estimates[0]
    assert best.layout.tensor_model_parallel_size == best.layout.pipeline_model_parallel_size == 1
    assert not best.layout.recompute
    speeds = [estimate.tokens_per_second for estimate in found.estimates]
    assert speeds == sorted(speeds, reverse=True)
    flops = flops_per_token(ModelConfig(preset="instructlm-1.3b"), 2048)
    assert best.tokens_per_second == pytest.approx(8 * 989.4e12 * 0.5 / flops, rel=0.01)
    assert best.days == pytest.approx(1e11 / best.tokens_per_second / 86400)
    assert best.cost == pytest.approx(best.days * 24 * 8 * 2.5)


def test_recomputation_and_pipelines_cost_time_and_save_memory() -> None:
    [kept] = plan(
        tensor_model_parallel_size=1, pipeline_model_parallel_size=1, context_parallel_size=1, recompute=False
    ).estimates
    least, again = plan(
        tensor_model_parallel_size=1, pipeline_model_parallel_size=1, context_parallel_size=1, recompute=True
    ).estimates
    assert again.memory.activations_bytes < kept.memory.activations_bytes / 2
    assert again.tokens_per_second == pytest.approx(kept.tokens_per_second * 3 / 4, rel=0.01)
    assert (least.layout.recompute_num_layers, again.layout.recompute_num_layers) == (1, None)
    assert again.tokens_per_second < least.tokens_per_second < kept.tokens_per_second
    sizes = {"pipeline_model_parallel_size": 4, "tensor_model_parallel_size": 1, "context_parallel_size": 1}
    piped, *interleaved = sorted(
        plan(**sizes, micro_batch_size=1, recompute=False).estimates,
        key=lambda one: one.layout.virtual_pipeline_model_parallel_size or 1,
    )
    num_microbatches = piped.layout.num_microbatches
    assert piped.pipeline_idle_share == pytest.approx(3 / (num_microbatches + 3), rel=0.01)
    assert piped.memory.weights_bytes < kept.memory.weights_bytes / 3
    assert [one.layout.virtual_pipeline_model_parallel_size for one in interleaved] == [5]
    assert interleaved[0].pipeline_idle_share == pytest.approx(piped.pipeline_idle_share / 5, rel=0.05)
    # of a rank's 5 chunks, 23 hold a micro-batch: 2 x 3 to fill the pipeline, 4 x 4 for the other chunks, and one;
    # 26 tensors between them take 5% more
    share = interleaved[0].memory.activations_bytes / piped.memory.activations_bytes
    assert share == pytest.approx(1.05 * 23 / 5 / 4, rel=0.05)


def test_context_parallelism_shares_the_samples_and_the_optimizer() -> None:
    sizes = {"gpus": 8, "tensor_model_parallel_size": 1, "pipeline_model_parallel_size": 1, "recompute": False}
    common = {**sizes, "gpu": "b200", "seq_length": 8192, "micro_batch_size": 1}
    [whole] = plan("llama3-8b", **common, context_parallel_size=1).estimates
    shared = {"context_parallel_size": 4, "global_batch_size": 256}
    [part] = plan("llama3-8b", **common, **shared).estimates
    assert 0 == whole.step.context_seconds < part.step.context_seconds
    assert part.layout.data_parallel_size == 2
    assert part.memory.optimizer_bytes == whole.memory.optimizer_bytes
    assert part.memory.activations_bytes == pytest.approx(whole.memory.activations_bytes / 4, rel=0.1)


PUBLISHED = {"seq_length": 8192, "global_batch_size": 128, "micro_batch_size": 1, "recompute": False}


def test_fp8_keeps_the_matrices_twice_more_and_the_inputs_of_matrix_products_in_one_byte() -> None:
    sizes = {"tensor_model_parallel_size": 2, "pipeline_model_parallel_size": 1, "context_parallel_size": 1}
    common = {**sizes, "gpu": "b200", "seq_length": 8192, "global_batch_size": 128, "recompute": False}
    (bf16,), (fp8,), (gathered,) = (
        plan("llama3-8b", **common, micro_batch_size=1, precision=precision).estimates
        for precision in ({}, {"fp8": "hybrid"}, {"fp8": "hybrid", "fp8_param_gather": True})
    )
    assert (fp8.memory.weights_bytes - bf16.memory.weights_bytes) / 2**30 == pytest.approx(6.5, abs=0.01)
    assert gathered.memory.weights_bytes == bf16.memory.weights_bytes
    assert 0.8 < fp8.memory.activations_bytes / bf16.memory.activations_bytes < 0.95
    assert gathered.step.data_seconds < fp8.step.data_seconds


def test_communication_costs_time_where_it_is_not_hidden() -> None:
    sizes = {"pipeline_model_parallel_size": 1, "seq_length": 8192, "recompute": False, "gpu": "b200"}
    common = {**sizes, "context_parallel_size": 1, "micro_batch_size": 1, "global_batch_size": 512}
    [alone], [two], [eight] = (
        plan("llama3-8b", **common, gpus=64, tensor_model_parallel_size=tensor).estimates for tensor in (1, 2, 8)
    )
    assert alone.step.tensor_seconds == 0 < two.communication_share < eight.communication_share
    [slow] = plan("llama3-8b", **common, gpus=64, tensor_model_parallel_size=1, network_gbits=10).estimates
    assert slow.tokens_per_second < 0.6 * alone.tokens_per_second
    speeds = [
        plan("llama3-8b", **common, gpus=gpus, tensor_model_parallel_size=1).estimates[0].tokens_per_second / gpus
        for gpus in (8, 64, 512)
    ]
    assert speeds == sorted(speeds, reverse=True)
    assert 0.9 < speeds[2] / speeds[0] < 0.995


def test_ring_of_ranks_moves_all_but_a_rank_s_own_part() -> None:
    """Llama-3-8B over 2 tensor ranks of 8: 6 exchanges a layer of half the activations of a micro-batch."""
    sizes = {"tensor_model_parallel_size": 2, "pipeline_model_parallel_size": 1, "context_parallel_size": 1}
    common = {**sizes, "seq_length": 8192, "global_batch_size": 4, "micro_batch_size": 1, "recompute": False}
    [one] = plan("llama3-8b", **common, gpu="h200").estimates
    assert one.step.tensor_seconds == pytest.approx(32 * 6 * (8192 * 4096 * 2 / 2 / (0.8 * 450e9) + 5e-6))


def test_published_layouts_are_found_at_about_their_speed() -> None:
    """NeMo 24.12 on H100s in FP8: Llama-3-8B 12,273 and 70B 1,524 tokens/s a GPU, the first with bf16 gradients."""
    sizes = {"tensor_model_parallel_size": 4, "pipeline_model_parallel_size": 4, "context_parallel_size": 2}
    [large] = plan(
        "llama3-70b",
        **PUBLISHED,
        **sizes,
        gpus=64,
        virtual_pipeline_model_parallel_size=5,
        memory_reserve=0.05,
        precision={"fp8": "hybrid"},
    ).estimates
    assert 0.7 < large.tokens_per_second / 64 / 1524 < 1
    sizes = {"tensor_model_parallel_size": 1, "pipeline_model_parallel_size": 1, "context_parallel_size": 2}
    precision = {"fp8": "hybrid", "grad_reduce_in_fp32": False}
    [small] = plan("llama3-8b", **PUBLISHED, **sizes, memory_reserve=0.05, precision=precision).estimates
    assert 0.7 < small.tokens_per_second / 8 / 12273 < 1


WHOLE = {"tensor_model_parallel_size": 1, "pipeline_model_parallel_size": 1, "context_parallel_size": 1}
BF16_MOMENTS = {"use_precision_aware_optimizer": True, "exp_avg_dtype": "bf16", "exp_avg_sq_dtype": "bf16"}


def test_only_as_many_layers_are_recomputed_as_have_to_be() -> None:
    common = {**WHOLE, **PUBLISHED, "recompute": None, "precision": {"grad_reduce_in_fp32": False}}
    some, all_layers = plan("llama3-8b", **common).estimates
    assert all_layers.layout.recompute_num_layers is None
    number = some.layout.recompute_num_layers
    assert number is not None and 1 < number < 32
    assert some.step.compute_seconds / all_layers.step.compute_seconds == pytest.approx((1 + number / 32 / 3) * 3 / 4)
    given = {
        "run": "run",
        "model": {"preset": "llama3-8b"},
        "data": {"tokenizer": "t", "blend": [{"prefix": "p"}], "seq_length": 8192},
        "training": {"global_batch_size": 128},
        "precision": {"grad_reduce_in_fp32": False},
    }
    run = config_from(PretrainConfig, given, overrides_of(some))
    assert find_problems(run, 8) == []
    assert memory_of_run(run, 8, 0) == some.memory
    fewer = [*overrides_of(some), f"parallel.recompute_num_layers={number - 1}"]
    needed = memory_of_run(config_from(PretrainConfig, given, fewer), 8, 0).total_bytes
    assert some.memory.total_bytes <= 79.1 * 0.9 * 2**30 < needed


def test_nothing_is_recomputed_where_a_smaller_micro_batch_fits_without() -> None:
    estimates = plan(**WHOLE, gpu="a100-40gb", global_batch_size=64).estimates
    assert [(one.layout.recompute, one.layout.recompute_num_layers) for one in estimates] == [
        (False, None),
        (True, None),
    ]
    assert estimates[0].layout.micro_batch_size < estimates[1].layout.micro_batch_size


def test_formats_of_gradients_and_moments_are_counted() -> None:
    common = {**WHOLE, **PUBLISHED, "gpu": "b200"}
    (fp32,), (gradients,), (moments,) = (
        plan("llama3-8b", **common, **formats).estimates
        for formats in ({}, {"precision": {"grad_reduce_in_fp32": False}}, {"optimizer": BF16_MOMENTS})
    )
    assert gradients.memory.gradients_bytes == fp32.memory.gradients_bytes / 2
    assert gradients.memory.optimizer_bytes == fp32.memory.optimizer_bytes
    assert moments.memory.optimizer_bytes == pytest.approx(fp32.memory.optimizer_bytes * 8 / 12)
    assert moments.memory.gradients_bytes == fp32.memory.gradients_bytes
    slow = {**common, "gpus": 16, "network_gbits": 10}
    (fp32,), (gradients,) = (
        plan("llama3-8b", **slow, precision={"grad_reduce_in_fp32": is_fp32}).estimates for is_fp32 in (True, False)
    )
    assert gradients.step.data_seconds < fp32.step.data_seconds


def test_host_memory_of_a_checkpoint_is_a_share_of_all_ranks() -> None:
    common = {"tensor_model_parallel_size": 1, "pipeline_model_parallel_size": 1, "context_parallel_size": 1}
    [node] = plan(**common, recompute=False).estimates
    [two_nodes] = plan(**common, recompute=False, gpus=16).estimates
    assert node.checkpoint_host_bytes == pytest.approx(14 * 1_347_504_128, rel=1e-6)
    assert two_nodes.checkpoint_host_bytes == pytest.approx(7 * 1_347_504_128, rel=1e-6)


def test_what_does_not_fit_is_refused_and_the_remedy_fits() -> None:
    [problem] = refusal(model={"preset": "llama3-8b"}, gpus=1).problems
    assert problem.field == "gpus" and "recomputation) needs" in problem.reason
    gpus = int(re.search(r"\d+", problem.remedy)[0])  # "it fits on N GPUs with ..."
    assert gpus > 1 and plan("llama3-8b", gpus=gpus).estimates


def test_memory_of_the_gpu_decides() -> None:
    assert plan("mistral-7b", gpu="h200", tensor_model_parallel_size=1, pipeline_model_parallel_size=1, recompute=False)
    error = refusal(
        model={"preset": "mistral-7b"},
        gpu="l4",
        tensor_model_parallel_size=1,
        pipeline_model_parallel_size=1,
        recompute=False,
    )
    assert "it fits on" in error.problems[0].remedy


@pytest.mark.parametrize(
    ("values", "field", "told"),
    [
        ({}, "model.preset", "instructlm-500m"),
        ({"model": {"preset": "llama3-8b"}, "tensor_model_parallel_size": 3}, None, "use one of 1, 2, 4, 8"),
        ({"model": {"preset": "instructlm-1.3b"}, "pipeline_model_parallel_size": 3}, None, "divides the number"),
        ({"model": {"preset": "instructlm-500m"}, "seq_length": 4096}, "data.seq_length", "max_position_embeddings"),
        ({"model": {"preset": "instructlm-1.3b"}, "gpus": 6, "global_batch_size": 32}, "global_batch_size", "30 or 33"),
        ({"model": {"preset": "instructlm-1.3b"}, "context_parallel_size": 3}, "data.seq_length", "multiple of 6"),
        ({"model": {"preset": "instructlm-1.3b"}, "gpu": "h20"}, "gpu", "did you mean h200?"),
        ({"model": {"preset": "instructlm-1.3b"}, "gpu": "l4x"}, "gpu", "did you mean l4?"),
        ({"model": {"preset": "instructlm-1.3b"}, "gpu": "a100-80gb", "precision": {"fp8": "hybrid"}}, "gpu", "FP8"),
        ({"model": {"preset": "instructlm-1.3b"}, "gpus": 0}, "gpus", "must be >= 1"),
        ({"model": {"preset": "instructlm-1.3b"}, "micro_batch_size": 3}, "global_batch_size", "255 or 258"),
        ({"model": {"preset": "instructlm-1.3b"}, "train_tokens": -1e9}, "train_tokens", "must be > 0"),
        ({"model": {"preset": "instructlm-1.3b"}, "mfu": 40}, "mfu", "must be > 0, <= 1"),
        ({"model": {"preset": "instructlm-1.3b"}, "memory_reserve": 1.0}, "memory_reserve", "must be >= 0, < 1"),
        ({"model": {"preset": "instructlm-1.3b"}, "cost_per_gpu_hour": 2.0}, "train_tokens", "1e11"),
        ({"model": {"preset": "instructlm-1.3b"}, "optimizer": {"optimizer": "muon"}}, "optimizer.optimizer", "adam"),
        (
            {"model": {"preset": "instructlm-1.3b"}, "optimizer": {"exp_avg_dtype": "bf16"}},
            "optimizer.exp_avg_dtype",
            "use_precision_aware_optimizer=true",
        ),
    ],
)
def test_refusals_tell_what_works(values: dict[str, Any], field: str | None, told: str) -> None:
    error = refusal(**values)
    assert field in (None, error.problems[0].field)
    assert told in str(error)


def test_sizes_that_are_proposed_work() -> None:
    for batch in (30, 33):
        assert plan(gpus=6, global_batch_size=batch).estimates
    for tensor in (1, 2, 4, 8):
        assert plan("llama3-8b", gpus=16, tensor_model_parallel_size=tensor).estimates


def rows_of_presets() -> list[list[str]]:
    lines = (EXAMPLES.parent / "docs" / "guides" / "planning.md").read_text(encoding="utf-8").splitlines()
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines if line.startswith("| `")]


@pytest.mark.parametrize("row", [pytest.param(row, id=row[0].strip("`")) for row in rows_of_presets()])
def test_the_guide_shows_the_fastest_layouts_of_presets(row: list[str]) -> None:
    found = plan(row[0].strip("`"), gpus=32, seq_length=4096, global_batch_size=512)
    best = found.estimates[0]
    layout = best.layout
    sizes = {
        "TP": layout.tensor_model_parallel_size,
        "PP": layout.pipeline_model_parallel_size,
        "VP": layout.virtual_pipeline_model_parallel_size or 1,
        "CP": layout.context_parallel_size,
    }
    assert (layout.micro_batch_size, layout.recompute) == (1, False)
    assert row[1:] == [
        f"{found.parameters:,}",
        " ".join(f"{name}{size}" for name, size in sizes.items() if size > 1),
        f"{best.memory.total_bytes / 2**30:.1f}",
        f"{best.tokens_per_second / 32:,.0f}",
    ]


@pytest.mark.parametrize("example", ["general_500m", "general_1b", "medicine_llama3_8b", "finance_llama3_8b"])
def test_examples_fit_on_the_machine_they_are_written_for(example: str) -> None:
    run = load_config(PretrainConfig, EXAMPLES / example / "pretrain.yaml")
    memory = memory_of_run(run, data_parallel_size(run.parallel, 8), stage=0)
    assert memory.total_bytes < GPUS["h100"].memory_gib * 2**30 * 0.9


def test_json_holds_every_layout_with_its_settings(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["model.preset=instructlm-500m", "gpus=4", "train_tokens=1e10", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["parameters"] == 567_854_592
    assert len(told["estimates"]) == len(plan("instructlm-500m", gpus=4).estimates)
    for estimate in told["estimates"]:
        memory = estimate["memory"]
        assert memory["total_bytes"] == sum(size for name, size in memory.items() if name != "total_bytes")
        assert "parallel.use_distributed_optimizer=true" in estimate["overrides"]
        assert estimate["days"] > 0 and estimate["cost"] is None


def test_table_fits_a_terminal_and_refusals_exit_with_2(capsys: pytest.CaptureFixture[str]) -> None:
    assert (
        main(["model.preset=instructlm-1.3b", "gpus=8", "train_tokens=1e11", "cost_per_gpu_hour=2.5", "max_rows=3"])
        == 0
    )
    printed = capsys.readouterr().out
    table, _, _ = printed.partition("more fit")
    assert "…" not in table and max(map(len, table.splitlines())) <= 80
    assert "training.micro_batch_size=" in printed
    assert main(["gpus=8"]) == 2
    assert "model.preset = (not set)" in capsys.readouterr().err


def test_a_training_run_can_be_planned_for(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = EXAMPLES / "general_500m" / "pretrain.yaml"
    run = load_config(PretrainConfig, file)
    assert main(["--pretrain", str(file), "gpus=8", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    tokens = run.training.train_iters * run.training.global_batch_size * run.data.seq_length
    best = told["estimates"][0]
    assert best["days"] == pytest.approx(tokens / best["tokens_per_second"] / 86400)
    override = tmp_path / "plan.yaml"
    override.write_text(yaml.safe_dump({"global_batch_size": 8, "gpus": 8}))
    assert main(["--pretrain", str(file), "--config", str(override), "train_tokens=1e9", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert {estimate["layout"]["micro_batch_size"] for estimate in told["estimates"]} <= {1, 2, 4, 8}
    assert told["estimates"][0]["days"] == pytest.approx(1e9 / told["estimates"][0]["tokens_per_second"] / 86400)
