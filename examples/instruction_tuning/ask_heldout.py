#!/usr/bin/env python
"""Ask a model the held-out questions of a chat set: the loss of the reference answers, and how many of its own end.

The answers are generated greedily, by transformers, which also measures the loss, or by vLLM. This package is not
involved, so the results are what users of an exported model see.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

Messages = Sequence[dict[str, str]]


def main() -> None:
    """Write the answers, and print a summary."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, help="a Hugging Face folder with a chat template")
    run = Path("runs/instruction_tuning_cpu")
    parser.add_argument("--heldout", type=Path, default=run / "chat_set" / "heldout.jsonl", metavar="FILE")
    parser.add_argument("--engine", choices=["transformers", "vllm"], default="transformers")
    parser.add_argument("--max-new-tokens", type=int, default=64)
    parser.add_argument("--output", type=Path, required=True, metavar="FILE", help="the answers, as JSONL")
    options = parser.parse_args()
    lines = options.heldout.read_text(encoding="utf-8").splitlines()
    conversations: list[Messages] = [json.loads(line)["messages"] for line in lines]
    engine = ask_vllm if options.engine == "vllm" else ask_transformers
    rows, summary = engine(options.model, conversations, options.max_new_tokens)
    options.output.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    ended = sum(row["has_ended"] for row in rows)
    print(json.dumps({"questions": len(rows), "ended": ended, **summary}))


def ask_transformers(
    model: str, conversations: Sequence[Messages], max_new_tokens: int
) -> tuple[list[dict[str, Any]], dict[str, float]]:
    """Return the answers, and the mean loss per token of the reference answers, including the EOS after each."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(model)
    network = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32)
    rows, loss_sum, tokens = [], 0.0, 0
    for messages in conversations:
        prompt = tokenizer.apply_chat_template(messages[:-1], add_generation_prompt=True, return_dict=False)
        right = [*tokenizer.encode(messages[-1]["content"], add_special_tokens=False), tokenizer.eos_token_id]
        with torch.inference_mode():
            logits = network(torch.tensor([prompt + right])).logits[0, len(prompt) - 1 : -1]
            loss_sum += float(torch.nn.functional.cross_entropy(logits, torch.tensor(right), reduction="sum"))
            [ids] = network.generate(torch.tensor([prompt]), do_sample=False, max_new_tokens=max_new_tokens)
        tokens += len(right)
        written = ids[len(prompt) :].tolist()
        has_ended = written[-1] == tokenizer.eos_token_id
        rows.append({"answer": tokenizer.decode(written, skip_special_tokens=True), "has_ended": has_ended})
    return rows, {"answer_loss": loss_sum / tokens}


def ask_vllm(
    model: str, conversations: Sequence[Messages], max_new_tokens: int
) -> tuple[list[dict[str, Any]], dict[str, float]]:
    """Return the answers; vLLM does not measure the loss."""
    from vllm import LLM, SamplingParams

    llm = LLM(model, dtype="float32", enforce_eager=True, max_model_len=1024)
    sampling = SamplingParams(temperature=0.0, max_tokens=max_new_tokens)
    answers = llm.chat([list(messages[:-1]) for messages in conversations], sampling, use_tqdm=False)
    written = [answer.outputs[0] for answer in answers]
    return [{"answer": one.text, "has_ended": one.finish_reason == "stop"} for one in written], {}


if __name__ == "__main__":
    main()
