"""Layouts of a run that fit, found without a GPU and without torch."""
