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
_LLAMA3_70B: dict[str, Any] = {
    "family": "llama",
    "num_layers": 80,
    "hidden_size": 8192,
    "ffn_hidden_size": 28672,
    "num_attention_heads": 64,
    "num_query_groups": 8,
    "vocab_size": 128256,
    "max_position_embeddings": 8192,
    "rotary_base": 500000.0,
}
_MISTRAL_5120: dict[str, Any] = {  # Nemo 2407 and Small 2501, whose heads are narrower than hidden size / heads
    "num_layers": 40,
    "hidden_size": 5120,
    "num_attention_heads": 32,
    "num_query_groups": 8,
    "kv_channels": 128,
    "vocab_size": 131072,
    "rotary_base": 1000000.0,
}
_QWEN25_5120: dict[str, Any] = {
    "family": "qwen2",
    "hidden_size": 5120,
    "num_attention_heads": 40,
    "num_query_groups": 8,
    "vocab_size": 152064,
    "max_position_embeddings": 131072,
    "rotary_base": 1000000.0,
}
_QWEN3_5120: dict[str, Any] = {
    "family": "qwen3",
    "hidden_size": 5120,
    "num_query_groups": 8,
    "vocab_size": 151936,
    "max_position_embeddings": 40960,
    "rotary_base": 1000000.0,
    "layernorm_epsilon": 1e-6,
}
_OLMO2_5120: dict[str, Any] = {  # 1124 and 0325
    "family": "olmo2",
    "hidden_size": 5120,
    "num_attention_heads": 40,
    "vocab_size": 100352,
    "max_position_embeddings": 4096,
    "rotary_base": 500000.0,
    "layernorm_epsilon": 1e-6,
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
    "llama3-70b": _LLAMA3_70B,
    "llama3.1-70b": {  # Llama 3.3 as well
        **_LLAMA3_70B,
        "max_position_embeddings": 131072,
        "rope_type": "llama3",
        "rope_factor": 8.0,
    },
    "mistral-nemo-12b": {**_MISTRAL_5120, "ffn_hidden_size": 14336, "max_position_embeddings": 128000},
    "mistral-small-24b": {
        **_MISTRAL_5120,
        "ffn_hidden_size": 32768,
        "max_position_embeddings": 32768,
        "rotary_base": 100000000.0,
    },
    "qwen2.5-14b": {**_QWEN25_5120, "num_layers": 48, "ffn_hidden_size": 13824},
    "qwen2.5-32b": {**_QWEN25_5120, "num_layers": 64, "ffn_hidden_size": 27648},
    "qwen3-14b": {**_QWEN3_5120, "num_layers": 40, "ffn_hidden_size": 17408, "num_attention_heads": 40},
    "qwen3-32b": {
        **_QWEN3_5120,
        "num_layers": 64,
        "ffn_hidden_size": 25600,
        "num_attention_heads": 64,
        "kv_channels": 128,
    },
    "olmo2-13b": {**_OLMO2_5120, "num_layers": 40, "ffn_hidden_size": 13824, "num_query_groups": 40},
    "olmo2-32b": {**_OLMO2_5120, "num_layers": 64, "ffn_hidden_size": 27648, "num_query_groups": 8},
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
