"""Chat templates, restated without Jinja: what is special, what is text, and what has loss."""

from __future__ import annotations

from tokenizers import Tokenizer
from transformers import PreTrainedTokenizerFast

from megatron_ipt.chat.conversations import Message

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


def plain(template: str) -> str:
    return template.replace("GENERATION", "").replace("END", "")


def marked(template: str) -> str:
    return template.replace("GENERATION", "{% generation %}").replace("END", "{% endgeneration %}")


def restated(tokenizer: PreTrainedTokenizerFast, parts: list[Part]) -> tuple[list[int], list[int]]:
    """Encode special tokens by their ids, and the text between two of them as text; loss by where the parts lie."""
    special = set(tokenizer.all_special_tokens)
    exact = Tokenizer.from_str(tokenizer.backend_tokenizer.to_str())
    exact.encode_special_tokens, exact.post_processor = True, None  # which would trim offsets
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
        found = exact.encode(text, add_special_tokens=False)
        ids += found.ids
        mask += [int(any(learnt[start:end])) for start, end in found.offsets]
    return ids, mask
