"""Reduced twins of models: the same attention in few, narrow layers, cheap to run on long sequences.

Which tokens a token attends to depends on the configuration, not on the weights, and shows on long sequences only.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
import transformers
from transformers import PretrainedConfig

from megatron_ipt.config.model import ModelConfig
from megatron_ipt.conversion.core_model import CoreModel, build_core_model, fill_from_hf
from megatron_ipt.conversion.hf_weights import HfWeights
from megatron_ipt.parallel.groups import Groups

MAX_TOKENS = 5120
"""Tokens of the longest sequence: a window of 4096 and a quarter more."""
_SEQUENCES = 2
_LAYERS = 2
_HIDDEN_SIZE = 64
_FFN_HIDDEN_SIZE = 128
_HEADS = 2
_VOCAB_SIZE = 256
_GAIN = 1.7
"""Scale of the weights; its square, 3, is the standard deviation of attention scores, so that single tokens matter."""


@dataclass(frozen=True)
class Twins:
    """The twins of two models that should be equal, with the same weights, and sequences to run both on.

    Attributes:
        hf_folder: folder of the Hugging Face twin, which exists while the context of `build_twins` is open.
        tokens: token ids [batch, seq].
        shortened: windows that are too long for these sequences, and are shortened in both twins by the same number of
            tokens.
        not_covered: parts of the configuration that these sequences are too short to test.
    """

    core: CoreModel
    hf_folder: Path
    tokens: torch.Tensor
    shortened: list[str]
    not_covered: list[str]


@contextmanager
def build_twins(model: ModelConfig, hf_folder: Path, groups: Groups) -> Iterator[Twins]:
    """Reduce `model` and the model in `hf_folder`, each from its own configuration.

    The sequences are as long as `max_position_embeddings` and longer than the window of either, up to `MAX_TOKENS`.
    """
    hf_config = transformers.AutoConfig.from_pretrained(str(hf_folder))
    window = max(model.sliding_window or 0, getattr(hf_config, "sliding_window", None) or 0)
    longest = MAX_TOKENS - MAX_TOKENS // 5
    excess = max(0, window - longest)
    length = min(MAX_TOKENS, max(model.max_position_embeddings, window + window // 4))
    tokens = torch.randint(_VOCAB_SIZE, (_SEQUENCES, length), generator=torch.Generator().manual_seed(0))
    with TemporaryDirectory() as name:
        folder = Path(name)
        if getattr(hf_config, "sliding_window", None):
            hf_config.sliding_window -= excess
        _write_hf_twin(hf_config, folder)
        core = build_core_model(_reduced(model, excess), groups, bf16=False, seq_length=length)
        fill_from_hf(core, HfWeights(folder))
        shortened = [f"sliding_window = {window}, to {window - excess}"] if excess else []
        yield Twins(core, folder, tokens, shortened, _not_covered(length, model.max_position_embeddings))


def _not_covered(length: int, max_position_embeddings: int) -> list[str]:
    """Properties that the twins do not cover; RoPE is compared at all positions, by its frequencies."""
    if max_position_embeddings > length:
        return [f"logits at positions from {length} to {max_position_embeddings}"]
    return []


def _reduced(model: ModelConfig, excess: int) -> ModelConfig:
    sizes = {
        "num_layers": _LAYERS,
        "hidden_size": _HIDDEN_SIZE,
        "ffn_hidden_size": _FFN_HIDDEN_SIZE,
        "num_attention_heads": _HEADS,
        "num_query_groups": _groups(model.num_attention_heads, model.num_query_groups),
        "kv_channels": model.head_dim,
        "vocab_size": _VOCAB_SIZE,
        "no_rope_freq": None if model.no_rope_freq is None else min(model.no_rope_freq, _LAYERS),
        "sliding_window": max(1, model.sliding_window - excess) if model.sliding_window is not None else None,
    }
    return model.model_copy(update=sizes)


def _write_hf_twin(config: PretrainedConfig, folder: Path) -> None:
    """Change nothing but the sizes in `config`, and save a model of it with random weights."""
    head_dim = getattr(config, "head_dim", None)  # not every class has or completes it
    config.head_dim = head_dim or config.hidden_size // config.num_attention_heads
    config.num_hidden_layers = _LAYERS
    config.hidden_size = _HIDDEN_SIZE
    config.intermediate_size = _FFN_HIDDEN_SIZE
    config.num_key_value_heads = _groups(config.num_attention_heads, config.num_key_value_heads)
    config.num_attention_heads = _HEADS
    config.vocab_size = _VOCAB_SIZE
    config.pad_token_id = None
    if layer_types := getattr(config, "layer_types", None):
        config.layer_types = layer_types[:1] * _LAYERS  # all alike, or the model would have been refused
    if rope_layers := getattr(config, "no_rope_layers", None):
        config.no_rope_layers = (sorted(set(rope_layers), reverse=True) * _LAYERS)[:_LAYERS]
    model = transformers.AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    generator = torch.Generator().manual_seed(0)
    for parameter in model.parameters():
        if parameter.dim() == 2:
            torch.nn.init.normal_(parameter, std=_GAIN / parameter.shape[1] ** 0.5, generator=generator)
    model.save_pretrained(str(folder))


def _groups(heads: int, groups: int) -> int:
    return 1 if groups < heads else _HEADS
