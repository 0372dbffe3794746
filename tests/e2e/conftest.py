"""Models that several files convert or score."""

from __future__ import annotations

from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random Mistral over bytes, to convert."""
    from small_models import write_small_mistral

    return write_small_mistral(tmp_path_factory.mktemp("source"))


@pytest.fixture(scope="session")
def model_folder(quickstart_inputs: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A real, untrained Mistral of 2 million parameters with the quick start's tokenizer."""
    import torch
    from transformers import AutoTokenizer, MistralConfig, MistralForCausalLM

    folder = tmp_path_factory.mktemp("model")
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "intermediate_size": 88, "num_hidden_layers": 2, "max_position_embeddings": 2048}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2}
    MistralForCausalLM(MistralConfig(vocab_size=32000, **sizes, **heads)).save_pretrained(folder)
    AutoTokenizer.from_pretrained(quickstart_inputs / "tokenizer").save_pretrained(folder)
    return folder
