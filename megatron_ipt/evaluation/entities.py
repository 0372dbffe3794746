"""NER: entities written as `Name (TYPE)`, and their F1 as computed by the published evaluation.

Each expected entity earns up to two points: one if a predicted entity has its name, one if it has its type. Only the
last word of a name is compared, and repeated entities count once.
"""

from __future__ import annotations

import re
from typing import NamedTuple

_ENTITY = re.compile(r"(\S+\s+)\((\S+)\)")


class Entity(NamedTuple):
    """A named entity: the last word of its name, and its type."""

    name: str
    type: str


def read_entities(text: str) -> list[Entity]:
    """Return the distinct entities of a text, in order."""
    return list(dict.fromkeys(Entity(found[1][:-1], found[2]) for found in _ENTITY.finditer(text)))


def entity_f1(label: str, answer: str) -> float:
    """Return the harmonic mean of precision and recall of the points; 0 if there are no points."""
    expected, predicted = read_entities(label), read_entities(answer)
    points = sum(_points(entity, predicted) for entity in expected)
    if not points:
        return 0.0
    precision, recall = points / (2 * len(predicted)), points / (2 * len(expected))
    return 2 * precision * recall / (precision + recall)


def _points(expected: Entity, predicted: list[Entity]) -> int:
    """Return the points of an expected entity for the first predicted one that shares its name or type."""
    for entity in predicted:
        if points := (entity.name == expected.name) + (entity.type == expected.type):
            return points
    return 0
