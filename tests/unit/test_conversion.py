"""Tensors, configurations and files on both sides of the conversion."""

from __future__ import annotations

import io
import json
import os
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch
from rich.console import Console
from safetensors.torch import load_file, save_file
from small_models import all_of, tensors_of
from transformers import AutoConfig, AutoModelForCausalLM, LlamaConfig

from megatron_ipt.config.model import ModelConfig
from megatron_ipt.config.model_families import MODEL_FAMILIES
from megatron_ipt.config.model_presets import MODEL_PRESETS
from megatron_ipt.conversion.core_model import build_core_model, fill_from_hf, hf_tensors
from megatron_ipt.conversion.hf_config import read_model_config, write_hf_config
from megatron_ipt.conversion.hf_shards import HfTensors, write_weights
from megatron_ipt.conversion.hf_weights import HfWeights
from megatron_ipt.conversion.parity import ParityError, check_parity, compare_logits
from megatron_ipt.conversion.tensor_checks import choose_format
from megatron_ipt.corpus.finished_files import FinishedFiles
from megatron_ipt.corpus.manifest import FileRecord, record_file
from megatron_ipt.errors import UserError
from megatron_ipt.models.accounting import parameter_count
from megatron_ipt.models.model_family import load_family
from megatron_ipt.models.weight_maps import INTERLEAVE_QKV, STACK_GATE_UP
from megatron_ipt.observability.progress import ProgressDisplay
from megatron_ipt.parallel.groups import Groups

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
MLP = "model.layers.0.mlp"
K_PROJ = "model.layers.0.self_attn.k_proj.weight"


def random_weights(model: ModelConfig) -> dict[str, torch.Tensor]:
    """Tensors of the names and shapes that transformers gives to a model of this shape."""
    values = load_family(model.family).hf_values(model)
    with torch.device("meta"):
        hf = AutoModelForCausalLM.from_config(AutoConfig.for_model(model.family, **values, pad_token_id=None))
    generator = torch.Generator().manual_seed(0)
    return {name: torch.randn(parameter.shape, generator=generator) for name, parameter in hf.named_parameters()}


def write_folder(folder: Path, model: ModelConfig, weights: dict[str, torch.Tensor]) -> Path:
    folder.mkdir()
    write_hf_config(folder, model, torch.float32, {"bos_token_id": 1, "eos_token_id": 2})
    save_file(weights, str(folder / "model.safetensors"))
    return folder


def rename(weights: dict[str, torch.Tensor], new_name: Callable[[str], str]) -> None:
    for name in list(weights):
        weights[new_name(name)] = weights.pop(name)


def move_rows(weights: dict[str, torch.Tensor]) -> None:
    """Give up_proj the rows that gate_proj lacks, so that the two together are as large as before."""
    weights[f"{MLP}.up_proj.weight"] = torch.cat([weights[f"{MLP}.up_proj.weight"], torch.ones(8, 36)])


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
    written = all_of(hf_tensors(core, torch.float32))
    assert written.keys() == weights.keys()
    assert all(torch.equal(written[name], weights[name]) for name in weights)


@pytest.mark.parametrize(
    ("damage", "named"),
    [
        (lambda w: w.pop("model.layers.1.mlp.up_proj.weight"), "no model.layers.1.mlp.up_proj.weight"),
        (lambda w: w.update({"model.layers.2.x.weight": torch.ones(1)}), "unknown model.layers.2.x.weight"),
        (lambda w: w.update({"model.norm.weight": torch.ones(31)}), "model.norm.weight [31]"),
        (lambda w: w.update({f"{MLP}.gate_proj.weight": w[f"{MLP}.gate_proj.weight"][:40]}) or move_rows(w), "40, 36]"),
        (lambda w: w.update({K_PROJ: w[K_PROJ].T.contiguous()}), "k_proj.weight [36, 16], not [16, 36]"),
        (lambda w: rename(w, lambda name: f"_orig_mod.{name}"), "begin with _orig_mod."),
        (lambda w: rename(w, lambda name: f"module.{name}"), "begin with module."),
        (lambda w: w.pop("lm_head.weight"), "without its LM head"),
        (lambda w: w.pop("lm_head.weight") is rename(w, lambda name: name.removeprefix("model.")), "base model"),
        (lambda w: w[K_PROJ].view(-1)[3:5].fill_(float("nan")), "2 values: 2 of model.layers.0.self_attn.k_proj"),
        (lambda w: w[K_PROJ].view(-1)[3:4].fill_(float("inf")), "not a number, or infinite"),
    ],
)
def test_tensors_that_do_not_fit_are_named(damage: object, named: str, tmp_path: Path, groups: Groups) -> None:
    weights = random_weights(MODEL)
    assert callable(damage)
    damage(weights)
    source = write_folder(tmp_path / "hf", MODEL, weights)
    with pytest.raises(UserError, match=re.escape(named)):
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
        rope_parameters={"rope_type": "dynamic", "rope_theta": 10000.0, "factor": 2.0},
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
    records = write_weights(tmp_path, tensors_of(weights), max_shard_bytes=20_000)
    assert records == [record_file(tmp_path / record.path, tmp_path) for record in records]
    shards = [tmp_path / record.path for record in records if record.path.endswith(".safetensors")]
    assert len(shards) > 2
    assert shards[0].name == f"model-00001-of-{len(shards):05d}.safetensors"
    assert all(file.stat().st_size < 22_000 for file in shards)
    assert {name for file in shards for name in load_file(file)} == set(weights)
    reader = HfWeights(tmp_path)
    assert all(torch.equal(reader.tensor(name), tensor) for name, tensor in weights.items())
    index = json.loads((tmp_path / "model.safetensors.index.json").read_text())
    assert index["metadata"]["total_size"] == sum(tensor.nbytes for tensor in weights.values())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_files_are_those_that_safetensors_writes(dtype: torch.dtype, tmp_path: Path) -> None:
    weights = {name: tensor.to(dtype) for name, tensor in random_weights(MODEL).items()}
    weights["model.layers.10.é"] = torch.ones(3, dtype=dtype)
    write_weights(tmp_path, tensors_of(weights))
    save_file(weights, str(tmp_path / "expected"), metadata={"format": "pt"})
    assert (tmp_path / "model.safetensors").read_bytes() == (tmp_path / "expected").read_bytes()


def test_finished_files_of_an_interrupted_export_are_kept(tmp_path: Path) -> None:
    weights = random_weights(MODEL)
    read: list[str] = []

    def interrupted(names: Sequence[str], after: int) -> Iterator[torch.Tensor]:
        for name in names:
            if len(read) == after:
                raise KeyboardInterrupt
            read.append(name)
            yield weights[name]

    tensors = tensors_of(weights)

    def write(tensors: HfTensors) -> list[FileRecord]:
        return write_weights(tmp_path, tensors, FinishedFiles(tmp_path), max_shard_bytes=20_000)

    with pytest.raises(KeyboardInterrupt):
        write(replace(tensors, read=partial(interrupted, after=len(weights) - 2)))
    finished = sorted(tmp_path.glob("[!.]*"))
    assert len(finished) > 1
    assert all(file.name.startswith("model-0") for file in finished)
    assert FinishedFiles(tmp_path).present_bytes() == sum(file.stat().st_size for file in finished)
    content = bytearray(finished[0].read_bytes())
    content[-1] ^= 1
    finished[0].write_bytes(content)
    damaged = set(weights) - {name for file in finished[1:] for name in load_file(file)}
    read.clear()
    records = write(replace(tensors, read=partial(interrupted, after=-1)))
    assert set(read) == damaged
    (tmp_path / "again").mkdir()
    whole = write_weights(tmp_path / "again", tensors, max_shard_bytes=20_000)
    assert [(record.path, record.sha256) for record in records] == [(record.path, record.sha256) for record in whole]


def test_pickled_weights_are_not_read(tmp_path: Path) -> None:
    (tmp_path / "pytorch_model.bin").write_bytes(b"pickle")
    with pytest.raises(UserError, match="safetensors"):
        HfWeights(tmp_path)


def test_tied_model_that_holds_only_its_head(tmp_path: Path, groups: Groups) -> None:
    model = MODEL.model_copy(update={"untie_embeddings_and_output_weights": False})
    weights = random_weights(model)
    expected = weights["lm_head.weight"] = weights.pop("model.embed_tokens.weight")
    source = write_folder(tmp_path / "hf", model, weights)
    core = build_core_model(model, groups, bf16=False, seq_length=16)
    fill_from_hf(core, HfWeights(source))
    assert torch.equal(all_of(hf_tensors(core, torch.float32))["model.embed_tokens.weight"], expected)
    tokens = torch.arange(32).reshape(2, 16)
    assert compare_logits(core, source, tokens, 1e-4 * float(expected.abs().max()) * 1e2).passed


@torch.no_grad()
def test_values_that_a_format_cannot_hold_are_counted(tmp_path: Path, groups: Groups) -> None:
    weights = random_weights(MODEL)
    core = build_core_model(MODEL, groups, bf16=False, seq_length=16)
    source = write_folder(tmp_path / "hf", MODEL, weights)
    fill_from_hf(core, HfWeights(source))
    folder = tmp_path / "back"
    folder.mkdir()
    write_weights(folder, hf_tensors(core, torch.float16))
    core.parameters()["decoder.layers.1.mlp.linear_fc1.weight"][40:50] = -70000.0
    write_weights(folder, hf_tensors(core, torch.bfloat16))
    with pytest.raises(
        UserError, match=r"(?s)float16, 360 values: 288 of .*gate_proj.weight; 72 of .*65,504"
    ) as raised:
        write_weights(folder, hf_tensors(core, torch.float16), max_shard_bytes=20_000)
    assert raised.value.problems[0].field == "dtype"
    core.parameters()["decoder.final_layernorm.weight"][3] = float("nan")
    with pytest.raises(UserError, match=r"1 values: 1 of model\.norm\.weight"):
        write_weights(folder, hf_tensors(core, torch.bfloat16))
    assert not list(folder.iterdir())


def test_progress_is_shown_while_weights_are_written(tmp_path: Path, groups: Groups) -> None:
    source = write_folder(tmp_path / "hf", MODEL, random_weights(MODEL))
    core = build_core_model(MODEL, groups, bf16=False, seq_length=16)
    fill_from_hf(core, HfWeights(source))
    drawn = io.StringIO()

    count = len(random_weights(MODEL))
    with ProgressDisplay("writing", "tensors", Console(file=drawn, force_terminal=True, width=100)) as progress:
        write_weights(tmp_path, hf_tensors(core, torch.float32), progress=progress)
    assert re.search(rf"writing.*{count}/{count}.*tensors", drawn.getvalue())


def test_value_too_large_for_bf16_is_counted(tmp_path: Path, groups: Groups) -> None:
    weights = random_weights(MODEL)
    weights["model.norm.weight"][5] = 3.4e38
    source = write_folder(tmp_path / "hf", MODEL, weights)
    with pytest.raises(UserError, match=r"bfloat16, 1 values: 1 of model.norm.weight"):
        fill_from_hf(build_core_model(MODEL, groups, bf16=True, seq_length=16), HfWeights(source))


@torch.no_grad()
def test_logits_that_are_not_numbers_are_named(tmp_path: Path, groups: Groups) -> None:
    source = write_folder(tmp_path / "hf", MODEL, random_weights(MODEL))
    core = build_core_model(MODEL, groups, bf16=False, seq_length=16)
    fill_from_hf(core, HfWeights(source))
    core.parameters()["decoder.final_layernorm.weight"][3] = float("nan")
    with pytest.raises(
        ParityError, match=r"not numbers \(NaN\): 2,048 of megatron-core's model, 0 of transformers'"
    ) as e:
        check_parity(core, source, torch.arange(32).reshape(2, 16), groups, 1e-3, tmp_path)
    assert "parity_tolerance" not in str(e.value)


def test_format_of_weights_is_that_of_all_of_them(tmp_path: Path) -> None:
    norm, other = "model.norm.weight", "model.layers.0.mlp.up_proj.weight"

    def formats(*dtypes: torch.dtype) -> HfWeights:
        pairs = zip((norm, other), dtypes, strict=False)
        save_file({name: torch.ones(2).to(dtype) for name, dtype in pairs}, str(tmp_path / "model.safetensors"))
        return HfWeights(tmp_path)

    assert choose_format(formats(torch.float16, torch.float16), None) == "float16"
    with pytest.raises(UserError, match="no tensors"):
        choose_format(formats(), None)
    with pytest.raises(UserError, match=rf"bfloat16 \({other}\) and float32 \({norm}\)(.|\n)*dtype=float32"):
        choose_format(formats(torch.float32, torch.bfloat16), None)
    assert choose_format(formats(torch.float32, torch.bfloat16), "float32") == "float32"
    with pytest.raises(UserError, match=f"{norm} is F8_E4M3"):
        choose_format(formats(torch.float8_e4m3fn, torch.bfloat16), "bfloat16")


@pytest.mark.parametrize(("umask", "mode"), [(0o022, 0o644), (0o027, 0o640)])
def test_weights_have_the_permissions_of_other_files(umask: int, mode: int, tmp_path: Path) -> None:
    former = os.umask(umask)
    try:
        write_weights(tmp_path, tensors_of({"a": torch.ones(2)}))
    finally:
        os.umask(former)
    assert (tmp_path / "model.safetensors").stat().st_mode & 0o777 == mode
