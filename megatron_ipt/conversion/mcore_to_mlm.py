"""Convert a checkpoint to one that Megatron-LM's --load takes: OUTPUT/release, in the torch_dist format."""

from __future__ import annotations

import logging
from argparse import Namespace
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from megatron_ipt.checkpointing.layout import CONTENTS_NAME, RUN_CONFIG_NAME, resolve_checkpoint
from megatron_ipt.checkpointing.streamed import StreamedModel, write_streamed
from megatron_ipt.checkpointing.weights import StoredWeights
from megatron_ipt.config.loading import load_recorded
from megatron_ipt.config.pretrain import PretrainConfig
from megatron_ipt.config.stages import ConvertConfig
from megatron_ipt.conversion.core_model import build_core_model
from megatron_ipt.conversion.disk_space import require_space_for_weights
from megatron_ipt.conversion.foreign import no_checkpoint
from megatron_ipt.conversion.integrity import check_integrity
from megatron_ipt.conversion.megatron_lm.arguments import warnings_of
from megatron_ipt.conversion.megatron_lm.flags import arguments_of, flags_of
from megatron_ipt.conversion.megatron_lm.locate import POINTER_NAME
from megatron_ipt.conversion.megatron_lm.sharded import megatron_lm_state
from megatron_ipt.corpus.finished_files import FinishedFiles
from megatron_ipt.corpus.manifest import Stage, write_atomically
from megatron_ipt.models.accounting import parameter_count
from megatron_ipt.observability.progress import ProgressDisplay
from megatron_ipt.parallel.groups import Groups

logger = logging.getLogger(__name__)
_RELEASE = "release"
"""Megatron-LM's name for weights to start from: no optimizer, no random state, and its iterations count from 0."""
_VERSION = 3.0


def open_stage(config: ConvertConfig) -> Stage:
    """Open the stage that reads the checkpoint, by the file that lists its contents.

    Raises:
        UserError: there is no complete checkpoint, or Megatron-LM has no arguments for the model.
    """
    checkpoint, run = _find_source(config)
    arguments_of(run.model)
    identity = {"direction": config.direction, "dtype": config.dtype}
    return Stage("convert", Path(config.output), identity, [checkpoint / CONTENTS_NAME])


def convert(config: ConvertConfig, stage: Stage, groups: Groups, report: Callable[[str], None]) -> None:
    """Write OUTPUT/release and OUTPUT/latest_checkpointed_iteration.txt.

    Args:
        stage: as `open_stage` returns it.
        report: receives warnings, and a line with flags for Megatron-LM.

    Raises:
        UserError: the checkpoint is damaged or unsafe.
    """
    checkpoint, run = _find_source(config)
    bf16 = run.precision.bf16 if config.dtype is None else config.dtype == "bfloat16"
    output = Path(config.output)
    folder, partial, finished = output / _RELEASE, output / f".{_RELEASE}.partial", FinishedFiles(output)
    require_space_for_weights(output, run.model, "bfloat16" if bf16 else "float32", finished)
    check_integrity(checkpoint)
    core = build_core_model(run.model, groups, bf16=bf16, seq_length=1, on_meta=True)
    model = StreamedModel(megatron_lm_state(core), StoredWeights(core.chunk, checkpoint).read_part)
    stage.start()
    if folder.exists() and not partial.exists():  # interrupted just before its end
        folder.rename(partial)
    arguments = Namespace(**arguments_of(run.model), bf16=bf16, fp16=False)
    common = {"args": arguments, "checkpoint_version": _VERSION, "iteration": 0}
    logger.info("converting the weights")
    with ProgressDisplay("writing the checkpoint") as progress:
        records = write_streamed(model, partial, finished, progress, common)
    partial.rename(folder)
    pointer = output / POINTER_NAME
    write_atomically(pointer, _RELEASE)
    for warning in warnings_of(run.model):
        report(warning)
    flags = [f"--load={config.output}", "--ckpt-format=torch_dist", "--use-checkpoint-args", *flags_of(run.model)]
    report(f"for Megatron-LM: {' '.join(flags)}{' --bf16' if bf16 else ''}")
    written = [replace(record, path=f"{_RELEASE}/{record.path}") for record in records]
    stage.finish([*written, pointer], {"parameters": parameter_count(run.model)})
    finished.clear()


def _find_source(config: ConvertConfig) -> tuple[Path, PretrainConfig]:
    checkpoint = resolve_checkpoint(Path(config.input))
    if checkpoint is None:
        raise no_checkpoint(Path(config.input))
    return checkpoint, load_recorded(PretrainConfig, checkpoint / RUN_CONFIG_NAME)
