"""The head: from the final stream to logits, by the output matrix (the embedding itself when tied) and a soft-cap.

    logits = cap * tanh(z / cap),   z = norm(x) W^T + b    cap 30 in every published system; Gemma 2 (arXiv:2408.00118)

The bias b is off in all of them; with `bias` it starts at the log frequencies of the training text (`data/unigram.py`).

`MTP` adds heads that predict tokens further ahead while training and are left out of the artifact:
`loss += weight * mean_k CE(head_k(x_t), id_{t+1+k})` (Gloeckle et al. 2024, arXiv:2404.19737; off in pull request 549).
"""

from dataclasses import dataclass
from typing import Annotated, Any

import torch
from torch import Tensor, nn

from pargolf.core.ranges import Positive, Rate, Within
from pargolf.data.shards import TokenSource
from pargolf.data.unigram import log_unigram
from pargolf.kernels.product import product
from pargolf.kernels.softcap_ce import head_cross_entropy, softcap, softcap_cross_entropy
from pargolf.model.linear import Linear
from pargolf.model.slots import Builds, Place


@dataclass(frozen=True)
class MTP:
    """`heads` extra heads, their losses averaged and added with `weight`."""

    heads: Annotated[int, Within(1, 64)] = 1
    weight: Rate = 0.2


@dataclass(frozen=True)
class Head:
    """The head as data.

    tied: use the embedding as output matrix, not one of its own
    softcap: a fixed bound, a learned cap, or None
    mtp: multi-token prediction heads, or None
    bias: add a learned number per token; zero when built, set to the log frequencies when training starts
    """

    tied: bool = True
    softcap: Positive | Builds | None = 30.0
    mtp: MTP | None = None
    bias: bool = False

    def build(self, place: Place) -> nn.Module:
        """Make the module."""
        return HeadModule(self, place)


class HeadModule(nn.Module):
    """`x (B, T, D) -> logits (B, T, V)`; the tied table is passed in, so that it exists once."""

    def __init__(self, spec: Head, place: Place) -> None:
        super().__init__()
        self.spec = spec
        self.own: Linear | None = None if spec.tied else Linear(place.dim, place.vocab)
        self.bias = nn.Parameter(torch.zeros(place.vocab)) if spec.bias else None
        cap: Any = spec.softcap
        learned = hasattr(cap, "build")
        self.cap: Any = cap.build(place) if learned else None
        self.fixed = None if learned else cap
        self.ahead = nn.ModuleList(Linear(place.dim, place.vocab) for _ in range(spec.mtp.heads if spec.mtp else 0))

    def start_from(self, source: TokenSource) -> None:
        """Set the bias to the log frequencies of the training text."""
        if self.bias is not None:
            with torch.no_grad():
                self.bias.copy_(log_unigram(source, len(self.bias)))

    def scores(self, x_BTD: Tensor, table_VD: Tensor) -> Tensor:
        """Uncapped logits."""
        z_BTV = product(x_BTD, table_VD) if self.own is None else self.own(x_BTD)
        return z_BTV if self.bias is None else z_BTV + self.bias.to(z_BTV.dtype)

    def bounded(self, z: Tensor) -> Tensor:
        """Apply the soft-cap, if there is one."""
        out: Tensor = softcap(z, self.fixed) if self.cap is None else self.cap(z)
        return out

    def forward(self, x_BTD: Tensor, table_VD: Tensor) -> Tensor:
        """Capped logits."""
        return self.bounded(self.scores(x_BTD, table_VD))

    def loss(self, x_BTD: Tensor, table_VD: Tensor, targets_BT: Tensor) -> Tensor:
        """Mean cross-entropy in nats per token, plus the weighted loss of the multi-token heads when there are any."""
        table_VD = table_VD if self.own is None else self.own.weight
        loss = self._cross_entropy(x_BTD, table_VD, self.bias, targets_BT)
        if self.spec.mtp is None:
            return loss
        tables = [layer.weight for layer in self.ahead if isinstance(layer, Linear)]
        ahead = [(x_BTD[:, :-k], w_VD, targets_BT[:, k:]) for k, w_VD in enumerate(tables, 1) if x_BTD.shape[1] > k]
        extra = [self._cross_entropy(x_BTD, w_VD, None, targets_BT) for x_BTD, w_VD, targets_BT in ahead]
        return loss + self.spec.mtp.weight * sum(extra, loss.new_zeros(())) / max(len(extra), 1)

    def loss_of_scores(self, z_BTV: Tensor, targets_BT: Tensor) -> Tensor:
        """Mean cross-entropy of uncapped logits in nats per token."""
        z_NV, target_N = z_BTV.flatten(0, -2), targets_BT.flatten()
        loss: Tensor
        if self.cap is None:
            loss = softcap_cross_entropy(z_NV, target_N, self.fixed)
        else:
            loss = self.cap.loss(z_NV, target_N)
        return loss

    def _cross_entropy(self, x_BTD: Tensor, w_VD: Tensor, bias_V: Tensor | None, targets_BT: Tensor) -> Tensor:
        x_ND, target_N = x_BTD.flatten(0, -2), targets_BT.flatten()
        if self.cap is None:
            return head_cross_entropy(x_ND, w_VD, bias_V, target_N, self.fixed)
        z_NV = product(x_ND, w_VD)
        return self.loss_of_scores(z_NV if bias_V is None else z_NV + bias_V.to(z_NV.dtype), target_N)
