"""The report of a comparison of synthesizers: their metrics, and samples of their output."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from megatron_ipt.reporting.pages import render_page
from megatron_ipt.reporting.plots import GRID, HUES, INK, MUTED, open_plot, to_svg

SHARES = {
    "f1": "answers: token F1",
    "exact": "answers: exact match",
    "finished": "answers ended by </END>",
    "with_one_pair": "texts with at least one valid pair",
    "with_two_pairs": "texts with at least two valid pairs",
    "grounded": "words of the model's own answers that occur in the text",
}
"""The fields of `SetMetrics` that are shares."""
_PLOTTED = {
    "f1": "Token F1 of the answers",
    "exact": "Answers that match exactly",
    "with_two_pairs": "Texts with at least two valid pairs",
    "with_one_pair": "Texts with at least one valid pair",
}
_BAR, _GAP = 0.8, 0.55  # heights in rows: a bar, and the space between two sets
_WIDTH_INCHES = 5.6


@dataclass(frozen=True)
class Share:
    """A share from 0 to 1 and its standard error, which treats contexts, rather than questions, as independent."""

    value: float
    stderr: float


@dataclass(frozen=True)
class SetMetrics:
    """The metrics of one model on one set, or averaged over all sets with equal weights; None if not measurable."""

    f1: Share | None
    exact: Share | None
    finished: Share | None
    with_one_pair: Share | None
    with_two_pairs: Share | None
    grounded: Share | None
    pairs_per_text: float
    contexts: int
    questions: int
    pairs: int
    texts_cut: int
    generated_tokens: int
    unanswered: Mapping[str, int]
    drops: Mapping[str, int]

    def share(self, name: str) -> Share | None:
        """Return one of `SHARES`."""
        share: Share | None = getattr(self, name)
        return share


@dataclass(frozen=True)
class ModelMetrics:
    """A model with its metrics over all sets and by set."""

    model: str
    examples_shown: bool
    overall: SetMetrics
    sets: Mapping[str, SetMetrics]


@dataclass(frozen=True)
class SetSize:
    """The number of contexts and questions of a set, which are the same for every model."""

    contexts: int
    questions: int


@dataclass(frozen=True)
class Results:
    """The content of results.json; models and sets by name."""

    seed: int
    sets: Mapping[str, SetSize]
    models: Mapping[str, ModelMetrics]


class ShownPair(NamedTuple):
    """A question with its answer."""

    question: str
    answer: str


@dataclass(frozen=True)
class ModelSample:
    """A model's answer to the question of a sample, with its F1, and the pairs it generated about the context."""

    answer: str
    f1: float
    pairs: Sequence[ShownPair]


@dataclass(frozen=True)
class Sample:
    """A context, one of its questions with the reference, and the output of every model by its name."""

    set: str
    id: str
    context: str
    question: str
    reference: str
    models: Mapping[str, ModelSample]


def render_scoring(results: Results, samples: Sequence[Sample]) -> str:
    """Render the page; the same rows give the same bytes."""
    return render_page(
        "scoring.html",
        results=results,
        shares=SHARES,
        plots={title: _draw_shares(name, results) for name, title in _PLOTTED.items()},
        reasons=sorted({reason for model in results.models.values() for reason in model.overall.drops}),
        samples=samples,
    )


def _draw_shares(name: str, results: Results) -> str:
    """Plot a horizontal bar per model for all sets together and for each set, in percent, with standard errors."""
    labels, models = ["all sets", *results.sets], results.models
    figure, axes = open_plot((len(labels) * (len(models) + _GAP)) * 0.24 + 0.9, _WIDTH_INCHES)
    step = len(models) + _GAP
    for number, (model_name, model) in enumerate(models.items()):
        shares = [model.overall.share(name), *(model.sets[each].share(name) for each in results.sets)]
        heights = [index * step + number for index in range(len(labels))]
        values = [0.0 if share is None else 100 * share.value for share in shares]
        errors = [0.0 if share is None else 100 * share.stderr for share in shares]
        axes.barh(heights, values, height=_BAR, color=HUES[number % len(HUES)], label=model_name, zorder=2)
        axes.errorbar(values, heights, xerr=errors, fmt="none", ecolor=INK, elinewidth=1.1, capsize=2.5, zorder=3)
        for height, value, error, share in zip(heights, values, errors, shares, strict=True):
            shown = "not measured" if share is None else f"{value:.1f}"
            axes.text(value + error + 1.0, height, shown, va="center", color=INK, fontsize=9, zorder=4)
    middle = (len(models) - 1) / 2
    axes.set_yticks([index * step + middle for index in range(len(labels))], labels, parse_math=False)
    axes.invert_yaxis()
    axes.set_xlim(0, 112)
    axes.set_xticks(range(0, 101, 20))
    axes.set_xlabel("%")
    axes.grid(axis="x", color=GRID, linewidth=0.8)
    axes.tick_params(axis="y", length=0, labelcolor=INK)
    figure.legend(loc="outside upper right", ncols=4, frameon=False, labelcolor=MUTED)
    return to_svg(figure, name)
