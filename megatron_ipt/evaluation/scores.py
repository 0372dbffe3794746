"""Scores of an evaluation, as results.json holds them."""

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
    """A value and its standard error; `is_share`: from 0 to 1, the more the better, shown in percent."""

    value: float
    stderr: float | None
    is_share: bool = True


@dataclass(frozen=True)
class Score:
    """The result of one task. `metric` names the entry of `metrics` that tables and figures show.

    Metrics are called `acc`, or `exact_match,strict-match` where the task filters the answers. `parts` holds the same
    metric of the tasks and groups below a group; `samples` names the tasks whose questions the score rests on.
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
        """The metric that tables and figures show."""
        return self.metrics[self.metric]

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Score:
        """The score that `dataclasses.asdict` made `values` of."""
        metrics = {name: Metric(**metric) for name, metric in values["metrics"].items()}
        return cls(**{**values, "metrics": metrics})


def scores_from(results: Mapping[str, Any], task: SuiteTask) -> list[Score]:
    """The scores in what lm-evaluation-harness returned for `task`: of several tasks if it is a tag or a mere list."""
    groups = results.get("group_subtasks", {})
    below = {child for children in groups.values() for child in children}
    top = [name for name in results["results"] if name not in below]
    named = [name for one in top for name in _with_values(results, one)]
    return [_score(results, name, task, task.name if len(named) == 1 else name) for name in named]


def average_of(scores: Sequence[Score]) -> float | None:
    """The mean of the shown metrics, each task with the same weight; None where one of them is no share."""
    if not scores or not all(score.headline.is_share for score in scores):
        return None
    return sum(score.headline.value for score in scores) / len(scores)


def _with_values(results: Mapping[str, Any], name: str) -> Iterator[str]:
    """`name`, or what is below it where it is a group without a score of its own."""
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
    """`acc,none` and `acc_stderr,none` become one metric `acc`; what is no number is left out."""
    metrics: dict[str, Metric] = {}
    for key, value in values.items():
        name, comma, kind = key.partition(",")
        if not comma or name.endswith("_stderr") or not isinstance(value, Real):
            continue
        value = float(value)  # often NumPy's
        is_share = _SHARES.match(name) is not None and 0 <= value <= 1
        stderr = _stderr(values.get(f"{name}_stderr,{kind}"), value, questions, is_count=name.startswith("acc"))
        metrics[name if kind == "none" else key] = Metric(value, stderr, is_share)
    return metrics


def _stderr(given: Any, share: float, questions: int, *, is_count: bool) -> float | None:
    """The harness's own; where it has none (one question a subject), that of `share` right ones of all questions."""
    if isinstance(given, Real) and math.isfinite(given):
        return float(given)
    return math.sqrt(share * (1 - share) / (questions - 1)) if is_count and questions > 1 and 0 <= share <= 1 else None


def _leaves(results: Mapping[str, Any], name: str) -> list[str]:
    """The tasks below a group, or the task itself."""
    children = results.get("group_subtasks", {}).get(name, [])
    return [leaf for child in children for leaf in _leaves(results, child)] or [name]


def _parts(results: Mapping[str, Any], name: str, leaves: list[str], metric: str) -> dict[str, float]:
    key = metric if "," in metric else f"{metric},none"
    members = dict.fromkeys((*results["group_subtasks"][name], *leaves))
    values = {part.removeprefix(f"{name}_"): results["results"][part].get(key) for part in members}
    return {part: value for part, value in values.items() if value is not None}
