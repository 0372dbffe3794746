"""Logging of a run."""

from __future__ import annotations

import logging
import os
import warnings


def configure_logging(*, is_main: bool) -> None:
    """Show our messages from the main rank and errors of megatron-core; call it before megatron-core is imported."""
    logging.basicConfig(format="%(asctime)s %(message)s", datefmt="%H:%M:%S", level=logging.WARNING)
    logging.getLogger("megatron_ipt").setLevel(logging.INFO if is_main else logging.WARNING)
    logging.getLogger("megatron.core").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", module=r"megatron\.core")
    os.environ.setdefault("PYTHONWARNINGS", "ignore")  # the processes that write checkpoints import it again
