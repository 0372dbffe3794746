"""Instruction Pre-Training on megatron-core: from raw text to an evaluated Hugging Face model."""

from importlib.metadata import version

__version__ = version("megatron-ipt")
