"""ConvFinQA: an answer is correct if any number in its first line is within 0.01 of the first number of the label."""

from __future__ import annotations

import math
import re

_NUMBER = re.compile(r"[-+]?\.?\d+(?:,\d\d\d)*\.?\d*(?:[eE][-+]?\d+)?%*")
_LEADING_ZEROS = re.compile(r"[-+]?0\d*[1-9]\d*")
_TOLERANCE = 0.01


def has_same_number(label: str, answer: str) -> bool:
    """Return whether the first line of the answer contains the first number of the label."""
    expected, given = read_numbers(label), read_numbers(answer)
    return bool(expected) and any(math.isclose(number, expected[0], abs_tol=_TOLERANCE) for number in given)


def read_numbers(text: str) -> list[float]:
    """Return the numbers in the first line of `text`: 12.345 for `1,234.5%`.

    What looks like a number but is not one in Python (007, 1.2.3) is infinity, to match the published evaluation, which
    evaluates these strings as Python expressions. They are not evaluated here.
    """
    return [_value(number) for number in _NUMBER.findall(text.split("\n", maxsplit=1)[0].strip())]


def _value(spelled: str) -> float:
    bare = spelled.rstrip("%")
    percents = len(spelled) - len(bare)
    plain = bare.replace(",", "")
    if _LEADING_ZEROS.fullmatch(plain):
        return math.inf
    try:
        value = float(plain)
    except ValueError:
        return math.inf
    for _ in range(percents):
        value /= 100
    return value
