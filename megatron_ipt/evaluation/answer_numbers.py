"""ConvFinQA: an answer is right if any number of its first line lies within 0.01 of the label's first number."""

from __future__ import annotations

import math
import re

_NUMBER = re.compile(r"[-+]?\.?\d+(?:,\d\d\d)*\.?\d*(?:[eE][-+]?\d+)?%*")
_LEADING_ZEROS = re.compile(r"[-+]?0\d*[1-9]\d*")
_TOLERANCE = 0.01


def has_same_number(label: str, answer: str) -> bool:
    """Whether a number of the answer's first line is the first one of the label."""
    wanted, given = read_numbers(label), read_numbers(answer)
    return bool(wanted) and any(math.isclose(number, wanted[0], abs_tol=_TOLERANCE) for number in given)


def read_numbers(text: str) -> list[float]:
    """The numbers of the first line: `1,234.5%` is 12.345.

    What looks like a number but is none in Python (007, 1.2.3) counts as infinity, as in the published evaluation,
    which evaluates these as Python expressions; we do not.
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
