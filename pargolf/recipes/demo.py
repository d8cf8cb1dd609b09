"""The demo: four small blocks and a table of hashed bigrams, for 180 s of two CPU cores and 1,000,000 bytes.

Source: this project. Adaptation: none.
Where the seconds are few, what counts is tokens seen, in mixed order, and what a table can know without multiplying:
fewer blocks and a batch half the baseline's take three times the steps; shuffled windows show every period of the
corpus from the start, where the published order shows the oldest texts alone; and 8,192 hashed bigrams cost bytes,
which the cap has to spare, and almost no time. Documents are kept apart. Packing fills the cap, so the grids below are
only where it begins.
"""

from pargolf.core.budget import Budget
from pargolf.data.stream import Shuffled
from pargolf.evaluate.windows import Plain, Sliding
from pargolf.model.activations import leaky_relu2
from pargolf.model.attention import Attention
from pargolf.model.bigram import BigramHash
from pargolf.model.graph import UNet, X0Mix
from pargolf.model.init import FanIn, Normal, Zeros
from pargolf.model.mlp import MLP
from pargolf.model.smear import SmearGate
from pargolf.model.transformer import Block, Model
from pargolf.quant.clip import StdDev
from pargolf.quant.gptq import GPTQ
from pargolf.quant.grid import Int, Keep
from pargolf.quant.plan import Quantize
from pargolf.run.recipe import Recipe
from pargolf.training.adam import Adam
from pargolf.training.loop import Train
from pargolf.training.muon import Muon
from pargolf.training.schedule import Warmdown

_MUON = Muon(lr=0.04, momentum=0.95, momentum_start=0.85, momentum_warmup=0.3)

RECIPE = Recipe(
    name="demo",
    source="this project",
    model=Model(
        vocab=1024,
        dim=128,
        blocks=(Block(Attention(heads=4, kv_heads=2), MLP(256, leaky_relu2)),) * 4,
        init=(
            ("embed.tokens", Normal(0.005)),
            ("embed.bigram.table", Zeros()),
            ("attn.out", Zeros()),
            ("mlp.down", Zeros()),
            ("*", FanIn()),
        ),
        embed=(BigramHash(buckets=8192, dim=64, scale=0.2),),
        stream=(SmearGate(),),
        graph=(UNet(), X0Mix()),
        bos=1,
    ),
    train=Train(
        optimizer=(
            ("embed.tokens", Adam(0.05)),
            ("embed.bigram.table", Adam(0.05)),
            ("embed.bigram.proj", _MUON),
            ("attn.[qkv]", _MUON),
            ("attn.out", _MUON),
            ("mlp.*", _MUON),
            ("*", Adam(0.04)),
        ),
        batch_tokens=2048,
        seq_len=256,
        schedule=Warmdown(1.0),
        order=Shuffled(),
    ),
    quant=Quantize(
        (
            ("embed.tokens", Int(7, clip=StdDev(14.0))),
            ("embed.bigram.table", Int(6, clip=StdDev(12.85))),
            ("embed.bigram.proj", Int(6, clip=StdDev(12.85))),
            ("attn.[qkv]", Int(6, clip=StdDev(12.85))),
            ("attn.out", Int(6, clip=StdDev(12.85))),
            ("mlp.*", Int(6, clip=StdDev(12.85))),
            ("*", Keep("float16")),
        ),
        solver=GPTQ(batches=4),
        fill=True,
    ),
    plain=Plain(256),
    windows=Sliding(256, 64),
    budget=Budget(bytes=1_000_000, train_seconds=180.0),
)
