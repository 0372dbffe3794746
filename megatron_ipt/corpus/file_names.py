"""Short names of input files that tell them apart."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path


def name_files(files: Sequence[Path]) -> dict[Path, str]:
    """Each file's own name; where several files share it, with as many folders before it as tell them apart.

    The names depend on nothing but the files, so that identifiers made of them are the same wherever the folders lie.
    """
    names: dict[Path, str] = {}
    depth, left = 1, list(dict.fromkeys(files))
    while left:
        tails = {file: "/".join(file.absolute().parts[-depth:]) for file in left}
        counts = Counter(tails.values())
        names |= {file: tail for file, tail in tails.items() if counts[tail] == 1}
        left = [file for file in left if file not in names]
        depth += 1
    return {file: names[file] for file in files}
