"""Models that are made in a moment, with the tokenizers that go with them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import MistralConfig, MistralForCausalLM, PreTrainedTokenizerFast

if TYPE_CHECKING:  # a session that only writes models does without megatron-core
    from megatron_ipt.conversion.hf_shards import HfTensors

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


def tensors_of(weights: Mapping[str, torch.Tensor]) -> HfTensors:
    """Weights in memory, all of one number format, as what is written to files."""
    from megatron_ipt.conversion.hf_shards import HfTensors
    from megatron_ipt.conversion.tensor_checks import ValueCheck

    dtype = next(iter(weights.values())).dtype
    shapes = {name: tensor.shape for name, tensor in weights.items()}
    return HfTensors(shapes, dtype, lambda names: (weights[name] for name in names), ValueCheck(dtype))


def all_of(tensors: HfTensors) -> dict[str, torch.Tensor]:
    """Every tensor by its name."""
    return dict(zip(tensors.shapes, tensors.read(list(tensors.shapes)), strict=True))
