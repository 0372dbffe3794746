"""Whether the disk can take what a conversion is about to write."""

from __future__ import annotations

import shutil
from pathlib import Path

from megatron_ipt.errors import TemporaryFailure


def require_space(folder: Path, needed_bytes: int) -> None:
    """Check the free space of the file system that `folder` is on, or will be on.

    Raises:
        TemporaryFailure: it has less than `needed_bytes`.
    """
    place = next(parent for parent in (folder.absolute(), *folder.absolute().parents) if parent.is_dir())
    free_bytes = shutil.disk_usage(place).free
    if needed_bytes > free_bytes:
        raise TemporaryFailure(
            f"{folder}: the weights take {needed_bytes / 1e9:,.2f} GB, and {free_bytes / 1e9:,.2f} GB are free\n"
            "free space there, then run the same command again"
        )
