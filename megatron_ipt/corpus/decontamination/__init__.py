"""Detection of evaluation questions in texts and pairs."""
