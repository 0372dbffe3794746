"""Blends of indexed datasets by tokens and epochs. Never imports torch."""
