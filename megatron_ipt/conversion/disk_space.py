"""Whether the disk can take what a conversion is about to write."""

from __future__ import annotations

import shutil
from pathlib import Path

from megatron_ipt.config.model import ModelConfig
from megatron_ipt.conversion.dtypes import DTYPES
from megatron_ipt.corpus.finished_files import FinishedFiles
from megatron_ipt.errors import TemporaryFailure
from megatron_ipt.models.accounting import parameter_count


def require_space_for_weights(folder: Path, model: ModelConfig, dtype_name: str, finished: FinishedFiles) -> None:
    """Check the free space for the weights of `model`, of which an interrupted attempt has left `finished` files.

    Raises:
        TemporaryFailure: it does not suffice.
    """
    needed_bytes = parameter_count(model) * DTYPES[dtype_name].itemsize
    require_space(folder, needed_bytes - finished.present_bytes())


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
