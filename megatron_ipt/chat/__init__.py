"""Instruction tuning: conversations as loss-masked sequences, by a chat template."""
