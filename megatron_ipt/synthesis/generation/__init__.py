"""Completion of pairs: chains of texts through an engine, in parts that survive a kill."""
