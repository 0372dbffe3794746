"""Short names that distinguish input files."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path


def name_files(files: Sequence[Path]) -> dict[Path, str]:
    """Name each file by its own name, preceded by as many parent folders as are needed to make it unique.

    The names depend only on the paths of `files` relative to one another, so that identifiers made of them stay the
    same when the input is moved.
    """
    names: dict[Path, str] = {}
    depth, unnamed = 1, list(dict.fromkeys(files))
    while unnamed:
        tails = {file: "/".join(file.absolute().parts[-depth:]) for file in unnamed}
        counts = Counter(tails.values())
        names |= {file: tail for file, tail in tails.items() if counts[tail] == 1}
        unnamed = [file for file in unnamed if file not in names]
        depth += 1
    return {file: names[file] for file in files}
