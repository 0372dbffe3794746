"""What report.json holds: the figures that follow from what was tallied and sampled."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable
from typing import Any

from megatron_ipt.corpus.stable_hash import HASHES
from megatron_ipt.synthesis.pair_formats import FORMATS
from megatron_ipt.synthesis.quality.categories import CATEGORIES
from megatron_ipt.synthesis.quality.lengths import describe_lengths
from megatron_ipt.synthesis.quality.samples import Samples, normalize_phrase
from megatron_ipt.synthesis.quality.tallies import GAIN_STEPS, Tallies

_FIRST_WORDS, _SECOND_WORDS = 14, 6
_MOST_FREQUENT = 12
_WORD = re.compile(r"[\w'’-]+")


def summarize(tallies: Tallies, samples: Samples) -> dict[str, Any]:
    """Plain values: shares are of 1, lengths in words."""
    totals = tallies.totals
    return {
        "texts": _texts(tallies),
        "pairs": {
            "count": totals["pairs"],
            "a_text": _ratio(totals["pairs"], totals["augmented"]),
            "question_words": describe_lengths(tallies.question_words, totals["question_words"]),
            "answer_words": describe_lengths(tallies.answer_words, totals["answer_words"]),
        },
        "formats": {name: tallies.formats[name] for name in FORMATS},
        "modes": dict(sorted(tallies.modes.items())),
        "drops": _drops(tallies),
        "categories": {
            category: {name: tallies.categories[f"{category}|{name}"] for name in FORMATS} for category in CATEGORIES
        },
        "first_words": _first_words(samples),
        "groundedness": _groundedness(tallies),
        "answer_gain": _answer_gain(tallies),
        "repetition": _repetition(samples),
        "contamination": _contamination(tallies.contamination),
        "tokens": _tokens(tallies),
        "samples": _shown(samples, tallies.gate_drops),
    }


def _texts(tallies: Tallies) -> dict[str, Any]:
    totals, augmented = tallies.totals, tallies.totals["augmented"]
    with_pair, with_two = (sum(tallies.pairs_a_text[n] for n in tallies.pairs_a_text if n >= least) for least in (1, 2))
    return {
        "documents": totals["documents"],
        "count": totals["texts"],
        "augmented": augmented,
        "with_a_pair": with_pair,
        "with_two_pairs": with_two,
        "share_with_a_pair": _ratio(with_pair, augmented),
        "share_with_two_pairs": _ratio(with_two, augmented),
        "cut": totals["cut"],
        "pairs": {str(pairs): tallies.pairs_a_text[pairs] for pairs in sorted(tallies.pairs_a_text)},
        "words": describe_lengths(tallies.text_words, totals["words"]),
    }


def _drops(tallies: Tallies) -> dict[str, Any]:
    pieces = tallies.totals["pairs"] + tallies.parsing_drops.total() + tallies.gate_drops.total()
    reasons = {"parsing": tallies.parsing_drops, "gates": tallies.gate_drops}
    return {
        "pieces": pieces,
        "share": _ratio(pieces - tallies.totals["pairs"], pieces),
        **{
            where: {reason: {"count": drops[reason], "share": drops[reason] / pieces} for reason in _ranked(drops)}
            for where, drops in reasons.items()
        },
    }


def _first_words(samples: Samples) -> dict[str, Any]:
    """The most frequent first words of questions, each with the most frequent second ones."""
    beginnings: dict[str, Counter[str]] = {}
    for question, _ in samples.pairs.values():
        first, second, *_ = [*_WORD.findall(question.casefold())[:2], "", ""]
        beginnings.setdefault(first, Counter())[second] += 1
    counts = Counter({first: seconds.total() for first, seconds in beginnings.items()})
    return {
        "sampled_pairs": len(samples.pairs),
        "counts": {
            first: {
                "count": counts[first],
                "then": {second: beginnings[first][second] for second in _ranked(beginnings[first])[:_SECOND_WORDS]},
            }
            for first in _ranked(counts)[:_FIRST_WORDS]
        },
    }


def _groundedness(tallies: Tallies) -> dict[str, Any]:
    asked = tallies.grounded.total()
    return {
        "pairs": asked,
        "mean_share": _ratio(tallies.totals["grounded_thousandths"], 1000 * asked),
        "share_fully_grounded": _ratio(tallies.grounded[10], asked),
        "tenths": {str(tenth): tallies.grounded[tenth] for tenth in range(11)},
    }


def _answer_gain(tallies: Tallies) -> dict[str, Any] | None:
    asked = tallies.gains.total()
    if not asked:
        return None
    return {
        "pairs": asked,
        "mean_nats": tallies.totals["gain_thousandths"] / (1000 * asked),
        "share_without_gain": sum(count for step, count in tallies.gains.items() if step < 0) / asked,
        "nats": {str(step / GAIN_STEPS): tallies.gains[step] for step in sorted(tallies.gains)},
    }


def _repetition(samples: Samples) -> dict[str, Any]:
    asked = samples.questions.values()
    followed = len(asked)
    different = followed
    if samples.questions.is_full:  # the k-th smallest of n uniform hashes lies near k / n
        different = round((followed - 1) * HASHES / samples.questions.largest_hash)
    pairs = samples.pairs.values()
    return {
        "different_questions": different,
        "share_asked_before": _ratio(sum(asked) - followed, sum(asked)),
        "questions_followed": followed,
        "sampled_pairs": len(pairs),
        "questions": _most_frequent(question for question, _ in pairs),
        "answers": _most_frequent(answer for _, answer in pairs),
    }


def _most_frequent(values: Iterable[str]) -> dict[str, int]:
    counts = Counter(map(normalize_phrase, values))
    return {value: counts[value] for value in _ranked(counts)[:_MOST_FREQUENT] if counts[value] > 1}


def _contamination(counts: Counter[str]) -> dict[str, dict[str, int]]:
    names = sorted({key.partition("|")[2] for key in counts})
    return {name: {where: counts[f"{where}|{name}"] for where in ("text", "pair")} for name in names}


def _tokens(tallies: Tallies) -> dict[str, Any]:
    totals = tallies.totals
    tokens_a_word = _fit_slope(tallies.prompts)
    return {
        "prompt": totals["prompt_tokens"],
        "generated": totals["generated_tokens"],
        "generated_a_pair": _ratio(totals["generated_tokens"], totals["pairs"]),
        "a_word": tokens_a_word,
        "raw": None if tokens_a_word is None else round(tokens_a_word * totals["words"]),
    }


def _fit_slope(sums: Counter[str]) -> float | None:
    """Least squares: prompt tokens that one more word of text takes; what every prompt holds besides falls out."""
    spread = sums["texts"] * sums["words²"] - sums["words"] ** 2
    slope = _ratio(sums["texts"] * sums["words·tokens"] - sums["words"] * sums["tokens"], spread)
    return slope if slope is not None and slope > 0 else None


def _shown(samples: Samples, gate_drops: Counter[str]) -> dict[str, Any]:
    dropped = {reason: samples.dropped[reason].values() for reason in _ranked(gate_drops)}
    return {"texts": samples.texts.values(), "dropped": dropped}


def _ranked(counts: Counter[str]) -> list[str]:
    return sorted(counts, key=lambda key: (-counts[key], key))


def _ratio(one: int, other: int) -> float | None:
    return one / other if other else None
