"""The contexts of the scoring report, with what each model wrote about them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from megatron_ipt.corpus.stable_hash import stable_hash
from megatron_ipt.reporting.scoring import ModelSample, Sample, ShownPair
from megatron_ipt.synthesizer.scoring.heldout import HeldOut
from megatron_ipt.synthesizer.scoring.rows import AnswerRow, PairsRow

ModelRows = tuple[Sequence[AnswerRow], Sequence[PairsRow]]
_CONTEXTS_SHOWN = 8


def choose_samples(contexts: Sequence[HeldOut], rows: Mapping[str, ModelRows], seed: int) -> list[Sample]:
    """Choose contexts by hash, each with its first question and the output of every model in `rows`."""
    chosen = sorted(contexts, key=lambda one: stable_hash(seed, "shown", one.set, one.id))[:_CONTEXTS_SHOWN]
    return [
        Sample(
            set=one.set,
            id=one.id,
            context=one.context,
            question=one.pairs[0].question,
            reference=one.pairs[0].conclusion,
            models={name: _model_sample(one, *of_model) for name, of_model in rows.items()},
        )
        for one in chosen
    ]


def _model_sample(one: HeldOut, answers: Sequence[AnswerRow], pairs: Sequence[PairsRow]) -> ModelSample:
    question = one.pairs[0].question
    answer = next(row for row in answers if (row.set, row.id, row.question) == (one.set, one.id, question))
    written = next(row for row in pairs if (row.set, row.id) == (one.set, one.id))
    shown = [ShownPair(pair["Q"], pair["A"]) for pair in written.pairs]
    return ModelSample(answer.answer or answer.trouble or "(nothing)", answer.f1, shown)
