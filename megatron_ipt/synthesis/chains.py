"""Which texts get pairs, and which of them stand together in one document (M-shot)."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass


@dataclass(frozen=True)
class Text:
    """One raw text and its id."""

    id: str
    text: str


@dataclass(frozen=True)
class Chain:
    """Texts that become one document; a chain that is not augmented is one text, kept as it is."""

    texts: tuple[Text, ...]
    augmented: bool


def is_augmented(text_id: str, fraction: float, seed: int) -> bool:
    """Whether the text gets pairs: decided by id and seed alone, so the choice is the same however texts are split."""
    digest = hashlib.blake2b(f"{seed}:{text_id}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") < fraction * 2**64


def build_chains(texts: Iterable[Text], texts_per_chain: int, fraction: float, seed: int) -> Iterator[Chain]:
    """Every text in one chain: chosen ones in chains of `texts_per_chain` different texts, the others alone.

    A chain is given out where its last text stands; the last chain may be shorter, and a text that is already in the
    chain begins a new one.
    """
    open_chain: list[Text] = []
    for text in texts:
        if not text.text.strip() or not is_augmented(text.id, fraction, seed):
            yield Chain((text,), augmented=False)
            continue
        if any(text.text == other.text for other in open_chain):
            yield Chain(tuple(open_chain), augmented=True)
            open_chain = []
        open_chain.append(text)
        if len(open_chain) == texts_per_chain:
            yield Chain(tuple(open_chain), augmented=True)
            open_chain = []
    if open_chain:
        yield Chain(tuple(open_chain), augmented=True)
