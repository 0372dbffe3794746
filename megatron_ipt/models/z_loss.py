"""z-loss (Chowdhery et al. 2022, arXiv 2204.02311): keeps the normalizer of the softmax, and so the logits, small."""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist


def z_loss(logits: torch.Tensor, coefficient: float, group: dist.ProcessGroup) -> torch.Tensor:
    """Compute `coefficient` x the squared log of the softmax's normalizer at each token, (seq, batch) in fp32.

    Args:
        logits: this rank's part of the vocabulary, (seq, batch, vocabulary / ranks).
        coefficient: 1e-4 in PaLM.
        group: the tensor ranks, over which the vocabulary is split.
    """
    function: Any = _LogNormalizer
    return coefficient * function.apply(logits, group).square()


class _LogNormalizer(torch.autograd.Function):
    """logsumexp over a vocabulary that is split over ranks.

    It saves the probabilities for its backward pass, in the format of the logits, because the cross-entropy that
    follows overwrites the logits in place.
    """

    @staticmethod
    def forward(ctx: Any, logits: torch.Tensor, group: dist.ProcessGroup) -> torch.Tensor:
        values = logits.float()
        largest = values.amax(dim=-1)
        dist.all_reduce(largest, dist.ReduceOp.MAX, group=group)
        exponentials = (values - largest[..., None]).exp_()
        normalizer = exponentials.sum(dim=-1)
        dist.all_reduce(normalizer, group=group)
        ctx.save_for_backward(exponentials.div_(normalizer[..., None]).to(logits.dtype))
        return normalizer.log() + largest

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor, None]:
        (probabilities,) = ctx.saved_tensors
        return probabilities * gradients[0][..., None].to(probabilities.dtype), None
