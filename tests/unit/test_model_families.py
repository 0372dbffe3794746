"""Every registered family, and one that a package of its own adds: that of the guide, installed as it says."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path

import pytest
import torch
from installed_packages import install
from safetensors.torch import load_file
from tokenizers.pre_tokenizers import ByteLevel
from transformers import Qwen2Tokenizer, SeedOssConfig, SeedOssForCausalLM

from megatron_ipt.config.loading import config_from
from megatron_ipt.config.model import ModelConfig
from megatron_ipt.config.model_families import MODEL_FAMILIES
from megatron_ipt.config.pretrain import ParallelConfig
from megatron_ipt.config.settings import known_keys
from megatron_ipt.config.stages import ConvertConfig
from megatron_ipt.conversion.convert import convert
from megatron_ipt.conversion.hf_config import read_model_config
from megatron_ipt.errors import Problem, UserError
from megatron_ipt.models.accounting import flops_per_token, parameter_count, parameter_count_of_rank
from megatron_ipt.models.model_family import ModelFamily, load_family

OWN = "mistral, llama, qwen2, qwen3, smollm3, olmo2"
GUIDE = Path(__file__).parents[2] / "docs" / "guides" / "model_families.md"


def code_in_guide(language: str) -> str:
    [code] = re.findall(rf"^```{language}\n(.+?)^```$", GUIDE.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    return code


@pytest.fixture
def seed_oss(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The package of the guide, installed with the entry points of its pyproject.toml."""
    [(group, points)] = tomllib.loads(code_in_guide("toml"))["project"]["entry-points"].items()
    site = tmp_path / "site-packages"
    install(site, {"seed_oss_family": code_in_guide("python")}, group, points)
    monkeypatch.syspath_prepend(str(site))
    yield
    sys.modules.pop("seed_oss_family", None)


@pytest.fixture
def seed_oss_model(tmp_path: Path) -> Path:
    """A random Seed-OSS, with biases other than the zeros of a new model, and a tokenizer of single bytes."""
    folder = tmp_path / "hf"
    torch.manual_seed(0)
    model = SeedOssForCausalLM(
        SeedOssConfig(
            vocab_size=512,
            hidden_size=32,
            intermediate_size=48,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            max_position_embeddings=64,
            initializer_range=0.2,
            attention_dropout=0.0,
            residual_dropout=0.0,
            head_dim=8,
        )
    )
    for name, parameter in model.named_parameters():
        if name.endswith(".bias"):
            torch.nn.init.normal_(parameter)
    model.save_pretrained(str(folder))
    Qwen2Tokenizer(vocab={letter: number for number, letter in enumerate(ByteLevel.alphabet())}).save_pretrained(folder)
    return folder


def test_a_name_that_nothing_registers_is_refused_with_those_that_are() -> None:
    with pytest.raises(UserError, match=rf"not one of {OWN}\n.*did you mean llama\?"):
        config_from(ModelConfig, {"family": "llama3"})


def test_an_installed_family_is_one_of_the_choices(seed_oss: None) -> None:
    assert config_from(ModelConfig, {"family": "seed_oss"}).family == "seed_oss"
    assert known_keys(ModelConfig)["family"].values == f"{OWN}, seed_oss"
    assert "seed_oss" in ModelConfig.model_json_schema()["properties"]["family"]["enum"]
    with pytest.raises(UserError, match=f"not one of {OWN}, seed_oss"):
        config_from(ModelConfig, {"family": "seed"})


def test_an_installed_family_does_not_replace_one_of_the_package(tmp_path: Path) -> None:
    (tmp_path / "x-1.dist-info").mkdir()
    (tmp_path / "x-1.dist-info" / "entry_points.txt").write_text("[megatron_ipt.model_families]\nllama = json:dumps\n")
    program = (
        "from megatron_ipt.config.model_families import MODEL_FAMILIES\n"
        f"assert ', '.join(MODEL_FAMILIES) == {OWN!r} and len(MODEL_FAMILIES) == 6\n"
        "print(MODEL_FAMILIES.load('llama').architecture)"
    )
    assert run_python(f"import sys; sys.path.insert(0, {str(tmp_path)!r})\n{program}") == "LlamaForCausalLM"


@pytest.mark.slow
def test_an_installed_family_converts_both_ways(seed_oss: None, seed_oss_model: Path, tmp_path: Path) -> None:
    core, back = tmp_path / "core", tmp_path / "back"
    convert(ConvertConfig(direction="hf-to-mcore", input=str(seed_oss_model), output=str(core)), print)
    convert(ConvertConfig(direction="mcore-to-hf", input=str(core), output=str(back)), print)
    files = [folder / "model.safetensors" for folder in (seed_oss_model, back)]
    assert sum(name.endswith("_proj.bias") for name in load_file(files[0])) == 2 * 3
    assert sha256(files[0].read_bytes()).digest() == sha256(files[1].read_bytes()).digest()
    assert read_model_config(back) == read_model_config(seed_oss_model)
    reloaded = SeedOssForCausalLM.from_pretrained(str(back))
    assert parameter_count(read_model_config(back)) == sum(parameter.numel() for parameter in reloaded.parameters())


def test_an_installed_family_refuses_what_it_does_not_support(seed_oss: None, tmp_path: Path) -> None:
    SeedOssConfig(attention_out_bias=True).save_pretrained(str(tmp_path))
    with pytest.raises(UserError) as raised:
        read_model_config(tmp_path)
    assert "attention_out_bias" in {problem.field.split(": ")[1] for problem in raised.value.problems}
    [problem] = load_family("seed_oss").export_problems(ModelConfig(family="seed_oss", sliding_window=8))
    assert problem.field == "model.sliding_window"


def test_qwen2_with_another_head_dimension_is_not_exported() -> None:
    def problems(family: str, kv_channels: int | None) -> list[Problem]:
        model = ModelConfig(family=family, hidden_size=64, num_attention_heads=4, kv_channels=kv_channels)
        return list(load_family(family).export_problems(model))

    [problem] = problems("qwen2", 32)
    assert (problem.field, problem.value) == ("model.kv_channels", 32)
    assert "vLLM assumes hidden_size / num_attention_heads = 16 for Qwen2ForCausalLM" in problem.reason
    assert problems("qwen2", 16) == problems("qwen2", None) == problems("qwen3", 32) == []


def test_biases_are_counted_and_split_over_tensor_ranks(seed_oss: None) -> None:
    without, with_biases = (ModelConfig(family=family) for family in ("llama", "seed_oss"))
    biases = with_biases.num_layers * 3 * with_biases.hidden_size  # as many key-value heads as query heads
    assert parameter_count(with_biases) - parameter_count(without) == biases
    split = ParallelConfig(tensor_model_parallel_size=2)
    assert parameter_count_of_rank(with_biases, split) - parameter_count_of_rank(without, split) == biases // 2
    assert flops_per_token(with_biases, 128) == flops_per_token(without, 128)


@pytest.mark.parametrize("name", MODEL_FAMILIES)
def test_a_family_is_registered_under_the_model_type_of_its_architecture(name: str) -> None:
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

    family = load_family(name)
    assert isinstance(family, ModelFamily)
    assert MODEL_FOR_CAUSAL_LM_MAPPING_NAMES[name] == family.architecture


def test_families_are_read_without_torch() -> None:
    program = (
        "import sys\n"
        "from megatron_ipt.config.model import ModelConfig\n"
        "from megatron_ipt.config.model_families import MODEL_FAMILIES\n"
        "from megatron_ipt.models.accounting import parameter_count\n"
        "assert all(parameter_count(ModelConfig(family=name)) for name in MODEL_FAMILIES)\n"
        "print(sorted({'torch', 'megatron', 'transformers'} & set(sys.modules)))"
    )
    assert run_python(program) == "[]"


def run_python(program: str) -> str:
    return subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout.strip()
