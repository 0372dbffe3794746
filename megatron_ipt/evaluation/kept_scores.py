"""Scores and samples of the finished tasks of an evaluation, from which an interrupted evaluation resumes."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

from megatron_ipt.corpus.manifest import write_atomically
from megatron_ipt.evaluation.scores import Score

SAMPLES_FOLDER = "samples"
_WORK_FOLDER = "work"


def work_folder(output: Path) -> Path:
    """Return the folder for files that an evaluation needs only until it is finished."""
    return output / _WORK_FOLDER


def samples_file(output: Path, task: str) -> Path:
    """Return the file of the questions of `task` and the model's answers, in the format of `lm_eval --log_samples`."""
    return output / SAMPLES_FOLDER / f"{file_name(task)}.jsonl"


def has_kept_scores(output: Path) -> bool:
    """Return whether there are results to resume from: scores of a finished task, or cached responses."""
    return any(work_folder(output).glob("*.*"))


def read_kept(output: Path, call: str) -> list[Score] | None:
    """Return the scores of a call of the harness that an earlier attempt finished; None if there are none."""
    file = _scores_file(output, call)
    if not file.is_file():
        return None
    return [Score.from_json(values) for values in json.loads(file.read_text(encoding="utf-8"))]


def keep(output: Path, call: str, scores: Sequence[Score], samples: Mapping[str, Sequence[str]]) -> None:
    """Write the samples, as lines of JSON by task, and then the scores, which mark the call as finished."""
    (output / SAMPLES_FOLDER).mkdir(exist_ok=True)
    for task, rows in samples.items():
        write_atomically(samples_file(output, task), "".join(f"{row}\n" for row in rows))
    write_atomically(_scores_file(output, call), json.dumps([asdict(score) for score in scores]))


def discard_work(output: Path) -> None:
    """Remove the files that only an unfinished evaluation needs."""
    shutil.rmtree(work_folder(output), ignore_errors=True)


def discard_attempt(output: Path) -> None:
    """Remove all files of an attempt with other settings."""
    discard_work(output)
    shutil.rmtree(output / SAMPLES_FOLDER, ignore_errors=True)


def _scores_file(output: Path, call: str) -> Path:
    return work_folder(output) / f"{file_name(call)}.json"


def file_name(task: str) -> str:
    """Return a file name for a task, which may be given as the path of its YAML."""
    return task.strip("/").replace("/", "__")
