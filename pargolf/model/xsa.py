"""XSA (exclusive self-attention): remove from each head's output its component along the token's own value.

    y <- y - (y . v^) v^,   v^ = v / max(|v|, 1e-12)

per token, with the value of the head's own group. Attention to oneself can only copy what the residual stream already
has; this reserves the output for other tokens. No parameters. Source: pull requests 198 and 287.
"""

from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor, nn

from pargolf.model.slots import Place


@dataclass(frozen=True)
class XSA:
    """Output slot of attention."""

    key = "xsa"

    def build(self, place: Place) -> nn.Module:
        """Make the module."""
        return XSAModule()


class XSAModule(nn.Module):
    """`y (B, T, H, d), v (B, T, K, d) -> (B, T, H, d)`."""

    def forward(self, y_BTHd: Tensor, v_BTKd: Tensor, u_BTD: Tensor) -> Tensor:
        """Project out the own value."""
        B, T, H, d = y_BTHd.shape
        K = v_BTKd.shape[2]
        y_BTKGd = y_BTHd.reshape(B, T, K, H // K, d)
        unit_BTK1d = F.normalize(v_BTKd, dim=-1, eps=1e-12).unsqueeze(3)
        y_BTKGd = y_BTKGd - (y_BTKGd * unit_BTK1d).sum(-1, keepdim=True) * unit_BTK1d
        return y_BTKGd.reshape(B, T, H, d)
