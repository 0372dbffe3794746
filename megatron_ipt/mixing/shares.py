"""Checks of the shares of a blend: amounts above 0, and each dataset once."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from pathlib import Path

from megatron_ipt.errors import Problem


def find_amount_problems(field: str, *, weight: float | None, epochs: float | None) -> Iterator[Problem]:
    """Check that a weight or a number of epochs, if set, is finite and above 0; `field` names the entry."""
    for name, amount in (("weight", weight), ("epochs", epochs)):
        if amount is not None and not 0 < amount < math.inf:
            yield Problem(f"{field}.{name}", amount, "must be finite and > 0", "correct it, or leave the entry out")


def find_repeated_datasets(prefixes: Iterable[tuple[str, str]]) -> Iterator[Problem]:
    """Find fields that name the dataset of an earlier field, even if its path is spelled differently.

    megatron-core shuffles by seed and size, so both entries would yield the same samples in the same order.

    Args:
        prefixes: pairs of a field and the prefix that it names, whose .idx file exists.
    """
    fields: dict[tuple[int, int], str] = {}
    for field, prefix in prefixes:
        status = Path(f"{prefix}.idx").stat()
        earlier = fields.setdefault((status.st_dev, status.st_ino), field)
        if earlier != field:
            reason = f"the same dataset as {earlier}: samples would be read twice in a row, and others never"
            yield Problem(field, prefix, reason, "name it once, with the sum of both shares")
