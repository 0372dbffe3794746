"""One conversion from start to end."""

from __future__ import annotations

from collections.abc import Callable

from megatron_ipt.config.pretrain import ParallelConfig
from megatron_ipt.config.stages import ConvertConfig
from megatron_ipt.conversion import hf_to_mcore, mcore_to_hf
from megatron_ipt.errors import UserError
from megatron_ipt.parallel.groups import initialize, shutdown

DIRECTIONS = {"mcore-to-hf": mcore_to_hf, "hf-to-mcore": hf_to_mcore}


def convert(config: ConvertConfig, report: Callable[[str], None]) -> None:
    """Convert as `config` says, or say that it is done already.

    Raises:
        UserError: input that cannot be converted.
        ParityError: the result gives other logits than the input.
    """
    direction = DIRECTIONS.get(config.direction)
    if direction is None:
        raise UserError("direction", config.direction, "no such direction", " or ".join(DIRECTIONS))
    stage = direction.open_stage(config)
    if stage.is_complete:
        report(f"{config.output} is already converted: skipped")
        return
    groups = initialize(ParallelConfig(), seed=1)
    try:
        direction.convert(config, stage, groups, report)
    finally:
        shutdown()
    report(f"wrote {config.output}")
