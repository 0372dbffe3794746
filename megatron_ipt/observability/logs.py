"""Configuration of logging."""

from __future__ import annotations

import logging
import os
import warnings


def configure_logging(*, is_main: bool) -> None:
    """Show messages of this package on the main rank, warnings on all ranks, and only errors of megatron-core.

    Must be called before megatron-core is imported, which logs and warns at import.
    """
    logging.basicConfig(format="%(asctime)s %(message)s", datefmt="%H:%M:%S", level=logging.WARNING)
    logging.getLogger("megatron_ipt").setLevel(logging.INFO if is_main else logging.WARNING)
    logging.getLogger("megatron.core").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", module=r"megatron\.core")
    os.environ.setdefault("PYTHONWARNINGS", "ignore")  # the processes that write checkpoints import it again
