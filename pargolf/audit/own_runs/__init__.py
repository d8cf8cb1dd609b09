"""Judges a run folder of this package: what it recorded, recomputed as far as the folder allows."""
