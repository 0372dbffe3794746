"""The mean of the weights of several checkpoints of a run, as a checkpoint."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import torch

from megatron_ipt.checkpointing.contents import Contents
from megatron_ipt.checkpointing.layout import CONTENTS_NAME, RUN_CONFIG_NAME
from megatron_ipt.checkpointing.streamed import StreamedModel
from megatron_ipt.checkpointing.weights import ReadPart, StoredWeights, sharded_weights
from megatron_ipt.config.loading import load_recorded
from megatron_ipt.config.pretrain import ParallelConfig, PretrainConfig
from megatron_ipt.config.stages import AverageConfig
from megatron_ipt.conversion.core_model import CoreModel, build_core_model
from megatron_ipt.conversion.disk_space import require_space_for_weights
from megatron_ipt.conversion.integrity import check_integrity
from megatron_ipt.conversion.run_folder import save_as_run
from megatron_ipt.conversion.sources import AVERAGE, find_newest_checkpoints
from megatron_ipt.corpus.finished_files import FinishedFiles
from megatron_ipt.corpus.manifest import Stage
from megatron_ipt.parallel.groups import initialize, shutdown


def average(config: AverageConfig, report: Callable[[str], None]) -> None:
    """Write OUTPUT/checkpoints/iter_N and OUTPUT/run_config.yaml, N that of the newest checkpoint.

    Weights are averaged in fp32 and written in the number format of the run. There is no optimizer state.

    Args:
        report: receives a line about what was written.

    Raises:
        UserError: the run has too few checkpoints, or one of them is damaged or unsafe.
    """
    output, checkpoints = Path(config.output), find_newest_checkpoints(Path(config.input), config.last)
    stage = Stage(AVERAGE, output, {"last": config.last}, [folder / CONTENTS_NAME for folder in checkpoints])
    if stage.is_complete:
        report(f"{output} is already written: skipped")
        return
    run, finished = load_recorded(PretrainConfig, checkpoints[0] / RUN_CONFIG_NAME), FinishedFiles(output)
    require_space_for_weights(output, run.model, "bfloat16" if run.precision.bf16 else "float32", finished)
    remedy = "average fewer checkpoints, or move this one away"
    newest, *_ = [check_integrity(folder, remedy) for folder in checkpoints]
    groups = initialize(ParallelConfig(), seed=1)
    try:
        core = build_core_model(
            run.model, groups, bf16=run.precision.bf16, seq_length=run.data.seq_length, on_meta=True
        )
        mean = StreamedModel(sharded_weights(core.chunk), read_mean(core, checkpoints))
        stage.start()
        contents = Contents(newest.iteration, newest.consumed_train_samples, [])
        written = save_as_run(mean, run.model_copy(update={"run": str(output)}), contents, stage, finished)
        progress = {"iteration": newest.iteration, "checkpoints": len(checkpoints)}
        stage.finish([output / RUN_CONFIG_NAME, written / CONTENTS_NAME], progress)
        finished.clear()
    finally:
        shutdown()
    report(f"wrote {written}, the mean of {', '.join(folder.name for folder in checkpoints)}")


def read_mean(core: CoreModel, checkpoints: Sequence[Path]) -> ReadPart:
    """Return a function that reads a part of a parameter from every checkpoint, and returns its mean.

    Raises:
        UserError: a checkpoint has a pickle with other than plain data.
    """
    dtype = core.dtype
    stored = [StoredWeights(core.chunk, folder) for folder in checkpoints]

    def read(name: str, first: int, count: int) -> torch.Tensor:
        mean = torch.zeros(count)
        for number, weights in enumerate(stored, start=1):
            mean += weights.read_part(name, first, count).float().sub_(mean).div_(number)
        return mean.to(dtype)

    return read
