"""An export of each model family in vLLM: prompt ids and greedy tokens are those of transformers."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from small_exports import write_export
from small_tokenizers import write_llama_3_like, write_qwen_like
from transformers import AutoModelForCausalLM, AutoTokenizer

from megatron_ipt.config.model_families import MODEL_FAMILIES
from megatron_ipt.config.pretrain import ParallelConfig
from megatron_ipt.parallel.groups import Groups, initialize, shutdown

NEW_TOKENS = 48
MAX_MODEL_LEN = 1024
BOUNDARY = 64
"""The sliding window, and the length before RoPE scaling, in tokens; every prompt is longer."""
SHAPE = {
    "hidden_size": 128,  # heads of 32, the smallest that vLLM's attention on CPUs supports
    "ffn_hidden_size": 256,
    "max_position_embeddings": MAX_MODEL_LEN,
}
WINDOW = {"sliding_window": BOUNDARY}
WIDER_HEADS = {"kv_channels": 64}
TIED = {"untie_embeddings_and_output_weights": False}
SCALED = {"rope_factor": MAX_MODEL_LEN / BOUNDARY, "rope_original_max_position_embeddings": BOUNDARY}
YARN = {"rope_type": "yarn", **SCALED}
ATTRIBUTES: dict[str, dict[str, Any]] = {
    "mistral": {**WINDOW, **WIDER_HEADS},
    "llama": {"rope_type": "llama3", **SCALED},
    "qwen2": {**WINDOW, **YARN, "rope_attention_factor": 1.2, **TIED},
    "qwen3": {**WINDOW, **WIDER_HEADS},
    "smollm3": {"no_rope_freq": 2, **YARN, **TIED},
    "olmo2": WIDER_HEADS,
}


@pytest.fixture(autouse=True)
def separate_engine(monkeypatch: pytest.MonkeyPatch) -> None:
    """Run the engine in a process of its own.

    The export needs process groups in this one, and vLLM replaces methods of the classes of transformers that it uses.
    """
    monkeypatch.setenv("VLLM_ENABLE_V1_MULTIPROCESSING", "1")


@pytest.fixture
def groups() -> Iterator[Groups]:
    yield initialize(ParallelConfig(), seed=1)
    shutdown()


def test_every_family_is_compared() -> None:
    assert ATTRIBUTES.keys() == set(MODEL_FAMILIES)


@pytest.mark.full
@pytest.mark.parametrize("family", ATTRIBUTES)
def test_same_greedy_tokens_as_transformers(family: str, groups: Groups, texts: list[str], tmp_path: Path) -> None:
    from vllm import LLM, SamplingParams

    write_tokenizer = write_qwen_like if family == "qwen2" else write_llama_3_like  # Qwen's has no BOS
    folder = tmp_path / "hf"
    write_export(
        write_tokenizer(tmp_path / "tokenizer"), folder, {"family": family, **SHAPE, **ATTRIBUTES[family]}, groups
    )

    prompts = [" ".join(texts[start : start + 5]) for start in range(0, len(texts), 10)]
    llm = LLM(str(folder), dtype="float32", enforce_eager=True, max_model_len=MAX_MODEL_LEN)
    greedy = SamplingParams(temperature=0.0, max_tokens=NEW_TOKENS, ignore_eos=True)
    answers = llm.generate(prompts, greedy, use_tqdm=False)
    llm.llm_engine.engine_core.shutdown()

    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    bos_id = tokenizer.bos_token_id
    assert (bos_id is None) == (family == "qwen2")
    written = set()
    for prompt, answer in zip(prompts, answers, strict=True):
        ids = tokenizer(prompt)["input_ids"]
        assert len(ids) > BOUNDARY
        assert answer.prompt_token_ids == ids
        assert bos_id is None or (ids[0] == bos_id and ids.count(bos_id) == 1)
        expected = model.generate(
            torch.tensor([ids]), do_sample=False, min_new_tokens=NEW_TOKENS, max_new_tokens=NEW_TOKENS
        )
        assert list(answer.outputs[0].token_ids) == expected[0, len(ids) :].tolist()
        written |= set(answer.outputs[0].token_ids)
    assert len(written) > 10  # not one token again and again
