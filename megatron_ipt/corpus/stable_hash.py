"""Hashes for pseudo-random choices: the same on every machine, in every run, for any number of workers."""

from __future__ import annotations

import hashlib

HASHES = 2**64
"""The number of hashes: they are in range(HASHES)."""


def stable_hash(*parts: object) -> int:
    """Return a 64-bit hash of `parts`, such as a seed and an id; lone surrogates in them are allowed."""
    text = "\0".join(map(str, parts)).encode(errors="surrogatepass")
    return int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "big")
