"""Significance of the difference of two runs on the same questions, by a paired bootstrap over questions."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from megatron_ipt.evaluation.context_qa import token_loss
from megatron_ipt.evaluation.domain_tasks import AGGREGATIONS

RESAMPLES = 10_000
_SLOW_RESAMPLES = 1_000  # of metrics that are computed anew for each resample
_LEVEL = 0.95

_STATISTICS: Mapping[str, Callable[[Sequence[Any]], float]] = {**AGGREGATIONS, "token_loss": token_loss}
"""Metrics that are not the mean of a value per question, by name."""


@dataclass(frozen=True)
class Difference:
    """The difference of a run from another, with a 95% confidence interval and a two-sided p-value."""

    value: float
    low: float
    high: float
    p_value: float
    questions: int
    resampled: NDArray[np.float64]
    """The differences of the resamples."""


def compare(metric: str, first: Sequence[Any], second: Sequence[Any], seed: int) -> Difference:
    """Return the difference of the second run from the first.

    Args:
        metric: the name of the metric.
        first: the first run's value for each question; for metrics that are not a mean, the items to aggregate.
        second: the same for the second run, in the same order.
        seed: the seed of the bootstrap.
    """
    if metric in _STATISTICS:
        resampled, value = _by_statistic(_STATISTICS[metric], first, second, seed)
    else:
        resampled, value = _by_mean(np.asarray(first, float), np.asarray(second, float), seed)
    return _difference(value, resampled, len(first))


def average(differences: Sequence[Difference]) -> Difference:
    """Return the mean difference over tasks with equal weights; the tasks have been resampled independently."""
    resamples = min(len(difference.resampled) for difference in differences)
    resampled = np.mean([difference.resampled[:resamples] for difference in differences], axis=0)
    value = float(np.mean([difference.value for difference in differences]))
    return _difference(value, resampled, sum(difference.questions for difference in differences))


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
    rng, count = np.random.default_rng(seed), len(first)
    resampled = []
    for _ in range(_SLOW_RESAMPLES):
        indices = rng.integers(0, count, count)
        resampled.append(statistic([second[i] for i in indices]) - statistic([first[i] for i in indices]))
    return np.asarray(resampled), statistic(second) - statistic(first)


def _difference(value: float, resampled: NDArray[np.float64], questions: int) -> Difference:
    """Compute the percentile interval and the p-value.

    The p-value is twice the share of resamples on the smaller side of zero; resamples equal to zero count half on each
    side. The observed data count as one more resample, so that the p-value is never zero.
    """
    tail = (1 - _LEVEL) / 2
    low, high = np.quantile(resampled, [tail, 1 - tail])
    equal = np.count_nonzero(resampled == 0) / 2
    beyond = min(np.count_nonzero(resampled < 0), np.count_nonzero(resampled > 0)) + equal
    p_value = min(1.0, 2 * (beyond + 1) / (len(resampled) + 1))
    return Difference(value, float(low), float(high), p_value, questions, resampled)
