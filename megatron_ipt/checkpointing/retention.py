"""Removal of old checkpoints of a run."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from pathlib import Path

from megatron_ipt.checkpointing.contents import Contents, find_missing, read_contents
from megatron_ipt.checkpointing.layout import iteration_folder, partial_folder, saved_iterations
from megatron_ipt.config.pretrain import CheckpointConfig


def superseded(validation_losses: Mapping[int, float | None], rule: CheckpointConfig) -> list[int]:
    """Return the iterations to remove, of those in `validation_losses` (by iteration; None if not measured)."""
    newest = sorted(validation_losses, reverse=True)
    if not rule.keep_last:
        return []
    measured = {iteration: loss for iteration, loss in validation_losses.items() if loss is not None}
    best = sorted(measured, key=lambda iteration: measured[iteration])
    kept = {*newest[: rule.keep_last], *best[: rule.keep_best]}
    if rule.keep_every is not None:
        kept |= {iteration for iteration in newest if iteration % rule.keep_every == 0}
    return [iteration for iteration in newest if iteration not in kept]


def remove_superseded(run: Path, saved: int, rule: CheckpointConfig, log: Callable[[str], None]) -> None:
    """Remove the checkpoints that `rule` no longer keeps, after the checkpoint of iteration `saved` is finished.

    Only intact checkpoints up to that iteration count and are removed, so that neither a damaged one nor one of another
    history displaces one to resume from. A symbolic link is kept: the user moved its target elsewhere. A checkpoint
    that cannot be removed is logged and stays.

    Args:
        run: the run folder.
        saved: the iteration of the checkpoint that was just finished.
        rule: the checkpoints to keep.
        log: called with warnings.
    """
    losses: dict[int, float | None] = {}
    for iteration in saved_iterations(run):
        if iteration <= saved and (contents := _read_intact(iteration_folder(run, iteration))) is not None:
            losses[iteration] = contents.validation_loss
    for iteration in superseded(losses, rule):
        folder = iteration_folder(run, iteration)
        if folder.is_symlink():
            continue
        try:
            # renamed first, so that an interrupted removal leaves no partial checkpoint under this name
            shutil.rmtree(folder.rename(partial_folder(run, iteration, "removed")))
        except OSError as error:
            log(f"warning: {folder} is no longer needed but cannot be removed: {error}")


def _read_intact(folder: Path) -> Contents | None:
    """Read checkpoint.json if every file has its recorded size; hashing would read all checkpoints at each save."""
    try:
        contents = read_contents(folder)
    except ValueError:
        return None
    return contents if find_missing(folder, contents.files) is None else None
