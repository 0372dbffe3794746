"""The instruction synthesizer itself: tuning sets and scoring."""
