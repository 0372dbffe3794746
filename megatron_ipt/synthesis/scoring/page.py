"""report.html: the models side by side, and what each of them wrote."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from megatron_ipt.corpus.stable_hash import stable_hash
from megatron_ipt.observability.pages import render_page
from megatron_ipt.synthesis.scoring.figures import draw_shares
from megatron_ipt.synthesis.scoring.heldout import HeldOut
from megatron_ipt.synthesis.scoring.measures import MEASURES
from megatron_ipt.synthesis.scoring.rows import AnswerRow, PairsRow

_SHOWN_CONTEXTS = 8
_DRAWN = {
    "f1": "Token F1 of the answers",
    "exact": "Answers that match exactly",
    "with_two_pairs": "Texts with two valid pairs or more",
    "with_one_pair": "Texts with a valid pair",
}

Rows = Mapping[str, tuple[Sequence[AnswerRow], Sequence[PairsRow]]]


def render_report(results: Mapping[str, Any], contexts: Sequence[HeldOut], rows: Rows, seed: int) -> str:
    """The page; the same bytes for the same rows."""
    models = results["models"]
    sets = list(results["sets"])
    figures = {
        title: draw_shares(
            key,
            ["all sets", *sets],
            {name: [one["overall"][key], *(one["sets"][each][key] for each in sets)] for name, one in models.items()},
            "%",
        )
        for key, title in _DRAWN.items()
    }
    shown = sorted(contexts, key=lambda one: stable_hash(seed, "shown", one.set, one.id))[:_SHOWN_CONTEXTS]
    return render_page(
        "megatron_ipt.synthesis.scoring",
        "report.html",
        results=results,
        measures=MEASURES,
        figures=figures,
        reasons=sorted({reason for one in models.values() for reason in one["overall"]["drops"]}),
        samples=[_sample(one, rows) for one in shown],
    )


def _sample(one: HeldOut, rows: Rows) -> dict[str, Any]:
    """A context, its first question with every model's answer, and every model's own pairs."""
    question = one.pairs[0]
    answers, pairs = {}, {}
    for name, (answered, written) in rows.items():
        answers[name] = next(row for row in answered if _key(row) == _key(one) and row.question == question.question)
        pairs[name] = next(row for row in written if _key(row) == _key(one))
    return {"context": one, "question": question, "answers": answers, "pairs": pairs}


def _key(row: HeldOut | AnswerRow | PairsRow) -> tuple[str, str]:
    return row.set, row.id
