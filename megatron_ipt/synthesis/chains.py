"""Which texts get pairs, and which of them stand together in one document (M-shot)."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from megatron_ipt.corpus.stable_hash import HASHES, stable_hash


@dataclass(frozen=True)
class Text:
    """One raw text and its id; the pieces of a long one are `ID#1`, `ID#2`, ..."""

    id: str
    text: str


@dataclass(frozen=True)
class Chain:
    """Texts that become one document; a chain that is not augmented is one text, kept as it is."""

    texts: tuple[Text, ...]
    augmented: bool


def is_augmented(text_id: str, fraction: float, seed: int) -> bool:
    """Whether the text gets pairs: decided by id and seed alone, so the choice is the same however texts are split."""
    return stable_hash(f"{seed}:{text_id}") < fraction * HASHES


def build_chains(
    texts: Iterable[Text],
    texts_per_chain: int,
    fraction: float,
    seed: int,
    split: Callable[[str], list[str]] = lambda text: [text],
) -> Iterator[Chain]:
    """Every text in one chain: chosen ones, in pieces, in chains of `texts_per_chain` different texts, others alone.

    A chain is given out where its last text stands; the last chain may be shorter, and a text that is already in the
    chain begins a new one.
    """
    open_chain: list[Text] = []
    for text in texts:
        if not text.text.strip() or not is_augmented(text.id, fraction, seed):
            yield Chain((text,), augmented=False)
            continue
        for piece in _pieces(text, split(text.text)):
            if any(piece.text == other.text for other in open_chain):
                yield Chain(tuple(open_chain), augmented=True)
                open_chain = []
            open_chain.append(piece)
            if len(open_chain) == texts_per_chain:
                yield Chain(tuple(open_chain), augmented=True)
                open_chain = []
    if open_chain:
        yield Chain(tuple(open_chain), augmented=True)


def _pieces(text: Text, pieces: list[str]) -> list[Text]:
    if len(pieces) == 1:
        return [text]
    return [Text(f"{text.id}#{number}", piece) for number, piece in enumerate(pieces, start=1)]
