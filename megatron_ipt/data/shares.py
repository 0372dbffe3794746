"""What the shares of a blend must satisfy: amounts above 0, each of a dataset of its own."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from pathlib import Path

from megatron_ipt.errors import Problem


def find_amount_problems(field: str, *, weight: float | None, epochs: float | None) -> Iterator[Problem]:
    """A weight or a number of epochs that is set, and is not a finite number above 0; `field` names the entry."""
    for name, amount in (("weight", weight), ("epochs", epochs)):
        if amount is not None and not 0 < amount < math.inf:
            remedy = "give one, or leave the entry out"
            yield Problem(f"{field}.{name}", amount, "not a finite number above 0", remedy)


def find_repeated_datasets(prefixes: Iterable[tuple[str, str]]) -> Iterator[Problem]:
    """Fields that name the dataset of an earlier field, however its path is spelled.

    megatron-core shuffles by seed and size, so both entries would yield the same samples in the same order.

    Args:
        prefixes: pairs of a field and the prefix that it names, whose .idx file exists.
    """
    fields: dict[tuple[int, int], str] = {}
    for field, prefix in prefixes:
        status = Path(f"{prefix}.idx").stat()
        earlier = fields.setdefault((status.st_dev, status.st_ino), field)
        if earlier != field:
            reason = f"the dataset of {earlier}: its samples would come twice in a row, and part of it never"
            yield Problem(field, prefix, reason, "name it once, with both shares added up")
