"""What number formats, batches and ranks cannot take is refused with the sizes that work."""

from __future__ import annotations

from typing import Any

import pytest

from megatron_ipt.config.checks import find_problems
from megatron_ipt.config.loading import config_from
from megatron_ipt.config.pretrain import PretrainConfig
from megatron_ipt.errors import Problem

MINIMAL: dict[str, Any] = {"run": "run", "data": {"tokenizer": "tokenizer", "blend": [{"prefix": "p"}]}}
HALF_B = "model.preset=instructlm-500m"
FP8 = "precision.fp8=hybrid"


def problems(world_size: int, *overrides: str) -> dict[str, Problem]:
    config = config_from(PretrainConfig, MINIMAL, overrides)
    return {problem.field: problem for problem in find_problems(config, world_size)}


def test_fp8_names_the_sizes_that_work_beside_the_shard_that_does_not() -> None:
    found = problems(4, HALF_B, FP8, "parallel.tensor_model_parallel_size=4")
    assert list(found) == ["model.ffn_hidden_size"]
    assert found["model.ffn_hidden_size"].reason.startswith("1080 on each of 4 tensor ranks is not a multiple of 16")
    assert found["model.ffn_hidden_size"].remedy.startswith("use 4288 or 4352, or tensor_model_parallel_size 1 or 2")


@pytest.mark.parametrize("size", [4288, 4352])
def test_sizes_that_fp8_is_said_to_take_are_taken(size: int) -> None:
    tensor = "parallel.tensor_model_parallel_size=4"
    assert problems(4, HALF_B, FP8, tensor, f"model.ffn_hidden_size={size}") == {}


@pytest.mark.parametrize("tensor", [1, 2])
def test_layouts_that_fp8_is_said_to_take_are_taken(tensor: int) -> None:
    assert problems(tensor, HALF_B, FP8, f"parallel.tensor_model_parallel_size={tensor}") == {}


@pytest.mark.parametrize("recipe", ["tensorwise", "delayed", "blockwise"])
@pytest.mark.parametrize("preset", ["instructlm-500m", "instructlm-1.3b"])
def test_the_papers_models_fit_every_recipe(preset: str, recipe: str) -> None:
    assert problems(1, f"model.preset={preset}", FP8, f"precision.fp8_recipe={recipe}") == {}


@pytest.mark.parametrize(
    ("overrides", "field", "remedy"),
    [
        (
            [FP8, "model.hidden_size=136", "model.num_attention_heads=8", "model.kv_channels=16"],
            "model.hidden_size",
            "128",
        ),
        (
            ["parallel.overlap_param_gather=true", "parallel.use_distributed_optimizer=false"],
            "parallel.overlap_param_gather",
            "use_distributed_optimizer",
        ),
        (["model.rope_factor=8"], "model.rope_factor", "model.rope_type"),
        ([FP8, "model.ffn_hidden_size=344"], "model.ffn_hidden_size", "use 336 or 352"),
        ([FP8, "model.num_query_groups=1", "model.kv_channels=8"], "model.num_query_groups x head dimension", "use 16"),
        ([FP8, "data.seq_length=24", "training.micro_batch_size=1"], "training.micro_batch_size", "multiple of 16"),
        ([FP8, "precision.bf16=false"], "precision.fp8", "bf16=true"),
        ([FP8, "precision.transformer_impl=local"], "precision.fp8", "transformer_impl=auto"),
        (["precision.fp8_param_gather=true"], "precision.fp8_param_gather", "use_distributed_optimizer"),
        (
            ["training.rampup_batch_size=[4,4]"],
            "training.rampup_batch_size",
            "[initial batch size, increment, samples]",
        ),
        (["training.rampup_batch_size=[2,4,12]"], "training.rampup_batch_size", "divides the difference"),
        (["training.rampup_batch_size=[8,4,12]"], "training.rampup_batch_size", "divides the difference"),
        (["data.reset_position_ids=true"], "data.reset_position_ids", "reset_attention_mask=true"),
        (
            ["optimizer.optimizer=muon", "parallel.use_distributed_optimizer=true"],
            "optimizer.optimizer",
            "use_distributed_optimizer=false",
        ),
    ],
)
def test_one_rank_is_told_what_to_change(overrides: list[str], field: str, remedy: str) -> None:
    found = problems(1, *overrides)
    assert list(found) == [field]
    assert remedy in found[field].remedy


def test_a_vocabulary_is_padded_but_leaves_no_rank_without_entries() -> None:
    odd = "model.vocab_size=32001"
    assert problems(2, odd, "parallel.tensor_model_parallel_size=2") == {}
    assert problems(8, odd, "parallel.tensor_model_parallel_size=8") == {}
    small = ["model.vocab_size=250", "parallel.tensor_model_parallel_size=4"]
    assert problems(4, *small) == {}
    found = problems(4, *small, "parallel.make_vocab_size_divisible_by=128")
    assert "lower" in found["model.vocab_size"].remedy


@pytest.mark.parametrize(
    ("pipeline", "first", "last", "virtual", "reason"),
    [
        (1, 2, None, None, "the only pipeline rank has all layers"),
        (2, 10, None, None, "it leaves 0 layers over 1 pipeline ranks"),
        (4, 1, None, None, "it leaves 9 layers over 3"),
        (4, 3, None, None, "it leaves 7 layers over 3"),
        (2, 4, 4, None, "it leaves 2 layers over 0"),
        (2, 6, None, 4, "have 6, 4 layers, which do not divide into 4 chunks"),
    ],
)
def test_layers_of_uneven_pipelines_have_to_divide(
    pipeline: int, first: int | None, last: int | None, virtual: int | None, reason: str
) -> None:
    given = {
        "pipeline_model_parallel_size": pipeline,
        "num_layers_in_first_pipeline_stage": first,
        "num_layers_in_last_pipeline_stage": last,
        "virtual_pipeline_model_parallel_size": virtual,
    }
    overrides = [f"parallel.{name}={value}" for name, value in given.items() if value is not None]
    found = problems(pipeline, "model.num_layers=10", *overrides)
    if reason == "it leaves 9 layers over 3":
        assert found == {}
    else:
        assert reason in found["parallel.num_layers_in_first_pipeline_stage"].reason


def test_every_batch_of_a_ramp_has_to_divide() -> None:
    rampup = "training.rampup_batch_size=[2,2,12]"
    assert problems(2, rampup) == {}
    assert problems(4, rampup)["training.rampup_batch_size"].remedy == "use multiples of 4 for both"
    interleaved = ["parallel.pipeline_model_parallel_size=2", "parallel.virtual_pipeline_model_parallel_size=2"]
    layers = "model.num_layers=4"
    assert problems(2, layers, *interleaved, "training.global_batch_size=7")["training.global_batch_size"].remedy == (
        "use a multiple of 2"
    )
    assert problems(2, layers, *interleaved, "training.rampup_batch_size=[1,1,12]").keys() == {
        "training.rampup_batch_size"
    }


def test_shared_sequences_have_to_divide_twice_over() -> None:
    context = "parallel.context_parallel_size=2"
    assert problems(2, context, "data.seq_length=28") == {}
    assert problems(2, context, "data.seq_length=30")["data.seq_length"].remedy == "use a multiple of 4"
    both = [context, "parallel.tensor_model_parallel_size=8", "parallel.sequence_parallel=true"]
    assert problems(16, *both, "data.seq_length=24")["data.seq_length"].remedy == "use a multiple of 16"
    assert (
        problems(3, context)["ranks"].reason
        == "not a multiple of the 2 ranks of one replica (tensor x pipeline x context)"
    )
    assert problems(2, context, "data.reset_attention_mask=true") == {}


@pytest.mark.parametrize(
    ("overrides", "field", "value", "reason", "remedy"),
    [
        (["local_interval=5"], "local_interval", 5, "has no effect without a folder", "set checkpoint.local_folder"),
        (
            ["local_folder=~/d", "local_interval=5"],
            "local_folder",
            "~/d",
            "is not an absolute path",
            "name a folder on",
        ),
        (["local_folder=/d"], "local_folder", "/d", "nothing is saved there", "set checkpoint.local_interval"),
        (
            ["local_folder=/d", "local_interval=20", "save_interval=20"],
            "local_interval",
            20,
            "must be less than 20 (checkpoint.save_interval)",
            "lower it, or raise checkpoint.save_interval",
        ),
    ],
)
def test_useless_settings_of_local_checkpoints_are_refused(
    overrides: list[str], field: str, value: object, reason: str, remedy: str
) -> None:
    found = problems(1, *(f"checkpoint.{override}" for override in overrides))
    assert list(found) == [f"checkpoint.{field}"]
    problem = found[f"checkpoint.{field}"]
    assert (problem.value, problem.reason[: len(reason)], problem.remedy[: len(remedy)]) == (value, reason, remedy)


def test_local_checkpoints_more_often_than_shared_ones_are_accepted() -> None:
    assert (
        problems(1, "checkpoint.local_folder=/d", "checkpoint.local_interval=19", "checkpoint.save_interval=20") == {}
    )
