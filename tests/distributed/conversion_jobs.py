"""Conversions and changes of layout, as jobs for the worker pool."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from megatron_ipt.parallel.groups import Groups


def convert(settings: dict[str, Any]) -> list[str]:
    """What tools/convert_checkpoint.py does with these settings; the lines that it prints."""
    from megatron_ipt.config.loading import config_from
    from megatron_ipt.config.stages import ConvertConfig
    from megatron_ipt.conversion.convert import convert

    lines: list[str] = []
    convert(config_from(ConvertConfig, settings), lines.append)
    return lines


def pass_through_layout(source: str, target: str, layout: dict[str, Any]) -> int:
    """Load the checkpoint of run `source` into models of `layout` and save it as run `target`; this rank's weights."""
    from megatron_ipt.checkpointing.contents import Contents
    from megatron_ipt.checkpointing.layout import RUN_CONFIG_NAME
    from megatron_ipt.checkpointing.store import CheckpointStore
    from megatron_ipt.checkpointing.weights import save_weights
    from megatron_ipt.config.pretrain import CheckpointConfig
    from megatron_ipt.corpus.manifest import Manifest

    with loaded(source, layout, seq_length=16) as (checkpoint, chunks, groups):
        rule, lineage = CheckpointConfig(keep_last=0), Manifest("pretrain", "running", {})
        store = CheckpointStore(Path(target), groups, lineage, rule=rule, log=print)
        store.save(Contents(1, 0, []), checkpoint / RUN_CONFIG_NAME, lambda folder: save_weights(chunks, folder))
        return sum(parameter.numel() for chunk in chunks for parameter in chunk.parameters())


@contextmanager
def loaded(run: str, layout: dict[str, Any], *, seq_length: int) -> Iterator[tuple[Path, list[Any], Groups]]:
    """The newest checkpoint of `run`, the model chunks of `layout` with its weights, and the process groups."""
    from megatron_ipt.checkpointing.layout import RUN_CONFIG_NAME, resolve_checkpoint
    from megatron_ipt.checkpointing.weights import load_weights
    from megatron_ipt.config.loading import load_config
    from megatron_ipt.config.pretrain import ParallelConfig, PretrainConfig
    from megatron_ipt.models.gpt import build_gpt_chunks
    from megatron_ipt.models.transformer_config import transformer_config
    from megatron_ipt.parallel.groups import initialize, shutdown

    checkpoint = resolve_checkpoint(Path(run))
    assert checkpoint is not None
    config = load_config(PretrainConfig, checkpoint / RUN_CONFIG_NAME)
    parallel = ParallelConfig(**layout)
    groups = initialize(parallel, seed=7)
    try:
        core = transformer_config(config.model, parallel, config.precision, calculate_per_token_loss=False)
        core.perform_initialization = False
        chunks = build_gpt_chunks(config.model, parallel, config.precision, core, groups, seq_length=seq_length)
        load_weights(chunks, checkpoint)
        yield checkpoint, chunks, groups
    finally:
        shutdown()


def average(settings: dict[str, Any]) -> list[str]:
    """What `megatron-ipt average` does with these settings; its messages, or what it refuses."""
    from megatron_ipt.config.loading import config_from
    from megatron_ipt.config.stages import AverageConfig
    from megatron_ipt.conversion.averaging import average
    from megatron_ipt.errors import UserError

    lines: list[str] = []
    try:
        average(config_from(AverageConfig, settings), lines.append)
    except UserError as error:
        return [str(error)]
    return lines
