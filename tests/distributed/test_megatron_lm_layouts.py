"""Checkpoints between Megatron-LM itself and ours: the same logits on both sides."""

from __future__ import annotations

from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import conversion_jobs
import megatron_lm_jobs
import pytest
import torch
from pool import WorkerPool
from small_models import write_small_mistral
from small_tokenizers import write_qwen_like
from tokenizers import Tokenizer
from transformers import AutoModelForCausalLM

pytestmark = [
    pytest.mark.distributed,
    pytest.mark.skipif(find_spec("megatron.training") is None, reason="megatron-core from 0.19 on holds Megatron-LM"),
]

TOKENS = [[1, 2, 3, 4, 5, 200], [258, 7, 1, 1, 1, 3]]
LLAMA = """
    --num-layers=4 --hidden-size=64 --ffn-hidden-size=160 --num-attention-heads=4 --group-query-attention
    --num-query-groups=2 --seq-length=64 --max-position-embeddings=64 --position-embedding-type=rope
    --rotary-base=500000 --normalization=RMSNorm --norm-epsilon=1e-5 --swiglu --disable-bias-linear
    --untie-embeddings-and-output-weights --attention-dropout=0 --hidden-dropout=0
"""
TP2, PP2 = "--tensor-model-parallel-size=2", "--pipeline-model-parallel-size=2"
QWEN2 = "--add-qkv-bias --rotary-seq-len-interpolation-factor=2"
QWEN3 = "--qk-layernorm --kv-channels=32"


def logits_of(folder: Path) -> torch.Tensor:
    with torch.no_grad():
        logits: torch.Tensor = AutoModelForCausalLM.from_pretrained(str(folder))(torch.tensor(TOKENS)).logits
    return logits


def convert(pool: WorkerPool, direction: str, source: Path, output: Path, **settings: Any) -> list[str]:
    """The lines that the conversion prints, without the last."""
    settings |= {"direction": direction, "input": str(source), "output": str(output)}
    [lines] = pool.run(1, conversion_jobs.convert, settings)
    return list(lines[:-1])


@pytest.mark.parametrize(
    ("layout", "write_tokenizer", "other"),
    [
        pytest.param(TP2, write_small_mistral, PP2, id="tp2"),
        pytest.param(f"{PP2} {QWEN2}", write_qwen_like, TP2, id="pp2-qwen2"),
        pytest.param(f"{TP2} --ckpt-format=torch", write_small_mistral, None, id="tp2-legacy"),
        pytest.param(f"{PP2} --ckpt-format=torch {QWEN3}", write_small_mistral, TP2, id="pp2-legacy-qwen3"),
    ],
)
def test_checkpoint_of_megatron_lm_gives_its_logits(
    layout: str, write_tokenizer: Callable[[Path], Path], other: str | None, pool: WorkerPool, tmp_path: Path
) -> None:
    """From Megatron-LM's save to Hugging Face, and back to Megatron-LM's load at another layout."""
    tokenizer = write_tokenizer(tmp_path / "tokenizer")
    entries = Tokenizer.from_file(str(tokenizer / "tokenizer.json")).get_vocab_size()
    padding = [f"--vocab-size={entries}", "--make-vocab-size-divisible-by=32"]
    model = [*f"{LLAMA} {layout}".split(), *padding]
    saved = pool.run(2, megatron_lm_jobs.save, str(tmp_path / "source"), model, TOKENS)
    expected = torch.tensor(saved[-1])
    assert expected.shape[-1] > entries
    assert expected.std() > 0.3
    expected = expected[..., :entries]
    convert(pool, "mlm-to-mcore", tmp_path / "source", tmp_path / "run", tokenizer=str(tokenizer))
    convert(pool, "mcore-to-hf", tmp_path / "run", tmp_path / "hf")
    torch.testing.assert_close(logits_of(tmp_path / "hf"), expected, atol=1e-4, rtol=0)
    if other is not None:
        [line] = convert(pool, "mcore-to-mlm", tmp_path / "run", tmp_path / "back")
        arguments = [*line.removeprefix("for Megatron-LM: ").split(), *padding, other, "--no-load-rng"]
        loaded = pool.run(2, megatron_lm_jobs.load, arguments, TOKENS)
        assert [iteration for iteration, _ in loaded] == [0, 0]
        again = torch.tensor(loaded[-1][1])
        torch.testing.assert_close(again[..., :entries], expected, atol=1e-4, rtol=0)
