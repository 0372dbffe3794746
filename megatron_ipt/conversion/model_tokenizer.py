"""The tokenizer that goes with a model, and the texts of the parity check as its tokens."""

from __future__ import annotations

from pathlib import Path

import torch
from transformers import PreTrainedTokenizerFast

from megatron_ipt.config.model import ModelConfig
from megatron_ipt.errors import UserError
from megatron_ipt.tokenization.parity_text import PARITY_TEXTS
from megatron_ipt.tokenization.transformers_tokenizer import open_tokenizer

MAX_TOKENS = 512
"""Tokens of the longest sequence on which the models themselves are compared."""


def open_model_tokenizer(folder: Path, model: ModelConfig) -> PreTrainedTokenizerFast:
    """Open the tokenizer in `folder`, whose ids have to be rows of the embedding of `model`.

    Raises:
        UserError: transformers cannot load it, or it is larger than the model.
    """
    tokenizer = open_tokenizer(folder)
    if len(tokenizer) > model.vocab_size:
        raise UserError(
            "tokenizer",
            folder,
            f"it has {len(tokenizer)} entries, the model {model.vocab_size}",
            "use the tokenizer that the model was trained with",
        )
    return tokenizer


def parity_tokens(tokenizer: PreTrainedTokenizerFast, max_tokens: int) -> torch.Tensor:
    """Tokenize the parity texts, truncated to a common length of at most `max_tokens`: ids [batch, seq]."""
    rows = [tokenizer(text)["input_ids"] for text in PARITY_TEXTS]
    length = min(max_tokens, MAX_TOKENS, *map(len, rows))
    return torch.tensor([row[:length] for row in rows])
