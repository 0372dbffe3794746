"""The held-out contexts and questions that models are scored on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from megatron_ipt.corpus.rows import ObjectRow, read_objects
from megatron_ipt.corpus.stable_hash import stable_hash
from megatron_ipt.errors import UserError
from megatron_ipt.pairs.grammar import Pair
from megatron_ipt.synthesis.quality.bottom_k import BottomK


@dataclass(frozen=True)
class HeldOut:
    """A context with questions about it; their answers are the references."""

    id: str
    set: str
    context: str
    pairs: tuple[Pair, ...]


def choose_heldout(
    files: Sequence[Path], contexts_per_set: int, questions_per_context: int, seed: int
) -> dict[str, list[HeldOut]]:
    """Choose by set, sorted by name, the contexts and questions with the smallest hashes.

    Raises:
        UserError: a row does not have the held-out form, at FILE:LINE, or there are no questions.
    """
    sets: dict[str, BottomK] = {}
    for row in read_objects(files):
        one = _read(row)
        if one.pairs:
            chosen = sets.setdefault(one.set, BottomK(contexts_per_set, combine=lambda first, _: first))
            chosen.add(stable_hash(seed, one.set, one.id, one.context), one)
    if not sets:
        raise UserError("input", ", ".join(map(str, files)), "no questions in it", "name held-out sets")
    return {
        name: [_with_few_questions(one, questions_per_context, seed) for one in sets[name].values()]
        for name in sorted(sets)
    }


def _with_few_questions(one: HeldOut, most: int, seed: int) -> HeldOut:
    order = sorted(range(len(one.pairs)), key=lambda index: stable_hash(seed, one.id, one.pairs[index].question))
    return HeldOut(one.id, one.set, one.context, tuple(one.pairs[index] for index in sorted(order[:most])))


def _read(row: ObjectRow) -> HeldOut:
    try:
        pairs = tuple(Pair(_text(pair["Q"]), _text(pair["A"])) for pair in row.values["pairs"])
        id_, set_, context = (_text(row.values[key]) for key in ("id", "set", "context"))
        return HeldOut(id_, set_, context, pairs)
    except (KeyError, TypeError) as error:
        raise UserError(
            f"{row.file}:{row.line}",
            ", ".join(row.values),
            f"not a held-out context ({error})",
            'write {"id": ID, "set": SET, "context": TEXT, "pairs": [{"Q": QUESTION, "A": ANSWER}]}',
        ) from error


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{type(value).__name__} instead of text")
    return value
