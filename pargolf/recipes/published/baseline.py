"""The official baseline (9 layers, 512 wide, int8 and zlib).

Source: openai/parameter-golf, train_gpt.py as first published; its record is "NaiveBaseline".
Reported: 1.2244 bits per byte, 15,863,489 bytes, 600.0 s on eight H100s. 17,059,912 parameters.
Adaptation: none.

Known faults
- The exported int8 grid has a floor of 1/127 under its scales: rows under magnitude 1 share one absolute grid.
- It was scored on an older export of the validation split (63,779,840 tokens), so its number is not on the same
  tokens as those of the later pull requests.
- Its rule keeps tensors of 65,536 numbers or fewer in 16 or 32 bits. Here the table names roles, so that a smaller
  model is quantized the same way.

Crosses documents: attention, since documents are packed one behind the other.
"""

from pargolf.core.budget import Budget
from pargolf.evaluate.windows import Plain
from pargolf.model.activations import relu2
from pargolf.model.attention import Attention
from pargolf.model.graph import UNet, X0Mix
from pargolf.model.init import FanIn, Normal, Zeros
from pargolf.model.mlp import MLP
from pargolf.model.transformer import Block, Model
from pargolf.packing.codecs import Zlib
from pargolf.quant.grid import Keep
from pargolf.quant.plan import Quantize
from pargolf.quant.published import INT8
from pargolf.recipes.recipe import Recipe, Reported
from pargolf.training.adam import Adam
from pargolf.training.loop import Train
from pargolf.training.muon import Muon
from pargolf.training.schedule import WarmdownIters

_MUON = Muon(lr=0.04, momentum=0.95, momentum_start=0.85, momentum_warmup=500)

RECIPE = Recipe(
    name="baseline",
    source="openai/parameter-golf, records/track_10min_16mb, NaiveBaseline",
    model=Model(
        vocab=1024,
        dim=512,
        blocks=(Block(Attention(heads=8, kv_heads=4), MLP(1024, relu2)),) * 9,
        init=(
            ("embed.tokens", Normal(0.005)),
            ("attn.out", Zeros()),
            ("mlp.down", Zeros()),
            ("*", FanIn()),
        ),
        graph=(UNet(), X0Mix()),
    ),
    train=Train(
        optimizer=(
            ("embed.tokens", Adam(0.05)),
            ("attn.[qkv]", _MUON),
            ("attn.out", _MUON),
            ("mlp.*", _MUON),
            ("*", Adam(0.04)),
        ),
        batch_tokens=524_288,
        seq_len=1024,
        schedule=WarmdownIters(1200),
    ),
    quant=Quantize(
        (
            ("embed.tokens", INT8),
            ("attn.[qkv]", INT8),
            ("attn.out", INT8),
            ("mlp.*", INT8),
            ("*", Keep("float32")),
        )
    ),
    codec=Zlib(9),
    plain=Plain(1024),
    windows=Plain(1024),
    budget=Budget(counts="published"),
    reported=Reported(bpb=1.2244, bytes=15_863_489, steps=13_780, seconds=600.04),
)
