"""Value embeddings: a second table of the token ids, added to the values of a few late layers.

    shared once:   base = scale * (E[ids] P^T)       E (V, dim), P (kv_dim, dim)
    per layer:     v <- v + layer_scale * base

P is left out when dim = kv_dim, unless `project` is set.

`ValueEmbed` belongs in `model.shared`, `AddValueEmbed` in the layers' `attn.values`. Pull request 543 has no shared
scale (`scale=None`), always a projection, and layer scales of .1; the 549 stack has .1 and 1. `ValueResidual`, off in
549, blends the first layer's values into later ones instead: `v <- a v_first + b v`, a = b = .5.
Source: modded-nanogpt; pull requests 549, 543; value residual: Zhou et al. 2024 (arXiv:2410.17897).
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from pargolf.core.ranges import Size
from pargolf.model.linear import Linear, Lookup
from pargolf.model.slots import Context, Place


@dataclass(frozen=True)
class ValueEmbed:
    """Shared slot: a table of width `dim`, and the initial shared scale (None: none).

    `project` keeps the projection even when it is square.
    """

    dim: Size = 128
    scale: float | None = 0.1
    project: bool = False
    key = "value_embed"

    def build(self, place: Place) -> nn.Module:
        """Make the module."""
        return ValueEmbedModule(self, place)


class ValueEmbedModule(nn.Module):
    """`ids (B, T) -> (B, T, kv_dim)`."""

    def __init__(self, spec: ValueEmbed, place: Place) -> None:
        super().__init__()
        kv_dim = place.kv_heads * place.head_dim
        self.table = Lookup(place.vocab, spec.dim)
        self.proj = Linear(spec.dim, kv_dim) if spec.project or spec.dim != kv_dim else None
        self.scale = None if spec.scale is None else nn.Parameter(torch.tensor(spec.scale))

    def forward(self, ctx: Context) -> Tensor:
        """Look up, project, scale."""
        base_BTk: Tensor = self.table(ctx.ids_BT)
        if self.proj is not None:
            base_BTk = self.proj(base_BTk)
        return base_BTk if self.scale is None else base_BTk * self.scale.to(base_BTk.dtype)


@dataclass(frozen=True)
class AddValueEmbed:
    """Value slot: add the shared value embedding, times a learned scale that starts at `scale`."""

    scale: float = 1.0
    key = "value_embed"

    def build(self, place: Place) -> nn.Module:
        """Make the module."""
        return AddValueEmbedModule(self.scale)


class AddValueEmbedModule(nn.Module):
    """`v (B, T, K, d) -> (B, T, K, d)`."""

    def __init__(self, scale: float) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.tensor([scale]))

    def forward(self, v_BTKd: Tensor, ctx: Context) -> Tensor:
        """Add."""
        base: Tensor = ctx.shared[ValueEmbed.key]
        return v_BTKd + (base * self.scale.to(base.dtype)).view(v_BTKd.shape).to(v_BTKd.dtype)


@dataclass(frozen=True)
class ValueResidual:
    """Value slot: blend in the values of the first layer that has this slot, `first * v_first + own * v`."""

    first: float = 0.5
    own: float = 0.5
    key = "value_residual"

    def build(self, place: Place) -> nn.Module:
        """Make the module; in layer 0 it only stores the values and has no parameters, as they could never learn."""
        return RememberValue() if place.layer == 0 else ValueResidualModule(self)


class RememberValue(nn.Module):
    """`v -> v`, and stores v for later layers."""

    def forward(self, v_BTKd: Tensor, ctx: Context) -> Tensor:
        """Remember."""
        ctx.shared[ValueResidual.key] = v_BTKd
        return v_BTKd


class ValueResidualModule(nn.Module):
    """`v (B, T, K, d) -> (B, T, K, d)`."""

    def __init__(self, spec: ValueResidual) -> None:
        super().__init__()
        self.blend = nn.Parameter(torch.tensor([spec.first, spec.own]))

    def forward(self, v_BTKd: Tensor, ctx: Context) -> Tensor:
        """Blend."""
        blend_2 = self.blend.to(v_BTKd.dtype)
        first_BTKd: Tensor = ctx.shared[ValueResidual.key]
        return blend_2[0] * first_BTKd + blend_2[1] * v_BTKd
