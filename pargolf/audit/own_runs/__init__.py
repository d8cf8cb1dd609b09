"""A run folder of this package, judged: what it recorded, recomputed as far as the folder allows."""
