"""Write a model in one process as a run with a single checkpoint."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from megatron_ipt.checkpointing.contents import Contents
from megatron_ipt.checkpointing.layout import RUN_CONFIG_NAME
from megatron_ipt.checkpointing.store import CheckpointStore
from megatron_ipt.checkpointing.weights import save_weights
from megatron_ipt.config.loading import save_config
from megatron_ipt.config.pretrain import CheckpointConfig, PretrainConfig
from megatron_ipt.conversion.core_model import CoreModel
from megatron_ipt.corpus.manifest import Stage
from megatron_ipt.parallel.groups import Groups


def save_as_run(
    core: CoreModel,
    config: PretrainConfig,
    contents: Contents,
    stage: Stage,
    groups: Groups,
    log: Callable[[str], None],
) -> Path:
    """Write `config` as run_config.yaml of its run, and the weights of `core` as the checkpoint; return its folder."""
    run_config = Path(config.run) / RUN_CONFIG_NAME
    save_config(config, run_config)
    store = open_store(Path(config.run), stage, groups, log)
    return store.save(contents, run_config, lambda folder: save_weights([core.chunk], folder))


def open_store(run: Path, stage: Stage, groups: Groups, log: Callable[[str], None]) -> CheckpointStore:
    """Open the checkpoints of a run that a stage other than pretrain writes; none is removed."""
    return CheckpointStore(run, groups, stage.manifest, rule=CheckpointConfig(keep_last=0), log=log)
