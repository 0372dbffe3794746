"""Rows to figures: by set, and over all sets with the same weight for each (macro)."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from megatron_ipt.synthesis.scoring.rows import AnswerRow, PairsRow

MEASURES = {
    "f1": "answers: token F1",
    "exact": "answers: exact match",
    "finished": "answers ended by </END>",
    "with_one_pair": "texts with a valid pair",
    "with_two_pairs": "texts with two valid pairs or more",
    "grounded": "words of written answers that stand in the text",
}
"""The shares, 0 to 1, each with its standard error; contexts, not questions, are taken as independent."""


def measure(answers: Sequence[AnswerRow], pairs: Sequence[PairsRow]) -> dict[str, Any]:
    """The figures of one model: `overall`, and `sets` by name."""
    sets = {
        name: _measure_set([row for row in answers if row.set == name], [row for row in pairs if row.set == name])
        for name in sorted({row.set for row in pairs})
    }
    overall = {key: _macro([figures[key] for figures in sets.values()]) for key in MEASURES}
    per_text = sum(figures["pairs_per_text"] for figures in sets.values()) / len(sets)
    return {"overall": {**overall, "pairs_per_text": per_text, **_count(answers, pairs)}, "sets": sets}


def _measure_set(answers: Sequence[AnswerRow], pairs: Sequence[PairsRow]) -> dict[str, Any]:
    grounded = [(row.id, share) for row in pairs for share in row.grounded if share is not None]
    shares = {
        "f1": [(row.id, row.f1) for row in answers],
        "exact": [(row.id, float(row.exact)) for row in answers],
        "finished": [(row.id, float(row.finished)) for row in answers],
        "with_one_pair": [(row.id, float(len(row.pairs) >= 1)) for row in pairs],
        "with_two_pairs": [(row.id, float(len(row.pairs) >= 2)) for row in pairs],
        "grounded": grounded,
    }
    per_text = sum(len(row.pairs) for row in pairs) / len(pairs)
    figures = {key: _mean(shares[key]) for key in MEASURES}
    return {**figures, "pairs_per_text": per_text, **_count(answers, pairs)}


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


def _mean(values: Iterable[tuple[str, float]]) -> dict[str, float] | None:
    """The mean with its standard error, values of one context taken together; None of nothing."""
    rows = list(values)
    if not rows:
        return None
    mean = sum(value for _, value in rows) / len(rows)
    offsets: dict[str, float] = defaultdict(float)
    for context, value in rows:
        offsets[context] += value - mean
    return {"value": mean, "stderr": math.sqrt(sum(offset**2 for offset in offsets.values())) / len(rows)}


def _macro(sets: Sequence[Mapping[str, float] | None]) -> dict[str, float] | None:
    known = [one for one in sets if one is not None]
    if not known:
        return None
    value = sum(one["value"] for one in known) / len(known)
    return {"value": value, "stderr": math.sqrt(sum(one["stderr"] ** 2 for one in known)) / len(known)}
