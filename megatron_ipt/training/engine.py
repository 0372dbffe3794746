"""The model with its optimizer and schedule, and where it starts from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from megatron.core.distributed import DistributedDataParallel, DistributedDataParallelConfig, finalize_model_grads
from megatron.core.optimizer import MegatronOptimizer
from megatron.core.optimizer_param_scheduler import OptimizerParamScheduler
from megatron.core.transformer import TransformerConfig

from megatron_ipt.checkpointing.layout import resolve_checkpoint
from megatron_ipt.checkpointing.store import CheckpointStore
from megatron_ipt.checkpointing.training_state import load_training_state
from megatron_ipt.checkpointing.weights import load_weights
from megatron_ipt.config.pretrain import PretrainConfig
from megatron_ipt.errors import UserError
from megatron_ipt.models.gpt import build_gpt_chunks
from megatron_ipt.models.transformer_config import transformer_config
from megatron_ipt.optim.optimizer import build_optimizer
from megatron_ipt.optim.schedule import build_schedule
from megatron_ipt.parallel.groups import Groups
from megatron_ipt.training.state import TrainState
from megatron_ipt.training.stragglers import ComputeClock


@dataclass(frozen=True)
class Engine:
    """The model, its optimizer and its schedule on this rank."""

    chunks: list[DistributedDataParallel]
    optimizer: MegatronOptimizer
    schedule: OptimizerParamScheduler
    clock: ComputeClock


def build_engine(config: PretrainConfig, groups: Groups) -> Engine:
    """Model chunks with data parallelism, optimizer and learning-rate schedule."""
    core_config = transformer_config(
        config.model,
        config.parallel,
        config.precision,
        calculate_per_token_loss=config.training.calculate_per_token_loss,
        seq_length=config.data.seq_length,
    )
    models = build_gpt_chunks(
        config.model,
        config.parallel,
        config.precision,
        core_config,
        groups,
        config.data.seq_length,
        document_attention=config.data.reset_attention_mask,
    )
    chunks = [_with_data_parallelism(config, core_config, model, is_first=i == 0) for i, model in enumerate(models)]
    for chunk in chunks:
        chunk.broadcast_params()
    optimizer = build_optimizer(config.optimizer, config.parallel, config.precision, chunks)
    clock = ComputeClock(groups.device)
    _connect(core_config, config, chunks, optimizer, clock)
    schedule = build_schedule(config.schedule, config.optimizer, config.training, optimizer)
    return Engine(chunks, optimizer, schedule, clock)


def restore(config: PretrainConfig, groups: Groups, engine: Engine, store: CheckpointStore) -> TrainState:
    """Resume from the newest whole checkpoint of the run, or start: from other weights where the config names them.

    Raises:
        UserError: no checkpoint of the run is whole, or the one that it is to start from is damaged.
    """
    if (found := store.newest_whole()) is not None:
        folder, contents = found
        load_training_state(folder, engine.chunks, engine.optimizer, groups)
        engine.schedule.step(increment=contents.consumed_train_samples - engine.schedule.num_steps)
        return TrainState.saved_in(contents)
    if config.checkpoint.pretrained_checkpoint is not None:
        _load_base(Path(config.checkpoint.pretrained_checkpoint), engine, store)
    return TrainState()


def _load_base(named: Path, engine: Engine, store: CheckpointStore) -> None:
    base = resolve_checkpoint(named)
    assert base is not None, "the preflight has seen it"
    _, damage = store.inspect(base)
    if damage is not None:
        reason, remedy = f"the checkpoint is damaged: {damage}", "name another one, or make it again"
        raise UserError("checkpoint.pretrained_checkpoint", base, reason, remedy)
    load_weights(engine.chunks, base)
    engine.optimizer.reload_model_params()


def _with_data_parallelism(
    config: PretrainConfig, core_config: TransformerConfig, model: torch.nn.Module, *, is_first: bool
) -> DistributedDataParallel:
    ddp_config = DistributedDataParallelConfig(
        grad_reduce_in_fp32=config.precision.bf16,
        overlap_grad_reduce=config.parallel.overlap_grad_reduce,
        overlap_param_gather=config.parallel.overlap_param_gather,
        use_distributed_optimizer=config.parallel.use_distributed_optimizer,
        fp8_param_gather=config.precision.fp8_param_gather,
        check_for_nan_in_grad=False,  # all ranks decide together (anomalies.py): here one would raise alone
    )
    return DistributedDataParallel(core_config, ddp_config, model, disable_bucketing=not is_first)


def _connect(
    core_config: TransformerConfig,
    config: PretrainConfig,
    chunks: Sequence[DistributedDataParallel],
    optimizer: MegatronOptimizer,
    clock: ComputeClock,
) -> None:
    """Tell megatron-core's schedules how gradients are finished, scaled and overlapped."""

    def finish_gradients(*arguments: Any, **settings: Any) -> None:
        clock.stop()
        finalize_model_grads(*arguments, **settings)

    core_config.finalize_model_grads_func = finish_gradients
    core_config.grad_scale_func = optimizer.scale_loss
    if config.parallel.overlap_grad_reduce:
        no_syncs = [chunk.no_sync for chunk in chunks]
        core_config.no_sync_func = no_syncs if len(chunks) > 1 else no_syncs[0]
        if len(chunks) > 1:
            core_config.grad_sync_func = [chunk.start_grad_sync for chunk in chunks]
            if config.parallel.overlap_param_gather:
                core_config.param_sync_func = [chunk.start_param_sync for chunk in chunks]
