"""Causal grouped-query attention with QK-norm, and slots for techniques that change its values or outputs.

    q, k = norm(u Wq), norm(u Wk), rotated;  q *= gain;  v = u Wv, changed by `values`
    y = softmax(q k^T / sqrt(d)) v, changed by `outputs`;  return y Wo

Query head h reads key and value head `h // (H/K)`. Source: the published baseline (SYSTEMS: column B); QK-norm with a
learned gain per head after the rotation.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from pargolf.core.ranges import Size
from pargolf.kernels.attention import attention
from pargolf.kernels.rms_norm import norm_and_turn
from pargolf.model.linear import Linear
from pargolf.model.rope import Rope
from pargolf.model.slots import Context, Place, Slot, build_all


@dataclass(frozen=True)
class Attention:
    """`heads` query heads over `kv_heads`; `q_gain` is the initial gain of normed queries."""

    heads: Size = 8
    kv_heads: Size = 4
    rope: Rope = Rope()
    q_gain: float = 1.5
    values: tuple[Slot, ...] = ()
    outputs: tuple[Slot, ...] = ()

    def build(self, place: Place) -> nn.Module:
        """Make the module."""
        return AttentionModule(self, place)


class AttentionModule(nn.Module):
    """`u (B, T, D) -> (B, T, D)`."""

    def __init__(self, spec: Attention, place: Place) -> None:
        super().__init__()
        self.spec = spec
        kv_dim = spec.kv_heads * place.head_dim
        self.q = Linear(place.dim, place.dim)
        self.k = Linear(place.dim, kv_dim)
        self.v = Linear(place.dim, kv_dim)
        self.out = Linear(place.dim, place.dim)
        self.q_gain = nn.Parameter(torch.full((spec.heads,), spec.q_gain))
        self.values = build_all(spec.values, place)
        self.outputs = build_all(spec.outputs, place)

    def forward(self, u_BTD: Tensor, ctx: Context, first: int = 0) -> Tensor:
        """Attend; positions before `first` give keys and values only. Returns (B, T - first, D)."""
        B, T, D = u_BTD.shape
        H, K = self.spec.heads, self.spec.kv_heads
        k_BTKd, v_BTKd = self.k(u_BTD).view(B, T, K, D // H), self.v(u_BTD).view(B, T, K, D // H)
        for change in self.values.values():
            v_BTKd = change(v_BTKd, ctx)
        cos, sin = self.spec.rope.turns(k_BTKd, ctx)
        k_BTKd = norm_and_turn(k_BTKd, cos, sin)
        keys_BTKd, values_BTKd = ctx.whole(k_BTKd), ctx.whole(v_BTKd)
        if first:
            u_BTD, v_BTKd, cos, sin = u_BTD[:, first:], v_BTKd[:, first:], cos[first:], sin[first:]
        q_BTHd = norm_and_turn(self.q(u_BTD).view(B, T - first, H, D // H), cos, sin, self.q_gain)
        y_BTHd = attention(q_BTHd, keys_BTKd, values_BTKd, ctx.since_BT, ctx.mask)
        for change in self.outputs.values():
            y_BTHd = change(y_BTHd, v_BTKd, u_BTD)
        out_BTD: Tensor = self.out(y_BTHd.reshape(B, T - first, D))
        return out_BTD
