"""Search for the layouts of a run that fit, without a GPU and without torch."""
