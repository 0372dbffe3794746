"""Choices by hash stay what they were: each stage's own way to call the one hash, with values recorded before."""

from __future__ import annotations

from megatron_ipt.corpus.stable_hash import HASHES, stable_hash
from megatron_ipt.synthesis.generation.chains import is_augmented


def test_hash_is_the_recorded_one() -> None:
    assert stable_hash(7, "text", "a#1") == 10345576808270898274
    assert stable_hash(1, "squad", "lone \ud800") == 6541667290679598915
    assert 0 <= stable_hash() < HASHES


def test_texts_are_chosen_as_before() -> None:
    chosen = "".join(str(int(is_augmented(f"doc-{number}", 0.5, 1234))) for number in range(40))
    assert chosen == "1001110101100000000101110100101100101100"
