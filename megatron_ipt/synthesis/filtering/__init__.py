"""Gates: filters for well-formed pairs."""
