"""The report on the quality of a corpus: the metrics of report.json, with plots and samples."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from megatron_ipt.reporting.pages import render_page
from megatron_ipt.reporting.plots import CHANCE, FIRST, HUES, MUTED, SECOND
from megatron_ipt.reporting.quality_plots import draw_bars, draw_bins, draw_categories, draw_columns, draw_first_words
from megatron_ipt.reporting.quality_rows import (
    GAIN_BOUNDS,
    GAIN_STEPS,
    Drops,
    Lengths,
    QualityMetrics,
    SampleText,
)
from megatron_ipt.reporting.rows import Tile

_QUESTION_EDGES = (0, 4, 6, 8, 10, 12, 14, 16, 20, 25, 30, 40, 60)
_ANSWER_EDGES = (0, 2, 3, 4, 5, 7, 10, 15, 20, 30, 50, 75, 100)
_TEXT_EDGES = (0, 50, 100, 200, 300, 400, 500, 750, 1000, 1500, 2000, 3000, 5000)
_MAX_PAIRS_SHOWN = 12
_MIN_MARKED = 4  # characters: a "5" occurs in any text


class MarkedPiece(NamedTuple):
    """A piece of a text; `pair` is the number, from 1, of the pair whose answer it is, or 0."""

    text: str
    pair: int


def render_quality(metrics: QualityMetrics) -> str:
    """Render the page."""
    return render_page(
        "quality.html",
        report=metrics,
        tiles=_tiles(metrics),
        plots=_draw(metrics) if metrics.pairs.count else None,
        drops_plot=_draw_drops(metrics.drops),
        marked_texts=[(text, mark_answers(text)) for text in metrics.samples.texts],
    )


def mark_answers(sample: SampleText) -> list[MarkedPiece]:
    """Split the text so that each answer that occurs verbatim in it is a separate piece."""
    text = sample.text
    spans: list[tuple[int, int, int]] = []
    for number, pair in enumerate(sample.pairs, start=1):
        answer = pair.answer.strip(" .")
        found = re.search(rf"(?<!\w){re.escape(answer)}(?!\w)", text, re.IGNORECASE)
        if (
            found
            and len(answer) >= _MIN_MARKED
            and all(found.end() <= begin or end <= found.start() for begin, end, _ in spans)
        ):
            spans.append((found.start(), found.end(), number))
    pieces, position = [], 0
    for begin, end, number in sorted(spans):
        pieces += [MarkedPiece(text[position:begin], 0), MarkedPiece(text[begin:end], number)]
        position = end
    return [piece for piece in (*pieces, MarkedPiece(text[position:], 0)) if piece.text]


def _draw(metrics: QualityMetrics) -> dict[str, str]:
    texts, pairs, gain = metrics.texts, metrics.pairs, metrics.answer_gain
    drawn = {
        "pairs_per_text": _draw_pairs_per_text(texts.pairs),
        "formats": _draw_formats(metrics.formats),
        "modes": _draw_modes(metrics.modes),
        "questions": _draw_lengths("questions", pairs.question_words, _QUESTION_EDGES),
        "answers": _draw_lengths("answers", pairs.answer_words, _ANSWER_EDGES),
        "texts": _draw_lengths("texts", texts.words, _TEXT_EDGES),
        "categories": draw_categories(metrics.categories, {name: spell_format(name) for name in metrics.formats}),
        "first_words": draw_first_words(metrics.first_words),
        "grounded": _draw_grounded(metrics.groundedness.tenths),
    }
    return {**drawn, "gain": _draw_gain(gain.nats)} if gain else drawn


def spell_format(name: str) -> str:
    """Write the name of a format out: free form, with reasoning."""
    return name.removesuffix("_reasoning").replace("_", " ") + (", with reasoning" if "_reasoning" in name else "")


def _draw_formats(formats: Mapping[str, int]) -> str:
    rows = [(spell_format(name), count) for name, count in formats.items()]
    return draw_bars("formats", rows, sum(formats.values()), HUES[: len(rows)])


def _draw_pairs_per_text(pairs: Mapping[str, int]) -> str:
    highest = min(max(map(int, pairs), default=0), _MAX_PAIRS_SHOWN)
    counts = gather_bins(_numbered(pairs), range(highest + 1))
    labels = [str(number) for number in range(highest)] + [
        f"{highest}+" if highest == _MAX_PAIRS_SHOWN else str(highest)
    ]
    colors = [CHANCE, SECOND, *[FIRST] * len(labels)][: len(labels)]
    return draw_columns("pairs-per-text", labels, counts, colors, "pairs per text")


def _draw_modes(modes: Mapping[str, int]) -> str:
    ranked = sorted(modes, key=lambda mode: (mode == "raw", -modes[mode], mode))
    colors = [MUTED if mode == "raw" else FIRST for mode in ranked]
    return draw_bars("modes", [(mode.replace("_", " "), modes[mode]) for mode in ranked], sum(modes.values()), colors)


def _draw_lengths(name: str, lengths: Lengths, edges: tuple[int, ...]) -> str:
    return draw_bins(name, edges, gather_bins(_numbered(lengths.counts), edges), "words")


def _draw_grounded(tenths: Mapping[str, int]) -> str:
    labels = ["<10", *(f"{tenth}0–{tenth}9" for tenth in range(1, 10)), "100"]
    colors = [*[CHANCE] * 5, *[SECOND] * 5, FIRST]
    axis_label = "% of an answer's words that occur in its text"
    return draw_columns("grounded", labels, list(tenths.values()), colors, axis_label)


def _draw_gain(nats: Mapping[str, int]) -> str:
    lowest, highest = GAIN_BOUNDS
    steps = range(lowest, highest + 1)
    counts = [nats.get(str(step / GAIN_STEPS), 0) for step in steps]
    labels = [f"{step / GAIN_STEPS:.0f}" if step % (2 * GAIN_STEPS) == 0 else "" for step in steps]
    colors = [CHANCE if step < 0 else FIRST for step in steps]
    return draw_columns("gain", labels, counts, colors, "nats per token that the text adds")


def _draw_drops(drops: Drops) -> str | None:
    rows = [(reason, drop.count) for reason, drop in (*drops.parsing.items(), *drops.gates.items())]
    if not rows:
        return None
    colors = [HUES[4]] * len(drops.parsing) + [HUES[3]] * len(drops.gates)
    return draw_bars("drops", rows, drops.pieces, colors)


def gather_bins(tally: Counter[int], edges: Sequence[int]) -> list[int]:
    """Count the values from each edge up to the next one; the last bin is open."""
    counts = [0] * len(edges)
    for value, count in tally.items():
        counts[sum(edge <= value for edge in edges) - 1] += count
    return counts


def _numbered(counts: Mapping[str, int]) -> Counter[int]:
    return Counter({int(number): count for number, count in counts.items()})


def _tiles(metrics: QualityMetrics) -> list[Tile]:
    texts, pairs, drops, repetition = metrics.texts, metrics.pairs, metrics.drops, metrics.repetition
    hits = metrics.contamination.values()
    texts_hit, pairs_hit = sum(hit.text for hit in hits), sum(hit.pair for hit in hits)
    parsing, gates = (sum(drop.share for drop in where.values()) for where in (drops.parsing, drops.gates))
    return [
        Tile("texts", _count(texts.count), f"{_count(texts.augmented)} augmented, {_count(texts.cut)} cut"),
        Tile("pairs", _count(pairs.count), f"{_number(pairs.per_text)} per augmented text; the paper: about 5"),
        Tile(
            "augmented texts with a pair",
            _share(texts.share_with_a_pair),
            f"{_share(texts.share_with_two_pairs)} with at least two",
        ),
        Tile("dropped", _share(drops.share), f"{_share(parsing)} in parsing, {_share(gates)} by gates"),
        Tile("grounded", _share(metrics.groundedness.mean_share), "of an answer's words occur in its text, on average"),
        Tile(
            "tokens per pair",
            _number(metrics.tokens.generated_per_pair),
            "including dropped pairs; the paper: about 52",
        ),
        Tile(
            "repeated questions",
            _share(repetition.share_asked_before),
            f"{_count(repetition.different_questions)} of {_count(pairs.count)} questions are distinct",
        ),
        Tile(
            "evaluation questions",
            _count(texts_hit + pairs_hit),
            f"{_count(texts_hit)} texts, {_count(pairs_hit)} pairs left out",
        ),
    ]


def _count(number: int) -> str:
    for unit, name in ((10**9, "B"), (10**6, "M")):
        if number >= unit:
            return f"{number / unit:.3g}{name}"
    return f"{number:,}"


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.1f}"


def _share(value: float | None) -> str:
    if value is None:
        return "–"
    return f"{100 * value:.0f}%" if value >= 0.1 or value == 0 else f"{100 * value:.1f}%"
