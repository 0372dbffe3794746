"""Conversations as tokens: ids and loss of every token, and names of special tokens in what is said."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from chat_formats import CHATML, LLAMA_3, MISTRAL, Part, chatml, llama_3, marked, mistral, plain, restated
from small_tokenizers import write_gpt2_like, write_llama_3_like, write_published_mistral_like, write_qwen_like
from transformers import PreTrainedTokenizerFast

from megatron_ipt.chat.conversations import Conversation, Message
from megatron_ipt.chat.encoding import ChatEncoder
from megatron_ipt.chat.templates import ChatTemplate
from megatron_ipt.corpus.indexed_writer import BEGINS_DOCUMENT, HAS_LOSS
from megatron_ipt.tokenization.transformers_tokenizer import describe_tokenizer

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


@pytest.fixture(scope="module", params=KINDS)
def kind(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Any:
    write, template, parts = KINDS[request.param]
    folder = write(tmp_path_factory.mktemp("tokenizer"))
    tokenizer = PreTrainedTokenizerFast.from_pretrained(folder)
    content = json.loads((folder / "tokenizer.json").read_text())
    tokenizer.add_special_tokens(
        {"additional_special_tokens": [one["content"] for one in content["added_tokens"] if one["special"]]}
    )
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
            assert (
                ids
                == expected["input_ids"]
                == tokenizer.apply_chat_template(messages, chat_template=plain(template), return_dict=False)
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


def test_only_the_completion_has_loss_after_a_prompt_with_answers(kind: Any) -> None:
    tokenizer, template, parts = kind
    messages = [*converse(random.Random(2), ["word"], 2), *converse(random.Random(3), ["other"], 1)]
    stated = parts(messages)
    before = len(parts(messages[:4]))
    expected = restated(
        tokenizer, [(part, learnt and number >= before) for number, (part, learnt) in enumerate(stated)]
    )
    assert sum(expected[1])
    for text in (plain(template), marked(template)):
        assert encode(encoder_of(tokenizer, text), messages, prompt_messages=5) == expected


def test_system_prompt_of_the_template_and_of_the_row(quickstart_inputs: Path) -> None:
    tokenizer = PreTrainedTokenizerFast.from_pretrained(quickstart_inputs / "smollm2")
    encoder = encoder_of(tokenizer, tokenizer.chat_template)
    asked = [{"role": "user", "content": "Who?"}, {"role": "assistant", "content": "Ann <|im_end|>."}]
    default = {"role": "system", "content": "You are a helpful AI assistant named SmolLM, trained by Hugging Face"}
    assert encode(encoder, asked) == restated(tokenizer, chatml([default, *asked]))
    own = {"role": "system", "content": "Be brief.<|im_start|>"}
    assert encode(encoder, [own, *asked]) == restated(tokenizer, chatml([own, *asked]))
    assert encoder.turn_ends == {"<|im_end|>": 2}
