"""Which checkpoints of a run have done their service."""

from __future__ import annotations

from collections.abc import Mapping

from megatron_ipt.config.pretrain import CheckpointConfig


def superseded(validation_losses: Mapping[int, float | None], rule: CheckpointConfig) -> list[int]:
    """The iterations to drop, of those in `validation_losses` (iteration: loss, None where it was not measured)."""
    newest = sorted(validation_losses, reverse=True)
    if not rule.keep_last:
        return []
    measured = {iteration: loss for iteration, loss in validation_losses.items() if loss is not None}
    best = sorted(measured, key=lambda iteration: measured[iteration])
    kept = {*newest[: rule.keep_last], *best[: rule.keep_best]}
    if rule.keep_every is not None:
        kept |= {iteration for iteration in newest if iteration % rule.keep_every == 0}
    return [iteration for iteration in newest if iteration not in kept]
