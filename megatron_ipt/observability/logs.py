"""What a run says on the terminal."""

from __future__ import annotations

import logging
import warnings


def configure_logging(*, is_main: bool) -> None:
    """Our own messages from the main rank; of the libraries, warnings and worse."""
    logging.basicConfig(format="%(asctime)s %(message)s", datefmt="%H:%M:%S", level=logging.WARNING)
    logging.getLogger("megatron_ipt").setLevel(logging.INFO if is_main else logging.WARNING)
    if not is_main:
        warnings.simplefilter("ignore")
