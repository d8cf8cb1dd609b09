"""Scale of a block's norm by depth; the norm itself, without a learned weight, is in `kernels/rms_norm.py`."""

import math


def depth_rsqrt(layer: int, layers: int) -> float:
    """LN scale: multiply every norm's output in block `layer` by `1/sqrt(layer + 1)` (pull request 315)."""
    return 1.0 / math.sqrt(layer + 1)
