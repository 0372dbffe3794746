"""The metrics of the quality report, from tallies and samples."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable

from megatron_ipt.corpus.stable_hash import HASHES
from megatron_ipt.pairs.formats import FORMATS
from megatron_ipt.reporting import quality_rows as rows
from megatron_ipt.synthesis.quality.categories import CATEGORIES
from megatron_ipt.synthesis.quality.lengths import describe_lengths
from megatron_ipt.synthesis.quality.samples import Samples, normalize_phrase
from megatron_ipt.synthesis.quality.tallies import Tallies

_FIRST_WORDS, _SECOND_WORDS = 14, 6
_FREQUENT_SHOWN = 12
_WORD = re.compile(r"[\w'’-]+")


def summarize(tallies: Tallies, samples: Samples, seed: int) -> rows.QualityMetrics:
    """Compute the metrics; shares are of 1, lengths in words."""
    totals = tallies.totals
    return rows.QualityMetrics(
        seed=seed,
        texts=_texts(tallies),
        pairs=rows.Pairs(
            count=totals["pairs"],
            per_text=_ratio(totals["pairs"], totals["augmented"]),
            question_words=describe_lengths(tallies.question_words, totals["question_words"]),
            answer_words=describe_lengths(tallies.answer_words, totals["answer_words"]),
        ),
        formats={name: tallies.formats[name] for name in FORMATS},
        modes=dict(sorted(tallies.modes.items())),
        drops=_drops(tallies),
        categories={
            category: {name: tallies.categories[f"{category}|{name}"] for name in FORMATS} for category in CATEGORIES
        },
        first_words=_first_words(samples),
        groundedness=_groundedness(tallies),
        answer_gain=_answer_gain(tallies),
        repetition=_repetition(samples),
        contamination=_contamination(tallies.contamination),
        tokens=_tokens(tallies),
        samples=_shown(samples, tallies.gate_drops),
    )


def _texts(tallies: Tallies) -> rows.Texts:
    totals, augmented = tallies.totals, tallies.totals["augmented"]
    with_pair, with_two = (
        sum(tallies.pairs_a_text[n] for n in tallies.pairs_a_text if n >= minimum) for minimum in (1, 2)
    )
    return rows.Texts(
        documents=totals["documents"],
        count=totals["texts"],
        augmented=augmented,
        with_a_pair=with_pair,
        with_two_pairs=with_two,
        share_with_a_pair=_ratio(with_pair, augmented),
        share_with_two_pairs=_ratio(with_two, augmented),
        cut=totals["cut"],
        pairs={str(pairs): tallies.pairs_a_text[pairs] for pairs in sorted(tallies.pairs_a_text)},
        words=describe_lengths(tallies.text_words, totals["words"]),
    )


def _drops(tallies: Tallies) -> rows.Drops:
    pieces = tallies.totals["pairs"] + tallies.parsing_drops.total() + tallies.gate_drops.total()

    def by_reason(drops: Counter[str]) -> dict[str, rows.Drop]:
        return {reason: rows.Drop(drops[reason], drops[reason] / pieces) for reason in _ranked(drops)}

    return rows.Drops(
        pieces=pieces,
        share=_ratio(pieces - tallies.totals["pairs"], pieces),
        parsing=by_reason(tallies.parsing_drops),
        gates=by_reason(tallies.gate_drops),
    )


def _first_words(samples: Samples) -> rows.FirstWords:
    """Return the most frequent first words of questions, each with the most frequent second ones."""
    beginnings: dict[str, Counter[str]] = {}
    for question, _ in samples.pairs.values():
        first, second, *_ = [*_WORD.findall(question.casefold())[:2], "", ""]
        beginnings.setdefault(first, Counter())[second] += 1
    counts = Counter({first: seconds.total() for first, seconds in beginnings.items()})

    def follow(first: str) -> dict[str, int]:
        return {second: beginnings[first][second] for second in _ranked(beginnings[first])[:_SECOND_WORDS]}

    chosen = _ranked(counts)[:_FIRST_WORDS]
    return rows.FirstWords(
        len(samples.pairs), {first: rows.FirstWord(counts[first], follow(first)) for first in chosen}
    )


def _groundedness(tallies: Tallies) -> rows.Groundedness:
    asked = tallies.grounded.total()
    return rows.Groundedness(
        pairs=asked,
        mean_share=_ratio(tallies.totals["grounded_thousandths"], 1000 * asked),
        share_fully_grounded=_ratio(tallies.grounded[10], asked),
        tenths={str(tenth): tallies.grounded[tenth] for tenth in range(11)},
    )


def _answer_gain(tallies: Tallies) -> rows.AnswerGain | None:
    asked = tallies.gains.total()
    if not asked:
        return None
    return rows.AnswerGain(
        pairs=asked,
        mean_nats=tallies.totals["gain_thousandths"] / (1000 * asked),
        share_without_gain=sum(count for step, count in tallies.gains.items() if step < 0) / asked,
        nats={str(step / rows.GAIN_STEPS): tallies.gains[step] for step in sorted(tallies.gains)},
    )


def _repetition(samples: Samples) -> rows.Repetition:
    asked = samples.questions.values()
    followed = len(asked)
    different = followed
    if samples.questions.is_full:  # the k-th smallest of n uniform hashes lies near k / n
        different = round((followed - 1) * HASHES / samples.questions.largest_hash)
    pairs = samples.pairs.values()
    return rows.Repetition(
        different_questions=different,
        share_asked_before=_ratio(sum(asked) - followed, sum(asked)),
        questions_followed=followed,
        sampled_pairs=len(pairs),
        questions=_most_frequent(question for question, _ in pairs),
        answers=_most_frequent(answer for _, answer in pairs),
    )


def _most_frequent(values: Iterable[str]) -> dict[str, int]:
    counts = Counter(map(normalize_phrase, values))
    return {value: counts[value] for value in _ranked(counts)[:_FREQUENT_SHOWN] if counts[value] > 1}


def _contamination(counts: Counter[str]) -> dict[str, rows.Contamination]:
    names = sorted({key.partition("|")[2] for key in counts})
    return {name: rows.Contamination(counts[f"text|{name}"], counts[f"pair|{name}"]) for name in names}


def _tokens(tallies: Tallies) -> rows.Tokens:
    totals = tallies.totals
    tokens_per_word = _fit_slope(tallies.prompts)
    return rows.Tokens(
        prompt=totals["prompt_tokens"],
        generated=totals["generated_tokens"],
        generated_per_pair=_ratio(totals["generated_tokens"], totals["pairs"]),
        per_word=tokens_per_word,
        raw=None if tokens_per_word is None else round(tokens_per_word * totals["words"]),
    )


def _fit_slope(sums: Counter[str]) -> float | None:
    """Fit prompt tokens per word by least squares; what all prompts have in common does not affect the slope."""
    spread = sums["texts"] * sums["words²"] - sums["words"] ** 2
    slope = _ratio(sums["texts"] * sums["words·tokens"] - sums["words"] * sums["tokens"], spread)
    return slope if slope is not None and slope > 0 else None


def _shown(samples: Samples, gate_drops: Counter[str]) -> rows.Samples:
    texts = [
        rows.SampleText(
            id=text["id"],
            mode=text["mode"],
            text=text["text"],
            pairs=[rows.SamplePair(**pair) for pair in text["pairs"]],
            dropped=[rows.SampleDrop(**pair) for pair in text["dropped"]],
            drops=text["drops"],
        )
        for text in samples.texts.values()
    ]
    dropped = {
        reason: [rows.DroppedSample(**row) for row in samples.dropped[reason].values()]
        for reason in _ranked(gate_drops)
    }
    return rows.Samples(texts, dropped)


def _ranked(counts: Counter[str]) -> list[str]:
    return sorted(counts, key=lambda key: (-counts[key], key))


def _ratio(one: int, other: int) -> float | None:
    return one / other if other else None
