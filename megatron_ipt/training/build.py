"""The composition root: data, step and callbacks around an engine, ready to run."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from megatron.core.distributed import DistributedDataParallel
from torch.utils.data import Dataset

from megatron_ipt.checkpointing.layout import RUN_CONFIG_NAME
from megatron_ipt.checkpointing.store import CheckpointStore
from megatron_ipt.checkpointing.training_state import prepare_training_state
from megatron_ipt.config.pretrain import PretrainConfig
from megatron_ipt.data.blends import TokenIds, describe_documents, name_datasets
from megatron_ipt.data.micro_batches import MicroBatches
from megatron_ipt.models.accounting import flops_per_token
from megatron_ipt.models.kernels import TRANSFORMER_ENGINE, resolve_transformer_impl
from megatron_ipt.observability.metrics import MetricsLog
from megatron_ipt.optim.batch_sizes import BatchSizes
from megatron_ipt.parallel.context import slice_sequences
from megatron_ipt.parallel.groups import Groups, seed_generators
from megatron_ipt.training.anomalies import Inspection
from megatron_ipt.training.checkpoints import Checkpoints
from megatron_ipt.training.datasets import open_datasets
from megatron_ipt.training.engine import Engine
from megatron_ipt.training.gauges import Gauges, peak_tflops
from megatron_ipt.training.loss import LossMeter, LossSink
from megatron_ipt.training.profiler import Profiler
from megatron_ipt.training.reports import Reports, Workload
from megatron_ipt.training.sample_losses import SampleLosses
from megatron_ipt.training.state import TrainState
from megatron_ipt.training.step import ForwardBackward, TrainStep
from megatron_ipt.training.stragglers import Stragglers
from megatron_ipt.training.trainer import Callback, Trainer
from megatron_ipt.training.validation import Validation


def build_trainer(
    config: PretrainConfig,
    groups: Groups,
    engine: Engine,
    state: TrainState,
    store: CheckpointStore,
    token_ids: TokenIds,
    metrics: MetricsLog | None,
    report: Callable[[str], None],
    must_leave: Callable[[], bool],
    watchdog: Callback,
    passed_over: Collection[int],
) -> Trainer:
    """The loop with its data and its callbacks, ready to run from `state`.

    The batches that follow the iterations in `passed_over` are not learned from.
    """
    training = config.training
    batch_sizes = BatchSizes(training)
    train, valid = open_datasets(config, token_ids)
    sources = name_datasets([entry.prefix for entry in config.data.blend])
    open_batches = partial(_open_batches, config, groups, len(engine.chunks))
    meter = LossMeter(groups, sources)
    losses = SampleLosses(meter, groups, batch_size=batch_sizes, micro_batch_size=training.micro_batch_size)
    batches = open_batches(train, state.consumed_train_samples, batch_sizes)
    step = TrainStep(
        engine.chunks,
        engine.optimizer,
        engine.schedule,
        _forward_backward(config, groups, engine.chunks, losses),
        _on_this_rank(batches, groups),
        batch_size=batch_sizes,
        clock=engine.clock,
        reseed=_reseed(config, groups),
        admit=Inspection(
            engine.chunks, losses, config.faults, partial(describe_documents, train), report, len(passed_over)
        ).admit,
        passed_over=passed_over,
    )
    reports = Reports(
        step,
        meter,
        Gauges(batches, groups.device),
        Stragglers(engine.clock, groups, report),
        metrics,
        report,
        _workload(config, groups),
        log_interval=training.log_interval,
    )
    profiler = Profiler(config.profile, Path(config.run) / "profile", groups.rank)
    callbacks: list[Callback] = [profiler, reports]
    if valid is not None and training.eval_iters:
        valid_meter = LossMeter(groups, sources)
        callbacks.append(
            Validation(
                engine.chunks,
                _forward_backward(config, groups, engine.chunks, valid_meter),
                lambda: _on_this_rank(open_batches(valid, 0, lambda _: training.global_batch_size), groups),
                valid_meter,
                global_batch_size=training.global_batch_size,
                eval_interval=training.eval_interval,
                eval_iters=training.eval_iters,
                metrics=metrics,
                report=report,
            )
        )
    callbacks.append(
        Checkpoints(
            store,
            lambda folder: prepare_training_state(folder, engine.chunks, engine.optimizer, groups),
            Path(config.run) / RUN_CONFIG_NAME,
            save_interval=config.checkpoint.save_interval,
            in_background=config.checkpoint.async_save,
            saved_iteration=state.iteration,
            before_save=reports.before_save,
            metrics=metrics,
            report=report,
        )
    )
    return Trainer(
        step,
        state,
        train_iters=training.train_iters,
        batch_size=batch_sizes,
        exit_interval=training.exit_interval,
        callbacks=[*callbacks, watchdog],
        must_leave=must_leave,
    )


def _workload(config: PretrainConfig, groups: Groups) -> Workload:
    return Workload(
        config.training.train_iters,
        config.data.seq_length,
        flops_per_token(config.model, config.data.seq_length),
        groups.world_size,
        peak_tflops(groups.device, config.precision),
    )


def _forward_backward(
    config: PretrainConfig, groups: Groups, chunks: Sequence[DistributedDataParallel], meter: LossSink
) -> ForwardBackward:
    return ForwardBackward(
        chunks,
        meter,
        data_parallel_size=groups.dp_size,
        micro_batch_size=config.training.micro_batch_size,
        seq_length=config.data.seq_length,
        packs=config.data.reset_attention_mask and resolve_transformer_impl(config.precision) == TRANSFORMER_ENGINE,
        per_token=config.training.calculate_per_token_loss,
    )


def _open_batches(
    config: PretrainConfig,
    groups: Groups,
    num_chunks: int,
    dataset: Dataset[Any],
    consumed: int,
    batch_size: Callable[[int], int],
) -> list[MicroBatches]:
    return [
        MicroBatches(
            dataset,
            consumed,
            batch_size=batch_size,
            micro_batch_size=config.training.micro_batch_size,
            dp_rank=groups.dp_rank,
            dp_size=groups.dp_size,
            device=groups.device,
        )
        for _ in range(num_chunks)
    ]


def _on_this_rank(batches: Sequence[MicroBatches], groups: Groups) -> list[Iterator[dict[str, Any]]]:
    if groups.cp_size == 1:
        return list(batches)
    return [map(partial(slice_sequences, groups=groups), chunk_batches) for chunk_batches in batches]


def _reseed(config: PretrainConfig, groups: Groups) -> Callable[[int], None] | None:
    """Dropout's random numbers follow from seed and iteration, so that no generator state need be saved."""
    if config.model.hidden_dropout == config.model.attention_dropout == 0.0:
        return None
    offset = config.training.seed + 100 * groups.pp_rank
    return lambda iteration: seed_generators(offset + 100_003 * (iteration + 1))
