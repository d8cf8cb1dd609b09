"""A scale by depth for the norm of `kernels/rms_norm.py`, which has no learned weight."""

import math


def depth_rsqrt(layer: int, layers: int) -> float:
    """LN scale: multiply every norm's output in block `layer` by `1/sqrt(layer + 1)` (pull request 315)."""
    return 1.0 / math.sqrt(layer + 1)
