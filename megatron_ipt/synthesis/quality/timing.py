"""The time that a synthesis took: the only part of the report that differs from run to run, in separate files.

timing.json and timing.js are beside report.json and report.html but are not outputs of the stage: a run that was killed
and resumed ends with the same outputs as an undisturbed one, and with another time. report.html shows timing.js if it
is there.
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import orjson

from megatron_ipt.corpus.jsonl import read_intact_records
from megatron_ipt.corpus.manifest import write_atomically
from megatron_ipt.system_errors import naming

_DAY_SECONDS = 86_400


class WorkClock:
    """Records the working time of one worker, a line per lap, so that a kill loses no more than a lap."""

    def __init__(self, file: Path, devices: int) -> None:
        """Start the first lap; `devices` is the number of GPUs that the worker holds."""
        self._file, self._devices = file, devices
        self._began_seconds = time.monotonic()

    def lap(self) -> None:
        """Record the time since the last lap, or since the start."""
        now_seconds = time.monotonic()
        line = {"seconds": round(now_seconds - self._began_seconds, 3), "devices": self._devices}
        self._began_seconds = now_seconds
        self._file.parent.mkdir(parents=True, exist_ok=True)
        with naming(self._file), self._file.open("ab") as lines:
            lines.write(b"\n" + orjson.dumps(line, option=orjson.OPT_APPEND_NEWLINE))  # ends a line that was cut off


def write_timing(folder: Path, clock_files: Iterable[Path]) -> None:
    """Write the sum of the workers' clocks to timing.json and timing.js, beside the report of `folder`.

    GPU-days per 1B raw tokens are GPU-seconds / 86,400 / (raw tokens / 1e9); raw tokens are report.json's estimate,
    the words of the augmented texts times the tokens per word.
    """
    laps = [lap for file in sorted(clock_files) for lap in read_intact_records(file)]
    report = orjson.loads((folder / "report.json").read_bytes())
    timing = orjson.dumps(_timing(laps, report), option=orjson.OPT_INDENT_2).decode()
    write_atomically(folder / "timing.json", timing + "\n")
    write_atomically(folder / "timing.js", f"const timing = {timing};\n")


def _timing(laps: list[dict[str, Any]], report: dict[str, Any]) -> dict[str, Any]:
    worker_seconds = sum(lap["seconds"] for lap in laps)
    gpu_seconds = sum(lap["seconds"] * lap["devices"] for lap in laps)
    raw_tokens = report["tokens"]["raw"]
    per_billion = gpu_seconds / _DAY_SECONDS / (raw_tokens / 1e9) if gpu_seconds and raw_tokens else None
    seconds = max(worker_seconds, 1e-9)
    return {
        "worker_seconds": round(worker_seconds, 3),
        "gpu_seconds": round(gpu_seconds, 3),
        "gpu_days_per_billion_raw_tokens": per_billion,
        "texts_a_second_and_worker": report["texts"]["augmented"] / seconds,
        "pairs_a_second_and_worker": report["pairs"]["count"] / seconds,
        "generated_tokens_a_second_and_worker": report["tokens"]["generated"] / seconds,
    }
