"""Which well-formed pairs are kept."""
