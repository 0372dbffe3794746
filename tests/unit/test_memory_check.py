"""Models that do not fit where they would be built."""

from __future__ import annotations

import platform
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

from megatron_ipt.config.loading import config_from
from megatron_ipt.config.pretrain import PretrainConfig
from megatron_ipt.errors import UserError
from megatron_ipt.models.memory import MemoryEstimate, memory_of_run
from megatron_ipt.parallel.groups import Groups
from megatron_ipt.training.memory_check import Need, check_memory, find_shortages, local_copy_bytes

GIB = 2**30
MODEL = {"num_layers": 4, "hidden_size": 256, "ffn_hidden_size": 688, "num_attention_heads": 8, "vocab_size": 2048}


def test_ranks_of_a_node_share_its_memory() -> None:
    alone = [Need("a", 6 * GIB, 7 * GIB, 10 * GIB)]
    assert find_shortages(alone) == []
    assert find_shortages([*alone, Need("b", 6 * GIB, 7 * GIB, 10 * GIB)]) == []
    with pytest.raises(UserError, match=r"alone need 12.0 GiB, but 10.0 GiB are available to 2 rank\(s\) on a"):
        find_shortages([*alone, Need("a", 6 * GIB, 7 * GIB, 10 * GIB)])


def test_activations_are_estimated_and_give_a_warning() -> None:
    [warning] = find_shortages([Need("a", 6 * GIB, 12 * GIB, 10 * GIB), Need("b", GIB, 2 * GIB, 10 * GIB)])
    assert warning.startswith("warning: about 12.0 GiB are needed with activations, but 10.0 GiB are available")


def test_host_has_to_hold_the_copies_of_its_gpus() -> None:
    ranks = [
        need
        for gpu in (0, 1)
        for need in (Need(f"a, GPU {gpu}", 60 * GIB, 70 * GIB, 79 * GIB), Need("a", 0, 6 * GIB, 10 * GIB, "for copies"))
    ]
    assert find_shortages(ranks) == [
        "warning: about 12.0 GiB are needed for copies, but 10.0 GiB are available to 2 rank(s) on a"
    ]


@pytest.mark.parametrize("transformer_impl", ["local", "transformer_engine"])
def test_gpu_has_to_hold_a_step_of_the_layers_that_are_used(
    transformer_impl: str, groups: Groups, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = config_from(PretrainConfig, {"run": "r", "model": MODEL, "data": {"tokenizer": "t", "seq_length": 256}})
    precision = config.precision.model_copy(update={"transformer_impl": transformer_impl})
    needed = memory_of_run(config.model_copy(update={"precision": precision}), 1, 0).total_bytes
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: SimpleNamespace(uuid="4711"))
    on_gpu = replace(groups, device=torch.device("cuda"))
    for free, warnings in ((needed - 1, 1), (needed, 0)):
        monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device, free=free: (free, 80 * GIB))
        log = list[str]()
        check_memory(config, on_gpu, transformer_impl, log.append)
        assert len(log) == warnings
        assert all(line.endswith(f"are available to 1 rank(s) on {platform.node()}, GPU 4711") for line in log)


def test_node_has_to_hold_the_copy_of_a_checkpoint(groups: Groups, monkeypatch: pytest.MonkeyPatch) -> None:
    config = config_from(PretrainConfig, {"run": "r", "model": MODEL, "data": {"tokenizer": "t"}})
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: SimpleNamespace(uuid="4711"))
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (80 * GIB, 80 * GIB))
    monkeypatch.setattr("megatron_ipt.training.memory_check._available_on_node", lambda: 2**20)
    log = list[str]()
    check_memory(config, replace(groups, device=torch.device("cuda")), "local", log.append)
    assert len(log) == 1 and " GiB are needed for the host copy of a checkpoint, but 0.0 GiB are available" in log[0]


def test_local_checkpoints_need_a_host_copy_of_weights_and_optimizer_state() -> None:
    config = config_from(PretrainConfig, {"run": "r", "data": {"tokenizer": "t"}}, [])
    memory = MemoryEstimate(weights_bytes=2, gradients_bytes=40, optimizer_bytes=12, activations_bytes=700)
    assert local_copy_bytes(config, memory) == 0
    rule = config.checkpoint.model_copy(update={"local_folder": "f", "local_interval": 5})
    assert local_copy_bytes(config.model_copy(update={"checkpoint": rule}), memory) == 14
