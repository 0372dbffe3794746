"""One attempt of a Slurm job at a stage: how it ended, whether another one is worthwhile, and on which nodes.

The job names a folder in MEGATRON_IPT_ATTEMPT. There the stage notes, when it starts, where its finished parts are and
which exist already. Each rank notes its node, and its exit code when it ends. When all ranks have ended, the job runs

    python3 megatron_ipt/attempts.py FOLDER EXIT_CODE

which exits with 0 if the job is to be requeued, or else with the exit code of the job. Nodes that the attempts from now
on should avoid are then in the folder's file `exclude`, separated by commas. The standard library suffices for this,
since a container that holds the package's dependencies has ended by then.
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
_MISTAKE = 2
_INTERRUPTED = 130
_FAILURES_OF_AN_EXCLUDED_NODE = 2


def note_start(results: Path, parts: Sequence[str]) -> None:
    """Note the finished parts of a stage that exist now: files in `results` that match one of the patterns `parts`."""
    start = {"results": str(results.absolute()), "parts": list(parts), "finished": _finished(results, parts)}
    _note(_START_NAME, json.dumps(start))


def note_node() -> None:
    """Note which node this rank is on."""
    _note(f"node-{_rank()}", os.environ.get("SLURMD_NODENAME") or platform.node())


def note_exit(code: int) -> None:
    """Note that this rank ends, and with which exit code."""
    _note(f"exit-{_rank()}", f"{code}\n")


def judge(folder: Path, code: int) -> tuple[int, str]:
    """Decide whether a job is requeued after an attempt; return the decision with a line for its log.

    Args:
        folder: of the attempt.
        code: the highest exit code of any rank, 128 + N for one that signal N has ended. Ranks that only lost contact
            end with 75, so that another rank's mistake shows in what it noted alone.

    Returns:
        0 to requeue it, or else its exit code.
    """
    codes = _notes(folder, "exit")
    for rank, noted in codes.items():
        if int(noted) == _MISTAKE:
            return _MISTAKE, f"rank {rank} ended with exit code {_MISTAKE}: not requeued"
    if code in (_MISTAKE, _INTERRUPTED):
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
    """The nodes of the ranks that failed by themselves in an attempt, while the others only lost contact with them.

    Such a rank crashed, or ended without a word (killed, or stuck in a kernel). If most ranks did, it was not the node.
    """
    nodes, codes = _notes(folder, "node"), _notes(folder, "exit")
    failed = [rank for rank in nodes if rank not in codes or int(codes[rank]) not in (0, _MISTAKE, os.EX_TEMPFAIL)]
    return {nodes[rank] for rank in failed} if 2 * len(failed) <= len(nodes) else set()


def count_failures(folder: Path) -> dict[str, int]:
    """Add the nodes that failed in this attempt to those of the job's former attempts, in a file beside the folder.

    Returns:
        How often each node has failed.
    """
    file = folder.parent / f"{folder.name.partition('.')[0]}-nodes.json"
    failed = find_failed_nodes(folder)
    counts = Counter(json.loads(file.read_text(encoding="utf-8"))) if file.exists() else Counter()
    counts.update(failed)
    if failed:
        _replace(file, json.dumps(counts))
    return dict(counts)


def _finished(results: Path, parts: Sequence[str]) -> list[str]:
    return sorted({str(file.relative_to(results)) for pattern in parts for file in results.glob(pattern)})


def _rank() -> str:
    return os.environ.get("RANK", "0")


def _note(name: str, text: str) -> None:
    if folder := os.environ.get(FOLDER_VARIABLE):
        with suppress(OSError):  # a note that cannot be written must not stop the stage
            _replace(Path(folder) / name, text)


def _notes(folder: Path, kind: str) -> dict[str, str]:
    """What each rank has noted, by rank."""
    files = sorted(folder.glob(f"{kind}-*"), key=lambda file: int(file.name.partition("-")[2]))
    return {file.name.partition("-")[2]: file.read_text(encoding="utf-8") for file in files}


def _replace(file: Path, text: str) -> None:
    """Write a file as a whole, or not at all where the process is killed meanwhile."""
    unfinished = file.with_name(f".{file.name}")
    unfinished.write_text(text, encoding="utf-8")
    unfinished.replace(file)


def main() -> int:
    """Judge the attempt that the arguments name, and say which nodes the next should avoid."""
    folder = Path(sys.argv[1])
    code, line = judge(folder, int(sys.argv[2]))
    print(line, file=sys.stdout if code == 0 else sys.stderr)
    if code == 0:
        counts = count_failures(folder)
        failed = sorted(find_failed_nodes(folder))
        for node in failed:
            print(f"{node}: a rank there failed, and others lost contact with it; failures so far: {counts[node]}")
        excluded = [node for node in failed if counts[node] >= _FAILURES_OF_AN_EXCLUDED_NODE]
        (folder / EXCLUDE_NAME).write_text(",".join(excluded), encoding="utf-8")
    return code


if __name__ == "__main__":
    sys.exit(main())
