"""How good the pairs of a synthesized corpus are: counted while it is written, shown on one page."""
