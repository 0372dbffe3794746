"""JSON Lines files: one JSON value per line.

`lines_of` serves every reader. Input of the user is read through `megatron_ipt.corpus.rows`, which reports bad rows;
`read_records` and `read_intact_records` read files that this package wrote itself.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import orjson

from megatron_ipt.corpus.compression import open_lines


def lines_of(file: Path) -> Iterator[tuple[int, bytes]]:
    """Yield the lines that are not blank, each with its number, from 1; the file may be compressed.

    Raises:
        OSError, or another of `READ_ERRORS`: the file cannot be read, or is damaged.
    """
    with open_lines(file) as lines:
        for number, line in enumerate(lines, start=1):
            if not line.isspace():
                yield number, line


def read_records(file: Path) -> Iterator[Any]:
    """Yield the values of a file that was written atomically."""
    return (orjson.loads(line) for _, line in lines_of(file))


def read_intact_records(file: Path) -> Iterator[Any]:
    """Yield the values of a file that is appended to; none if there is no such file.

    Lines that a kill or a power failure left incomplete are skipped: they do not end in a line break, or are not JSON.
    """
    if not file.is_file():
        return
    for _, line in lines_of(file):
        try:
            value = json.loads(line)  # accepts NaN, the loss of a skipped step, which orjson does not
        except ValueError:
            continue
        if line.endswith(b"\n"):
            yield value
