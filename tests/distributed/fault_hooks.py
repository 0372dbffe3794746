"""Faults that can only strike inside a rank: what happens to the losses of one step there."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from typing import Any

import torch

Change = Callable[[torch.Tensor], torch.Tensor]


def change_losses(iteration: int, rank: int, change: Change) -> None:
    """Let `change` have the losses of the first micro-batch of one iteration (counted from 1) on one rank."""
    from megatron_ipt.training.step import ForwardBackward

    original = ForwardBackward._forward
    calls = 0

    def forward(self: Any, batches: Any, model: Any) -> Any:
        nonlocal calls
        losses, loss_function = original(self, batches, model)
        if model.training:
            calls += 1
        is_hit = calls == (iteration - 1) * self._sizes["num_microbatches"] + 1 and os.environ["RANK"] == str(rank)
        return (change(losses) if is_hit and model.training else losses), loss_function

    ForwardBackward._forward = forward


def to_infinity(losses: torch.Tensor) -> torch.Tensor:
    return losses * float("inf")


def to_spike(losses: torch.Tensor) -> torch.Tensor:
    return losses * 50


def with_nan_gradient(losses: torch.Tensor) -> torch.Tensor:
    losses.register_hook(lambda gradient: gradient * float("nan"))
    return losses


def hanging(losses: torch.Tensor) -> torch.Tensor:
    time.sleep(1000)
    return losses


def limit_file_size(most_bytes: int) -> None:
    """No file of this process grows beyond `most_bytes`: writing fails as on a full disk."""
    import resource

    resource.setrlimit(resource.RLIMIT_FSIZE, (most_bytes, most_bytes))
