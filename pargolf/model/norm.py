"""RMSNorm without a learned weight: `x / sqrt(mean(x^2) + eps)`, eps the smallest step of float32 (1.19e-7).

Source: Zhang & Sennrich 2019 (arXiv:1910.07467); the published systems use it for the embedding, before attention and
MLP, at the end, and per head on queries and keys.
"""

import math

import torch.nn.functional as F
from torch import Tensor


def rms_norm(x: Tensor) -> Tensor:
    """Normalize the last dimension."""
    return F.rms_norm(x, (x.shape[-1],))


def depth_rsqrt(layer: int, layers: int) -> float:
    """LN scale: multiply every norm's output in block `layer` by `1/sqrt(layer + 1)` (pull request 315)."""
    return 1.0 / math.sqrt(layer + 1)
