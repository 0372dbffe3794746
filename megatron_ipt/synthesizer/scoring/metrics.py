"""Metrics of a model from its rows: by set, and over all sets with the same weight for each (macro average)."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from typing import Any

from megatron_ipt.reporting.scoring import SetMetrics, Share
from megatron_ipt.synthesizer.scoring.rows import AnswerRow, PairsRow


def measure(answers: Sequence[AnswerRow], pairs: Sequence[PairsRow]) -> tuple[SetMetrics, dict[str, SetMetrics]]:
    """Return the metrics of one model over all sets, and by the name of the set."""
    sets = {
        name: _measure_set([row for row in answers if row.set == name], [row for row in pairs if row.set == name])
        for name in sorted({row.set for row in pairs})
    }
    overall = SetMetrics(
        f1=_macro([metrics.f1 for metrics in sets.values()]),
        exact=_macro([metrics.exact for metrics in sets.values()]),
        finished=_macro([metrics.finished for metrics in sets.values()]),
        with_one_pair=_macro([metrics.with_one_pair for metrics in sets.values()]),
        with_two_pairs=_macro([metrics.with_two_pairs for metrics in sets.values()]),
        grounded=_macro([metrics.grounded for metrics in sets.values()]),
        pairs_per_text=sum(metrics.pairs_per_text for metrics in sets.values()) / len(sets),
        **_count(answers, pairs),
    )
    return overall, sets


def _measure_set(answers: Sequence[AnswerRow], pairs: Sequence[PairsRow]) -> SetMetrics:
    return SetMetrics(
        f1=_mean((row.id, row.f1) for row in answers),
        exact=_mean((row.id, float(row.exact)) for row in answers),
        finished=_mean((row.id, float(row.finished)) for row in answers),
        with_one_pair=_mean((row.id, float(len(row.pairs) >= 1)) for row in pairs),
        with_two_pairs=_mean((row.id, float(len(row.pairs) >= 2)) for row in pairs),
        grounded=_mean((row.id, share) for row in pairs for share in row.grounded if share is not None),
        pairs_per_text=sum(len(row.pairs) for row in pairs) / len(pairs),
        **_count(answers, pairs),
    )


def _count(answers: Sequence[AnswerRow], pairs: Sequence[PairsRow]) -> dict[str, Any]:
    troubles = Counter(row.trouble for row in answers if row.trouble is not None)
    drops = sum((Counter(row.drops) for row in pairs), Counter[str]())
    return {
        "contexts": len(pairs),
        "questions": len(answers),
        "pairs": sum(len(row.pairs) for row in pairs),
        "texts_cut": sum(row.text_was_cut for row in pairs),
        "generated_tokens": sum(row.generated_tokens for row in answers) + sum(row.generated_tokens for row in pairs),
        "unanswered": dict(sorted(troubles.items())),
        "drops": dict(sorted(drops.items())),
    }


def _mean(values: Iterable[tuple[str, float]]) -> Share | None:
    """Return the mean of (context, value), with values of one context taken together for the standard error."""
    rows = list(values)
    if not rows:
        return None
    mean = sum(value for _, value in rows) / len(rows)
    offsets: dict[str, float] = defaultdict(float)
    for context, value in rows:
        offsets[context] += value - mean
    return Share(mean, math.sqrt(sum(offset**2 for offset in offsets.values())) / len(rows))


def _macro(sets: Sequence[Share | None]) -> Share | None:
    known = [one for one in sets if one is not None]
    if not known:
        return None
    value = sum(one.value for one in known) / len(known)
    return Share(value, math.sqrt(sum(one.stderr**2 for one in known)) / len(known))
