"""A training run from start to end, on this rank."""

from __future__ import annotations

import logging
import os
import signal
from collections.abc import Collection, Sequence
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path

import torch

from megatron_ipt.checkpointing.layout import (
    CONTENTS_NAME,
    RUN_CONFIG_NAME,
    iteration_folder,
    read_latest,
    saved_iterations,
)
from megatron_ipt.checkpointing.local_agreement import end_history, read_shared
from megatron_ipt.checkpointing.local_store import LocalStore
from megatron_ipt.checkpointing.shared_folder import check_finished_alike
from megatron_ipt.checkpointing.store import CheckpointStore
from megatron_ipt.config.automatic import describe_automatic
from megatron_ipt.config.loading import load_recorded, save_config
from megatron_ipt.config.pretrain import PretrainConfig
from megatron_ipt.corpus.manifest import Stage
from megatron_ipt.errors import RankLost, TemporaryFailure, UserError
from megatron_ipt.mixing.blend_epochs import count_epochs, describe_repeats
from megatron_ipt.models.accounting import parameter_count
from megatron_ipt.models.gpu_packages import find_unknown_pair, find_unrelated_apex
from megatron_ipt.models.kernels import check_gpu_settings, make_deterministic, resolve_transformer_impl
from megatron_ipt.observability.metrics import METRICS_NAME, Metrics, NullMetrics
from megatron_ipt.parallel.agreement import is_lost_contact
from megatron_ipt.parallel.groups import Groups, initialize, shutdown
from megatron_ipt.training.anomalies import AnomalousStep, RollBack
from megatron_ipt.training.attempt import Attempt
from megatron_ipt.training.build import build_trainer
from megatron_ipt.training.callbacks import Callback
from megatron_ipt.training.changes import changed_settings
from megatron_ipt.training.clock import RunClock
from megatron_ipt.training.context import RunContext
from megatron_ipt.training.export_checks import describe_export_problems, describe_tokenizer_problems
from megatron_ipt.training.memory_check import check_memory
from megatron_ipt.training.model_bundle import ModelBundle, build_model_bundle, restore
from megatron_ipt.training.plugins import load_callbacks
from megatron_ipt.training.preflight import check, is_finished, open_stage, resolve_settings
from megatron_ipt.training.recorder import MetricRecorder
from megatron_ipt.training.signals import StopSignals
from megatron_ipt.training.state import TrainState
from megatron_ipt.training.tracking import open_metrics

logger = logging.getLogger(__name__)


def pretrain(
    config: PretrainConfig,
    callbacks: Sequence[Callback] = (),
    *,
    stage: Stage | None = None,
    stop_signals: StopSignals | None = None,
) -> TrainState:
    """Train the run that `config` describes, resuming from its newest checkpoint; every rank calls this.

    Returns:
        The state at the end; that of a finished run without training.

    Args:
        config: the configuration of the run.
        callbacks: called after those that `training.callbacks` names.
        stage: the run folder, if the configuration has been checked; without it, it is checked here.
        stop_signals: the signals after which the run saves and stops; without it, no signal does.

    Raises:
        TemporaryFailure: a rank received one of `stop_signals`; the run has saved, and resumes when started again.
        RankLost: another rank has exited.
        UserError: FP8 or Transformer Engine is requested and cannot run here, the nodes do not share the run folder, no
            training documents remain, an anomaly stops the run, or a checkpoint cannot be written or read.
    """
    world_size = int(os.environ.get("WORLD_SIZE", "1"))
    if stage is None:
        check(config, world_size)
        stage = open_stage(config)
    is_done = is_finished(config, stage)
    if is_done and world_size == 1:
        return TrainState(**stage.counts)
    user_callbacks = [*load_callbacks(config.training.callbacks), *callbacks]
    given, config = config, resolve_settings(config, world_size, on_gpus=torch.cuda.is_available())
    transformer_impl = resolve_transformer_impl(config.precision)
    check_gpu_settings(config)
    make_deterministic(config.precision)
    try:
        captures_graphs = config.precision.cuda_graph_impl != "none"
        groups = initialize(config.parallel, config.training.seed, captures_graphs=captures_graphs)
        check_finished_alike(Path(config.run), is_done=is_done)
        if is_done:
            return TrainState(**stage.counts)
        context = RunContext(
            config=config,
            stage=stage,
            groups=groups,
            log=logger.info if groups.rank == 0 else _discard,
            recorder=MetricRecorder(groups),
            stop_signals=stop_signals or StopSignals(),
            clock=RunClock.of(groups.device),
        )
        if automatic := describe_automatic(given, config):
            context.log(f"set automatically: {', '.join(f'{key}={value}'.lower() for key, value in automatic.items())}")
        return _train(context, transformer_impl, user_callbacks)
    except RuntimeError as error:
        if not is_lost_contact(error):
            raise
        saved = read_latest(Path(config.run))
        or_local = "" if config.checkpoint.local_folder is None else ", or from a later local checkpoint"
        raise RankLost(
            f"lost contact with another rank, see its output ({str(error).partition('. ')[0]}); "
            f"the same command resumes from {'the start' if saved is None else f'iteration {saved}'}{or_local}"
        ) from error
    finally:
        shutdown()


def _train(context: RunContext, transformer_impl: str, user_callbacks: Sequence[Callback]) -> TrainState:
    """Open the run folder and make attempts until one ends without a rollback."""
    config, groups = context.config, context.groups
    check_memory(config, groups, transformer_impl, context.log)
    if groups.rank == 0:
        for change in _changes(config):
            context.log(f"changed since the run was last started: {change}")
        repeats = describe_repeats(config.data, count_epochs(config.data, config.training))
        for warning in (*repeats, *describe_export_problems(config), *describe_tokenizer_problems(config)):
            context.log(warning)
        if groups.device.type == "cuda":
            for warning in filter(None, (find_unknown_pair(), find_unrelated_apex())):
                context.log(warning)
        _open_run(context)
    context.log(_describe_run(config, groups))
    store = CheckpointStore(context.run, groups, context.stage.manifest, rule=config.checkpoint, log=context.log)
    local = _open_local_store(context)
    bundle = build_model_bundle(config, groups, transformer_impl)
    skipped_batches: set[int] = set()
    while True:
        try:
            return _attempt(context, bundle, store, local, user_callbacks, skipped_batches)
        except RollBack as anomaly:
            skipped_batches.add(anomaly.iteration)


def _attempt(
    context: RunContext,
    bundle: ModelBundle,
    store: CheckpointStore,
    local: LocalStore | None,
    user_callbacks: Sequence[Callback],
    skipped_batches: Collection[int],
) -> TrainState:
    """Train from the newest checkpoint.

    Raises:
        RollBack: a step was anomalous, and the next attempt has to skip its batch.
    """
    state, callback_states, is_local = restore(context.config, context.groups, bundle, store, local)
    if state.iteration:
        context.log(f"resuming from iteration {state.iteration} ({state.consumed_train_samples} samples consumed)")
    elif skipped_batches:
        raise UserError(
            "faults",
            "roll_back",
            "there is no checkpoint yet to roll back to",
            "lower checkpoint.save_interval, or set the policy to skip",
        )
    context = replace(context, metrics=_open_metrics(context, state), recorder=MetricRecorder(context.groups))
    attempt = Attempt(state, callback_states, skipped_batches, user_callbacks, is_local)
    trainer = build_trainer(context, bundle, store, attempt, local)
    try:
        trainer.run()
    except RollBack:
        store.finish_save()
        context.metrics.close()
        raise
    except AnomalousStep:
        try:
            store.finish_save()
        except (UserError, TemporaryFailure) as error:
            context.log(f"warning: {error}")  # the anomaly determines the exit code: a restart would meet it again
        context.metrics.close()
        raise
    context.metrics.sync()
    if context.groups.rank == 0 and state.iteration >= context.config.training.train_iters:
        _finish_stage(context, state)
    context.metrics.close()
    if trainer.stop_signal:
        name = signal.Signals(trainer.stop_signal).name
        saved = f"saved iteration {state.iteration}" if state.iteration else "stopped before the first step"
        raise TemporaryFailure(f"{name}: {saved}; run the same command again to resume")
    return state


def _open_local_store(context: RunContext) -> LocalStore | None:
    config, manifest = context.config, context.stage.manifest
    folder = config.checkpoint.local_folder
    if folder is None:
        if context.groups.rank == 0 and read_shared(context.run).was_reset:
            end_history(context.run)  # else it ends with the next save
        return None
    has_epochs = any(entry.epochs is not None for entry in config.data.blend)
    identity = [manifest.config, manifest.seed, manifest.inputs, version("megatron-core")]
    identity += [config.training.train_iters] if has_epochs else []  # the order of the samples depends on it
    return LocalStore(Path(folder), context.run, context.groups, identity, log=context.log)


def _changes(config: PretrainConfig) -> list[str]:
    file = Path(config.run) / RUN_CONFIG_NAME
    if not file.is_file() or not saved_iterations(Path(config.run)):
        return []
    return changed_settings(load_recorded(PretrainConfig, file), config)


def _open_run(context: RunContext) -> None:
    try:
        context.stage.start()
        save_config(context.config, context.run / RUN_CONFIG_NAME)
    except OSError as error:
        raise UserError("run", context.run, f"it cannot be written: {error}", "set run to a writable folder") from error


def _open_metrics(context: RunContext, state: TrainState) -> Metrics:
    if context.groups.rank:
        return NullMetrics()
    try:
        return open_metrics(context.config, context.stage.manifest, state.iteration)
    except OSError as error:
        reason, remedy = f"it cannot be written: {error}", "make the run folder and its subfolders writable"
        raise UserError("tracking", context.run, reason, remedy) from error


def _finish_stage(context: RunContext, state: TrainState) -> None:
    outputs = [context.run / RUN_CONFIG_NAME, context.run / METRICS_NAME]
    outputs.append(iteration_folder(context.run, state.iteration) / CONTENTS_NAME)
    context.stage.finish(outputs, state.progress())


def _describe_run(config: PretrainConfig, groups: Groups) -> str:
    return (
        f"{parameter_count(config.model):,} parameters on {groups.world_size} rank(s) ({groups.device.type}): "
        f"{groups.layout}; "
        f"{config.training.global_batch_size * config.data.seq_length:,} tokens per step"
    )


def _discard(_: str) -> None:
    """Log nothing, on ranks other than 0."""
