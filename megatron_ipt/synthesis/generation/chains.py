"""The choice of the texts that get pairs, and their chains: the texts that share a document (M-shot)."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from megatron_ipt.corpus.stable_hash import HASHES, stable_hash


@dataclass(frozen=True)
class Text:
    """One raw text and its id; the pieces of a long one have the ids `ID#1`, `ID#2`, ..."""

    id: str
    text: str


@dataclass(frozen=True)
class Chain:
    """Texts that become one document; a chain that is not augmented is a single text, kept unchanged."""

    texts: tuple[Text, ...]
    augmented: bool


def is_augmented(text_id: str, fraction: float, seed: int) -> bool:
    """Return whether the text gets pairs; depends on its id and the seed only, not on how the input is split."""
    return stable_hash(f"{seed}:{text_id}") < fraction * HASHES


def build_chains(
    texts: Iterable[Text],
    texts_per_chain: int,
    fraction: float,
    seed: int,
    split: Callable[[str], list[str]] = lambda text: [text],
) -> Iterator[Chain]:
    """Put every text into one chain: augmented texts in chains of `texts_per_chain` different ones, others alone.

    A chain is yielded when its last text is read, so that the order of the corpus is kept. The last chain may be
    shorter, and a text equal to one of the open chain starts a new chain.

    Args:
        texts: the texts of one input file, in order.
        texts_per_chain: the number of texts per augmented chain, M of M-shot (arXiv 2406.14491).
        fraction: the fraction of the texts that are augmented.
        seed: the seed of that choice.
        split: splits a long text into pieces, each of which takes the place of a text.
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
