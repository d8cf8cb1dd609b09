"""Smearing: mix the previous token's embedding into each token's embedding.

    SmearGate    x'_t = (1 - g) x_t + g x_{t-1},   g = sigmoid(gate) per channel, gate = 0 at init (half and half)
    TokenSmear   x'_t = x_t + lambda sigmoid(w . x_t[:width]) x_{t-1},   w and lambda 0 at init: a gate per token

with x_{-1} = 0. TokenSmear is from pull requests 1667 and 1855, which apply it before the embedding's norm
(`model.entry`).

The published forms (pull requests 549, 1667 and related ones) read across document boundaries, and for six weeks
records leaked one document's last token into the next that way (1797; fixed in 1851, and switched off again in 2135).
Here the first token of a document has no predecessor when the model keeps documents apart; with packed documents it
has one, as published.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pargolf.core.ranges import Size
from pargolf.model.linear import Linear
from pargolf.model.slots import Context, Place


@dataclass(frozen=True)
class SmearGate:
    """Stream slot; `init` is the gate's initial logit."""

    init: float = 0.0
    key = "smear"

    def build(self, place: Place) -> nn.Module:
        """Make the module."""
        return SmearGateModule(place.dim, self.init)


class SmearGateModule(nn.Module):
    """`x (B, T, D) -> (B, T, D)`."""

    def __init__(self, dim: int, init: float) -> None:
        super().__init__()
        self.gate = nn.Parameter(torch.full((dim,), init))

    def forward(self, x_BTD: Tensor, ctx: Context) -> Tensor:
        """Blend with the predecessor."""
        g = torch.sigmoid(self.gate.to(x_BTD.dtype))
        before_BTD = _before(x_BTD, ctx)
        if ctx.doc_BT is not None:
            before_BTD = before_BTD * ctx.same_document(1).unsqueeze(-1)
        return (1 - g) * x_BTD + g * before_BTD


@dataclass(frozen=True)
class TokenSmear:
    """Entry or stream slot; the gate is computed from the first `width` channels of the token. Neutral at init."""

    width: Size = 12
    key = "token_smear"

    def build(self, place: Place) -> nn.Module:
        """Make the module."""
        return TokenSmearModule(min(self.width, place.dim))


class TokenSmearModule(nn.Module):
    """`x (B, T, D) -> (B, T, D)`."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.width = width
        self.score = Linear(width, 1)
        self.amount = nn.Parameter(torch.zeros(1))

    def forward(self, x_BTD: Tensor, ctx: Context) -> Tensor:
        """Add the gated predecessor."""
        gate_BT1 = self.amount.to(x_BTD.dtype) * torch.sigmoid(self.score(x_BTD[..., : self.width]))
        if ctx.doc_BT is not None:
            gate_BT1 = gate_BT1 * ctx.same_document(1).unsqueeze(-1)
        return x_BTD + gate_BT1 * _before(x_BTD, ctx)


def _before(x_BTD: Tensor, ctx: Context) -> Tensor:
    """The stream one position earlier, zero before the first."""
    return F.pad(ctx.whole(x_BTD), (0, 0, 1, -1))[:, -x_BTD.shape[1] :]
