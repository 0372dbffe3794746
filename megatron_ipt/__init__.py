"""Instruction Pre-Training on megatron-core: from raw text to an evaluated Hugging Face model."""

__version__ = "0.1.0.dev0"
