"""Stand-ins for what an exported model file does not need: C kernels, FlexAttention, training.

`ship/modeling.py` replaces the package's functions by these when it writes the file, and `exporting/onnx.py` when it
traces a model. Each gives the same numbers as the function that it replaces.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from pargolf.kernels.attention import Masking
from pargolf.kernels.rms_norm import reference, turned


def no_kernels(*tensors: Tensor) -> None:
    """Return None, because there are no compiled kernels; for `kernels.compiled.at_hand`."""
    return None


def plain_norm_and_turn(x_BTHd: Tensor, cos_T1R: Tensor, sin_T1R: Tensor, gain_H: Tensor | None = None) -> Tensor:
    """Normalize each head, rotate it, multiply by its gain if any; for `kernels.rms_norm.norm_and_turn`."""
    y_BTHd = turned(reference(x_BTHd), cos_T1R, sin_T1R)
    return y_BTHd if gain_H is None else y_BTHd * gain_H.to(y_BTHd.dtype)[:, None]


def plain_document_mask(since_BT: Tensor) -> Tensor:
    """Mask of the positions that each position may attend to, (B, 1, T, T); for `kernels.attention.document_mask`."""
    place_T = torch.arange(since_BT.shape[1], device=since_BT.device)
    return ((place_T >= since_BT[:, :, None]) & (place_T <= place_T[:, None]))[:, None]


def plain_attention(
    q_BTHd: Tensor,
    k_BTKd: Tensor,
    v_BTKd: Tensor,
    since_BT: Tensor | None = None,
    mask: Masking = lambda: None,
) -> Tensor:
    """Causal attention within documents; if there are fewer queries than keys, they are the last positions.

    Returns (B, T, H, d); for `kernels.attention.attention`.
    """
    S, T, groups = q_BTHd.shape[1], k_BTKd.shape[1], q_BTHd.shape[2] // k_BTKd.shape[2]
    allowed = mask()
    if not isinstance(allowed, Tensor):
        allowed = torch.ones(S, T, dtype=torch.bool, device=q_BTHd.device).tril(T - S)
    k_BTHd, v_BTHd = (x.repeat_interleave(groups, dim=2) for x in (k_BTKd, v_BTKd))
    q, k, v = (x.to(v_BTKd.dtype).transpose(1, 2) for x in (q_BTHd, k_BTHd, v_BTHd))
    y_BHTd = F.scaled_dot_product_attention(q, k, v, attn_mask=allowed[..., -S:, :])
    return y_BHTd.transpose(1, 2)
