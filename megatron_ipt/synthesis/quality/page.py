"""report.html: the figures of report.json, to look at."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from typing import Any, NamedTuple

from megatron_ipt.observability.figures import CHANCE, FIRST, HUES, MUTED, SECOND
from megatron_ipt.observability.pages import render_page
from megatron_ipt.synthesis.quality.figures import (
    FORMAT_COLOURS,
    draw_bars,
    draw_bins,
    draw_categories,
    draw_columns,
    draw_first_words,
)
from megatron_ipt.synthesis.quality.lengths import gather_bins
from megatron_ipt.synthesis.quality.tallies import GAIN_BOUNDS, GAIN_STEPS

_QUESTION_EDGES = (0, 4, 6, 8, 10, 12, 14, 16, 20, 25, 30, 40, 60)
_ANSWER_EDGES = (0, 2, 3, 4, 5, 7, 10, 15, 20, 30, 50, 75, 100)
_TEXT_EDGES = (0, 50, 100, 200, 300, 400, 500, 750, 1000, 1500, 2000, 3000, 5000)
_MOST_PAIRS_SHOWN = 12
_LEAST_MARKED = 4  # characters: a "5" stands anywhere


class _Tile(NamedTuple):
    """What it comes to, with what to hold it against."""

    name: str
    value: str
    note: str


def render_report(figures: Mapping[str, Any]) -> str:
    """The page of what `summarize` gave."""
    return render_page(
        "megatron_ipt.synthesis.quality",
        "report.html",
        report=figures,
        tiles=_tiles(figures),
        drawn=_draw(figures) if figures["pairs"]["count"] else None,
        drops_drawn=_draw_drops(figures["drops"]),
        texts=[{**text, "pieces": mark_answers(text)} for text in figures["samples"]["texts"]],
    )


def mark_answers(sample: Mapping[str, Any]) -> list[tuple[str, int]]:
    """The sample's text in pieces, each with the number of the pair whose answer it is word for word, else 0."""
    text: str = sample["text"]
    spans: list[tuple[int, int, int]] = []
    for number, pair in enumerate(sample["pairs"], start=1):
        answer = pair["answer"].strip(" .")
        found = re.search(rf"(?<!\w){re.escape(answer)}(?!\w)", text, re.IGNORECASE)
        if (
            found
            and len(answer) >= _LEAST_MARKED
            and all(found.end() <= begin or end <= found.start() for begin, end, _ in spans)
        ):
            spans.append((found.start(), found.end(), number))
    pieces, place = [], 0
    for begin, end, number in sorted(spans):
        pieces += [(text[place:begin], 0), (text[begin:end], number)]
        place = end
    return [piece for piece in (*pieces, (text[place:], 0)) if piece[0]]


def _draw(figures: Mapping[str, Any]) -> dict[str, str]:
    texts, pairs, gain = figures["texts"], figures["pairs"], figures["answer_gain"]
    drawn = {
        "pairs_a_text": _draw_pairs_a_text(texts["pairs"]),
        "formats": draw_bars("formats", list(figures["formats"].items()), pairs["count"], FORMAT_COLOURS),
        "modes": _draw_modes(figures["modes"]),
        "questions": _draw_lengths("questions", pairs["question_words"], _QUESTION_EDGES),
        "answers": _draw_lengths("answers", pairs["answer_words"], _ANSWER_EDGES),
        "texts": _draw_lengths("texts", texts["words"], _TEXT_EDGES),
        "categories": draw_categories(figures["categories"]),
        "first_words": draw_first_words(figures["first_words"]),
        "grounded": _draw_grounded(figures["groundedness"]["tenths"]),
    }
    return {**drawn, "gain": _draw_gain(gain["nats"])} if gain else drawn


def _draw_pairs_a_text(pairs: Mapping[str, int]) -> str:
    most = min(max(map(int, pairs), default=0), _MOST_PAIRS_SHOWN)
    counts = gather_bins(_numbered(pairs), range(most + 1))
    labels = [str(number) for number in range(most)] + [f"{most}+" if most == _MOST_PAIRS_SHOWN else str(most)]
    colours = [CHANCE, SECOND, *[FIRST] * len(labels)][: len(labels)]
    return draw_columns("pairs-a-text", labels, counts, colours, "pairs of a text")


def _draw_modes(modes: Mapping[str, int]) -> str:
    ranked = sorted(modes, key=lambda mode: (mode == "raw", -modes[mode], mode))
    colours = [MUTED if mode == "raw" else FIRST for mode in ranked]
    return draw_bars("modes", [(mode.replace("_", " "), modes[mode]) for mode in ranked], sum(modes.values()), colours)


def _draw_lengths(name: str, lengths: Mapping[str, Any], edges: tuple[int, ...]) -> str:
    return draw_bins(name, edges, gather_bins(_numbered(lengths["counts"]), edges), "words")


def _draw_grounded(tenths: Mapping[str, int]) -> str:
    labels = ["<10", *(f"{tenth}0–{tenth}9" for tenth in range(1, 10)), "100"]
    colours = [*[CHANCE] * 5, *[SECOND] * 5, FIRST]
    axis_label = "% of an answer's words that stand in its text"
    return draw_columns("grounded", labels, list(tenths.values()), colours, axis_label)


def _draw_gain(nats: Mapping[str, int]) -> str:
    least, most = GAIN_BOUNDS
    steps = range(least, most + 1)
    counts = [nats.get(str(step / GAIN_STEPS), 0) for step in steps]
    labels = [f"{step / GAIN_STEPS:.0f}" if step % (2 * GAIN_STEPS) == 0 else "" for step in steps]
    colours = [CHANCE if step < 0 else FIRST for step in steps]
    return draw_columns("gain", labels, counts, colours, "nats a token that the text gains its answers")


def _draw_drops(drops: Mapping[str, Any]) -> str | None:
    rows = [(reason, entry["count"]) for where in ("parsing", "gates") for reason, entry in drops[where].items()]
    if not rows:
        return None
    colours = [HUES[4]] * len(drops["parsing"]) + [HUES[3]] * len(drops["gates"])
    return draw_bars("drops", rows, drops["pieces"], colours)


def _numbered(counts: Mapping[str, int]) -> Counter[int]:
    return Counter({int(number): count for number, count in counts.items()})


def _tiles(figures: Mapping[str, Any]) -> list[_Tile]:
    texts, pairs, drops, tokens = (figures[name] for name in ("texts", "pairs", "drops", "tokens"))
    grounded, repetition = figures["groundedness"], figures["repetition"]
    hits = [sum(hit[where] for hit in figures["contamination"].values()) for where in ("text", "pair")]
    parsing, gates = (sum(entry["share"] for entry in drops[where].values()) for where in ("parsing", "gates"))
    return [
        _Tile("texts", _count(texts["count"]), f"{_count(texts['augmented'])} augmented, {_count(texts['cut'])} cut"),
        _Tile("pairs", _count(pairs["count"]), f"{_number(pairs['a_text'])} an augmented text; the paper: about 5"),
        _Tile(
            "augmented texts with a pair",
            _share(texts["share_with_a_pair"]),
            f"{_share(texts['share_with_two_pairs'])} with two or more",
        ),
        _Tile("dropped", _share(drops["share"]), f"{_share(parsing)} in parsing, {_share(gates)} by gates"),
        _Tile("grounded", _share(grounded["mean_share"]), "of an answer's words, in the mean, stand in its text"),
        _Tile("tokens a pair", _number(tokens["generated_a_pair"]), "dropped ones included; the paper: about 52"),
        _Tile(
            "asked before",
            _share(repetition["share_asked_before"]),
            f"of {_count(pairs['count'])} questions, {_count(repetition['different_questions'])} are different",
        ),
        _Tile("evaluation questions", _count(sum(hits)), f"{_count(hits[0])} texts, {_count(hits[1])} pairs left out"),
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
