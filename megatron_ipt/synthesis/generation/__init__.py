"""Generation of pairs: chains of texts go through an engine, in parts that survive a kill."""
