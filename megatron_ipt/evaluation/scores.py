"""Scores of an evaluation, as results.json holds them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from megatron_ipt.evaluation.suites import SuiteTask

_HEADLINE_METRICS = ("acc_norm", "acc")


@dataclass(frozen=True)
class Metric:
    """A share of right answers in [0, 1] and its standard error."""

    value: float
    stderr: float | None


@dataclass(frozen=True)
class Score:
    """What one task came to. `metric` names the entry of `metrics` that tables and figures show."""

    task: str
    metric: str
    metrics: dict[str, Metric]
    num_fewshot: int
    questions: int
    questions_available: int
    evaluated_split: str
    fewshot_split: str | None
    chance: float
    parts: dict[str, float] = field(default_factory=dict)

    @property
    def headline(self) -> Metric:
        """The metric that tables and figures show."""
        return self.metrics[self.metric]


def score_from(
    results: Mapping[str, Any], name: str, task: SuiteTask, evaluated_split: str, fewshot_split: str | None
) -> Score:
    """The score of `task`, called `name` in what lm-evaluation-harness returned."""
    leaves = _leaves(results, name)
    counts = [results["n-samples"][leaf] for leaf in leaves]
    questions = sum(count["effective"] for count in counts)
    metrics = _metrics(results["results"][name], questions)
    return Score(
        task=task.name,
        metric=next(metric for metric in _HEADLINE_METRICS if metric in metrics),
        metrics=metrics,
        num_fewshot=task.num_fewshot,
        questions=questions,
        questions_available=sum(count["original"] for count in counts),
        evaluated_split=evaluated_split,
        fewshot_split=fewshot_split,
        chance=task.chance,
        parts={} if leaves == [name] else _parts(results, name, leaves),
    )


def _metrics(values: Mapping[str, Any], questions: int) -> dict[str, Metric]:
    """`acc,none` and `acc_stderr,none` become one metric `acc`."""
    names = [key.removesuffix(",none") for key in values if key.endswith(",none") and "_stderr" not in key]
    return {
        name: Metric(value := values[f"{name},none"], _stderr(values.get(f"{name}_stderr,none"), value, questions))
        for name in names
    }


def _stderr(given: Any, share: float, questions: int) -> float | None:
    """The harness's own; where it has none (one question a subject), that of `share` right ones of all questions."""
    if isinstance(given, (int, float)) and math.isfinite(given):
        return float(given)
    return math.sqrt(share * (1 - share) / (questions - 1)) if questions > 1 else None


def _leaves(results: Mapping[str, Any], name: str) -> list[str]:
    """The tasks below a group, or the task itself."""
    children = results.get("group_subtasks", {}).get(name, [])
    return [leaf for child in children for leaf in _leaves(results, child)] or [name]


def _parts(results: Mapping[str, Any], name: str, leaves: list[str]) -> dict[str, float]:
    groups = results["group_subtasks"][name]
    return {
        part.removeprefix(f"{name}_"): results["results"][part]["acc,none"]
        for part in dict.fromkeys((*groups, *leaves))
    }
