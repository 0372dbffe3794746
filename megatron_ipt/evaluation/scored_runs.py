"""The runs of a comparison: each is a single evaluation, or the evaluations of a run's checkpoints."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from megatron_ipt.corpus.manifest import read_manifest
from megatron_ipt.errors import UserError
from megatron_ipt.evaluation.kept_scores import samples_file
from megatron_ipt.evaluation.results import RESULTS_NAME
from megatron_ipt.evaluation.scores import Score

_REMEDY = "give the output folder of `evaluate` or `trend`"


@dataclass(frozen=True)
class ScoredModel:
    """One evaluation; `tokens` is the number of training tokens of the model, None if it is not known."""

    folder: Path
    tokens: int | None
    scores: dict[str, Score]

    def questions(self, task: str) -> dict[tuple[str, ...], Any]:
        """Return the value of the headline metric of `task` for each question.

        Keys identify a question together with its prompt: the task, the number, and the hashes of question and prompt.
        """
        score = self.scores[task]
        metric, _, kind = score.metric.partition(",")
        values: dict[tuple[str, ...], Any] = {}
        for leaf in score.samples:
            with samples_file(self.folder, leaf).open(encoding="utf-8") as lines:
                for row in map(json.loads, lines):
                    if row["filter"] == (kind or "none") and metric in row:
                        values[leaf, str(row["doc_id"]), row["doc_hash"], row["prompt_hash"]] = row[metric]
        return values


@dataclass(frozen=True)
class ScoredRun:
    """A named run: its evaluations, in order of training tokens."""

    name: str
    models: list[ScoredModel]

    @property
    def last(self) -> ScoredModel:
        """The final evaluation, by which runs are compared."""
        return self.models[-1]


def read_runs(given: Sequence[str]) -> list[ScoredRun]:
    """Read the runs given as `[NAME=]FOLDER`; the default name is the folder.

    Raises:
        UserError: a folder holds no finished evaluation, or two runs have the same name.
    """
    runs = [_read_run(*_split_name(one)) for one in given]
    names = [run.name for run in runs]
    if repeated := next((name for name in names if names.count(name) > 1), None):
        raise UserError("run", repeated, "two runs have this name", "give them names: NAME=FOLDER")
    return runs


def _split_name(given: str) -> tuple[str, Path]:
    name, equals, folder = given.partition("=")
    if equals:
        return name, Path(folder)
    path = Path(given)
    return str(path), path


def _read_run(name: str, folder: Path) -> ScoredRun:
    folders = [folder, *sorted(folder.glob("iter_*"))]
    finished = [one for one in folders if (one / RESULTS_NAME).is_file() and _is_complete(one)]
    if not finished:
        raise UserError("run", folder, "it holds no finished evaluation", _REMEDY)
    models = [_read_model(one) for one in finished]
    return ScoredRun(name, sorted(models, key=lambda model: model.tokens or 0))


def _is_complete(folder: Path) -> bool:
    manifest = read_manifest(folder)
    return manifest is not None and manifest.stage == "evaluate" and manifest.status == "complete"


def _read_model(folder: Path) -> ScoredModel:
    values = json.loads((folder / RESULTS_NAME).read_text(encoding="utf-8"))
    if "progress" not in values:
        reason = "its results were written by an earlier version, without samples"
        raise UserError("run", folder, reason, "evaluate the model again")
    progress = values["progress"]
    scores = {name: Score.from_json({"task": name, **score}) for name, score in values["tasks"].items()}
    return ScoredModel(folder, progress["consumed_train_tokens"] if progress else None, scores)
