"""Tensors, configurations and files on both sides of the conversion."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModelForCausalLM, LlamaConfig

from megatron_ipt.config.model import ModelConfig
from megatron_ipt.config.model_families import MODEL_FAMILIES
from megatron_ipt.config.model_presets import MODEL_PRESETS
from megatron_ipt.config.pretrain import ParallelConfig
from megatron_ipt.conversion.core_model import build_core_model, fill_from_hf, hf_tensors
from megatron_ipt.conversion.hf_config import read_model_config, write_hf_config
from megatron_ipt.conversion.hf_weights import HfWeights, write_weights
from megatron_ipt.errors import UserError
from megatron_ipt.models.accounting import parameter_count
from megatron_ipt.models.model_family import load_family
from megatron_ipt.models.weight_maps import INTERLEAVE_QKV, STACK_GATE_UP
from megatron_ipt.parallel.groups import Groups, initialize, shutdown

MODEL = ModelConfig(
    family="llama",
    num_layers=2,
    hidden_size=36,
    ffn_hidden_size=48,
    num_attention_heads=6,
    num_query_groups=2,
    kv_channels=8,
    vocab_size=64,
)


@pytest.fixture(scope="module")
def groups() -> Iterator[Groups]:
    yield initialize(ParallelConfig(), seed=1)
    shutdown()


def random_weights(model: ModelConfig) -> dict[str, torch.Tensor]:
    """Tensors of the names and shapes that transformers gives to a model of this shape."""
    values = load_family(model.family).hf_values(model)
    with torch.device("meta"):
        hf = AutoModelForCausalLM.from_config(AutoConfig.for_model(model.family, **values))
    generator = torch.Generator().manual_seed(0)
    return {name: torch.randn(parameter.shape, generator=generator) for name, parameter in hf.named_parameters()}


def write_folder(folder: Path, model: ModelConfig, weights: dict[str, torch.Tensor]) -> Path:
    folder.mkdir()
    write_hf_config(folder, model, torch.float32, {"bos_token_id": 1, "eos_token_id": 2})
    save_file(weights, str(folder / "model.safetensors"))
    return folder


def test_each_group_holds_its_queries_then_its_key_then_its_value() -> None:
    def rows(letter: int, count: int) -> torch.Tensor:
        """Rows that tell which matrix they are of, which head, and which row of the head."""
        numbers = [[letter, head, row] for head in range(count) for row in range(MODEL.head_dim)]
        return torch.tensor(numbers, dtype=torch.float32).repeat(1, 12)

    parts = rows(0, 6), rows(1, 2), rows(2, 2)
    merged = INTERLEAVE_QKV.to_core(parts, MODEL)
    heads = [(int(row[0]), int(row[1])) for row in merged[:: MODEL.head_dim]]
    assert heads == [(0, 0), (0, 1), (0, 2), (1, 0), (2, 0), (0, 3), (0, 4), (0, 5), (1, 1), (2, 1)]
    assert all(torch.equal(a, b) for a, b in zip(INTERLEAVE_QKV.to_hf(merged, MODEL), parts, strict=True))


def test_gate_stands_above_up() -> None:
    gate, up = torch.zeros(48, 36), torch.ones(48, 36)
    stacked = STACK_GATE_UP.to_core((gate, up), MODEL)
    assert stacked[:48].sum() == 0
    assert stacked[48:].min() == 1
    assert [part.mean().item() for part in STACK_GATE_UP.to_hf(stacked, MODEL)] == [0, 1]


@pytest.mark.parametrize("family", MODEL_FAMILIES)
@pytest.mark.parametrize("tied", [False, True])
def test_every_tensor_comes_back_bit_for_bit(family: str, tied: bool, tmp_path: Path, groups: Groups) -> None:
    model = MODEL.model_copy(update={"family": family, "untie_embeddings_and_output_weights": not tied})
    weights = random_weights(model)
    source = write_folder(tmp_path / "hf", model, weights)
    core = build_core_model(read_model_config(source), groups, bf16=False, seq_length=16)
    fill_from_hf(core, HfWeights(source))
    assert parameter_count(model) == sum(parameter.numel() for parameter in core.parameters().values())
    written = dict(hf_tensors(core, torch.float32))
    assert written.keys() == weights.keys()
    assert all(torch.equal(written[name], weights[name]) for name in weights)


@pytest.mark.parametrize(
    ("damage", "named"),
    [
        (lambda w: w.pop("model.layers.1.mlp.up_proj.weight"), "no model.layers.1.mlp.up_proj.weight"),
        (lambda w: w.update({"model.layers.2.x.weight": torch.ones(1)}), "unknown model.layers.2.x.weight"),
        (lambda w: w.update({"model.norm.weight": torch.ones(31)}), "model.norm.weight [31]"),
    ],
)
def test_tensors_that_do_not_fit_are_named(damage: object, named: str, tmp_path: Path, groups: Groups) -> None:
    weights = random_weights(MODEL)
    assert callable(damage)
    damage(weights)
    source = write_folder(tmp_path / "hf", MODEL, weights)
    with pytest.raises(UserError, match=named.replace("[", r"\[")):
        fill_from_hf(build_core_model(MODEL, groups, bf16=False, seq_length=16), HfWeights(source))


@pytest.mark.parametrize("name", MODEL_PRESETS)
def test_a_configuration_survives_the_round_trip(name: str, tmp_path: Path) -> None:
    model = ModelConfig(**MODEL_PRESETS[name])
    write_hf_config(tmp_path, model, torch.bfloat16, {"bos_token_id": 1, "eos_token_id": 2})
    assert read_model_config(tmp_path) == model
    hf = AutoConfig.from_pretrained(str(tmp_path))
    assert (hf.bos_token_id, hf.eos_token_id, hf.dtype) == (1, 2, torch.bfloat16)
    former = json.loads((tmp_path / "config.json").read_text())
    assert (former["rope_theta"], former["torch_dtype"]) == (model.rotary_base, "bfloat16")
    assert former["architectures"] == [f"{model.family.capitalize()}ForCausalLM"]


def test_what_we_cannot_represent_is_listed(tmp_path: Path) -> None:
    LlamaConfig(
        attention_bias=True,
        hidden_act="gelu",
        rope_parameters={"rope_type": "linear", "rope_theta": 10000.0, "factor": 2.0},
    ).save_pretrained(str(tmp_path))
    with pytest.raises(UserError) as raised:
        read_model_config(tmp_path)
    named = {problem.field.split(": ")[1] for problem in raised.value.problems}
    assert named == {"attention_bias", "hidden_act", "rope_scaling"}


def test_other_families_are_refused(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "gpt2"}')
    with pytest.raises(UserError, match="gpt2"):
        read_model_config(tmp_path)


def test_large_models_are_written_in_shards(tmp_path: Path) -> None:
    weights = random_weights(MODEL)
    files = write_weights(tmp_path, iter(weights.items()), max_shard_bytes=20_000)
    shards = [file for file in files if file.suffix == ".safetensors"]
    assert len(shards) > 2
    assert shards[0].name == f"model-00001-of-{len(shards):05d}.safetensors"
    assert all(file.stat().st_size < 22_000 for file in shards)
    assert {name for file in shards for name in load_file(file)} == set(weights)
    reader = HfWeights(tmp_path)
    assert all(torch.equal(reader.tensor(name), tensor) for name, tensor in weights.items())
    index = json.loads((tmp_path / "model.safetensors.index.json").read_text())
    assert index["metadata"]["total_size"] == sum(tensor.nbytes for tensor in weights.values())


def test_pickled_weights_are_not_read(tmp_path: Path) -> None:
    (tmp_path / "pytorch_model.bin").write_bytes(b"pickle")
    with pytest.raises(UserError, match="safetensors"):
        HfWeights(tmp_path)
