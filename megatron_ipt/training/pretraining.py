"""One training run from start to end, on this rank."""

from __future__ import annotations

import logging
import signal
from collections.abc import Collection
from pathlib import Path

from megatron_ipt.checkpointing.layout import (
    CONTENTS_NAME,
    RUN_CONFIG_NAME,
    iteration_folder,
    read_latest,
    saved_iterations,
)
from megatron_ipt.checkpointing.store import CheckpointStore
from megatron_ipt.config.loading import load_recorded, save_config
from megatron_ipt.config.pretrain import PretrainConfig
from megatron_ipt.corpus.manifest import Stage
from megatron_ipt.errors import RankLost, TemporaryFailure, UserError
from megatron_ipt.models.accounting import parameter_count
from megatron_ipt.models.kernels import make_deterministic, resolve_transformer_impl
from megatron_ipt.observability.metrics import MetricsLog
from megatron_ipt.parallel.agreement import is_lost_contact, largest
from megatron_ipt.parallel.groups import Groups, initialize, shutdown
from megatron_ipt.training.anomalies import RollBack, UnsoundStep
from megatron_ipt.training.build import build_trainer
from megatron_ipt.training.changes import changed_settings
from megatron_ipt.training.datasets import read_token_ids
from megatron_ipt.training.engine import Engine, build_engine, restore
from megatron_ipt.training.signals import StopSignals
from megatron_ipt.training.state import TrainState
from megatron_ipt.training.tracking import METRICS_NAME, open_metrics
from megatron_ipt.training.watchdog import Watchdog

logger = logging.getLogger(__name__)


def pretrain(config: PretrainConfig, stage: Stage, stop_signals: StopSignals | None = None) -> TrainState:
    """Train the run that `config` describes, from its newest checkpoint on; every rank calls this.

    Raises:
        TemporaryFailure: any rank received one of `stop_signals`; the run has saved and resumes when started again.
        RankLost: another rank has ended.
        UserError: FP8 or Transformer Engine is asked for and cannot run here, the data leaves nothing to train on, a
            step is not sound, or a checkpoint cannot be written or read.
    """
    resolve_transformer_impl(config.precision)
    make_deterministic(config.precision)
    groups = initialize(config.parallel, config.training.seed)
    try:
        return _train(config, stage, groups, stop_signals or StopSignals())
    except RuntimeError as error:
        if not is_lost_contact(error):
            raise
        saved = read_latest(Path(config.run))
        raise RankLost(
            f"lost contact with another rank, see there ({str(error).partition('. ')[0]}); "
            f"the same command goes on from {'the start' if saved is None else f'iteration {saved}'}"
        ) from error
    finally:
        shutdown()


def _train(config: PretrainConfig, stage: Stage, groups: Groups, stop_signals: StopSignals) -> TrainState:
    run = Path(config.run)
    report = logger.info if groups.rank == 0 else _say_nothing
    if groups.rank == 0:
        for change in _changes(config):
            report(f"changed since the run was last started: {change}")
        _open_run(config, stage)
    report(_introduction(config, groups))
    engine = build_engine(config, groups)
    store = CheckpointStore(run, groups, stage.manifest, rule=config.checkpoint, report=report)
    passed_over: set[int] = set()
    while True:
        try:
            return _run(config, stage, groups, engine, store, stop_signals, passed_over)
        except RollBack as anomaly:
            passed_over.add(anomaly.iteration)


def _changes(config: PretrainConfig) -> list[str]:
    file = Path(config.run) / RUN_CONFIG_NAME
    if not file.is_file() or not saved_iterations(Path(config.run)):
        return []
    return changed_settings(load_recorded(PretrainConfig, file), config)


def _open_run(config: PretrainConfig, stage: Stage) -> None:
    try:
        stage.start()
        save_config(config, Path(config.run) / RUN_CONFIG_NAME)
    except OSError as error:
        raise UserError("run", config.run, f"it cannot be written: {error}", "name another folder") from error


def _open_metrics(config: PretrainConfig, stage: Stage, state: TrainState) -> MetricsLog:
    try:
        return open_metrics(config, stage.manifest, state.iteration)
    except OSError as error:
        raise UserError("tracking", config.run, f"it cannot be written: {error}", "see to these folders") from error


def _run(
    config: PretrainConfig,
    stage: Stage,
    groups: Groups,
    engine: Engine,
    store: CheckpointStore,
    stop_signals: StopSignals,
    passed_over: Collection[int],
) -> TrainState:
    """Train from the newest checkpoint on."""
    run = Path(config.run)
    report = logger.info if groups.rank == 0 else _say_nothing
    state = restore(config, groups, engine, store)
    if state.iteration:
        report(f"resuming from iteration {state.iteration} ({state.consumed_train_samples} samples consumed)")
    elif passed_over:
        raise UserError(
            "faults", "roll_back", "there is no checkpoint yet to go back to", "save earlier, or skip such steps"
        )
    metrics = _open_metrics(config, stage, state) if groups.rank == 0 else None
    with Watchdog(run / "stacks", groups.rank, config.faults.hang_timeout_seconds) as watchdog:
        trainer = build_trainer(
            config,
            groups,
            engine,
            state,
            store,
            read_token_ids(config, stage),
            metrics,
            report,
            lambda: largest(stop_signals.received, groups) > 0,
            watchdog,
            passed_over,
        )
        try:
            trainer.run()
        except (RollBack, UnsoundStep):
            store.finish_save(blocking=True)
            if metrics is not None:
                metrics.close()
            raise
    if metrics is not None:
        metrics.sync()
        if state.iteration >= config.training.train_iters:
            outputs = [run / RUN_CONFIG_NAME, run / METRICS_NAME]
            outputs.append(iteration_folder(run, state.iteration) / CONTENTS_NAME)
            stage.finish(outputs, state.progress())
        metrics.close()
    if trainer.has_left:
        name = signal.Signals(largest(stop_signals.received, groups)).name
        saved = f"saved iteration {state.iteration}" if state.iteration else "stopped before the first step"
        raise TemporaryFailure(f"{name}: {saved}; run the same command again to resume")
    return state


def _introduction(config: PretrainConfig, groups: Groups) -> str:
    return (
        f"{parameter_count(config.model):,} parameters on {groups.world_size} rank(s) ({groups.device.type}): "
        f"tensor {groups.tp_size} x pipeline {groups.pp_size} x data {groups.dp_size}; "
        f"{config.training.global_batch_size * config.data.seq_length:,} tokens a step"
    )


def _say_nothing(_: str) -> None:
    """Reports are rank 0's."""
