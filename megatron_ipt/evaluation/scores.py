"""Scores of an evaluation, as stored in results.json."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from numbers import Real
from typing import Any

from megatron_ipt.evaluation.suite import SuiteTask

_PREFERRED = ("acc_norm", "acc")
_SHARES = re.compile(r"acc|exact_match|em$|f1|.*_f1$|pass@|contains|number_match|bypass$")


@dataclass(frozen=True)
class Metric:
    """A value and its standard error; `is_share`: a share from 0 to 1, higher is better, shown in percent."""

    value: float
    stderr: float | None
    is_share: bool = True


@dataclass(frozen=True)
class Score:
    """The result of one task or group.

    Attributes:
        task: the name of the task.
        metric: the key in `metrics` of the headline metric, which tables and plots show.
        metrics: by name: `acc`, or `exact_match,strict-match` if the task filters the answers.
        num_fewshot: the number of few-shot examples.
        questions: the number of questions that were scored.
        questions_available: the number of questions in the split.
        evaluated_split: the split with the questions.
        fewshot_split: the split with the few-shot examples; None without examples.
        chance: the score of random guessing; None if unknown.
        samples: the tasks whose questions were scored: the task itself, or those of the group.
        parts: the headline metric of the tasks and groups in a group.
    """

    task: str
    metric: str
    metrics: dict[str, Metric]
    num_fewshot: int
    questions: int
    questions_available: int
    evaluated_split: str
    fewshot_split: str | None
    chance: float | None
    samples: list[str]
    parts: dict[str, float] = field(default_factory=dict)

    @property
    def headline(self) -> Metric:
        """The metric that tables and plots show."""
        return self.metrics[self.metric]

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Score:
        """Restore a score from the result of `dataclasses.asdict`."""
        metrics = {name: Metric(**metric) for name, metric in values["metrics"].items()}
        return cls(**{**values, "metrics": metrics})


def scores_from(results: Mapping[str, Any], task: SuiteTask) -> list[Score]:
    """Return the scores in the results of lm-evaluation-harness for `task`.

    There are several if `task` is a tag, or a group without a score of its own.
    """
    groups = results.get("group_subtasks", {})
    children = {child for members in groups.values() for child in members}
    roots = [name for name in results["results"] if name not in children]
    scored = [name for root in roots for name in _with_values(results, root)]
    return [_score(results, name, task, task.name if len(scored) == 1 else name) for name in scored]


def average_of(scores: Sequence[Score]) -> float | None:
    """Return the mean of the headline metrics, with equal weights; None if one of them is not a share."""
    if not scores or not all(score.headline.is_share for score in scores):
        return None
    return sum(score.headline.value for score in scores) / len(scores)


def _with_values(results: Mapping[str, Any], name: str) -> Iterator[str]:
    """Yield `name`; or, if it is a group without a score of its own, its members that have one."""
    if _metrics(results["results"][name], 0):
        yield name
    else:
        for child in results.get("group_subtasks", {}).get(name, []):
            yield from _with_values(results, child)


def _score(results: Mapping[str, Any], name: str, task: SuiteTask, shown: str) -> Score:
    leaves = _leaves(results, name)
    counts = [results["n-samples"][leaf] for leaf in leaves]
    questions = sum(count["effective"] for count in counts)
    metrics = _metrics(results["results"][name], questions)
    config, num_fewshot = results["configs"][leaves[0]], results["n-shot"][leaves[0]]
    splits = [config.get(f"{kind}_split") for kind in ("fewshot", "training", "validation", "test")]
    metric = next((metric for metric in (task.metric, *_PREFERRED) if metric in metrics), next(iter(metrics)))
    return Score(
        task=shown,
        metric=metric,
        metrics=metrics,
        num_fewshot=num_fewshot,
        questions=questions,
        questions_available=sum(count["original"] for count in counts),
        evaluated_split=config.get("test_split") or config.get("validation_split") or "",
        fewshot_split=next((split for split in splits if split), None) if num_fewshot else None,
        chance=task.chance,
        samples=leaves,
        parts={} if leaves == [name] else _parts(results, name, leaves, metric),
    )


def _metrics(values: Mapping[str, Any], questions: int) -> dict[str, Metric]:
    """Combine `acc,none` and `acc_stderr,none` into a metric `acc`, and so on; skip values that are not numbers."""
    metrics: dict[str, Metric] = {}
    for key, value in values.items():
        name, comma, kind = key.partition(",")
        if not comma or name.endswith("_stderr") or not isinstance(value, Real):
            continue
        value = float(value)  # often a NumPy number, which JSON cannot hold
        is_share = _SHARES.match(name) is not None and 0 <= value <= 1
        stderr = _stderr(values.get(f"{name}_stderr,{kind}"), value, questions, is_count=name.startswith("acc"))
        metrics[name if kind == "none" else key] = Metric(value, stderr, is_share)
    return metrics


def _stderr(given: Any, share: float, questions: int, *, is_count: bool) -> float | None:
    """Return the standard error that the harness gives.

    It gives none for a group with one question per subject. For a count of correct answers, it is then computed from
    the `share` of all questions, as for a binomial sample.
    """
    if isinstance(given, Real) and math.isfinite(given):
        return float(given)
    return math.sqrt(share * (1 - share) / (questions - 1)) if is_count and questions > 1 and 0 <= share <= 1 else None


def _leaves(results: Mapping[str, Any], name: str) -> list[str]:
    """Return the tasks in a group, at any depth; or the task itself."""
    children = results.get("group_subtasks", {}).get(name, [])
    return [leaf for child in children for leaf in _leaves(results, child)] or [name]


def _parts(results: Mapping[str, Any], name: str, leaves: list[str], metric: str) -> dict[str, float]:
    key = metric if "," in metric else f"{metric},none"
    members = dict.fromkeys((*results["group_subtasks"][name], *leaves))
    values = {part.removeprefix(f"{name}_"): results["results"][part].get(key) for part in members}
    return {part: value for part, value in values.items() if value is not None}
