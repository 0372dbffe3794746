"""The mean of the weights of several checkpoints of a run, as a checkpoint."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import torch

from megatron_ipt.checkpointing.contents import Contents
from megatron_ipt.checkpointing.layout import CONTENTS_NAME, RUN_CONFIG_NAME
from megatron_ipt.checkpointing.weights import load_weights
from megatron_ipt.config.loading import load_recorded
from megatron_ipt.config.pretrain import ParallelConfig, PretrainConfig
from megatron_ipt.config.stages import AverageConfig
from megatron_ipt.conversion.core_model import CoreModel, build_core_model
from megatron_ipt.conversion.disk_space import require_space
from megatron_ipt.conversion.integrity import check_integrity
from megatron_ipt.conversion.run_folder import save_as_run
from megatron_ipt.conversion.sources import AVERAGE, find_newest_checkpoints
from megatron_ipt.corpus.manifest import Stage
from megatron_ipt.models.accounting import parameter_count
from megatron_ipt.observability.progress import ProgressDisplay
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
    run = load_recorded(PretrainConfig, checkpoints[0] / RUN_CONFIG_NAME)
    require_space(output, parameter_count(run.model) * (2 if run.precision.bf16 else 4))
    remedy = "average fewer checkpoints, or move this one away"
    newest, *_ = [check_integrity(folder, remedy) for folder in checkpoints]
    groups = initialize(ParallelConfig(), seed=1)
    try:
        core = build_core_model(run.model, groups, bf16=run.precision.bf16, seq_length=run.data.seq_length)
        _fill_with_mean(core, checkpoints)
        stage.start()
        contents = Contents(newest.iteration, newest.consumed_train_samples, [])
        written = save_as_run(core, run.model_copy(update={"run": str(output)}), contents, stage, groups, report)
        progress = {"iteration": newest.iteration, "checkpoints": len(checkpoints)}
        stage.finish([output / RUN_CONFIG_NAME, written / CONTENTS_NAME], progress)
    finally:
        shutdown()
    report(f"wrote {written}, the mean of {', '.join(folder.name for folder in checkpoints)}")


@torch.no_grad()
def _fill_with_mean(core: CoreModel, checkpoints: Sequence[Path]) -> None:
    """Give `core` the mean weights of `checkpoints`."""
    parameters = core.parameters()
    means = {name: torch.zeros_like(parameter, dtype=torch.float32) for name, parameter in parameters.items()}
    with ProgressDisplay("reading weights", "checkpoints") as progress:
        for number, folder in enumerate(progress.track(checkpoints), start=1):
            load_weights([core.chunk], folder)
            for name, parameter in parameters.items():
                means[name] += (parameter.float() - means[name]) / number
    for name, parameter in parameters.items():
        parameter.copy_(means[name])
