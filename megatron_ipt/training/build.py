"""The composition root: builds the trainer from data, step, callbacks and a model bundle."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

from torch.utils.data import Dataset

from megatron_ipt.checkpointing.local_agreement import end_history
from megatron_ipt.checkpointing.local_store import LocalStore
from megatron_ipt.checkpointing.store import CheckpointStore
from megatron_ipt.config.batch_sizes import BatchSizes
from megatron_ipt.config.pretrain import PretrainConfig
from megatron_ipt.data.blends import describe_documents, name_datasets
from megatron_ipt.data.micro_batches import MicroBatches
from megatron_ipt.parallel.context import slice_sequences
from megatron_ipt.parallel.groups import Groups, seed_generators
from megatron_ipt.training.alerts import Alerts
from megatron_ipt.training.anomalies import Anomalies
from megatron_ipt.training.attempt import Attempt
from megatron_ipt.training.callbacks import Callback, state_dicts
from megatron_ipt.training.checkpoints import Checkpoints
from megatron_ipt.training.context import RunContext
from megatron_ipt.training.datasets import ValidationSet, open_datasets, open_validation_sets, read_token_ids
from megatron_ipt.training.exports import Exports
from megatron_ipt.training.garbage import GarbageCollection
from megatron_ipt.training.gauges import Gauges
from megatron_ipt.training.local_checkpoints import LocalCheckpoints
from megatron_ipt.training.loss import LossMeter, LossSink
from megatron_ipt.training.metrics_reporter import MetricsReporter
from megatron_ipt.training.model_bundle import ModelBundle
from megatron_ipt.training.profiler import Profiler
from megatron_ipt.training.sample_losses import SampleLosses
from megatron_ipt.training.sessions import Sessions
from megatron_ipt.training.step import Batches, ForwardBackward, TrainStep
from megatron_ipt.training.stragglers import Stragglers
from megatron_ipt.training.trainer import Trainer
from megatron_ipt.training.validation import Validation
from megatron_ipt.training.watchdog import Watchdog


def build_trainer(
    context: RunContext, bundle: ModelBundle, store: CheckpointStore, attempt: Attempt, local: LocalStore | None = None
) -> Trainer:
    """Build the trainer of `attempt` with its data and callbacks; a collective call.

    The user's callbacks run after those that measure, and before those that report and save.
    """
    config, groups, state = context.config, context.groups, attempt.state
    token_ids = read_token_ids(config, context.stage)
    train, valid = open_datasets(config, token_ids)
    held_out = [] if valid is None else [ValidationSet("", valid, config.training.eval_iters)]
    held_out += open_validation_sets(config, token_ids)
    sources = name_datasets([entry.prefix for entry in config.data.blend])
    batch_size = BatchSizes(config.training)
    meter = LossMeter(groups, sources)
    losses = SampleLosses(meter, groups, batch_size=batch_size, micro_batch_size=config.training.micro_batch_size)
    batches = _open_batches(context, bundle, train, state.consumed_train_samples, batch_size)
    callbacks: list[Callback] = [
        Profiler(context),
        Anomalies(context, losses, partial(describe_documents, train), attempt.skipped_batches),
        Gauges(context, batches),
        Stragglers(context, bundle.clock),
        Sessions(context, is_roll_back=bool(attempt.skipped_batches)),
        Alerts(context),
        *attempt.user_callbacks,
        MetricsReporter(context, meter),
        GarbageCollection(context),
    ]
    if held_out and config.training.eval_iters:
        callbacks.append(_build_validation(context, bundle, held_out, sources))
    saved_iteration = None if attempt.is_local else state.iteration
    before_save = partial(_end_local_history, context) if local is None else local.begin_history
    callbacks.append(Checkpoints(context, bundle, store, lambda: state_dicts(callbacks), saved_iteration, before_save))
    if local is not None:
        callbacks.append(LocalCheckpoints(context, bundle, local, lambda: state_dicts(callbacks)))
    callbacks += [Watchdog(context), Exports(context)]
    step = TrainStep(
        context,
        bundle,
        _forward_backward(context, bundle, losses),
        _on_this_rank(batches, groups),
        losses,
        callbacks,
        batch_size=batch_size,
        reseed=_reseed(config, groups),
        read_ahead=partial(_read_ahead, batches) if reads_ahead(groups) else None,
        skipped_batches=attempt.skipped_batches,
    )
    return Trainer(context, bundle, attempt, step, callbacks)


def _end_local_history(context: RunContext) -> None:
    """Forget local checkpoints of earlier starts: the run goes past them without any."""
    if context.groups.rank == 0:
        end_history(context.run)


def _build_validation(
    context: RunContext, bundle: ModelBundle, held_out: Sequence[ValidationSet], sources: Sequence[str]
) -> Validation:
    meter = LossMeter(context.groups, sources)
    global_batch_size = context.config.training.global_batch_size

    def open_batches(dataset: Dataset[Any]) -> list[Batches]:
        return _on_this_rank(_open_batches(context, bundle, dataset, 0, lambda _: global_batch_size), context.groups)

    return Validation(context, bundle, _forward_backward(context, bundle, meter), held_out, open_batches, meter)


def _forward_backward(context: RunContext, bundle: ModelBundle, meter: LossSink) -> ForwardBackward:
    config = context.config
    return ForwardBackward(
        bundle,
        meter,
        data_parallel_size=context.groups.dp_size,
        micro_batch_size=config.training.micro_batch_size,
        seq_length=config.data.seq_length,
        per_token=config.training.calculate_per_token_loss,
    )


def _open_batches(
    context: RunContext,
    bundle: ModelBundle,
    dataset: Dataset[Any],
    consumed: int,
    batch_size: Callable[[int], int],
) -> list[MicroBatches]:
    """Return an iterator over the samples after the first `consumed` for each model chunk of this rank."""
    return [
        MicroBatches(
            dataset,
            consumed,
            batch_size=batch_size,
            micro_batch_size=context.config.training.micro_batch_size,
            dp_rank=context.groups.dp_rank,
            dp_size=context.groups.dp_size,
            device=context.groups.device,
            packs=bundle.packs,
        )
        for _ in bundle.chunks
    ]


def reads_ahead(groups: Groups) -> bool:
    """Return whether samples can be read while a step is being computed: on a CPU, both are done by this thread."""
    return groups.device.type != "cpu"


def _read_ahead(batches: Sequence[MicroBatches]) -> None:
    for chunk_batches in batches:
        chunk_batches.read_ahead()


def _on_this_rank(batches: Sequence[MicroBatches], groups: Groups) -> list[Iterator[dict[str, Any]]]:
    if groups.cp_size == 1:
        return list(batches)
    return [map(partial(slice_sequences, groups=groups), chunk_batches) for chunk_batches in batches]


def _reseed(config: PretrainConfig, groups: Groups) -> Callable[[int], None] | None:
    """Derive the seed of dropout from the run's seed and the iteration, so that no generator state is saved."""
    if config.model.hidden_dropout == config.model.attention_dropout == 0.0:
        return None
    # 100 * pp_rank as in Megatron-LM: pipeline stages draw different numbers. megatron-core adds an offset per tensor
    # rank; data-parallel ranks draw the same. 100,003 exceeds these offsets, so that no two iterations share a seed.
    offset = config.training.seed + 100 * groups.pp_rank
    return lambda iteration: seed_generators(offset + 100_003 * (iteration + 1))
