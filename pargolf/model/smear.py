"""SmearGate: blend each token's embedding with the one before, per channel.

    x'_t = (1 - g) x_t + g x_{t-1},   g = sigmoid(gate) per channel, gate = 0 at init (half and half), x_{-1} = 0

The published form (pull request 549 and its kin) reads across document boundaries, and for six weeks records leaked one
document's last token into the next that way (pull requests 1797, 1851). Here a document's first token has no
predecessor whenever the model keeps documents apart; packed, it has, as published.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

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
        before_BTD = F.pad(x_BTD, (0, 0, 1, -1))
        if ctx.doc_BT is not None:
            before_BTD = before_BTD * ctx.same_document(1).unsqueeze(-1)
        return (1 - g) * x_BTD + g * before_BTD
