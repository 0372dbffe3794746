"""Runs with callbacks that tests add, as jobs for the worker pool."""

from __future__ import annotations

import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jobs

_COLLECTIVES = (
    *("all_reduce", "all_gather", "all_gather_into_tensor", "all_gather_object", "all_to_all", "barrier"),
    *("broadcast", "broadcast_object_list", "gather", "gather_object", "reduce", "reduce_scatter", "scatter"),
)


def pretrain_with_plugin(given: dict[str, Any], folder: str) -> int:
    """`jobs.pretrain` where the package in `folder` is installed."""
    sys.path.append(folder)
    try:
        return jobs.pretrain(given)
    finally:
        sys.path.remove(folder)


def collectives_by_iteration(given: dict[str, Any], release_at: int) -> list[int]:
    """How many collective calls of ours, not of megatron-core, each iteration makes, from its reduction to the next.

    Processes that write a checkpoint are held until iteration `release_at`.
    """
    import fault_hooks
    import torch.distributed as dist

    from megatron_ipt.checkpointing import background
    from megatron_ipt.config.loading import config_from
    from megatron_ipt.config.pretrain import PretrainConfig
    from megatron_ipt.training.callbacks import Callback
    from megatron_ipt.training.pretraining import pretrain

    counts: list[int] = []
    released = Path(given["run"]).with_suffix(".released")
    originals = {name: getattr(dist, name) for name in _COLLECTIVES}
    write = background._write

    class Counter(Callback):
        def vote(self) -> float:
            counts.append(0)
            return 0.0

        def between_steps(self, state: Any) -> None:
            if state.iteration == release_at:
                released.touch()

    def counted(original: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **settings: Any) -> Any:
            if counts and _is_ours():
                counts[-1] += 1
            return original(*arguments, **settings)

        return call

    for name, original in originals.items():
        setattr(dist, name, counted(original))
    background._write = fault_hooks.after(write, fault_hooks.wait_for_file, released)
    try:
        pretrain(config_from(PretrainConfig, given), [Counter()])
    finally:
        background._write = write
        for name, original in originals.items():
            setattr(dist, name, original)
    return counts


def _is_ours() -> bool:
    """Whether the innermost caller outside of torch and this file is a module of the package."""
    files = [frame.filename for frame in traceback.extract_stack() if "/torch/" not in frame.filename]
    return "/megatron_ipt/" in next(file for file in reversed(files) if file != __file__)


def refused_recording(given: dict[str, Any]) -> str:
    """What a run is told whose ranks record different metrics."""
    from megatron_ipt.config.loading import config_from
    from megatron_ipt.config.pretrain import PretrainConfig
    from megatron_ipt.errors import UserError
    from megatron_ipt.training.callbacks import Callback
    from megatron_ipt.training.pretraining import pretrain

    class ByRank(Callback):
        def setup(self, context: Any, bundle: Any) -> None:
            self._context = context

        def after_step(self, state: Any) -> None:
            self._context.record_metric(f"of_rank_{self._context.groups.rank}", 1.0)

    try:
        pretrain(config_from(PretrainConfig, given), [ByRank()])
    except UserError as error:
        return str(error)
    raise AssertionError("it ran")
