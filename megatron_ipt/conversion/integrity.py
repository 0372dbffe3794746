"""Check that a checkpoint is as it was saved."""

from __future__ import annotations

import logging
from pathlib import Path

from megatron_ipt.checkpointing.contents import Contents, find_damage, read_contents
from megatron_ipt.errors import UserError

logger = logging.getLogger(__name__)


def check_integrity(checkpoint: Path, remedy: str = "give another checkpoint of the run") -> Contents:
    """Compare the files of `checkpoint` with the hashes in its seal, and return its contents.

    Raises:
        UserError: a file is missing, or has changed since.
    """
    logger.info("comparing the checkpoint with its hashes")
    try:
        contents = read_contents(checkpoint)
        damage = find_damage(checkpoint, contents.files)
    except ValueError as error:
        damage = str(error)
    if damage is not None:
        raise UserError("input", checkpoint, f"the checkpoint is damaged: {damage}", remedy)
    return contents
