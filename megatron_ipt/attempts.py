"""One attempt of a Slurm job at a stage: how it ended, and whether it made progress that makes another one worthwhile.

The job names a folder in MEGATRON_IPT_ATTEMPT. There the stage notes, when it starts, where its finished parts are and
which exist already, and each rank that fails notes its exit code. When all ranks have ended, the job runs

    python3 megatron_ipt/attempts.py FOLDER EXIT_CODE

which exits with 0 if the job is to be requeued, or else with the exit code of the job. The standard library suffices
for this, since a container that holds the package's dependencies has ended by then.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

FOLDER_VARIABLE = "MEGATRON_IPT_ATTEMPT"
_START_NAME = "start.json"
_MISTAKES = (1, 2)
_INTERRUPTED = 130


def note_start(results: Path, parts: Sequence[str]) -> None:
    """Note the finished parts of a stage that exist now: files in `results` that match one of the patterns `parts`."""
    if (folder := _folder()) is not None:
        start = {"results": str(results.absolute()), "parts": list(parts), "finished": _finished(results, parts)}
        _write(folder / _START_NAME, json.dumps(start))


def note_exit(code: int) -> None:
    """Note that this rank fails, and with which exit code."""
    if (folder := _folder()) is not None:
        rank = os.environ.get("RANK", "0")
        _write(folder / f"exit-{rank}", f"{code}\n")


def judge(folder: Path, code: int) -> tuple[int, str]:
    """Decide whether a job is requeued after an attempt; return the decision with a line for its log.

    Args:
        folder: of the attempt.
        code: the highest exit code of any rank, 128 + N for one that signal N has ended. Ranks that only lost contact
            end with 75, so that another rank's mistake shows in what it noted alone.

    Returns:
        0 to requeue it, or else its exit code.
    """
    for file in sorted(folder.glob("exit-*")):
        noted = int(file.read_text(encoding="utf-8"))
        if noted in _MISTAKES:
            return noted, f"rank {file.name.removeprefix('exit-')} ended with exit code {noted}: not requeued"
    is_temporary = code == os.EX_TEMPFAIL or (code > 128 and code != _INTERRUPTED)
    if not is_temporary:
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


def _finished(results: Path, parts: Sequence[str]) -> list[str]:
    return sorted({str(file.relative_to(results)) for pattern in parts for file in results.glob(pattern)})


def _folder() -> Path | None:
    name = os.environ.get(FOLDER_VARIABLE)
    return Path(name) if name else None


def _write(file: Path, text: str) -> None:
    with suppress(OSError):  # a note that cannot be written must not stop the stage
        file.write_text(text, encoding="utf-8")


def main() -> int:
    """Judge the attempt that the arguments name."""
    code, line = judge(Path(sys.argv[1]), int(sys.argv[2]))
    print(line, file=sys.stdout if code == 0 else sys.stderr)
    return code


if __name__ == "__main__":
    sys.exit(main())
