"""Write a model that is not in memory as a run with a single checkpoint."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from megatron_ipt.checkpointing.contents import Contents, record_files
from megatron_ipt.checkpointing.layout import (
    RUN_CONFIG_NAME,
    checkpoints_folder,
    iteration_folder,
    iteration_folders,
    partial_folder,
)
from megatron_ipt.checkpointing.publishing import publish
from megatron_ipt.checkpointing.run_lock import RunLock
from megatron_ipt.checkpointing.streamed import StreamedModel, write_streamed
from megatron_ipt.config.loading import save_config
from megatron_ipt.config.pretrain import PretrainConfig
from megatron_ipt.corpus.finished_files import FinishedFiles
from megatron_ipt.corpus.manifest import Stage
from megatron_ipt.errors import UserError
from megatron_ipt.observability.progress import ProgressDisplay

_WRITER = "conversion"


def save_as_run(
    model: StreamedModel,
    config: PretrainConfig,
    contents: Contents,
    stage: Stage,
    finished: FinishedFiles,
    check: Callable[[], None] = lambda: None,
) -> Path:
    """Write `config` as run_config.yaml of its run, and `model` as its checkpoint; return the folder of the checkpoint.

    Args:
        model: the model.
        config: its configuration.
        contents: of the checkpoint, without files.
        stage: the stage, started.
        finished: files that an interrupted call with the same arguments has finished.
        check: called once everything is written, before the checkpoint gets its name.

    Raises:
        UserError: `check` has refused the model, of which nothing is left; or another job writes to the same run.
    """
    run = Path(config.run)
    save_config(config, run / RUN_CONFIG_NAME)
    lock = RunLock(run)
    partial = _partial(run, contents.iteration, finished)
    with ProgressDisplay("writing the checkpoint") as progress:
        records = write_streamed(model, partial, finished, progress)
    try:
        check()
    except UserError:
        _remove(run, partial, stage, finished)
        raise
    shutil.copyfile(run / RUN_CONFIG_NAME, partial / RUN_CONFIG_NAME)
    records += record_files(partial, [partial / RUN_CONFIG_NAME])
    files = sorted(records, key=lambda record: record.path)
    return publish(run, partial, replace(contents, files=files), stage.manifest, lock)


def _partial(run: Path, iteration: int, finished: FinishedFiles) -> Path:
    """The folder to write in; a checkpoint whose stage was interrupted just before its end is taken back."""
    partial, folder = partial_folder(run, iteration, _WRITER), iteration_folder(run, iteration)
    if finished and folder.is_dir() and not partial.exists():
        folder.rename(partial)
    return partial


def _remove(run: Path, partial: Path, stage: Stage, finished: FinishedFiles) -> None:
    """Remove what was written, so that the same output can be asked for in another number format."""
    finished.clear()
    shutil.rmtree(partial)
    if not iteration_folders(run):
        shutil.rmtree(checkpoints_folder(run))
        (run / RUN_CONFIG_NAME).unlink()
    stage.abandon()
