"""A model and a stream small enough for every test, made of the package's own parts."""

import numpy as np

from pargolf.core.budget import Budget
from pargolf.data.shards import Shards
from pargolf.evaluate.windows import Plain, Sliding
from pargolf.model.attention import Attention
from pargolf.model.graph import UNet, X0Mix
from pargolf.model.init import FanIn, Normal, Zeros
from pargolf.model.mlp import MLP
from pargolf.model.transformer import Block, Model
from pargolf.quant.grid import Int, Keep
from pargolf.quant.plan import Quantize
from pargolf.recipes.recipe import Recipe
from pargolf.training.adam import Adam
from pargolf.training.loop import Train
from pargolf.training.muon import Muon

INIT = (("embed.tokens", Normal(0.005)), ("attn.out", Zeros()), ("mlp.down", Zeros()), ("*", FanIn()))
OPTIMIZER = (
    ("embed.tokens", Adam(0.02)),
    ("graph.*", Adam(0.02)),
    ("*_scale", Adam(0.02)),
    ("attn.q_gain", Adam(0.02)),
    ("*", Muon(0.02)),
)


def model(*, layers: int = 2, dim: int = 16, vocab: int = 32, **fields) -> Model:
    block = Block(Attention(heads=2, kv_heads=1), MLP(hidden=2 * dim))
    return Model(vocab, dim, (block,) * layers, init=INIT, graph=(UNet(), X0Mix()), **fields)


def train(**fields) -> Train:
    return Train(**{"optimizer": OPTIMIZER, "batch_tokens": 64, "seq_len": 16, **fields})


def shards(tokens: int = 4096, vocab: int = 32, seed: int = 0) -> Shards:
    """Text in which every token depends on the one before, so that there is something to learn."""
    rng = np.random.default_rng(seed)
    follows = rng.integers(2, vocab, size=(vocab, 2))
    out = [1]
    while len(out) < tokens:
        out.append(int(follows[out[-1], int(rng.random() < 0.2)]))
    return Shards([np.array(out, dtype=np.uint16)])


RECIPE = Recipe(
    name="small",
    source="tests",
    model=model(bos=1),
    train=train(steps=6),
    quant=Quantize(
        (("embed.*", Int(8)), ("attn.[qkv]", Int(6)), ("attn.out", Int(6)), ("mlp.*", Int(5)), ("*", Keep()))
    ),
    plain=Plain(16),
    windows=Sliding(16, 8),
    budget=Budget(bytes=200_000, train_seconds=60),
)
