"""The quality report of a synthesized corpus, collected while the corpus is written."""
