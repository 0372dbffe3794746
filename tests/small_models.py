"""Models that are made in a moment, with the tokenizers that go with them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import MistralConfig, MistralForCausalLM, PreTrainedTokenizerFast

_SHAPE = {
    "hidden_size": 64,
    "intermediate_size": 160,
    "num_hidden_layers": 2,
    "num_attention_heads": 8,
    "num_key_value_heads": 2,
}


def write_small_mistral(
    folder: Path,
    *,
    max_position_embeddings: int = 256,
    sliding_window: int | None = 32,
    special_tokens: Sequence[str] = (),
    **shape: int,
) -> Path:
    """A random Mistral over bytes: one token a letter. The default window is shorter than the parity texts.

    `special_tokens` come after all others; `shape` replaces sizes of the configuration.
    """
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    names = ["<unk>", "<s>", "</s>", *alphabet, *special_tokens]
    vocabulary = {token: number for number, token in enumerate(names)}
    tokenizer = Tokenizer(models.BPE(vocabulary, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        unk_token="<unk>",
        bos_token="<s>",
        eos_token="</s>",
        extra_special_tokens=list(special_tokens),
    ).save_pretrained(str(folder))
    torch.manual_seed(0)
    MistralForCausalLM(
        MistralConfig(
            vocab_size=len(vocabulary),
            max_position_embeddings=max_position_embeddings,
            sliding_window=sliding_window,
            initializer_range=0.1,
            **_SHAPE | shape,
        )
    ).save_pretrained(str(folder))
    return folder
