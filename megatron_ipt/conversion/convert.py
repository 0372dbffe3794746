"""The conversion stage, in either direction."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from megatron_ipt.config.pretrain import ParallelConfig
from megatron_ipt.config.stages import ConvertConfig
from megatron_ipt.conversion import hf_to_mcore, mcore_to_hf
from megatron_ipt.conversion.parity import PARITY_NAME
from megatron_ipt.parallel.groups import initialize, shutdown

DIRECTIONS = {"mcore-to-hf": mcore_to_hf, "hf-to-mcore": hf_to_mcore}


def convert(config: ConvertConfig, report: Callable[[str], None]) -> None:
    """Convert as `config` says, or report that the output is there already.

    An output of a conversion with `parity_check=false` is written again if the check is on now.

    Raises:
        UserError: the input cannot be converted.
        ParityError: the output gives other logits than the input.
    """
    direction = DIRECTIONS[config.direction]
    stage = direction.open_stage(config)
    parity = Path(config.output) / PARITY_NAME
    if stage.is_complete and (parity.is_file() or not config.parity_check):
        report(f"{config.output} is already converted: skipped")
        return
    parity.unlink(missing_ok=True)  # left by a failed attempt
    groups = initialize(ParallelConfig(), seed=1)
    try:
        direction.convert(config, stage, groups, report)
    finally:
        shutdown()
    report(f"wrote {config.output}")
