"""What the workers of the pool run."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any


def pretrain(given: dict[str, Any]) -> int:
    """Run the pre-training command's own steps on a configuration; returns the last iteration."""
    from megatron_ipt.config.loading import config_from
    from megatron_ipt.config.pretrain import PretrainConfig
    from megatron_ipt.training.pretraining import pretrain

    return pretrain(config_from(PretrainConfig, given)).iteration


def refused(given: dict[str, Any]) -> str:
    """What the pre-training command tells the user who gave a configuration that cannot be run."""
    from megatron_ipt.errors import UserError

    try:
        pretrain(given)
    except UserError as error:
        return str(error)
    raise AssertionError("it ran")


def attempt(given: dict[str, Any]) -> None:
    """`pretrain`, which may be refused."""
    from megatron_ipt.errors import UserError

    try:
        pretrain(given)
    except UserError:
        return


def resumed_iteration(given: dict[str, Any]) -> int:
    """`pretrain`; returns the iteration it resumed from."""
    from megatron_ipt.config.loading import config_from
    from megatron_ipt.config.pretrain import PretrainConfig
    from megatron_ipt.training.callbacks import Callback
    from megatron_ipt.training.pretraining import pretrain

    started: list[int] = []

    class Start(Callback):
        def start(self, state: Any) -> None:
            started.append(state.iteration)

    pretrain(config_from(PretrainConfig, given), [Start()])
    return started[0]


def traced_pretrain(given: dict[str, Any]) -> list[int]:
    """`pretrain`; returns the index of every training sample that this rank read, in order."""
    from megatron_ipt.training import build

    read: list[int] = []
    original = build.open_datasets

    class Traced:
        def __init__(self, dataset: Any) -> None:
            self._dataset = dataset

        def __getitem__(self, index: int) -> Any:
            read.append(index)
            return self._dataset[index]

    def build_traced(*arguments: Any, **settings: Any) -> Any:
        train, valid = original(*arguments, **settings)
        return Traced(train), valid

    build.open_datasets = build_traced
    try:
        pretrain(given)
    finally:
        build.open_datasets = original
    return read


def pretrain_reading_ahead(given: dict[str, Any]) -> int:
    """`pretrain`, reading samples ahead as on GPUs; returns how often it does."""
    from megatron_ipt.data.micro_batches import MicroBatches
    from megatron_ipt.training import build

    counted = 0
    read_ahead = MicroBatches.read_ahead

    def count(self: MicroBatches) -> None:
        nonlocal counted
        counted += 1
        read_ahead(self)

    original, build.reads_ahead = build.reads_ahead, lambda _: True
    MicroBatches.read_ahead = count
    try:
        pretrain(given)
    finally:
        build.reads_ahead, MicroBatches.read_ahead = original, read_ahead
    return counted


def weight_hashes(checkpoint: str) -> dict[str, str]:
    """SHA-256 of every whole tensor in a checkpoint, optimizer state included."""
    import torch

    return {
        name: hashlib.sha256(tensor.detach().contiguous().view(torch.uint8).numpy().tobytes()).hexdigest()
        for name, tensor in read_tensors(checkpoint).items()
    }


def stale_weights(checkpoint: str) -> dict[str, int]:
    """For each weight of a bf16 checkpoint, how many elements are not those of the rounded fp32 master."""
    tensors = read_tensors(checkpoint)
    weights = {name: tensor for name, tensor in tensors.items() if not name.startswith("optimizer.")}
    masters = {name: tensors[f"optimizer.state.param.{name}"] for name in weights}
    return {name: int((weight != masters[name].to(weight.dtype)).sum()) for name, weight in weights.items()}


def read_tensors(checkpoint: str) -> dict[str, Any]:
    import torch
    from megatron.core import dist_checkpointing

    from megatron_ipt.config.pretrain import ParallelConfig
    from megatron_ipt.parallel.groups import initialize, shutdown

    initialize(ParallelConfig(), seed=1)
    try:
        tensors = dist_checkpointing.load_plain_tensors(str(Path(checkpoint)))
        return {name: tensor for name, tensor in tensors.items() if isinstance(tensor, torch.Tensor)}
    finally:
        shutdown()


def communication_threads() -> int:
    """The number of threads of gloo in this process."""
    tasks = Path("/proc/self/task").glob("*/comm")
    return sum(task.read_text(encoding="utf-8").startswith(("gloo", "pt_gloo")) for task in tasks)


def groups_of_gloo() -> list[str]:
    """megatron-core's names for groups that always are gloo's, whatever the device, where a run has formed them."""
    from megatron.core import parallel_state

    from megatron_ipt.config.pretrain import ParallelConfig
    from megatron_ipt.parallel.groups import initialize, shutdown

    initialize(ParallelConfig(), seed=1)
    try:
        values = vars(parallel_state)
        return [name for name in values if name.endswith("_GLOO") and values[name] is not None]
    finally:
        shutdown()
