"""Causal softmax attention, grouped: `softmax(q k^T / sqrt(d)) v` with query head h on key head `h // (H/K)`.

`reference` spells it out; `attention` is torch's fused kernel on the same inputs. On CUDA everything is cast to the
values' type first: torch 2.13's autocast runs rms_norm in float32, and the flash kernel wants half precision.
"""

import torch
import torch.nn.functional as F
from torch import Tensor


def attention(q_BTHd: Tensor, k_BTKd: Tensor, v_BTKd: Tensor, mask_B1TT: Tensor | None = None) -> Tensor:
    """Attend causally; `mask` (True: may look) replaces the causal mask when documents are kept apart.

    Returns `y (B, T, H, d)`.
    """
    kind = v_BTKd.dtype
    group = q_BTHd.shape[2] // k_BTKd.shape[2]
    y_BHTd = F.scaled_dot_product_attention(
        q_BTHd.to(kind).transpose(1, 2),
        k_BTKd.to(kind).transpose(1, 2),
        v_BTKd.transpose(1, 2),
        attn_mask=mask_B1TT,
        is_causal=mask_B1TT is None,
        enable_gqa=group > 1,
    )
    return y_BHTd.transpose(1, 2)


def reference(q_BTHd: Tensor, k_BTKd: Tensor, v_BTKd: Tensor, mask_B1TT: Tensor | None = None) -> Tensor:
    """The same, written out; for tests."""
    T, d = q_BTHd.shape[1], q_BTHd.shape[3]
    group = q_BTHd.shape[2] // k_BTKd.shape[2]
    k_BTHd, v_BTHd = (x.repeat_interleave(group, dim=2) for x in (k_BTKd, v_BTKd))
    if mask_B1TT is None:
        mask_B1TT = torch.ones(T, T, dtype=torch.bool, device=q_BTHd.device).tril()[None, None]
    scores_BHTT = torch.einsum("bthd,bshd->bhts", q_BTHd, k_BTHd) / d**0.5
    weights_BHTT = scores_BHTT.masked_fill(~mask_B1TT, float("-inf")).softmax(-1)
    return torch.einsum("bhts,bshd->bthd", weights_BHTT, v_BTHd)
