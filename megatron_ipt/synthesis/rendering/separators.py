"""What stands between the pieces of a document. BOS and EOS are preprocessing's: it puts them around each document."""

from __future__ import annotations

TEXT_SEPARATOR = "\n\n"
"""Between the texts of a chain, and between a text and its pairs."""
BLOCK_SEPARATOR = "\n\n"
"""Between pairs, and between the sections of the numbered and the inline mode."""
LINE_SEPARATOR = "\n"
"""Between the turns of a dialogue, the entries of a numbered list, and the lines of one pair."""
