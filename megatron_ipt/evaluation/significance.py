"""Whether two runs differ on the same questions: a paired bootstrap over questions."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from megatron_ipt.evaluation.context_qa import token_loss
from megatron_ipt.evaluation.domain_tasks import AGGREGATIONS

RESAMPLES = 10_000
_SLOW_RESAMPLES = 1_000
_LEVEL = 0.95

_STATISTICS: Mapping[str, Callable[[Sequence[Any]], float]] = {**AGGREGATIONS, "token_loss": token_loss}
"""Metrics that are no mean of values of single questions, by name."""


@dataclass(frozen=True)
class Difference:
    """One run less another: the 95% interval and the two-sided p-value of a bootstrap over questions."""

    value: float
    low: float
    high: float
    p_value: float
    questions: int
    resampled: NDArray[np.float64]
    """The differences of the resamples."""


def compare(metric: str, first: Sequence[Any], second: Sequence[Any], seed: int) -> Difference:
    """The second run less the first, from what `metric` is made of for each question, in the same order."""
    if metric in _STATISTICS:
        resampled, value = _by_statistic(_STATISTICS[metric], first, second, seed)
    else:
        resampled, value = _by_mean(np.asarray(first, float), np.asarray(second, float), seed)
    return _difference(value, resampled, len(first))


def average(differences: Sequence[Difference]) -> Difference:
    """The mean over tasks, each resampled on its own; every task has the same weight."""
    shortest = min(len(one.resampled) for one in differences)
    resampled = np.mean([one.resampled[:shortest] for one in differences], axis=0)
    value = float(np.mean([one.value for one in differences]))
    return _difference(value, resampled, sum(one.questions for one in differences))


def _by_mean(first: NDArray[np.float64], second: NDArray[np.float64], seed: int) -> tuple[NDArray[np.float64], float]:
    from scipy.stats import bootstrap

    paired = second - first
    if len(paired) < 2:
        return np.full(RESAMPLES, paired.mean()), float(paired.mean())
    drawn = bootstrap(
        (paired,), np.mean, n_resamples=RESAMPLES, batch=256, method="percentile", rng=np.random.default_rng(seed)
    )
    return drawn.bootstrap_distribution, float(paired.mean())


def _by_statistic(
    statistic: Callable[[Sequence[Any]], float], first: Sequence[Any], second: Sequence[Any], seed: int
) -> tuple[NDArray[np.float64], float]:
    draw, count = np.random.default_rng(seed), len(first)
    resampled = []
    for _ in range(_SLOW_RESAMPLES):
        places = draw.integers(0, count, count)
        resampled.append(statistic([second[at] for at in places]) - statistic([first[at] for at in places]))
    return np.asarray(resampled), statistic(second) - statistic(first)


def _difference(value: float, resampled: NDArray[np.float64], questions: int) -> Difference:
    """The p-value is twice the share of resamples beyond no difference; of those without one, half are.

    The data themselves count as one more resample, so that it is never zero.
    """
    tail = (1 - _LEVEL) / 2
    low, high = np.quantile(resampled, [tail, 1 - tail])
    equal = np.count_nonzero(resampled == 0) / 2
    beyond = min(np.count_nonzero(resampled < 0), np.count_nonzero(resampled > 0)) + equal
    p_value = min(1.0, 2 * (beyond + 1) / (len(resampled) + 1))
    return Difference(value, float(low), float(high), p_value, questions, resampled)
