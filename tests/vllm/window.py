"""The window that all engines are given here, in tokens."""

MAX_MODEL_LEN = 1024
MAX_NEW_TOKENS = 32
