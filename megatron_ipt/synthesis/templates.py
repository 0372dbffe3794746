"""How a chain of texts and their pairs becomes one document to train on.

BOS and EOS are not part of the text: preprocessing puts them around each document.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from importlib import resources
from string import Formatter

import yaml

from megatron_ipt.synthesis.grammar import Example

_FIELDS = {"document": {"text", "pairs"}, "pair": {"question", "answer"}}


@dataclass(frozen=True)
class Template:
    """A checked template of the bank."""

    name: str
    document: str
    pair: str
    pair_separator: str
    text_separator: str

    def __post_init__(self) -> None:
        for name, wanted in _FIELDS.items():
            found = {field for _, field, _, _ in Formatter().parse(getattr(self, name)) if field is not None}
            if found != wanted:
                raise ValueError(f"template {self.name}: {name} holds {sorted(found)}, and must hold {sorted(wanted)}")

    def render(self, chain: Sequence[Example]) -> str:
        """One document: each text followed by its pairs; a text without pairs stands alone."""
        return self.text_separator.join(self._render_text(example) for example in chain)

    def _render_text(self, example: Example) -> str:
        if not example.pairs:
            return example.text
        pairs = self.pair_separator.join(
            self.pair.format(question=pair.question, answer=pair.answer) for pair in example.pairs
        )
        return self.document.format(text=example.text, pairs=pairs)


def load_template(name: str) -> Template:
    """The template of that name.

    Raises:
        ValueError: its fields are not what a template must hold.
    """
    file = resources.files("megatron_ipt.synthesis") / "template_bank" / f"{name}.yaml"
    values = yaml.safe_load(file.read_text(encoding="utf-8"))
    return Template(**{field.name: values[field.name] for field in fields(Template)})
