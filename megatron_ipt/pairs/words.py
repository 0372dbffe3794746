"""Words as the gates compare them (one case, no punctuation, one spelling of a number), and their repetition."""

from __future__ import annotations

import re
import unicodedata

_GROUPED = re.compile(r"(?<=\d)[,\u00a0\u202f' ](?=\d{3}(?!\d))")
_WORD = re.compile(r"\d+(?:\.\d+)?|[^\W\d_]+(?:['’][^\W\d_]+)*")
_DECIMAL_ZEROS = re.compile(r"(\d\.\d*?)0+$")

FUNCTION_WORDS = frozenset(
    (
        *("a", "an", "the", "this", "that", "these", "those", "it", "its", "he", "she", "they", "his", "her", "their"),
        *("him", "them", "i", "you", "we", "my", "your", "our", "me", "us", "there", "here", "no", "not", "yes"),
        *("is", "are", "was", "were", "be", "been", "being", "am", "do", "does", "did", "has", "have", "had"),
        *("will", "would", "can", "could", "may", "might", "should", "must", "shall", "also", "both", "each", "all"),
        *("of", "in", "on", "at", "to", "for", "from", "by", "with", "as", "into", "about", "over", "under"),
        *("between", "through", "during", "after", "before", "than", "and", "or", "but", "nor", "so", "if", "then"),
        *("because", "while", "who", "whom", "whose", "which", "what", "when", "where", "how", "why", "such", "some"),
    )
)


def split_words(text: str) -> list[str]:
    """Split a text into normalized words: `1,233.50 Miles` into `1233.5`, `miles`."""
    unified = _GROUPED.sub("", unicodedata.normalize("NFKC", text).casefold())
    return [_unify(word) for word in _WORD.findall(unified)]


def find_content_words(text: str) -> list[str]:
    """Return the words that carry meaning (without English function words); all words if none does."""
    words = split_words(text)
    return [word for word in words if word not in FUNCTION_WORDS] or words


def find_repeated_share(text: str) -> float:
    """Return the share of three-word sequences that equal an earlier one; 0 if there are none."""
    words = split_words(text)
    trigrams = list(zip(words, words[1:], words[2:], strict=False))
    return 1 - len(set(trigrams)) / len(trigrams) if trigrams else 0.0


def _unify(word: str) -> str:
    if "." in word:
        return _DECIMAL_ZEROS.sub(r"\1", word).rstrip(".")
    return word.removesuffix("'s").removesuffix("’s")
