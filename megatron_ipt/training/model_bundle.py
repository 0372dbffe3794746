"""The model with its optimizer and schedule, and the loading of the checkpoint it starts from."""

from __future__ import annotations

import weakref
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from megatron.core.distributed import DistributedDataParallel, DistributedDataParallelConfig, finalize_model_grads
from megatron.core.optimizer import MegatronOptimizer
from megatron.core.optimizer_param_scheduler import OptimizerParamScheduler
from megatron.core.transformer import TransformerConfig
from safetensors import safe_open

from megatron_ipt.checkpointing.callback_states import CallbackState, read_callback_states
from megatron_ipt.checkpointing.layout import resolve_checkpoint
from megatron_ipt.checkpointing.local_files import TENSORS_NAME
from megatron_ipt.checkpointing.local_store import LocalCheckpoint, LocalStore
from megatron_ipt.checkpointing.store import CheckpointStore
from megatron_ipt.checkpointing.training_state import (
    describe_training_state,
    load_copied_state,
    load_master_weights,
    load_training_state,
)
from megatron_ipt.checkpointing.weights import load_weights
from megatron_ipt.config.pretrain import PretrainConfig
from megatron_ipt.errors import UserError
from megatron_ipt.models.gpt import build_gpt_chunks
from megatron_ipt.models.kernels import TRANSFORMER_ENGINE, open_user_buffers
from megatron_ipt.models.transformer_config import transformer_config
from megatron_ipt.optim.optimizer import build_optimizer
from megatron_ipt.optim.schedule import build_schedule
from megatron_ipt.parallel.groups import Groups
from megatron_ipt.training.state import TrainState
from megatron_ipt.training.stragglers import ComputeClock


@dataclass(frozen=True)
class ModelBundle:
    """The model, its optimizer and its schedule on this rank."""

    chunks: list[DistributedDataParallel]
    optimizer: MegatronOptimizer
    schedule: OptimizerParamScheduler
    clock: ComputeClock
    packs: bool
    """Whether the model concatenates the samples of a micro-batch into one packed sequence."""


def build_model_bundle(config: PretrainConfig, groups: Groups, transformer_impl: str) -> ModelBundle:
    """Build model chunks with data parallelism, the optimizer and the learning-rate schedule.

    `transformer_impl` is the result of `resolve_transformer_impl` for the configuration.
    """
    precision = config.precision.model_copy(update={"transformer_impl": transformer_impl})
    core_config = transformer_config(
        config.model,
        config.parallel,
        precision,
        calculate_per_token_loss=config.training.calculate_per_token_loss,
        seq_length=config.data.seq_length,
    )
    if config.parallel.tp_comm_overlap:
        open_user_buffers(config)
    models = build_gpt_chunks(
        config.model,
        config.parallel,
        precision,
        core_config,
        groups,
        config.data.seq_length,
        document_attention=config.data.reset_attention_mask,
        z_loss_coeff=config.training.z_loss_coeff,
    )
    ddp_config = data_parallel_config(config)
    chunks = [
        DistributedDataParallel(core_config, ddp_config, model, disable_bucketing=i > 0)
        for i, model in enumerate(models)
    ]
    for chunk in chunks:
        chunk.broadcast_params()
    optimizer = build_optimizer(config.optimizer, config.parallel, config.precision, chunks)
    clock = ComputeClock(groups.device)
    _connect(core_config, config, chunks, optimizer, clock)
    schedule = build_schedule(config.schedule, config.optimizer, config.training, optimizer)
    packs = config.data.reset_attention_mask and transformer_impl == TRANSFORMER_ENGINE
    return ModelBundle(chunks, optimizer, schedule, clock, packs)


def restore(
    config: PretrainConfig,
    groups: Groups,
    bundle: ModelBundle,
    store: CheckpointStore,
    local: LocalStore | None = None,
) -> tuple[TrainState, Mapping[str, CallbackState], bool]:
    """Load the newest intact checkpoint of the run; a new run loads the weights of `pretrained_checkpoint`, if given.

    A local checkpoint is used if it is newer than the shared ones and intact on all ranks. With `load_optimizer`, a new
    run loads its optimizer state too.

    Returns:
        The progress of the run, the saved states of callbacks by name, and whether both come from a local checkpoint.

    Raises:
        UserError: no checkpoint of the run is intact, or `pretrained_checkpoint` is damaged or lacks the requested
            optimizer state.
    """
    if local is not None:
        description = describe_training_state(bundle.chunks, bundle.optimizer, groups)
        if (ours := local.find(description)) is not None:
            return _load_local(ours, groups, bundle), ours.callback_states, True
    if (found := store.newest_intact()) is not None:
        folder, contents = found
        load_training_state(folder, bundle.chunks, bundle.optimizer, groups)
        bundle.schedule.step(increment=contents.consumed_train_samples - bundle.schedule.num_steps)
        return TrainState.saved_in(contents), read_callback_states(folder), False
    if config.checkpoint.pretrained_checkpoint is not None:
        _load_base(Path(config.checkpoint.pretrained_checkpoint), config, groups, bundle, store)
    return TrainState(), {}, False


def _load_local(found: LocalCheckpoint, groups: Groups, bundle: ModelBundle) -> TrainState:
    contents = found.contents
    with safe_open(found.folder / TENSORS_NAME, "pt") as stored:
        load_copied_state(
            list(stored.keys()), stored.get_tensor, contents.steps, bundle.chunks, bundle.optimizer, groups
        )
    bundle.schedule.step(increment=contents.consumed_train_samples - bundle.schedule.num_steps)
    return TrainState(contents.iteration, contents.consumed_train_samples, contents.validation_loss)


def _load_base(
    named: Path, config: PretrainConfig, groups: Groups, bundle: ModelBundle, store: CheckpointStore
) -> None:
    base = resolve_checkpoint(named)
    assert base is not None, "checked by the preflight"
    _, damage = store.inspect(base)
    if damage is not None:
        reason, remedy = f"the checkpoint is damaged: {damage}", "use a different one, or create it again"
        raise UserError("checkpoint.pretrained_checkpoint", base, reason, remedy)
    if config.checkpoint.load_optimizer:
        load_training_state(base, bundle.chunks, bundle.optimizer, groups)
        return
    load_weights(bundle.chunks, base)
    bundle.optimizer.reload_model_params()
    if config.precision.fp8_param_gather:  # the model's weights are rounded to FP8, so masters are loaded separately
        load_master_weights(base, bundle.chunks, bundle.optimizer, groups)


def data_parallel_config(config: PretrainConfig) -> DistributedDataParallelConfig:
    """Translate the settings of the gradient and parameter exchange to megatron-core's configuration."""
    return DistributedDataParallelConfig(
        grad_reduce_in_fp32=config.precision.bf16 and config.precision.grad_reduce_in_fp32,
        bucket_size=config.parallel.bucket_size,
        average_in_collective=config.parallel.average_in_collective,
        overlap_grad_reduce=bool(config.parallel.overlap_grad_reduce),
        overlap_param_gather=bool(config.parallel.overlap_param_gather),
        use_distributed_optimizer=bool(config.parallel.use_distributed_optimizer),
        fp8_param_gather=config.precision.fp8_param_gather,
        check_for_nan_in_grad=False,  # raises on a single rank; here all ranks decide together, in anomalies.py
    )


def _connect(
    core_config: TransformerConfig,
    config: PretrainConfig,
    chunks: Sequence[DistributedDataParallel],
    optimizer: MegatronOptimizer,
    clock: ComputeClock,
) -> None:
    """Set the functions with which megatron-core's schedules finalize, scale and overlap gradients."""

    def finish_gradients(*arguments: Any, **settings: Any) -> None:
        clock.stop()
        finalize_model_grads(*arguments, **settings)

    core_config.finalize_model_grads_func = finish_gradients
    # A distributed fp32 optimizer holds views of the parameters, whose autograd nodes own hooks that refer to this
    # configuration. A strong reference would close a cycle through C++, which Python cannot collect.
    weak_optimizer = weakref.proxy(optimizer)
    core_config.grad_scale_func = lambda loss: weak_optimizer.scale_loss(loss)
    if config.parallel.overlap_grad_reduce:
        no_syncs = [chunk.no_sync for chunk in chunks]
        core_config.no_sync_func = no_syncs if len(chunks) > 1 else no_syncs[0]
        if len(chunks) > 1:
            core_config.grad_sync_func = [chunk.start_grad_sync for chunk in chunks]
            if config.parallel.overlap_param_gather:
                core_config.param_sync_func = [chunk.start_param_sync for chunk in chunks]
