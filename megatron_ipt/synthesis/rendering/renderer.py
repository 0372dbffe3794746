"""The renderer: turns a chain of texts with their pairs into one training document.

Every random choice depends on the seed and the ids only. BOS and EOS are not part of the text: preprocessing adds them
around each document.
"""

from __future__ import annotations

import random
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from megatron_ipt.config.synthesis import ModeWeights, RenderConfig
from megatron_ipt.errors import Problem, UserError
from megatron_ipt.pairs.formats import FORMATS, format_of
from megatron_ipt.pairs.grammar import Example, Pair
from megatron_ipt.synthesis.records import ChainRecord
from megatron_ipt.synthesis.rendering.bank import mode_templates, pair_templates, rephrasing_templates
from megatron_ipt.synthesis.rendering.modes import write_classic, write_inline, write_numbered, write_turns
from megatron_ipt.synthesis.rendering.templates import TEXT_SEPARATOR, ModeTemplate, PairTemplate

_PIECE = re.compile(r"#\d+$")
_WRITERS = {"dialog": write_turns, "numbered": write_numbered, "inline": write_inline, "next_turn": write_turns}


@dataclass(frozen=True)
class Rendered:
    """A document, and how it was rendered.

    `format` names the formats that occur, in order, and `template` the template (in classic mode, one per format),
    joined by `+`, that of rephrasings last. A document without pairs has mode `raw`, and neither of them.
    """

    text: str
    mode: str
    format: str
    template: str
    qa_first: bool


class Renderer:
    """Renders chains with modes, templates and orders that are drawn as configured."""

    def __init__(self, config: RenderConfig, seed: int) -> None:
        """Check the weights.

        Raises:
            UserError: all weights of the modes are 0.
        """
        problems = [*_problems("modes", config.modes), *_problems("short_modes", config.short_modes)]
        if problems:
            raise UserError.of(problems)
        self._config, self._seed = config, seed

    def render(self, chain: ChainRecord) -> Rendered:
        """Render one document: each text with its pairs; a text without pairs is rendered alone."""
        examples = [(text.id, text.example) for text in chain.texts]
        if self._config.stitch:
            examples = _stitched(examples)
        pairs = [pair for _, example in examples for pair in example.pairs]
        if not pairs:
            return Rendered(TEXT_SEPARATOR.join(example.text for _, example in examples), "raw", "", "", qa_first=False)
        # The order of the draws from this generator is part of the output: a new one needs a separate generator, as
        # that of rephrasings has, or documents of earlier versions change.
        draw = random.Random(f"{self._seed}:{chain.id}")
        has_several = all(len(example.pairs) >= 2 for _, example in examples)
        weights = (self._config.modes if has_several else self._config.short_modes).model_dump()
        (mode,) = draw.choices(list(weights), list(weights.values()))
        qa_first = draw.random() < self._config.qa_first_fraction
        style = _Style(mode, draw, f"{self._seed}:" if self._config.shuffle_options else None)
        rephrasings = {text.id: text.rephrasing for text in chain.texts if text.rephrasing and text.pairs}
        template = random.Random(f"{self._seed}:{chain.id}:rephrasing").choice(rephrasing_templates())
        framed = {text_id: template.frame.format(rephrasing=text) for text_id, text in rephrasings.items()}
        written = [
            style.write(text_id, example, framed.get(text_id), qa_first=qa_first) for text_id, example in examples
        ]
        formats = list(dict.fromkeys(map(format_of, pairs)))
        name = style.name(formats) + (f"+rephrasing/{template.name}" if framed else "")
        return Rendered(TEXT_SEPARATOR.join(written), mode, "+".join(formats), name, qa_first)


class _Style:
    """The mode and the templates of one chain."""

    def __init__(self, mode: str, draw: random.Random, option_seed: str | None) -> None:
        self._mode, self._option_seed = mode, option_seed
        self._pair_templates: Mapping[str, PairTemplate] = {one: draw.choice(pair_templates(one)) for one in FORMATS}
        self._template: ModeTemplate | None = None if mode == "classic" else draw.choice(mode_templates(mode))

    def write(self, text_id: str, example: Example, rephrasing: str | None, *, qa_first: bool) -> str:
        """Write a text, its rephrasing if there is one, and its pairs; or the text alone if it has no pairs."""
        if not example.pairs:
            return example.text
        pairs = self._write_pairs(text_id, example.pairs)
        frame = "{text}"
        if self._template is not None:
            frame = self._template.text_last if qa_first else self._template.text
        text = frame.format(text=example.text)
        texts = [text] if rephrasing is None else [text, rephrasing]
        return TEXT_SEPARATOR.join([pairs, *texts] if qa_first else [*texts, pairs])

    def name(self, formats: Sequence[str]) -> str:
        """Return the name of the template; in classic mode, those of the formats that occur."""
        if self._template is not None:
            return self._template.name
        return "+".join(f"{one}/{self._pair_templates[one].name}" for one in formats)

    def _write_pairs(self, text_id: str, pairs: Sequence[Pair]) -> str:
        def seed_of(pair: Pair) -> str | None:
            return None if self._option_seed is None else f"{self._option_seed}{text_id}:{pair.question}"

        if self._template is None:
            return write_classic(pairs, self._pair_templates, seed_of)
        return _WRITERS[self._mode](pairs, self._template, seed_of)


def _stitched(examples: list[tuple[str, Example]]) -> list[tuple[str, Example]]:
    """Join consecutive pieces of one document into one text, followed by all of their pairs."""
    joined: list[tuple[str, Example]] = []
    for text_id, example in examples:
        document = _PIECE.sub("", text_id)
        if document != text_id and joined and joined[-1][0] == document:
            previous = joined.pop()[1]
            example = Example(previous.text + example.text, previous.pairs + example.pairs)
        joined.append((document, example))
    return joined


def _problems(name: str, weights: ModeWeights) -> list[Problem]:
    if any(weights.model_dump().values()):
        return []
    return [Problem(f"render.{name}", "all 0", "no mode can be drawn", "give one a weight above 0")]
