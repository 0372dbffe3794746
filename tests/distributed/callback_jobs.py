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


def synchronizations_by_iteration(given: dict[str, Any]) -> list[tuple[list[str], list[str]]]:
    """Where each iteration makes the host wait for the device, from its vote to the next: in our code, and in others'.

    On a CPU nothing waits; what would on a GPU is recognized by the operation.
    """
    from megatron_ipt.config.loading import config_from
    from megatron_ipt.config.pretrain import PretrainConfig
    from megatron_ipt.training.callbacks import Callback
    from megatron_ipt.training.pretraining import pretrain

    iterations: list[tuple[list[str], list[str]]] = []

    def note() -> None:
        in_adam = any(
            "/torch/optim/" in frame.filename for frame in traceback.extract_stack()
        )  # its counters, on the host
        if iterations and not in_adam:
            place, is_ours = _caller()
            iterations[-1][0 if is_ours else 1].append(place)

    class Counter(Callback):
        def vote(self) -> float:
            iterations.append(([], []))
            return 0.0

    with _waiting_calls(note), _waiting_operations(note):
        pretrain(config_from(PretrainConfig, given), [Counter()])
    return iterations


def _waiting_operations(note: Callable[[], None]) -> Any:
    """Operations that read a value of a tensor, or whose result has a size that depends on values."""
    import torch
    from torch.utils._python_dispatch import TorchDispatchMode

    names = ("_local_scalar_dense", "nonzero", "masked_select", "_unique2", "unique_dim", "equal", "is_nonzero")

    class Mode(TorchDispatchMode):
        def __torch_dispatch__(self, function: Any, _: Any, arguments: Any = (), settings: Any = None) -> Any:
            name = function.overloadpacket.__name__
            by_mask = name.startswith("index") and any(
                isinstance(part, torch.Tensor) and part.dtype is torch.bool
                for argument in arguments
                if isinstance(argument, list | tuple)
                for part in argument
            )
            if name in names or by_mask:
                note()
            return function(*arguments, **(settings or {}))

    return Mode()


def _waiting_calls(note: Callable[[], None]) -> Any:
    """Calls that copy from the device, or that make a tensor there of numbers of the host."""
    import torch
    from torch.overrides import TorchFunctionMode

    reading = (torch.Tensor.tolist, torch.Tensor.cpu, torch.Tensor.numpy)
    making = (torch.tensor, torch.as_tensor, torch.Tensor.new_tensor)

    class Mode(TorchFunctionMode):
        def __torch_function__(self, function: Any, _: Any, arguments: Any = (), settings: Any = None) -> Any:
            settings = settings or {}
            if function in reading or (function in making and settings.get("device") is not None):
                note()
            return function(*arguments, **settings)

    return Mode()


def _is_ours() -> bool:
    return _caller()[1]


def _caller() -> tuple[str, bool]:
    """The innermost caller outside of torch and this file, and whether it is a module of the package."""
    frames = [frame for frame in traceback.extract_stack() if "/torch/" not in frame.filename]
    caller = next(frame for frame in reversed(frames) if frame.filename != __file__)
    return f"{Path(caller.filename).name}:{caller.name}", "/megatron_ipt/" in caller.filename


def seeds_of_steps(given: dict[str, Any]) -> list[int]:
    """The seed of torch's generator in each step."""
    import torch

    from megatron_ipt.config.loading import config_from
    from megatron_ipt.config.pretrain import PretrainConfig
    from megatron_ipt.training.callbacks import Callback
    from megatron_ipt.training.pretraining import pretrain

    seeds: list[int] = []

    class Seeds(Callback):
        def before_optimizer_step(self, state: Any, update: Any) -> None:
            seeds.append(torch.initial_seed())

    pretrain(config_from(PretrainConfig, given), [Seeds()])
    return seeds


def pretrain_with_roll_back(given: dict[str, Any], after: int) -> int:
    """`jobs.pretrain`, where the step after iteration `after` is found to be anomalous once."""
    from megatron_ipt.config.loading import config_from
    from megatron_ipt.config.pretrain import PretrainConfig
    from megatron_ipt.training.anomalies import RollBack
    from megatron_ipt.training.callbacks import Callback
    from megatron_ipt.training.pretraining import pretrain

    class RollingBack(Callback):
        has_rolled_back = False

        def before_optimizer_step(self, state: Any, update: Any) -> None:
            if state.iteration == after and not self.has_rolled_back:
                self.has_rolled_back = True
                raise RollBack(after)

    return pretrain(config_from(PretrainConfig, given), [RollingBack()]).iteration


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
