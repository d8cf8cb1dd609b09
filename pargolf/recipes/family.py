"""The house as a family: `member(Shape(...))` is `house` at another size, for another cap and another clock.

    from pargolf.recipes.family import Shape, member
    RECIPE = member(Shape(vocab=1024, dim=64, blocks=2, cap=64_000, seconds=60.0))

A shape has everything that a plan may choose: width and depth, the vocabulary, the batch, regularization against
memorizing (dropout, weight decay), and adaptation while scoring. Everything else is as in `house`. `study/planning/`
chooses the shape for a cap, a time and a text.
"""

from dataclasses import dataclass, replace

from pargolf.core.budget import Budget
from pargolf.core.ranges import Count, Length, Positive, Rate, Size
from pargolf.core.spec import edit
from pargolf.evaluate.adapters.adapter import Adapter
from pargolf.model.activations import leaky_relu2
from pargolf.model.attention import Attention
from pargolf.model.dropout import Dropout
from pargolf.model.mlp import MLP
from pargolf.model.transformer import Block
from pargolf.recipes.house import RECIPE as HOUSE
from pargolf.recipes.recipe import Recipe

HEADS = {32: 1, 64: 1, 96: 1, 128: 2, 192: 3, 256: 4, 320: 5, 384: 6, 512: 8, 640: 10, 768: 12}
"""Width -> number of key and value heads; every head has 32 channels."""

_MATRICES = ("attn.[qkv]", "attn.out", "mlp.*")


@dataclass(frozen=True)
class Shape:
    """One member: sizes of the model, of a step and of the budget. `dim` is one of `HEADS`.

    `half` of None means bfloat16 on CUDA only.
    """

    vocab: Size = 4096
    dim: Size = 192
    blocks: Count = 4
    hidden: Size = 384
    batch_tokens: Count = 2048
    seq_len: Length = 256
    dropout: Rate = 0.0
    weight_decay: Rate = 0.0
    half: bool | None = True
    adapt: Adapter | None = HOUSE.adapt
    cap: Count = 1_000_000
    seconds: Positive = 180.0

    @property
    def matrices(self) -> int:
        """The number of weights in the matrices of one block."""
        keys = HEADS[self.dim] * 32
        return self.dim * (2 * self.dim + 2 * keys + 2 * self.hidden)

    @property
    def table(self) -> int:
        """The number of weights in the embedding, which is also the head."""
        return self.vocab * self.dim

    @property
    def weights(self) -> int:
        """The number of weights in embedding and matrices; all others are few."""
        return self.table + self.blocks * self.matrices

    def __str__(self) -> str:
        return f"{self.blocks} blocks of {self.dim} and {self.hidden}, {self.vocab:,} pieces"


def member(shape: Shape) -> Recipe:
    """The recipe of a shape."""
    attention = Attention(heads=shape.dim // 32, kv_heads=HEADS[shape.dim])
    block = Block(attention, MLP(shape.hidden, leaky_relu2))
    if shape.dropout:
        block = replace(block, residual=Dropout(shape.dropout, after=1.0))
    decays = {f"train.optimizer[{glob}].weight_decay": shape.weight_decay for glob in _MATRICES}
    return edit(
        HOUSE,
        {
            "name": f"house of {shape}",
            "model.vocab": shape.vocab,
            "model.dim": shape.dim,
            "model.blocks": (block,) * shape.blocks,
            "train.batch_tokens": shape.batch_tokens,
            "train.micro_tokens": max(HOUSE.train.micro_tokens, shape.batch_tokens),
            "train.seq_len": shape.seq_len,
            "train.half": shape.half,
            **decays,
            "adapt": shape.adapt,
            "budget": Budget(bytes=shape.cap, train_seconds=shape.seconds),
        },
    )
