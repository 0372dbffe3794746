"""Tokenizers, and corpora as Megatron's indexed datasets. Never imports torch."""
