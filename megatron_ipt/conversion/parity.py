"""Comparison of the logits of two models in fp32: on real text, and of reduced twins on long sequences."""

from __future__ import annotations

import json
import logging
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
import transformers

from megatron_ipt.conversion.core_model import CoreModel
from megatron_ipt.conversion.rope_parity import compare_rope
from megatron_ipt.conversion.streaming import stream_core, stream_hf
from megatron_ipt.conversion.twin import build_twins
from megatron_ipt.corpus.manifest import write_atomically
from megatron_ipt.parallel.groups import Groups

logger = logging.getLogger(__name__)
PARITY_NAME = "parity.json"
_TWIN_TOLERANCE = 0.05
"""Logits of twins that attend to other tokens differ by 1 or more; rounding alone, amplified, by less than this."""


class ParityError(Exception):
    """The converted model does not compute what the original does."""


@dataclass(frozen=True)
class Parity:
    """How much the logits of two models differ, as parity.json records it.

    Attributes:
        infinite_logits_core, infinite_logits_hf: logits of either model that are infinite or not a number.
        argmax_agreement: share of tokens at which both models rank the same next token first.
        tokens_compared: tokens of all sequences together.
    """

    max_abs_logit_difference: float
    mean_abs_logit_difference: float
    argmax_agreement: float
    largest_abs_logit: float
    tokens_compared: int
    sequences: int
    tolerance: float
    infinite_logits_core: int
    infinite_logits_hf: int
    passed: bool


def check_parity(
    core: CoreModel, hf_folder: Path, tokens: torch.Tensor, groups: Groups, tolerance: float, folder: Path
) -> tuple[Path, str]:
    """Compare `core` with the model in `hf_folder`, and write parity.json.

    Args:
        core: must compute in fp32.
        tokens: token ids [batch, seq].
        tolerance: maximum absolute difference of any logit.
        folder: where to write parity.json.

    Returns:
        The file, and a summary in one line.

    Raises:
        ParityError: a difference is above its tolerance (or not a number).
    """
    logger.info("comparing logits with those of transformers")
    transformers.logging.disable_progress_bar()
    parity = compare_logits(core, hf_folder, tokens, tolerance)
    with build_twins(core.config, hf_folder, groups) as twins:
        twin_parity = compare_logits(twins.core, twins.hf_folder, twins.tokens, _TWIN_TOLERANCE, attention="sdpa")
        rope = compare_rope(twins.core, twins.hf_folder)
    passed = parity.passed and twin_parity.passed and rope.passed
    values = asdict(parity) | {
        "passed": passed,
        "twins": asdict(twin_parity) | {"shortened": twins.shortened},
        "rope": asdict(rope),
        "not_compared": twins.not_covered,
    }
    file = folder / PARITY_NAME
    write_atomically(file, json.dumps(values, indent=2) + "\n")
    found = f"{_summary(parity)}; of reduced twins, {_summary(twin_parity)}; of RoPE frequencies, {rope.summary}"
    if not passed:
        raise ParityError(_failure(parity, twin_parity, f"{found} ({file}). Do not use {folder}"))
    return file, f"logits of both models agree: largest difference {found}"


@torch.no_grad()
def compare_logits(
    core: CoreModel, hf_folder: Path, tokens: torch.Tensor, tolerance: float, attention: str = "eager"
) -> Parity:
    """Run both models on the same tokens.

    Args:
        core: must compute in fp32.
        tokens: token ids [batch, seq].
        tolerance: maximum absolute difference of any logit.
        attention: implementation that transformers uses; sdpa needs less memory on long sequences.
    """
    expected = stream_hf(core, hf_folder, attention)(tokens).logits
    positions = torch.arange(tokens.shape[1], device=core.device).expand_as(tokens)
    found = stream_core(core)(tokens.to(core.device), positions, None).cpu().float()
    difference = (found - expected).abs_()
    largest = difference.max().item()
    return Parity(
        max_abs_logit_difference=largest,
        mean_abs_logit_difference=difference.mean().item(),
        argmax_agreement=(found.argmax(-1) == expected.argmax(-1)).float().mean().item(),
        largest_abs_logit=expected.abs().max().item(),
        tokens_compared=tokens.numel(),
        sequences=tokens.shape[0],
        tolerance=tolerance,
        infinite_logits_core=int((~found.isfinite()).sum()),
        infinite_logits_hf=int((~expected.isfinite()).sum()),
        passed=largest <= tolerance,
    )


def _failure(parity: Parity, twin_parity: Parity, found: str) -> str:
    of_core = parity.infinite_logits_core + twin_parity.infinite_logits_core
    of_hf = parity.infinite_logits_hf + twin_parity.infinite_logits_hf
    if of_core or of_hf:
        return (
            f"logits are infinite or not numbers (NaN): {of_core:,} of megatron-core's model, {of_hf:,} of "
            f"transformers'; activations overflow, which no tolerance changes. Largest logit difference {found}."
        )
    return (
        f"the two models differ: largest logit difference {found}; "
        "if the difference is rounding, set parity_tolerance higher and convert again."
    )


def _summary(parity: Parity) -> str:
    length = parity.tokens_compared // parity.sequences
    return (
        f"{parity.max_abs_logit_difference:.3g} over {parity.sequences} sequences of {length} tokens "
        f"(tolerance {parity.tolerance:.3g})"
    )
