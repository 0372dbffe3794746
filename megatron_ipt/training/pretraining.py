"""One training run from start to end, on this rank."""

from __future__ import annotations

import hashlib
import logging
import signal
from dataclasses import asdict
from pathlib import Path

from megatron_ipt.checkpointing.layout import CONTENTS_NAME, RUN_CONFIG_NAME, iteration_folder
from megatron_ipt.checkpointing.store import CheckpointStore
from megatron_ipt.config.loading import save_config
from megatron_ipt.config.pretrain import PretrainConfig
from megatron_ipt.corpus.manifest import Stage
from megatron_ipt.data.blends import TokenIds
from megatron_ipt.data.tokenizers import read_tokenizer
from megatron_ipt.errors import TemporaryFailure
from megatron_ipt.models.accounting import parameter_count
from megatron_ipt.models.kernels import resolve_transformer_impl
from megatron_ipt.parallel.agreement import largest
from megatron_ipt.parallel.groups import Groups, initialize, shutdown
from megatron_ipt.training.build import build_trainer
from megatron_ipt.training.engine import build_engine, restore
from megatron_ipt.training.signals import StopSignals
from megatron_ipt.training.state import TrainState
from megatron_ipt.training.tracking import METRICS_NAME, open_metrics

logger = logging.getLogger(__name__)


def pretrain(config: PretrainConfig, stage: Stage, stop_signals: StopSignals | None = None) -> TrainState:
    """Train (or go on training) the run that `config` describes; every rank calls this.

    Raises:
        TemporaryFailure: one of `stop_signals` came to any rank; the run has saved and goes on when started again.
        UserError: FP8 or Transformer Engine is asked for and cannot run here, or the data leaves nothing to train on.
    """
    resolve_transformer_impl(config.precision)
    groups = initialize(config.parallel, config.training.seed)
    try:
        return _train(config, stage, groups, stop_signals or StopSignals())
    finally:
        shutdown()


def _train(config: PretrainConfig, stage: Stage, groups: Groups, stop_signals: StopSignals) -> TrainState:
    run = Path(config.run)
    report = logger.info if groups.rank == 0 else _say_nothing
    if groups.rank == 0:
        stage.start()
        save_config(config, run / RUN_CONFIG_NAME)
    report(_introduction(config, groups))
    engine = build_engine(config, groups)
    store = CheckpointStore(run, groups, stage.manifest, keep_last=config.checkpoint.keep_last, report=report)
    state = restore(config, groups, engine, store)
    if state.iteration:
        report(f"resuming from iteration {state.iteration} ({state.consumed_train_samples} samples consumed)")
    metrics = open_metrics(config, stage.manifest, state.iteration) if groups.rank == 0 else None
    trainer = build_trainer(
        config,
        groups,
        engine,
        state,
        store,
        _token_ids(config, stage),
        metrics,
        report,
        lambda: largest(stop_signals.received, groups) > 0,
    )
    trainer.run()
    if metrics is not None:
        metrics.sync()
        if state.iteration >= config.training.train_iters:
            outputs = [run / RUN_CONFIG_NAME, run / METRICS_NAME]
            outputs.append(iteration_folder(run, state.iteration) / CONTENTS_NAME)
            stage.finish(outputs, asdict(state))
        metrics.close()
    if trainer.has_left:
        came = signal.Signals(largest(stop_signals.received, groups)).name
        raise TemporaryFailure(f"{came}: saved iteration {state.iteration}; the same command goes on from there")
    return state


def _introduction(config: PretrainConfig, groups: Groups) -> str:
    return (
        f"{parameter_count(config.model):,} parameters on {groups.world_size} rank(s) ({groups.device.type}): "
        f"tensor {groups.tp_size} x pipeline {groups.pp_size} x data {groups.dp_size}; "
        f"{config.training.global_batch_size * config.data.seq_length:,} tokens a step"
    )


def _token_ids(config: PretrainConfig, stage: Stage) -> TokenIds:
    """The tokenizer's ids; the hashes make a cached sample index of other data or another tokenizer unfit."""
    tokenizer = read_tokenizer(Path(config.data.tokenizer))
    data = hashlib.sha256("".join(record.sha256 for record in stage.manifest.inputs).encode()).hexdigest()
    return TokenIds(tokenizer.vocab_size, tokenizer.eos_id, {"tokenizer": tokenizer.sha256, "data": data})


def _say_nothing(_: str) -> None:
    """Reports are rank 0's."""
