"""Instruction-response pairs: grammar, prompts, formats and words."""
