"""A tiny preset through the converter and back, in vLLM: prompt ids and greedy tokens are those of transformers."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from megatron_ipt.config.model_presets import MODEL_PRESETS
from megatron_ipt.conversion.hf_config import write_hf_config
from megatron_ipt.conversion.tokenizer_files import copy_tokenizer

ROOT = Path(__file__).parents[2]
NEW_TOKENS = 48


@pytest.fixture(params=["tiny-mistral", "tiny-llama"])
def export(request: pytest.FixtureRequest, quickstart_inputs: Path, tmp_path: Path) -> Path:
    """What mcore-to-hf writes of a model with random weights, large enough for attention to matter."""
    source = tmp_path / "source"
    source.mkdir()
    tokenizer = AutoTokenizer.from_pretrained(quickstart_inputs / "tokenizer")
    ids = {"bos_id": tokenizer.bos_token_id, "eos_id": tokenizer.eos_token_id}
    write_hf_config(source, MODEL_PRESETS[request.param], torch.float32, **ids)
    config = AutoConfig.from_pretrained(source)
    config.initializer_range = 0.1
    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(config).save_pretrained(source)
    copy_tokenizer(quickstart_inputs / "tokenizer", source)
    script = [sys.executable, ROOT / "tools" / "convert_checkpoint.py"]
    into_core = ["hf-to-mcore", "--input", source, "--output", tmp_path / "run", "parity_check=false"]
    out_of_core = ["mcore-to-hf", "--input", tmp_path / "run", "--output", tmp_path / "hf"]
    for arguments in (into_core, out_of_core):
        subprocess.run([*script, *arguments], check=True)
    return tmp_path / "hf"


def test_same_greedy_tokens_as_transformers(export: Path, texts: list[str]) -> None:
    from vllm import LLM, SamplingParams

    prompts = texts[::40]
    tokenizer = AutoTokenizer.from_pretrained(export)
    model = AutoModelForCausalLM.from_pretrained(export, dtype=torch.float32)
    llm = LLM(str(export), dtype="float32", enforce_eager=True, max_model_len=1024)
    greedy = SamplingParams(temperature=0.0, max_tokens=NEW_TOKENS, ignore_eos=True)
    answers = llm.generate(prompts, greedy, use_tqdm=False)
    llm.llm_engine.engine_core.shutdown()

    written = set()
    for prompt, answer in zip(prompts, answers, strict=True):
        ids = tokenizer(prompt)["input_ids"]
        assert answer.prompt_token_ids == ids  # BOS in front of them or not
        expected = model.generate(
            torch.tensor([ids]), do_sample=False, min_new_tokens=NEW_TOKENS, max_new_tokens=NEW_TOKENS
        )
        assert list(answer.outputs[0].token_ids) == expected[0, len(ids) :].tolist()
        written |= set(answer.outputs[0].token_ids)
    assert len(written) > NEW_TOKENS  # not one token again and again
