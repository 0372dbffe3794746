"""Faults that can only strike inside a rank: what happens to the losses of one step there."""

from __future__ import annotations

import importlib
import multiprocessing
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
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


def change_losses_and_kill_writers(iteration: int, rank: int, change: Change, written_iteration: int) -> None:
    """`change_losses`, and the processes that write the checkpoint of `written_iteration` are killed."""
    change_losses(iteration, rank, change)
    writing(killed_at, written_iteration)


def slow_down(rank: int, seconds: float) -> None:
    """Let one rank take longer over every micro-batch."""
    from megatron_ipt.training.step import ForwardBackward

    original = ForwardBackward._forward

    def forward(self: Any, batches: Any, model: Any) -> Any:
        time.sleep(seconds if os.environ["RANK"] == str(rank) else 0.0)
        return original(self, batches, model)

    ForwardBackward._forward = forward


def killed_in_start_up(rank: int, module: str, name: str) -> None:
    """One rank dies where it would call `name` of `module`."""
    if os.environ["RANK"] == str(rank):
        setattr(importlib.import_module(module), name, lambda *_, **__: os.kill(os.getpid(), signal.SIGKILL))


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


def writing(act: Callable[..., None], *arguments: Any) -> None:
    """Let every process that writes a checkpoint call `act(folder, *arguments)` first."""
    from megatron_ipt.checkpointing import background

    background.get_context = multiprocessing.get_context  # as outside tests, see `ranks`
    background._write = after(background._write, act, *arguments)


def first_writer_hangs(marker: Path) -> None:
    """The first process of each rank that should write a checkpoint never gets that far."""
    from megatron_ipt.checkpointing import background

    original = background._report_start

    def report_start(*arguments: Any, **settings: Any) -> None:
        try:
            marker.with_suffix(f".{os.environ['RANK']}").touch(exist_ok=False)
        except FileExistsError:
            original(*arguments, **settings)
        else:
            time.sleep(1000)

    background._report_start, background._START_SECONDS = report_start, 1.0


def after(write: Callable[..., None], act: Callable[..., None], *arguments: Any) -> Callable[..., None]:
    """The function that writes a checkpoint, after `act(folder, *arguments)`."""

    def act_and_write(write_files: Any, sender: Any, folder: Any, *others: Any) -> None:
        act(folder, *arguments)
        write(write_files, sender, folder, *others)

    return act_and_write


def slowly(folder: Path, seconds: float) -> None:
    time.sleep(seconds)


def wait_for_file(_: Path, file: Path, timeout_seconds: float = 60.0) -> None:
    deadline = time.monotonic() + timeout_seconds
    while not file.exists() and time.monotonic() < deadline:
        time.sleep(0.01)


def killed_at(folder: Path, iteration: int) -> None:
    """As by the kernel when memory is short."""
    if f"_{iteration:07d}." in folder.name:
        os.kill(os.getpid(), signal.SIGKILL)


def hide_wandb() -> None:
    """Nobody listens where W&B's server should be."""
    from megatron_ipt.observability import wandb_tracker

    wandb_tracker._INIT_TIMEOUT_SECONDS = 5.0
    os.environ.update(WANDB_BASE_URL="http://127.0.0.1:9", WANDB_API_KEY="0" * 40)


def with_full_disk(losses: torch.Tensor) -> torch.Tensor:
    """No file of this rank grows beyond what metrics.jsonl has come to, or nearly."""
    limit_file_size(4096)
    return losses


def limit_file_size(most_bytes: int) -> None:
    """No file of this process grows beyond `most_bytes`: writing fails as on a full disk."""
    import resource

    resource.setrlimit(resource.RLIMIT_FSIZE, (most_bytes, most_bytes))
