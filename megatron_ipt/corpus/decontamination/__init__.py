"""Which texts and pairs hold questions of evaluation sets."""
