"""Decide whether a Slurm job is requeued after an attempt at a stage, and which nodes to exclude from then on.

The job names a folder in MEGATRON_IPT_ATTEMPT. When the stage starts, it records there where its finished parts are and
which of them already exist. Each rank records its node, and its exit code when it exits. After all ranks have exited,
the job runs

    python3 megatron_ipt/attempts.py FOLDER EXIT_CODE

which exits with 0 if the job is to be requeued, and otherwise with the exit code of the job. The nodes to exclude are
then in the file `exclude` of the folder, separated by commas. This module imports only the standard library: the job
runs it outside the container that holds the package's dependencies.
"""

from __future__ import annotations

import json
import os
import platform
import sys
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

FOLDER_VARIABLE = "MEGATRON_IPT_ATTEMPT"
EXCLUDE_NAME = "exclude"
_START_NAME = "start.json"
_USER_ERROR = 2
_INTERRUPTED = 130  # 128 + SIGINT
_MIN_FAILURES_TO_EXCLUDE = 2


def record_start(results: Path, parts: Sequence[str]) -> None:
    """Record the finished parts of a stage that exist now: files in `results` that match one of the globs `parts`."""
    start = {"results": str(results.absolute()), "parts": list(parts), "finished": _finished(results, parts)}
    _record(_START_NAME, json.dumps(start))


def record_node() -> None:
    """Record the node of this rank."""
    _record(f"node-{_rank()}", os.environ.get("SLURMD_NODENAME") or platform.node())


def record_exit(code: int) -> None:
    """Record the exit code with which this rank exits."""
    _record(f"exit-{_rank()}", f"{code}\n")


def judge(folder: Path, code: int) -> tuple[int, str]:
    """Decide whether a job is requeued after an attempt.

    Args:
        folder: the folder of the attempt.
        code: the highest exit code of all ranks, 128 + N for a rank ended by signal N. Ranks that lose contact with a
            failed rank exit with 75, which hides its 2 here: the exit codes that the ranks recorded come first.

    Returns:
        0 to requeue the job, otherwise its exit code; and a line for its log.
    """
    codes = _records(folder, "exit")
    for rank, recorded in codes.items():
        if int(recorded) == _USER_ERROR:
            return _USER_ERROR, f"rank {rank} ended with exit code {_USER_ERROR}: not requeued"
    if code in (_USER_ERROR, _INTERRUPTED):
        return code, f"ended with exit code {code}: not requeued"
    try:
        start = json.loads((folder / _START_NAME).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return code, f"ended with exit code {code} before the stage began: not requeued, since nothing was finished"
    results = Path(start["results"])
    new = set(_finished(results, start["parts"])).difference(start["finished"])
    if not new:
        reason = f"ended with exit code {code} and has finished nothing new in {results} since it started"
        return code, f"{reason}: not requeued. Fix what it reports above, then submit it again: it resumes"
    return 0, f"ended with exit code {code} after finishing {len(new)} more in {results}, the last {max(new)}"


def find_failed_nodes(folder: Path) -> set[str]:
    """Return the nodes of the ranks that failed first in an attempt; the other ranks only lost contact with them.

    Such a rank crashed, or recorded no exit code because it was killed or hung in a kernel. If most ranks did, the
    cause is not a node, and none is returned.
    """
    nodes, codes = _records(folder, "node"), _records(folder, "exit")
    failed = [rank for rank in nodes if rank not in codes or int(codes[rank]) not in (0, _USER_ERROR, os.EX_TEMPFAIL)]
    return {nodes[rank] for rank in failed} if 2 * len(failed) <= len(nodes) else set()


def count_failures(folder: Path, failed: set[str]) -> dict[str, int]:
    """Add the nodes `failed` of this attempt to those of earlier attempts of the job, which are kept next to `folder`.

    Returns:
        The number of failures by node.
    """
    file = folder.parent / f"{folder.name.partition('.')[0]}-nodes.json"
    counts = Counter(json.loads(file.read_text(encoding="utf-8"))) if file.exists() else Counter()
    counts.update(failed)
    if failed:
        _replace(file, json.dumps(counts))
    return dict(counts)


def _finished(results: Path, parts: Sequence[str]) -> list[str]:
    return sorted({str(file.relative_to(results)) for pattern in parts for file in results.glob(pattern)})


def _rank() -> str:
    return os.environ.get("RANK", "0")


def _record(name: str, text: str) -> None:
    if folder := os.environ.get(FOLDER_VARIABLE):
        with suppress(OSError):  # a record that cannot be written must not fail the stage
            _replace(Path(folder) / name, text)


def _records(folder: Path, kind: str) -> dict[str, str]:
    """Read the records of one kind (node or exit) by rank."""
    files = sorted(folder.glob(f"{kind}-*"), key=lambda file: int(file.name.partition("-")[2]))
    return {file.name.partition("-")[2]: file.read_text(encoding="utf-8") for file in files}


def _replace(file: Path, text: str) -> None:
    """Write a file atomically, so that a kill leaves no partial file."""
    unfinished = file.with_name(f".{file.name}")
    unfinished.write_text(text, encoding="utf-8")
    unfinished.replace(file)


def main() -> int:
    """Judge the attempt given on the command line, write the nodes to exclude, and return the exit code."""
    folder = Path(sys.argv[1])
    code, line = judge(folder, int(sys.argv[2]))
    print(line, file=sys.stdout if code == 0 else sys.stderr)
    if code == 0:
        failed = find_failed_nodes(folder)
        counts = count_failures(folder, failed)
        for node in sorted(failed):
            print(f"{node}: a rank there failed, and others lost contact with it; failures so far: {counts[node]}")
        excluded = [node for node in sorted(failed) if counts[node] >= _MIN_FAILURES_TO_EXCLUDE]
        (folder / EXCLUDE_NAME).write_text(",".join(excluded), encoding="utf-8")
    return code


if __name__ == "__main__":
    sys.exit(main())
