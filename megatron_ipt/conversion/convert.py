"""The conversion stage, in either direction."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from megatron_ipt.config.pretrain import ParallelConfig
from megatron_ipt.config.stages import ConvertConfig
from megatron_ipt.conversion import hf_to_mcore, mcore_to_hf, mcore_to_mlm, mlm_to_mcore
from megatron_ipt.conversion.parity import PARITY_NAME
from megatron_ipt.parallel.groups import initialize, shutdown

DIRECTIONS = {
    "mcore-to-hf": mcore_to_hf,
    "hf-to-mcore": hf_to_mcore,
    "mlm-to-mcore": mlm_to_mcore,
    "mcore-to-mlm": mcore_to_mlm,
}
_WITH_PARITY = ("mcore-to-hf", "hf-to-mcore")
"""Directions with a second implementation of the model to compare with."""


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
    checked = config.parity_check and config.direction in _WITH_PARITY
    if stage.is_complete and (parity.is_file() or not checked):
        report(f"{config.output} is already converted: skipped")
        return
    parity.unlink(missing_ok=True)  # left by a failed attempt
    groups = initialize(ParallelConfig(), seed=1)
    try:
        direction.convert(config, stage, groups, report)
    finally:
        shutdown()
    report(f"wrote {config.output}")
