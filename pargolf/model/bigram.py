"""Hashed n-gram embeddings: a table looked up by the last two or three input tokens, added to the token embedding.

    out = scale * (E[h] P^T),   E (N, dim), P (D, dim); P is left out when dim = D, but never in BigramMix

    BigramHash   h_t = ((36313 id_t) xor (27191 id_{t-1})) mod (N-1), and N-1 when there is no predecessor
    BigramMix    h_t = (1009 id_{t-1} + id_t) mod N, with 0 for a missing predecessor, no scale (pull request 861)
    TrigramHash  h_t = ((17291 id_t xor 36313 id_{t-1}) xor 27191 id_{t-2}) mod (N-1), N-1 at the first two positions

A key contains only tokens that were already read, so this is legal, unlike caches keyed by the target. Position 0 is
the start of the window, or of the document when documents are kept apart. Source: pull requests 162, 549, 861, 1009.
"""

from dataclasses import dataclass
from typing import Annotated

import torch
from torch import Tensor, nn

from pargolf.core.ranges import Size, Within
from pargolf.model.linear import Linear, Lookup
from pargolf.model.slots import Context, Place

Buckets = Annotated[int, Within(2, 1 << 31)]
"""Rows of a table, including one for positions without predecessors."""


@dataclass(frozen=True)
class BigramHash:
    """Embed slot: `buckets` rows of width `dim`; `scale` is the learned scale's initial value."""

    buckets: Buckets = 2048
    dim: Size = 128
    scale: float = 0.05
    key = "bigram"

    def build(self, place: Place) -> nn.Module:
        """Make the module."""
        return HashedEmbedding(self, self.scale, place)

    def hash(self, ctx: Context) -> Tensor:
        """Bucket of each position, (B, T)."""
        mixed_BT = (36313 * ctx.ids_BT) ^ (27191 * ctx.shifted(ctx.ids_BT, 1, 0))
        return torch.where(ctx.same_document(1), mixed_BT % (self.buckets - 1), self.buckets - 1)


@dataclass(frozen=True)
class BigramMix:
    """Embed slot: the linear hash of pull request 861, without a scale."""

    buckets: Buckets = 4096
    dim: Size = 128
    key = "bigram"

    def build(self, place: Place) -> nn.Module:
        """Make the module."""
        return HashedEmbedding(self, None, place)

    def hash(self, ctx: Context) -> Tensor:
        """Bucket of each position, (B, T)."""
        return (1009 * ctx.shifted(ctx.ids_BT, 1, 0) + ctx.ids_BT) % self.buckets


@dataclass(frozen=True)
class TrigramHash:
    """Embed slot: a hash of three tokens; pull request 1009 has it, but switched off."""

    buckets: Buckets = 4096
    dim: Size = 64
    scale: float = 0.02
    key = "trigram"

    def build(self, place: Place) -> nn.Module:
        """Make the module."""
        return HashedEmbedding(self, self.scale, place)

    def hash(self, ctx: Context) -> Tensor:
        """Bucket of each position, (B, T)."""
        one_BT, two_BT = ctx.shifted(ctx.ids_BT, 1, 0), ctx.shifted(ctx.ids_BT, 2, 0)
        mixed_BT = (17291 * ctx.ids_BT) ^ (36313 * one_BT) ^ (27191 * two_BT)
        return torch.where(ctx.same_document(2), mixed_BT % (self.buckets - 1), self.buckets - 1)


class HashedEmbedding(nn.Module):
    """`ids (B, T) -> (B, T, D)` through the spec's hash."""

    def __init__(self, spec: BigramHash | BigramMix | TrigramHash, scale: float | None, place: Place) -> None:
        super().__init__()
        self.spec = spec
        self.table = Lookup(spec.buckets, spec.dim)
        square = spec.dim == place.dim and not isinstance(spec, BigramMix)
        self.proj = None if square else Linear(spec.dim, place.dim)
        self.scale = None if scale is None else nn.Parameter(torch.tensor(scale))

    def forward(self, ctx: Context) -> Tensor:
        """Hash, look up, project, scale."""
        e_BTD: Tensor = self.table(self.spec.hash(ctx))
        if self.proj is not None:
            e_BTD = self.proj(e_BTD)
        return e_BTD if self.scale is None else e_BTD * self.scale.to(e_BTD.dtype)
