"""Automatic settings of a run: settings that, if not set, get a value from the layout and the device."""

from __future__ import annotations

from operator import attrgetter

from megatron_ipt.config.layout import data_parallel_size
from megatron_ipt.config.precision_checks import FP8_MULTIPLE
from megatron_ipt.config.pretrain import PretrainConfig

AUTOMATIC = (
    "parallel.sequence_parallel",
    "parallel.use_distributed_optimizer",
    "parallel.overlap_grad_reduce",
    "parallel.overlap_param_gather",
    "training.manual_gc",
)
"""None if not set, which all code but `resolve_automatic` treats as off."""


def resolve_automatic(
    config: PretrainConfig, world_size: int, *, on_gpus: bool, loaded: PretrainConfig | None = None
) -> PretrainConfig:
    """Return `config` with a value for each setting in `AUTOMATIC`; values that are set are kept.

    On a CPU all of them are off unless another setting requires them: they bring no benefit there, and results remain
    bitwise identical to those of earlier releases.

    Args:
        config: the configuration of the run.
        world_size: the number of ranks.
        on_gpus: whether the run uses GPUs.
        loaded: the configuration of the run that saved the optimizer state to start from, if any.
    """
    parallel = config.parallel
    exchanges = data_parallel_size(parallel, world_size) * parallel.context_parallel_size > 1
    shards = _first(
        parallel.use_distributed_optimizer,
        None if loaded is None else bool(loaded.parallel.use_distributed_optimizer),
        # with one data-parallel rank too: the state can then be continued with more
        _needs_sharded_optimizer(config) or (on_gpus and config.optimizer.optimizer != "muon"),
    )
    reduces = _first(parallel.overlap_grad_reduce, bool(parallel.overlap_param_gather) or (on_gpus and exchanges))
    values = {
        "sequence_parallel": _first(parallel.sequence_parallel, on_gpus and _divides_samples(config)),
        "use_distributed_optimizer": shards,
        "overlap_grad_reduce": reduces,
        "overlap_param_gather": _first(parallel.overlap_param_gather, on_gpus and exchanges and shards and reduces),
    }
    manual_gc = _first(config.training.manual_gc, on_gpus and world_size > 1)
    return config.model_copy(
        update={
            "parallel": parallel.model_copy(update=values),
            "training": config.training.model_copy(update={"manual_gc": manual_gc}),
        }
    )


def describe_automatic(given: PretrainConfig, resolved: PretrainConfig) -> dict[str, bool]:
    """Return the values in `resolved` of the settings that are not set in `given`, by dotted key."""
    values = {key: attrgetter(key) for key in AUTOMATIC}
    return {key: read(resolved) for key, read in values.items() if read(given) is None}


def _needs_sharded_optimizer(config: PretrainConfig) -> bool:
    return (
        bool(config.parallel.overlap_param_gather)
        or config.precision.fp8_param_gather
        or config.optimizer.use_precision_aware_optimizer
    )


def _divides_samples(config: PretrainConfig) -> bool:
    """Return whether tensor ranks can split the tokens of a sample between matrix products (sequence parallelism)."""
    tensor = config.parallel.tensor_model_parallel_size
    tokens = config.data.seq_length // config.parallel.context_parallel_size
    if tensor == 1 or tokens % tensor:
        return False
    return config.precision.fp8 is None or tokens // tensor * config.training.micro_batch_size % FP8_MULTIPLE == 0


def _first(*values: bool | None) -> bool:
    return next(value for value in values if value is not None)
