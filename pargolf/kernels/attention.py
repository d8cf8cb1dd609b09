"""Causal softmax attention, grouped: `softmax(q k^T / sqrt(d)) v` with query head h on key head `h // (H/K)`.

`reference` spells it out; `attention` is torch's fused kernel on the same inputs. On CUDA everything is cast to the
values' type first: torch 2.13's autocast runs rms_norm in float32, and the flash kernel wants half precision.

On a CPU, torch's kernel computes the whole square when it is given a mask. The C below knows from `since`, the first
position of each query's document, which keys it may see, and touches no others: a tile of 48 queries multiplies the
keys from its earliest document's start to its last query, in blocks of 32. Keys and values are laid out once for all
heads that share them; backward, the weights are made again from the row sums (Dao et al. 2022, arXiv:2205.14135).

Where products take bfloat16 factors and the processor has AMX, tiles of 16 x 32 numbers are multiplied in one
instruction, and the exponentials are what takes time (`c/attention_tiles.c`, for heads 32 wide, rows of whole blocks).

On CUDA a compiled graph keeps documents apart by FlexAttention, which passes over the blocks of keys that no query of
a block may see (Dong et al. 2024, arXiv:2412.05496).
"""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention.flex_attention import BlockMask, create_block_mask, flex_attention

from pargolf.core.world import KINDS
from pargolf.kernels.compiled import TILED, Compiled, at_hand, c_source, tiled_source

_C = c_source("attention")
_TILES = tiled_source("attention_tiles")
_FLEX = tuple(name for name, kind in KINDS.items() if kind.flex)
Mask = Tensor | BlockMask
Masking = Callable[[], Mask | None]


def document_mask(since_BT: Tensor) -> Mask:
    """Which positions each may see, `since` the first of its document: (B, 1, T, T) bool, or FlexAttention's."""
    if since_BT.device.type in _FLEX and torch.compiler.is_compiling():
        return block_mask(since_BT)
    place_T = torch.arange(since_BT.shape[1], device=since_BT.device)
    return ((place_T >= since_BT[:, :, None]) & (place_T <= place_T[:, None]))[:, None]


def block_mask(since_BT: Tensor) -> BlockMask:
    """The same for FlexAttention, which passes over whole blocks that nothing of may be seen."""

    def sees(b: Tensor, h: Tensor, q: Tensor, k: Tensor) -> Tensor:
        return (k <= q) & (k >= since_BT[b, q])

    B, T = since_BT.shape
    return create_block_mask(sees, B, None, T, T, device=since_BT.device)


def attention(
    q_BTHd: Tensor,
    k_BTKd: Tensor,
    v_BTKd: Tensor,
    since_BT: Tensor | None = None,
    mask: Masking = lambda: None,
) -> Tensor:
    """Attend causally, and where documents are kept apart within them; returns `y (B, T, H, d)`.

    `since` is the first position of each position's document; `mask` makes the `document_mask` of it, or None, and is
    called where it is needed. Fewer queries than keys are those of the last positions.
    """
    fast = at_hand(q_BTHd, k_BTKd, v_BTKd)
    if isinstance(fast, Compiled) and q_BTHd.shape[1] == k_BTKd.shape[1]:
        y: Tensor = _CompiledAttention.apply(q_BTHd, k_BTKd, v_BTKd, since_BT, fast)  # type: ignore[no-untyped-call]
        return y
    kind, allowed, grouped = v_BTKd.dtype, mask(), q_BTHd.shape[2] > k_BTKd.shape[2]
    q, k, v = q_BTHd.to(kind).transpose(1, 2), k_BTKd.to(kind).transpose(1, 2), v_BTKd.transpose(1, 2)
    if isinstance(allowed, BlockMask):
        flexed: Tensor = flex_attention(q, k, v, block_mask=allowed, enable_gqa=grouped)
        return flexed.transpose(1, 2)
    S, T = q_BTHd.shape[1], k_BTKd.shape[1]
    if S < T:
        whole = torch.ones(S, T, dtype=torch.bool, device=q_BTHd.device)
        allowed = whole.tril(T - S) if allowed is None else allowed[..., -S:, :]
    y_BHTd = F.scaled_dot_product_attention(q, k, v, attn_mask=allowed, is_causal=allowed is None, enable_gqa=grouped)
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


class _CompiledAttention(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor, since: Tensor | None, fast: Compiled) -> Tensor:
        q, k, v = q.contiguous(), k.contiguous(), v.contiguous()
        (B, T, H, d), K = q.shape, k.shape[2]
        since = torch.zeros(B, T, dtype=torch.int64) if since is None else since.contiguous()
        y, total_BHT = torch.empty_like(q), q.new_empty(B, H, T)
        fits = fast.half and d == TILED and T % TILED == 0
        source = _TILES if fits and fast.starts(_TILES) else _C
        fast.call(source, "attend", q, k, v, since, y, total_BHT, B, T, H, K, d)
        ctx.save_for_backward(q, k, v, since, y, total_BHT)
        ctx.fast, ctx.source = fast, source
        return y

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, Tensor, None, None]:
        q, k, v, since, y, total_BHT = ctx.saved_tensors
        (B, T, H, d), K = q.shape, k.shape[2]
        dq, dk, dv = torch.empty_like(q), torch.empty_like(k), torch.empty_like(v)
        g = grads[0].contiguous()
        ctx.fast.call(ctx.source, "attend_back", g, q, k, v, since, y, total_BHT, dq, dk, dv, B, T, H, K, d)
        return dq, dk, dv, None, None
