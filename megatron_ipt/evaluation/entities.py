"""NER: entities written `Name (TYPE)`, and their F1 as the published evaluation has it.

It counts a name and a type for each entity: a right entity may earn both, and one of the two if a predicted entity has
only the same name or only the same type. Of a name of several words only the last is read, and repeated entities count
once.
"""

from __future__ import annotations

import re
from typing import NamedTuple

_ENTITY = re.compile(r"(\S+\s+)\((\S+)\)")


class Entity(NamedTuple):
    """A name and its type."""

    name: str
    type: str


def read_entities(text: str) -> list[Entity]:
    """The entities of a text in their order, each once."""
    return list(dict.fromkeys(Entity(found[1][:-1], found[2]) for found in _ENTITY.finditer(text)))


def entity_f1(label: str, answer: str) -> float:
    """Harmonic mean of precision and recall over names and types; 0 where nothing is found or nothing is right."""
    wanted, given = read_entities(label), read_entities(answer)
    earned = sum(_points(one, given) for one in wanted)
    if not earned:
        return 0.0
    precision, recall = earned / (2 * len(given)), earned / (2 * len(wanted))
    return 2 * precision * recall / (precision + recall)


def _points(wanted: Entity, given: list[Entity]) -> int:
    """Of the first predicted entity that shares name or type: how many of the two."""
    for one in given:
        if points := (one.name == wanted.name) + (one.type == wanted.type):
            return points
    return 0
