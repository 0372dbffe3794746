"""Chat sets: ids and loss of every token, names of special tokens in what is said, packing, and bad input."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from small_tokenizers import write_gpt2_like, write_llama_3_like, write_published_mistral_like, write_qwen_like
from transformers import PreTrainedTokenizerFast

from megatron_ipt.chat.conversations import Conversation, Message
from megatron_ipt.chat.encoding import ChatEncoder
from megatron_ipt.chat.stage import HELDOUT_NAME, PREFIX_NAME, build_chat_set
from megatron_ipt.chat.templates import ChatTemplate
from megatron_ipt.cli import build_chat_set as command
from megatron_ipt.config.chat_set import ChatSetConfig
from megatron_ipt.corpus.indexed_writer import BEGINS_DOCUMENT, HAS_LOSS
from megatron_ipt.tokenization.transformers_tokenizer import describe_tokenizer

Part = tuple[str, bool]
"""A special token or a text, and whether it has loss."""


def chatml(messages: list[Message]) -> list[Part]:
    parts: list[Part] = []
    for message in messages:
        learnt = message["role"] == "assistant"
        parts += [("<|im_start|>", False), (f"{message['role']}\n", False), (message["content"], learnt)]
        parts += [("<|im_end|>", learnt), ("\n", False)]
    return parts


def llama_3(messages: list[Message]) -> list[Part]:
    parts: list[Part] = [("<|begin_of_text|>", False)]
    for message in messages:
        learnt = message["role"] == "assistant"
        parts += [("<|start_header_id|>", False), (f"{message['role']}\n\n", False)]
        parts += [(message["content"].strip(), learnt), ("<|eot_id|>", learnt)]
    return parts


def mistral(messages: list[Message]) -> list[Part]:
    parts: list[Part] = [("<s>", False)]
    for message in messages:
        if message["role"] == "assistant":
            parts += [(f" {message['content']}", True), ("</s>", True)]
        else:
            parts.append((f"[INST] {message['content']} [/INST]", False))
    return parts


CHATML = (
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\\n' }}{% if m['role'] == 'assistant' %}GENERATION"
    "{{ m['content'] + '<|im_end|>' }}END{{ '\\n' }}{% else %}{{ m['content'] + '<|im_end|>\\n' }}{% endif %}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)
LLAMA_3 = (
    "{{ bos_token }}{% for m in messages %}<|start_header_id|>{{ m.role }}\n\n{% if m.role == 'assistant' %}GENERATION"
    "{{ m.content | trim }}<|eot_id|>END{% else %}{{ m.content | trim }}<|eot_id|>{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<|start_header_id|>assistant\n\n{% endif %}"
)
MISTRAL = (
    "{{ bos_token }}{% for m in messages %}{% if m.role == 'assistant' %}GENERATION {{ m.content }}{{ eos_token }}END"
    "{% else %}[INST] {{ m.content }} [/INST]{% endif %}{% endfor %}"
)
KINDS: dict[str, tuple[Callable[[Path], Path], str, Callable[[list[Message]], list[Part]]]] = {
    "chatml, qwen": (write_qwen_like, CHATML, chatml),
    "llama 3": (write_llama_3_like, LLAMA_3, llama_3),
    "mistral, gpt2": (write_gpt2_like, MISTRAL, mistral),
    "mistral, published": (write_published_mistral_like, MISTRAL, mistral),
}
SAID = [
    *("Hello", " there ", "\n", "\n\n", "é", "日本", "🇩🇪", "0.85", "?", "  ", "the keeper", "{{ bos_token }}", "<|im_"),
    *("<s>", "</s>", "<|im_start|>", "<|im_end|>", "<|im_end|>\n<|im_start|>assistant\n", "<|eot_id|>", "[/INST] "),
]
"""Pieces of what is said, the names of special tokens among them."""


def plain(template: str) -> str:
    return template.replace("GENERATION", "").replace("END", "")


def marked(template: str) -> str:
    return template.replace("GENERATION", "{% generation %}").replace("END", "{% endgeneration %}")


def say(draw: random.Random, pieces: list[str]) -> str:
    return "x" + "".join(draw.choices(pieces, k=draw.randint(1, 9))) + "x"


def converse(draw: random.Random, pieces: list[str], turns: int) -> list[Message]:
    roles = ["user", "assistant"] * turns
    return [{"role": role, "content": say(draw, pieces)} for role in roles]


def encode(encoder: ChatEncoder, messages: list[Message], prompt_messages: int = 0) -> tuple[list[int], list[int]]:
    conversation = Conversation(Path("x.jsonl"), 1, messages, prompt_messages=prompt_messages)
    [sequence] = encoder.encode([encoder.render(conversation)])
    assert (sequence.mask & BEGINS_DOCUMENT).nonzero()[0].tolist() == [0]
    return sequence.ids.tolist(), (sequence.mask & HAS_LOSS).tolist()


def restated(tokenizer: PreTrainedTokenizerFast, parts: list[Part]) -> tuple[list[int], list[int]]:
    """Encode special tokens by their ids, and the text between two of them as text; loss by where the parts lie."""
    special = set(tokenizer.all_special_tokens)
    ids, mask, number = list[int](), list[int](), 0
    while number < len(parts):
        if parts[number][0] in special:
            ids.append(tokenizer.convert_tokens_to_ids(parts[number][0]))
            mask.append(int(parts[number][1]))
            number += 1
            continue
        begun = number
        while number < len(parts) and parts[number][0] not in special:
            number += 1
        text = "".join(part for part, _ in parts[begun:number])
        learnt = [has_loss for part, has_loss in parts[begun:number] for _ in part]
        found = tokenizer(text, add_special_tokens=False, split_special_tokens=True, return_offsets_mapping=True)
        ids += found["input_ids"]
        mask += [int(any(learnt[start:end])) for start, end in found["offset_mapping"]]
    return ids, mask


@pytest.fixture(scope="module", params=KINDS)
def kind(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Any:
    write, template, parts = KINDS[request.param]
    folder = write(tmp_path_factory.mktemp("tokenizer"))
    tokenizer = PreTrainedTokenizerFast.from_pretrained(folder)
    content = json.loads((folder / "tokenizer.json").read_text())
    tokenizer.add_special_tokens(
        {"additional_special_tokens": [one["content"] for one in content["added_tokens"] if one["special"]]}
    )
    tokenizer.backend_tokenizer.post_processor = None  # it would trim offsets
    return tokenizer, template, parts


def encoder_of(tokenizer: PreTrainedTokenizerFast, template: str) -> ChatEncoder:
    return ChatEncoder(describe_tokenizer(tokenizer), ChatTemplate(template, dict(tokenizer.special_tokens_map)))


def test_ids_and_loss_are_those_of_transformers(kind: Any) -> None:
    tokenizer, template, _ = kind
    draw, pieces = random.Random(0), [piece for piece in SAID if "<" not in piece]
    encoders = [encoder_of(tokenizer, plain(template)), encoder_of(tokenizer, marked(template))]
    for _ in range(100):
        messages = converse(draw, pieces, draw.randint(1, 4))
        expected = tokenizer.apply_chat_template(
            messages, chat_template=marked(template), return_dict=True, return_assistant_tokens_mask=True
        )
        assert 0 < sum(expected["assistant_masks"]) < len(expected["input_ids"])
        for encoder in encoders:
            ids, mask = encode(encoder, messages)
            assert ids == expected["input_ids"] == tokenizer.apply_chat_template(
                messages, chat_template=plain(template), return_dict=False
            )
            assert mask == expected["assistant_masks"]


def test_special_tokens_in_what_is_said_are_text(kind: Any) -> None:
    tokenizer, template, parts = kind
    draw, differing = random.Random(1), 0
    encoders = [encoder_of(tokenizer, plain(template)), encoder_of(tokenizer, marked(template))]
    for _ in range(200):
        messages = converse(draw, SAID, draw.randint(1, 3))
        expected = restated(tokenizer, parts(messages))
        assert [encode(encoder, messages) for encoder in encoders] == [expected, expected]
        naive = tokenizer.apply_chat_template(messages, chat_template=plain(template), return_dict=False)
        differing += naive != expected[0]
    assert differing > 50
