"""Language models that complete prompts: one protocol, three engines."""
