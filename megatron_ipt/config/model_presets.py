"""Published model architectures by name (InstructLM: arXiv 2406.14491, hyper-parameter table), and two tiny ones.

Each lists the settings that differ from the defaults of `ModelConfig`.
"""

from __future__ import annotations

from typing import Any

_TINY: dict[str, Any] = {  # serving engines have attention kernels for a head dimension of 64, but not of 16
    "num_layers": 4,
    "hidden_size": 128,
    "num_attention_heads": 4,
    "num_query_groups": 2,
    "kv_channels": 64,
}
MODEL_PRESETS: dict[str, dict[str, Any]] = {
    "instructlm-500m": {
        "num_layers": 16,
        "hidden_size": 1536,
        "ffn_hidden_size": 4320,
        "num_attention_heads": 24,
        "num_query_groups": 24,
        "max_position_embeddings": 2048,
        "sliding_window": 4096,
    },
    "instructlm-1.3b": {
        "num_layers": 20,
        "hidden_size": 2048,
        "ffn_hidden_size": 8192,
        "num_attention_heads": 32,
        "num_query_groups": 8,
        "max_position_embeddings": 2048,
        "sliding_window": 4096,
    },
    "mistral-7b": {
        "num_layers": 32,
        "hidden_size": 4096,
        "ffn_hidden_size": 14336,
        "num_attention_heads": 32,
        "num_query_groups": 8,
        "max_position_embeddings": 32768,
        "sliding_window": 4096,
    },
    "llama3-8b": {
        "family": "llama",
        "num_layers": 32,
        "hidden_size": 4096,
        "ffn_hidden_size": 14336,
        "num_attention_heads": 32,
        "num_query_groups": 8,
        "vocab_size": 128256,
        "max_position_embeddings": 8192,
        "rotary_base": 500000.0,
    },
    "llama3-70b": {
        "family": "llama",
        "num_layers": 80,
        "hidden_size": 8192,
        "ffn_hidden_size": 28672,
        "num_attention_heads": 64,
        "num_query_groups": 8,
        "vocab_size": 128256,
        "max_position_embeddings": 8192,
        "rotary_base": 500000.0,
    },
    "smollm2-135m": {
        "family": "llama",
        "num_layers": 30,
        "hidden_size": 576,
        "ffn_hidden_size": 1536,
        "num_attention_heads": 9,
        "num_query_groups": 3,
        "vocab_size": 49152,
        "max_position_embeddings": 8192,
        "rotary_base": 100000.0,
        "untie_embeddings_and_output_weights": False,
    },
    "tiny-mistral": {**_TINY, "sliding_window": 4096},
    "tiny-llama": {**_TINY, "family": "llama"},
}
