"""Hugging Face → checkpoint → models of some layout → checkpoint → Hugging Face gives every tensor back bit for bit."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import conversion_jobs
import pytest
import torch
from pool import WorkerPool
from safetensors.torch import load_file
from transformers import MistralConfig, MistralForCausalLM, Olmo2Config, Olmo2ForCausalLM, PreTrainedModel

from megatron_ipt.config.model import ModelConfig
from megatron_ipt.config.pretrain import ParallelConfig
from megatron_ipt.models.accounting import parameter_count_of_rank

pytestmark = pytest.mark.distributed

TP2 = {"tensor_model_parallel_size": 2}
TP3 = {"tensor_model_parallel_size": 3}
PP2 = {"pipeline_model_parallel_size": 2}
INTERLEAVED = {**PP2, "virtual_pipeline_model_parallel_size": 2}
BOTH = {**TP2, **PP2}
SHAPE: dict[str, Any] = {
    "vocab_size": 32000,
    "hidden_size": 64,
    "intermediate_size": 176,
    "num_hidden_layers": 4,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "max_position_embeddings": 1024,
    "initializer_range": 0.1,
}


def same_tensors(one: Path, other: Path) -> bool:
    weights = [load_file(folder / "model.safetensors") for folder in (one, other)]
    return weights[0].keys() == weights[1].keys() and all(
        tensor.dtype == weights[1][name].dtype and torch.equal(tensor, weights[1][name])
        for name, tensor in weights[0].items()
    )


def read_parity(folder: Path) -> dict[str, Any]:
    values: dict[str, Any] = json.loads((folder / "parity.json").read_text())
    return values


class RoundTrip:
    """A Hugging Face folder converted once, then sent through layouts."""

    def __init__(self, pool: WorkerPool, source: Path, folder: Path) -> None:
        self.pool, self.source, self.folder = pool, source, folder
        self.core = folder / "core"
        settings = {"direction": "hf-to-mcore", "input": str(source), "output": str(self.core)}
        pool.run(1, conversion_jobs.convert, settings)

    def through(self, layout: dict[str, int], ranks: int) -> list[int]:
        """Pass the checkpoint through `layout`, export it, and hold it against the source; parameters of each rank."""
        run, target = self.folder / "run", self.folder / "target"
        held = self.pool.run(ranks, conversion_jobs.pass_through_layout, str(self.core), str(run), layout)
        self.pool.run(
            1,
            conversion_jobs.convert,
            {"direction": "mcore-to-hf", "input": str(run), "output": str(target), "parity_check": False},
        )
        assert same_tensors(self.source, target)
        for folder in (run, target):  # half a gigabyte each
            shutil.rmtree(folder)
        return held


@pytest.fixture(scope="module")
def smollm2(pool: WorkerPool, quickstart_inputs: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RoundTrip]:
    """SmolLM2-135M: Llama, tied embeddings, 9 heads in 3 groups, so that tensor sizes 1 and 3 are the possible ones."""
    folder = tmp_path_factory.mktemp("smollm2")
    yield RoundTrip(pool, quickstart_inputs / "smollm2", folder)
    shutil.rmtree(folder)


@pytest.fixture(scope="module")
def small(
    pool: WorkerPool, quickstart_inputs: Path, tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str], RoundTrip]:
    """A small bf16 model of a family with random weights and separate LM head, converted once.

    Mistral's window is shorter than the parity texts.
    """
    models: dict[str, Callable[[], PreTrainedModel]] = {
        "mistral": lambda: MistralForCausalLM(MistralConfig(**SHAPE, sliding_window=40)),
        "olmo2": lambda: Olmo2ForCausalLM(Olmo2Config(**SHAPE, eos_token_id=2)),
    }

    @cache
    def convert(family: str) -> RoundTrip:
        folder = tmp_path_factory.mktemp(family)
        torch.manual_seed(0)
        model = models[family]().to(torch.bfloat16)
        for parameter in model.parameters():
            if parameter.dim() == 1:  # norms, which are made as ones
                torch.nn.init.uniform_(parameter, 0.5, 1.5)
        model.save_pretrained(str(folder / "hf"))
        shutil.copytree(quickstart_inputs / "tokenizer", folder / "hf", dirs_exist_ok=True)
        return RoundTrip(pool, folder / "hf", folder)

    return convert


def test_smollm2_gives_the_logits_of_transformers(smollm2: RoundTrip) -> None:
    parity = read_parity(smollm2.core)
    assert parity["max_abs_logit_difference"] < 1e-3
    assert parity["argmax_agreement"] == 1
    assert parity["tokens_compared"] > 600
    assert parity["largest_abs_logit"] > 10


@pytest.mark.parametrize(
    ("layout", "ranks"),
    [
        pytest.param({}, 1, id="tp1", marks=pytest.mark.full),
        pytest.param(TP3, 3, id="tp3", marks=pytest.mark.full),
        pytest.param(PP2, 2, id="pp2", marks=pytest.mark.full),
    ],
)
def test_smollm2_comes_back_bit_for_bit(smollm2: RoundTrip, layout: dict[str, int], ranks: int) -> None:
    smollm2.through(layout, ranks)


@pytest.mark.parametrize("family", ["mistral", "olmo2"])
def test_small_model_gives_the_logits_of_transformers(family: str, small: Callable[[str], RoundTrip]) -> None:
    parity = read_parity(small(family).core)
    assert parity["max_abs_logit_difference"] < 1e-4
    assert parity["largest_abs_logit"] > 0.5


@pytest.mark.parametrize(
    ("family", "layout", "ranks"),
    [
        pytest.param("mistral", TP2, 2, id="mistral tp2", marks=pytest.mark.full),
        pytest.param("mistral", PP2, 2, id="mistral pp2", marks=pytest.mark.full),
        pytest.param("mistral", INTERLEAVED, 2, id="mistral interleaved", marks=pytest.mark.full),
        pytest.param("mistral", BOTH, 4, id="mistral tp2pp2"),
        pytest.param("olmo2", {}, 1, id="olmo2 tp1", marks=pytest.mark.full),
        pytest.param("olmo2", TP2, 2, id="olmo2 tp2"),
        pytest.param("olmo2", PP2, 2, id="olmo2 pp2", marks=pytest.mark.full),
        pytest.param("olmo2", INTERLEAVED, 2, id="olmo2 interleaved", marks=pytest.mark.full),
        pytest.param("olmo2", BOTH, 4, id="olmo2 tp2pp2", marks=pytest.mark.full),
    ],
)
def test_small_model_comes_back_bit_for_bit(
    family: str, layout: dict[str, int], ranks: int, small: Callable[[str], RoundTrip]
) -> None:
    held = small(family).through(layout, ranks)
    model = ModelConfig(
        family=family,
        num_layers=4,
        hidden_size=64,
        ffn_hidden_size=176,
        num_attention_heads=8,
        num_query_groups=4,
        vocab_size=32000,
    )
    tensor = layout.get("tensor_model_parallel_size", 1)
    expected = [parameter_count_of_rank(model, ParallelConfig(**layout), rank // tensor) for rank in range(ranks)]
    assert held == expected
