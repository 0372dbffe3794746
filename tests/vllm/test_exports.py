"""Exports in vLLM: prompt ids and greedy tokens are those of transformers, and answers in a chat end."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from small_chats import END, heldout_messages, tune_small_model
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from megatron_ipt.config.model import ModelConfig
from megatron_ipt.config.model_presets import MODEL_PRESETS
from megatron_ipt.conversion.hf_config import write_hf_config

ROOT = Path(__file__).parents[2]
NEW_TOKENS = 48


def run_tool(name: str, *arguments: str) -> None:
    subprocess.run([sys.executable, ROOT / "tools" / f"{name}.py", *arguments], check=True)


@pytest.fixture(autouse=True)
def separate_engine(monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs the engine in a process of its own: training and conversion end the process groups of this one."""
    monkeypatch.setenv("VLLM_ENABLE_V1_MULTIPROCESSING", "1")


@pytest.fixture(params=["tiny-mistral", "tiny-llama"])
def export(request: pytest.FixtureRequest, quickstart_inputs: Path, texts: list[str], tmp_path: Path) -> Path:
    """The export of a run on documents that begin with BOS; its random weights are large, so that attention matters."""
    base, tokenizer = tmp_path / "base", quickstart_inputs / "tokenizer"
    shutil.copytree(tokenizer, base)
    write_hf_config(
        base, ModelConfig(**MODEL_PRESETS[request.param]), torch.float32, {"bos_token_id": 1, "eos_token_id": 2}
    )
    config = AutoConfig.from_pretrained(base)
    config.initializer_range = 0.1
    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(config).save_pretrained(base)
    run_tool("convert_checkpoint", "hf-to-mcore", f"--input={base}", f"--output={tmp_path / 'start'}")

    text = tmp_path / "text.jsonl"
    text.write_text("".join(json.dumps({"text": one}) + "\n" for one in texts), encoding="utf-8")
    prefix = tmp_path / "data" / "corpus"
    preprocessing = [f"input=[{text}]", f"output_prefix={prefix}", f"tokenizer_model={tokenizer}"]
    run_tool("preprocess_data", *preprocessing, "prepend_bod=true", "append_eod=true")
    config_file = tmp_path / "pretrain.yaml"
    settings = {
        "run": str(tmp_path / "run"),
        "model": {"preset": request.param},
        "data": {
            "tokenizer": str(tokenizer),
            "blend": [{"prefix": f"{prefix}_text_document"}],
            "seq_length": 64,
            "split": "1,0,0",
        },
        "precision": {"bf16": False},
        "training": {"train_iters": 1, "micro_batch_size": 1, "global_batch_size": 1, "eval_iters": 0},
        "schedule": {"lr_warmup_iters": 0},
        "checkpoint": {"pretrained_checkpoint": str(tmp_path / "start")},
        "tracking": {"tensorboard": False},
    }
    config_file.write_text(json.dumps(settings), encoding="utf-8")
    run_tool("pretrain_gpt", f"--config={config_file}")
    run_tool("convert_checkpoint", "mcore-to-hf", f"--input={tmp_path / 'run'}", f"--output={tmp_path / 'hf'}")
    return tmp_path / "hf"


@pytest.mark.full
def test_same_greedy_tokens_as_transformers(export: Path, texts: list[str]) -> None:
    from vllm import LLM, SamplingParams

    prompts = texts[::10]
    tokenizer = AutoTokenizer.from_pretrained(export)
    model = AutoModelForCausalLM.from_pretrained(export, dtype=torch.float32)
    llm = LLM(str(export), dtype="float32", enforce_eager=True, max_model_len=1024)
    greedy = SamplingParams(temperature=0.0, max_tokens=NEW_TOKENS, ignore_eos=True)
    answers = llm.generate(prompts, greedy, use_tqdm=False)
    llm.llm_engine.engine_core.shutdown()

    written = set()
    for prompt, answer in zip(prompts, answers, strict=True):
        ids = tokenizer(prompt)["input_ids"]
        assert answer.prompt_token_ids == ids
        assert ids[0] == tokenizer.bos_token_id and tokenizer.bos_token_id not in ids[1:]
        expected = model.generate(
            torch.tensor([ids]), do_sample=False, min_new_tokens=NEW_TOKENS, max_new_tokens=NEW_TOKENS
        )
        assert list(answer.outputs[0].token_ids) == expected[0, len(ids) :].tolist()
        written |= set(answer.outputs[0].token_ids)
    assert len(written) > NEW_TOKENS  # not one token again and again


def test_tuned_model_stops_by_itself(quickstart_inputs: Path, tmp_path: Path) -> None:
    from vllm import LLM, SamplingParams

    tuned = tune_small_model(quickstart_inputs, tmp_path)
    prompts = [messages[:-1] for messages in heldout_messages(tuned)]
    tokenizer = AutoTokenizer.from_pretrained(tuned.hf)
    model = AutoModelForCausalLM.from_pretrained(tuned.hf, dtype=torch.float32)
    llm = LLM(str(tuned.hf), dtype="float32", enforce_eager=True, max_model_len=1024)
    answers = llm.chat(prompts, SamplingParams(temperature=0.0, max_tokens=NEW_TOKENS), use_tqdm=False)
    llm.llm_engine.engine_core.shutdown()

    for prompt, answer in zip(prompts, answers, strict=True):
        ids = tokenizer.apply_chat_template(prompt, add_generation_prompt=True, return_dict=False)
        assert answer.prompt_token_ids == ids
        [written] = answer.outputs
        expected = model.generate(torch.tensor([ids]), do_sample=False, max_new_tokens=NEW_TOKENS)
        assert list(written.token_ids) == expected[0, len(ids) :].tolist()
        assert written.finish_reason == "stop"
        assert written.token_ids[-1] == tokenizer.convert_tokens_to_ids(END)
