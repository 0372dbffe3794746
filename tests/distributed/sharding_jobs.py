"""Jobs of the worker pool on checkpoints of a distributed optimizer."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import jobs


def pretrain_saving_as_before(given: dict[str, Any]) -> int:
    """`pretrain`, whose checkpoints are written as earlier versions did, by megatron-core's `fully_reshardable`."""
    from megatron_ipt.checkpointing import training_state

    ours = training_state._sharded_state

    def gathered(chunks: Any, optimizer: Any, groups: Any, stored: Any) -> Any:
        if stored is not None:
            return ours(chunks, optimizer, groups, stored)
        metadata = {
            "dp_cp_group": groups.data_parallel_with_context,
            "distrib_optim_sharding_type": "fully_reshardable",
            "singleton_local_shards": False,
            "chained_optim_avoid_prefix": True,
        }
        model = {name: chunk.sharded_state_dict(metadata=metadata) for name, chunk in training_state._named(chunks)}
        return {**model, "optimizer": optimizer.sharded_state_dict(dict(model), metadata=metadata)}, None

    training_state._sharded_state = gathered
    try:
        return jobs.pretrain(given)
    finally:
        training_state._sharded_state = ours


def measure_save_and_load(given: dict[str, Any], folder: str) -> dict[str, float]:
    """Bytes a parameter that this rank writes, and that saving and loading add to its memory at their peak."""
    import torch.distributed as dist

    from megatron_ipt.checkpointing.background import BackgroundWriter
    from megatron_ipt.checkpointing.training_state import load_training_state, prepare_training_state
    from megatron_ipt.config.loading import config_from
    from megatron_ipt.config.pretrain import PretrainConfig
    from megatron_ipt.models.accounting import parameter_count
    from megatron_ipt.parallel.groups import initialize, shutdown
    from megatron_ipt.training.model_bundle import build_model_bundle

    config = config_from(PretrainConfig, given)
    parameters = parameter_count(config.model)
    groups = initialize(config.parallel, seed=1)
    try:
        bundle = build_model_bundle(config, groups, "local")
        bundle.optimizer.step()  # makes the moments
        writer = BackgroundWriter(groups)
        writer.serve_results()
        requests: list[Any] = []

        def save() -> None:
            request = prepare_training_state(Path(folder), bundle.chunks, bundle.optimizer, groups)
            requests.append(request)

        saving = _peak_added_bytes(save)
        writer.start(requests.pop(), Path(folder))
        writer.wait()
        dist.barrier()
        written = sum(file.stat().st_size for file in Path(folder).glob(f"__{groups.rank}_*"))
        loading = _peak_added_bytes(lambda: load_training_state(Path(folder), bundle.chunks, bundle.optimizer, groups))
        return {"save": saving / parameters, "load": loading / parameters, "written": written / parameters}
    finally:
        shutdown()


def _peak_added_bytes(act: Callable[[], None]) -> int:
    """Resident memory of this process at its largest during `act`, over that before it."""
    Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
    before = _peak_bytes()
    act()
    return _peak_bytes() - before


def _peak_bytes() -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM"))
