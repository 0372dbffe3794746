"""Layouts of a run that fit, before a GPU is asked for. No torch."""
