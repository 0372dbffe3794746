"""Comparison of RoPE frequencies: they hold at every position, where sequences end somewhere.

Scaled RoPE changes the lowest frequencies most, which turn by little even over thousands of tokens.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
import transformers

from megatron_ipt.conversion.core_model import CoreModel
from megatron_ipt.models.gpt import unwrapped

_TOLERANCE = 1e-5


@dataclass(frozen=True)
class RopeParity:
    """How much the angles per position of two models differ, and the factors of their sines and cosines.

    Attributes:
        max_relative_difference: of any of these numbers.
    """

    max_relative_difference: float
    frequencies_compared: int
    tolerance: float
    passed: bool

    @property
    def summary(self) -> str:
        """The result in a few words."""
        return f"{self.max_relative_difference:.3g} (tolerance {self.tolerance:.3g})"


@torch.no_grad()
def compare_rope(core: CoreModel, hf_folder: Path) -> RopeParity:
    """Compare the frequencies of `core` with those that transformers computes for the model in `hf_folder`."""
    hf = transformers.AutoModelForCausalLM.from_pretrained(str(hf_folder))
    [rotary] = [module for module in hf.modules() if hasattr(module, "inv_freq")]
    expected = torch.cat([rotary.inv_freq.float(), torch.tensor([float(rotary.attention_scaling)])])
    embedding = unwrapped(core.chunk).rotary_pos_emb(2)
    rotations, scaling = embedding if isinstance(embedding, tuple) else (embedding, 1.0)  # a pair for YaRN
    angles = rotations[1].flatten().cpu()  # of the second position: frequencies times 1, twice
    found = torch.cat([angles[: angles.numel() // 2], torch.tensor([float(scaling)])])
    largest = ((found - expected).abs() / expected).max().item() if found.shape == expected.shape else float("inf")
    return RopeParity(largest, expected.numel() - 1, _TOLERANCE, largest <= _TOLERANCE)
