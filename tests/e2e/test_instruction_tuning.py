"""Conversations to a model that answers and stops, through the command lines, checked with transformers alone."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from small_chats import END, TEMPLATE, TunedModel, heldout_messages, tune_small_model
from torch.nn import functional
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerFast

from megatron_ipt.observability.metrics import read_metrics

pytestmark = pytest.mark.e2e
MAX_NEW_TOKENS = 24


@pytest.fixture(scope="module")
def tuned(quickstart_inputs: Path, tmp_path_factory: pytest.TempPathFactory) -> TunedModel:
    return tune_small_model(quickstart_inputs, tmp_path_factory.mktemp("tuned"))


def answer_loss(folder: Path, tokenizer: PreTrainedTokenizerFast, chats: list[list[dict[str, str]]]) -> float:
    """Mean over the tokens of the answers, in nats: what apply_chat_template adds to the prompt."""
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    losses = []
    for messages in chats:
        whole, prompt = (
            tokenizer.apply_chat_template(given, chat_template=TEMPLATE, add_generation_prompt=asks, return_dict=False)
            for given, asks in ((messages, False), (messages[:-1], True))
        )
        assert whole[: len(prompt)] == prompt
        ids = torch.tensor(whole)
        with torch.no_grad():
            logits = model(ids[None]).logits[0, len(prompt) - 1 : -1]
        losses.append(functional.cross_entropy(logits, ids[len(prompt) :], reduction="none"))
    return torch.cat(losses).mean().item()


def test_answers_that_were_held_out_become_likelier(tuned: TunedModel) -> None:
    tokenizer, chats = AutoTokenizer.from_pretrained(tuned.hf), heldout_messages(tuned)
    assert len(chats) == 20
    before, after = (answer_loss(folder, tokenizer, chats) for folder in (tuned.base, tuned.hf))
    assert after < 0.3 < 3 < before
    rows = list(read_metrics(tuned.run / "metrics.jsonl"))
    validated = [row["validation_loss"] for row in rows if "validation_loss" in row]
    assert validated[0] == pytest.approx(before, rel=0.1)
    assert validated[-1] == pytest.approx(after, abs=0.05)


def test_exported_model_stops_by_itself(tuned: TunedModel) -> None:
    tokenizer = AutoTokenizer.from_pretrained(tuned.hf)
    model = AutoModelForCausalLM.from_pretrained(tuned.hf, dtype=torch.float32)
    end = tokenizer.convert_tokens_to_ids(END)
    assert tokenizer.chat_template == TEMPLATE
    for name in ("generation_config.json", "config.json"):
        assert json.loads((tuned.hf / name).read_text())["eos_token_id"] == [tokenizer.eos_token_id, end]
    for messages in heldout_messages(tuned):
        prompt = tokenizer.apply_chat_template(
            messages[:-1], add_generation_prompt=True, return_tensors="pt", return_dict=False
        )
        written = model.generate(prompt, max_new_tokens=MAX_NEW_TOKENS, do_sample=False)[0, prompt.shape[1] :]
        assert written[-1] == end and tokenizer.decode(written[:-1]).strip() in ("Yes", "No")
