"""Do both models give the same logits? In fp32, on real text."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
import transformers

from megatron_ipt.conversion.core_model import CoreModel
from megatron_ipt.conversion.parity_text import PARITY_TEXTS
from megatron_ipt.corpus.manifest import write_atomically

PARITY_NAME = "parity.json"
MAX_TOKENS = 512
"""Longest sequence compared."""


class ParityError(Exception):
    """The conversion ran, and its result is not the same model."""


@dataclass(frozen=True)
class Parity:
    """How far the logits of the two models lie apart."""

    max_abs_logit_difference: float
    mean_abs_logit_difference: float
    argmax_agreement: float
    largest_abs_logit: float
    tokens_compared: int
    sequences: int
    tolerance: float
    passed: bool


def parity_tokens(tokenizer_folder: Path, max_tokens: int) -> torch.Tensor:
    """Token ids [batch, seq] of the parity texts, cut to one length."""
    tokenizer = transformers.AutoTokenizer.from_pretrained(str(tokenizer_folder))
    rows = [tokenizer(text)["input_ids"] for text in PARITY_TEXTS]
    length = min(max_tokens, MAX_TOKENS, *map(len, rows))
    return torch.tensor([row[:length] for row in rows])


@torch.no_grad()
def compare_logits(core: CoreModel, hf_folder: Path, tokens: torch.Tensor, tolerance: float) -> Parity:
    """Run both models on `tokens` [batch, seq]; `core` must compute in fp32."""
    transformers.logging.disable_progress_bar()
    hf = transformers.AutoModelForCausalLM.from_pretrained(
        str(hf_folder), dtype=torch.float32, attn_implementation="eager"
    ).eval()
    expected = hf(tokens).logits
    del hf
    device = next(core.chunk.parameters()).device
    positions = torch.arange(tokens.shape[1], device=device).expand_as(tokens)
    found = core.chunk(tokens.to(device), positions, None).cpu().float()
    difference = (found - expected).abs()
    largest = difference.max().item()
    return Parity(
        max_abs_logit_difference=largest,
        mean_abs_logit_difference=difference.mean().item(),
        argmax_agreement=(found.argmax(-1) == expected.argmax(-1)).float().mean().item(),
        largest_abs_logit=expected.abs().max().item(),
        tokens_compared=tokens.numel(),
        sequences=tokens.shape[0],
        tolerance=tolerance,
        passed=largest <= tolerance,
    )


def record_parity(parity: Parity, folder: Path) -> Path:
    """Write parity.json; the file.

    Raises:
        ParityError: the difference is above the tolerance (or not a number).
    """
    file = folder / PARITY_NAME
    write_atomically(file, json.dumps(asdict(parity), indent=2) + "\n")
    if not parity.passed:
        raise ParityError(
            f"the two models differ: largest logit difference {parity.max_abs_logit_difference:.3g} over "
            f"{parity.tokens_compared} tokens, tolerance {parity.tolerance:.3g} ({file}). Do not use {folder}; "
            f"if the difference is rounding, set parity_tolerance higher and convert again."
        )
    return file
