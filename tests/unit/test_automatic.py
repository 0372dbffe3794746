"""Settings that a run leaves open follow from its layout, the device, and the checkpoint it starts from."""

from __future__ import annotations

from operator import attrgetter
from typing import Any

import pytest

from megatron_ipt.config.automatic import AUTOMATIC, describe_automatic, resolve_automatic
from megatron_ipt.config.checks import find_problems
from megatron_ipt.config.loading import config_from
from megatron_ipt.config.pretrain import PretrainConfig

MINIMAL: dict[str, Any] = {"run": "run", "data": {"tokenizer": "tokenizer", "blend": [{"prefix": "p"}]}}
TP2, CP2 = "parallel.tensor_model_parallel_size=2", "parallel.context_parallel_size=2"
SHARDED = "parallel.use_distributed_optimizer"
MUON = "optimizer.optimizer=muon"


def run(*overrides: str) -> PretrainConfig:
    return config_from(PretrainConfig, MINIMAL, overrides)


def resolved(world_size: int, *overrides: str, loaded: PretrainConfig | None = None, on_gpus: bool = True) -> list[str]:
    """The settings that are on."""
    config = resolve_automatic(run(*overrides), world_size, on_gpus=on_gpus, loaded=loaded)
    assert not find_problems(config, world_size)
    assert all(type(attrgetter(key)(config)) is bool for key in AUTOMATIC)
    assert config.training.manual_gc == (on_gpus and world_size > 1)
    return [key.removeprefix("parallel.") for key in AUTOMATIC[:-1] if attrgetter(key)(config)]


@pytest.mark.parametrize(
    ("world_size", "overrides", "expected"),
    [
        (1, [], ["use_distributed_optimizer"]),
        (2, [], ["use_distributed_optimizer", "overlap_grad_reduce", "overlap_param_gather"]),
        (2, [CP2], ["use_distributed_optimizer", "overlap_grad_reduce", "overlap_param_gather"]),
        (2, [TP2], ["sequence_parallel", "use_distributed_optimizer"]),
        (2, [TP2, "data.seq_length=31"], ["use_distributed_optimizer"]),
        (2, [TP2, "precision.fp8=hybrid", "data.seq_length=16"], ["use_distributed_optimizer"]),
        (2, [MUON], ["overlap_grad_reduce"]),
        (2, [f"{SHARDED}=false"], ["overlap_grad_reduce"]),
        (2, ["parallel.overlap_grad_reduce=false"], ["use_distributed_optimizer"]),
        (2, ["parallel.overlap_param_gather=false"], ["use_distributed_optimizer", "overlap_grad_reduce"]),
    ],
)
def test_on_gpus(world_size: int, overrides: list[str], expected: list[str]) -> None:
    assert resolved(world_size, *overrides) == expected


@pytest.mark.parametrize("overrides", [[], [TP2], [CP2], [MUON]])
def test_on_a_cpu_all_are_off(overrides: list[str]) -> None:
    assert resolved(4, *overrides, on_gpus=False) == []


def test_what_another_setting_needs_is_on_everywhere() -> None:
    on = ["use_distributed_optimizer", "overlap_grad_reduce", "overlap_param_gather"]
    assert resolved(2, "parallel.overlap_param_gather=true", on_gpus=False) == on


@pytest.mark.parametrize("form", [True, False])
@pytest.mark.parametrize("on_gpus", [True, False])
def test_the_optimizer_state_keeps_the_form_it_was_saved_in(form: bool, on_gpus: bool) -> None:
    loaded = run(f"{SHARDED}={str(form).lower()}")
    assert ("use_distributed_optimizer" in resolved(2, loaded=loaded, on_gpus=on_gpus)) == form


def test_only_what_is_left_open_is_described() -> None:
    given = run(f"{SHARDED}=true", "parallel.sequence_parallel=false")
    described = describe_automatic(given, resolve_automatic(given, 2, on_gpus=True))
    assert described == {
        "parallel.overlap_grad_reduce": True,
        "parallel.overlap_param_gather": True,
        "training.manual_gc": True,
    }
