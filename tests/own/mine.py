"""Techniques of somebody's own, a recipe that uses them, and nothing of it in the package.

Copied to a temporary folder by `test_own.py`.
"""

from dataclasses import dataclass

import parts
import torch
from torch import Tensor, nn

from pargolf.core.budget import Budget
from pargolf.evaluate.windows import Plain, Sliding
from pargolf.model.attention import Attention
from pargolf.model.graph import UNet, X0Mix
from pargolf.model.init import FanIn, Normal
from pargolf.model.mlp import MLP
from pargolf.model.slots import Context, Place
from pargolf.model.transformer import Block, Model
from pargolf.quant.gptq import GPTQ
from pargolf.quant.grid import Int, Keep
from pargolf.quant.plan import Quantize
from pargolf.recipes.recipe import Recipe
from pargolf.training.adam import Adam
from pargolf.training.loop import Train
from pargolf.training.muon import Muon


def kinked2(z: Tensor) -> Tensor:
    """An activation."""
    return parts.kink(z).square()


@dataclass(frozen=True)
class Parity:
    """An embedding of whether a position is odd."""

    size: float = 0.1
    key = "parity"

    def build(self, place: Place) -> nn.Module:
        """Make the module."""
        return ParityModule(place.dim, self.size)


class ParityModule(nn.Module):
    """`ctx -> (T, D)`."""

    def __init__(self, dim: int, size: float) -> None:
        super().__init__()
        self.rows = nn.Parameter(torch.full((2, dim), size))

    def forward(self, ctx: Context) -> Tensor:
        """Look the parity up."""
        return self.rows[ctx.here(torch.arange(ctx.window, device=ctx.ids_BT.device)) % 2]


RECIPE = Recipe(
    name="mine",
    source="tests",
    model=Model(
        vocab=32,
        dim=16,
        blocks=(Block(Attention(heads=2, kv_heads=1), MLP(32, kinked2)),) * 2,
        init=(("embed.tokens", Normal(0.005)), ("embed.parity.rows", Normal(0.1)), ("*", FanIn())),
        embed=(Parity(),),
        graph=(UNet(), X0Mix()),
        bos=1,
    ),
    train=Train(
        (*((glob, Adam(0.02)) for glob in ("embed.*", "graph.*", "*_scale", "*.q_gain")), ("*", Muon(0.02))),
        batch_tokens=64,
        seq_len=16,
        steps=4,
    ),
    quant=Quantize((("embed.*", Int(8)), ("attn.*", Int(6)), ("mlp.*", Int(5)), ("*", Keep())), solver=GPTQ(batches=1)),
    plain=Plain(16),
    windows=Sliding(16, 8),
    budget=Budget(bytes=400_000, train_seconds=60),
)

ABLATIONS = {"parity": {"model.embed": ()}}
