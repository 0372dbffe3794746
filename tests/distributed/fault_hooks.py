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

    original_call, original_forward = ForwardBackward.__call__, ForwardBackward._forward
    steps, is_first = 0, False

    def call(self: Any, batches: Any, samples: int, *, forward_only: bool) -> None:
        nonlocal steps, is_first
        steps, is_first = steps + (not forward_only), not forward_only
        original_call(self, batches, samples, forward_only=forward_only)

    def forward(self: Any, batches: Any, model: Any) -> Any:
        nonlocal is_first
        losses, loss_function = original_forward(self, batches, model)
        is_hit, is_first = is_first and steps == iteration and os.environ["RANK"] == str(rank), False
        return (change(losses) if is_hit else losses), loss_function

    ForwardBackward.__call__, ForwardBackward._forward = call, forward


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
