"""Gates: learned factors on the output of each attention head, or on a whole block.

    HeadGate:           y_h <- y_h * top * sigmoid(scale * w_h . u[:width])   w = 0 at init: y_h * top / 2
    GatedAttention:     y_h <- y_h * sigmoid(w_h . u + b_h)           w = 0, b = 4 at init: almost open
    DynamicTokenGate:   out <- x + sigmoid(w . stop(x) + b) (out - x)  w = 0, b = 2 at init

A head cannot abstain, because softmax weights always sum to one; a gate lets it abstain, token by token. `HeadGate`
covers three published gates: the first 12 channels with top 2 (pull request 1667), all channels with top 1 (1736; Qiu
et al. 2025, arXiv:2505.06708, which starts with std .01), and the first 12 with top 1 (1787, "sparse"; scale .5 from
1855 on). 1787 found that 12 channels are as good as all 512 and save 44 KB. The grid of its matrix is the row of the
grid table for `attn.outputs.head_gate.score`; `Int(8)` gives 1736's quantized gate.

Source of the other two: pull request 549, where both exist but are off.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from pargolf.core.ranges import Size
from pargolf.model.linear import Linear
from pargolf.model.slots import Place


@dataclass(frozen=True)
class HeadGate:
    """Output slot: a gate per head, computed from the first `width` channels (None: all) of the block's normed input.

    Neutral at init with `top` 2; with `top` 1 every head starts at one half.
    """

    width: Size | None = 12
    scale: float = 1.0
    top: float = 2.0
    key = "head_gate"

    def build(self, place: Place) -> nn.Module:
        """Make the module."""
        return HeadGateModule(self, place)


class HeadGateModule(nn.Module):
    """`y (B, T, H, d), u (B, T, D) -> (B, T, H, d)`."""

    def __init__(self, spec: HeadGate, place: Place) -> None:
        super().__init__()
        self.spec = spec
        self.width = min(spec.width or place.dim, place.dim)
        self.score = Linear(self.width, place.heads)

    def forward(self, y_BTHd: Tensor, v_BTKd: Tensor, u_BTD: Tensor) -> Tensor:
        """Scale each head."""
        gate_BTH = self.spec.top * torch.sigmoid(self.spec.scale * self.score(u_BTD[..., : self.width]))
        return y_BTHd * gate_BTH.unsqueeze(-1)


@dataclass(frozen=True)
class GatedAttention:
    """Output slot: a gate per head, computed from the block's normed input; `bias` is its initial logit."""

    bias: float = 4.0
    key = "gate"

    def build(self, place: Place) -> nn.Module:
        """Make the module."""
        return GatedAttentionModule(place, self.bias)


class GatedAttentionModule(nn.Module):
    """`y (B, T, H, d), u (B, T, D) -> (B, T, H, d)`."""

    def __init__(self, place: Place, bias: float) -> None:
        super().__init__()
        self.score = Linear(place.dim, place.heads)
        self.bias = nn.Parameter(torch.full((place.heads,), bias))

    def forward(self, y_BTHd: Tensor, v_BTKd: Tensor, u_BTD: Tensor) -> Tensor:
        """Scale each head."""
        return y_BTHd * torch.sigmoid(self.score(u_BTD) + self.bias.to(u_BTD.dtype)).unsqueeze(-1)


@dataclass(frozen=True)
class DynamicTokenGate:
    """Block slot: a gate per token on the change that a block makes; the gate's input carries no gradient."""

    bias: float = 2.0
    key = "token_gate"

    def build(self, place: Place) -> nn.Module:
        """Make the module."""
        return DynamicTokenGateModule(place, self.bias)


class DynamicTokenGateModule(nn.Module):
    """`x (B, T, D), out (B, T, D) -> (B, T, D)`."""

    def __init__(self, place: Place, bias: float) -> None:
        super().__init__()
        self.score = Linear(place.dim, 1)
        self.bias = nn.Parameter(torch.full((1,), bias))

    def forward(self, x_BTD: Tensor, out_BTD: Tensor) -> Tensor:
        """Blend the block's input and output."""
        gate_BT1 = torch.sigmoid(self.score(x_BTD.detach()) + self.bias.to(x_BTD.dtype))
        return x_BTD + gate_BT1 * (out_BTD - x_BTD)
